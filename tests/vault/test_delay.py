"""The change delay: what a new identity has to wait for, how it is let in at once, and what a thief can't loosen."""

import secrets
from collections.abc import Callable

import pytest

from ipls.crypto.keys import public_key, sign
from ipls.proto.vault.v1 import vault_pb2 as pb
from ipls.vault.account import MAX_APPROVERS, MAX_CHANGE_DELAY_MS, RETENTION_MS
from ipls.vault.errors import OperationRefused, SessionRefused
from ipls.vault.session import transcript
from ipls.vault.session.effects import (
    AddApprover,
    Approve,
    Delete,
    FinishRotation,
    Handshake,
    History,
    Operation,
    RemoveApprover,
    Retrieve,
    SetChangeDelay,
)
from tests.hsm.rig import Owner, Rig
from tests.vault.accounts import DAY, FOURTH, NOW, SECOND, THIRD, Vault, store
from tests.vault.rig import Core, handshake

DELAY = 3 * DAY
TABLET, OTHER = b"t" * 32, b"o" * 32
LOOSENING: list[Operation] = [
    Retrieve(0),
    Retrieve(1),
    FinishRotation(1),
    FinishRotation(2),
    Delete(),
    SetChangeDelay(0),
    SetChangeDelay(DELAY + 1),
    AddApprover(OTHER),
    RemoveApprover(TABLET),
]


@pytest.fixture
def vault() -> Vault:
    """The owner has stored two keys, set a delay and named a tablet."""
    vault = Vault()
    for operation in (store(1), store(2), SetChangeDelay(DELAY), AddApprover(TABLET)):
        vault.do(operation)
    return vault


def test_without_a_delay_a_new_identity_is_let_in_at_once() -> None:
    vault = Vault()
    vault.do(store(1))
    assert vault.listing().change_delay_ms == 0
    assert vault.retrievable(SECOND) == [1]


def test_setting_a_delay_does_not_shut_out_who_sets_it(vault: Vault) -> None:
    assert vault.retrievable() == [1, 2]
    assert vault.do(SetChangeDelay(DELAY)) == pb.SetChangeDelayAnswer(effective_ms=NOW)


@pytest.mark.parametrize("operation", LOOSENING, ids=repr)
def test_a_new_identity_neither_takes_nor_loosens_anything_before_its_time(vault: Vault, operation: Operation) -> None:
    vault.now += DAY
    vault.do(Handshake(), SECOND)
    assert vault.listing(SECOND).waits_until_ms == vault.now + DELAY
    assert vault.refuses(operation, SECOND) == "VAULT_CHANGE_DELAYED"
    vault.now += DELAY - 1
    assert vault.refuses(operation, SECOND) == "VAULT_CHANGE_DELAYED"
    vault.now += 1
    vault.do(operation, SECOND)
    assert vault.listing(SECOND).waits_until_ms == 0


def test_the_time_runs_from_the_first_sight_of_each_version(vault: Vault) -> None:
    vault.do(Handshake(), SECOND)
    vault.now += DELAY - 1
    vault.do(Handshake(), SECOND)
    vault.do(Handshake(), THIRD)
    vault.now += DELAY - 1
    assert vault.refuses(Retrieve(0), THIRD) == "VAULT_CHANGE_DELAYED"
    assert vault.refuses(Retrieve(0), SECOND) == "VAULT_IDENTITY_SUPERSEDED"  # no longer current, though its time is up
    vault.now += 1
    vault.do(Retrieve(0), THIRD)


def test_the_refusal_says_until_when(vault: Vault) -> None:
    vault.do(SetChangeDelay(7 * DAY))
    with pytest.raises(SessionRefused, match="until 2023-11-21 22:13:20 UTC"):  # NOW is on the 14th
        vault.do(Retrieve(0), SECOND)


def test_a_host_that_sets_its_clock_forward_shortens_nothing(vault: Vault) -> None:
    vault.do(Handshake(), SECOND)
    vault.host_ahead = 100 * DAY
    assert vault.refuses(Retrieve(0), SECOND) == "VAULT_CHANGE_DELAYED"


def test_a_waiting_thief_destroys_and_plants_nothing_by_storing(vault: Vault) -> None:
    """It may store: that is its own generation. What the owner stored stays there, under its number."""
    vault.do(store(3), SECOND)
    assert vault.refuses(store(2, store_id=b"x" * 16), SECOND) == "VAULT_GENERATION_CONFLICT"
    for end in (FinishRotation(3), Delete()):
        assert vault.refuses(end, SECOND) == "VAULT_CHANGE_DELAYED"
    vault.now += 10 * RETENTION_MS
    vault.do(Approve(TABLET), THIRD)
    assert vault.retrievable(THIRD) == [1, 2, 3]
    assert [g.identity_version for g in vault.listing(THIRD).generations] == [1, 1, 2]


def test_longer_is_at_once_and_shorter_takes_the_present_delay(vault: Vault) -> None:
    assert vault.do(SetChangeDelay(2 * DELAY)) == pb.SetChangeDelayAnswer(effective_ms=NOW)
    asked = vault.do(SetChangeDelay(0))
    assert asked == pb.SetChangeDelayAnswer(effective_ms=NOW + 2 * DELAY)
    vault.now += 2 * DELAY - 1
    listing = vault.listing()
    assert (listing.change_delay_ms, listing.next_change_delay_ms) == (2 * DELAY, 0)
    assert listing.next_change_delay_from_ms == NOW + 2 * DELAY
    assert vault.do(SetChangeDelay(0)) == asked  # the repeat of a lost answer
    vault.now += 1
    listing = vault.listing()
    assert (listing.change_delay_ms, listing.next_change_delay_ms, listing.next_change_delay_from_ms) == (0, 0, 0)
    assert vault.do(SetChangeDelay(0)) == asked
    vault.do(Retrieve(0), SECOND)


def test_a_shorter_delay_that_was_asked_for_is_no_help_to_a_thief(vault: Vault) -> None:
    """The thief comes before it is in effect: not for it, nor for the thief's next identity."""
    vault.do(SetChangeDelay(0))
    vault.now += DELAY - 1
    vault.do(Handshake(), SECOND)
    vault.now += 1
    assert vault.refuses(Retrieve(0), SECOND) == "VAULT_CHANGE_DELAYED"
    assert vault.refuses(Retrieve(0), THIRD) == "VAULT_CHANGE_DELAYED"
    listing = vault.listing(THIRD)
    assert (listing.change_delay_ms, listing.next_change_delay_ms, listing.next_change_delay_from_ms) == (DELAY, 0, 0)


def test_a_shorter_delay_can_be_taken_back(vault: Vault) -> None:
    vault.do(SetChangeDelay(0))
    vault.do(SetChangeDelay(DELAY))
    vault.now += 10 * DELAY
    assert vault.refuses(Retrieve(0), SECOND) == "VAULT_CHANGE_DELAYED"


def test_a_delay_has_a_limit(vault: Vault) -> None:
    vault.do(SetChangeDelay(MAX_CHANGE_DELAY_MS))
    assert vault.refuses(SetChangeDelay(MAX_CHANGE_DELAY_MS + 1)) == "VAULT_FIELD_INVALID"


def test_a_device_that_the_owner_named_lets_a_new_identity_in_at_once(vault: Vault) -> None:
    assert vault.refuses(Retrieve(0), SECOND) == "VAULT_CHANGE_DELAYED"
    vault.do(Approve(TABLET), SECOND)
    assert vault.retrievable(SECOND) == [1, 2]
    vault.do(SetChangeDelay(2 * DELAY), SECOND)


def test_it_lets_in_that_identity_and_no_later_one(vault: Vault) -> None:
    vault.do(Approve(TABLET), SECOND)
    assert vault.refuses(Retrieve(0), THIRD) == "VAULT_CHANGE_DELAYED"


def test_a_thief_lets_nobody_in_with_a_device_of_its_own(vault: Vault) -> None:
    assert vault.refuses(AddApprover(OTHER), SECOND) == "VAULT_CHANGE_DELAYED"
    assert vault.refuses(Approve(OTHER), SECOND) == "VAULT_APPROVER_UNKNOWN"
    assert vault.refuses(Approve(OTHER), THIRD) == "VAULT_APPROVER_UNKNOWN"


def test_a_device_that_was_taken_back_lets_nobody_in(vault: Vault) -> None:
    vault.do(RemoveApprover(TABLET))
    assert vault.refuses(Approve(TABLET), SECOND) == "VAULT_APPROVER_UNKNOWN"


def test_no_more_devices_than_there_is_room_for(vault: Vault) -> None:
    for n in range(1, MAX_APPROVERS):
        vault.do(AddApprover(bytes([n]) * 32))
    assert vault.refuses(AddApprover(OTHER)) == "VAULT_TOO_MANY_APPROVERS"
    vault.do(AddApprover(TABLET))  # a repeat is none more
    vault.do(RemoveApprover(TABLET))
    vault.do(AddApprover(OTHER))


def test_settings_and_approvals_stand_in_the_history_and_repeats_do_not(vault: Vault) -> None:
    for _ in range(2):
        vault.do(SetChangeDelay(DELAY))
        vault.do(AddApprover(TABLET))
    for _ in range(2):
        vault.do(Approve(TABLET), SECOND)
    for _ in range(2):
        vault.do(SetChangeDelay(DAY), SECOND)
        vault.do(RemoveApprover(TABLET), SECOND)
    rows = [(u.operation, u.delay_ms, u.approver, u.identity_version) for u in vault.uses[2:]]
    assert rows == [
        ("set_change_delay", DELAY, b"", 1),
        ("add_approver", 0, TABLET, 1),
        ("approve", 0, TABLET, 2),
        ("set_change_delay", DAY, b"", 2),
        ("remove_approver", 0, TABLET, 2),
    ]
    history = vault.do(History(1), SECOND)
    assert isinstance(history, pb.HistoryAnswer)
    assert history.length == len(vault.uses)


def test_the_owner_who_takes_the_number_back_shuts_the_waiting_thief_out(vault: Vault) -> None:
    vault.do(Handshake(), SECOND)
    vault.now += DELAY - 1
    vault.do(Approve(TABLET), THIRD)
    vault.now += DELAY
    assert vault.refuses(Retrieve(0), SECOND) == "VAULT_IDENTITY_SUPERSEDED"
    assert vault.retrievable(THIRD) == [1, 2]
    assert vault.refuses(Retrieve(0), FOURTH) == "VAULT_CHANGE_DELAYED"


# The approval's signature, in a session


class Approval:
    """An account with a delay and a tablet, then under a new identity, in its session with the real token."""

    def __init__(self, core: Core, rig: Rig) -> None:
        self.core = core
        self.rig = rig
        self.tablet = secrets.token_bytes(32)
        old = Owner()
        self.enter(old)
        self.ask(lambda c: c.store_request(0, bytes(16), bytes(32)))
        self.ask(lambda c: c.change_delay_request(DELAY))
        self.ask(lambda c: c.add_approver_request(public_key(self.tablet)))
        self.enter(Owner(old.label))

    def enter(self, owner: Owner) -> None:
        self.owner = owner
        self.core.head = self.rig.directory.publish(owner)
        self.client, self.stream = self.rig.client(owner), self.core.stream()
        self.version, _ = handshake(self.client, self.stream)

    def ask(self, request: Callable[..., pb.SessionRequest]) -> object:
        return self.client.on_answer(self.stream.exchange(request(self.client)))

    def signed(self, **lies: object) -> bytes:
        """The tablet's signature for the identity of this session, or for what `lies` say."""
        fields = {
            "namespace": self.rig.root.namespace,
            "label": self.owner.label,
            "identity_version": self.version,
            "identity_key": public_key(self.owner.seed),
            "approver": public_key(self.tablet),
            **lies,
        }
        return sign(self.tablet, transcript.approval_statement(**fields))

    def approve(self, signature: bytes) -> None:
        self.ask(lambda c: c.approve_request(public_key(self.tablet), signature))

    def refuses(self, signature: bytes) -> str:
        with pytest.raises(OperationRefused) as refused:
            self.approve(signature)
        with pytest.raises(OperationRefused, match="new"):
            self.ask(lambda c: c.retrieve_request())
        return refused.value.reason


@pytest.fixture
def approval(core: Core, rig: Rig) -> Approval:
    return Approval(core, rig)


def test_an_approval_opens_the_way_to_the_key(approval: Approval) -> None:
    signature = approval.signed()
    approval.approve(signature)
    approval.ask(lambda c: c.retrieve_request())
    approval.approve(signature)  # the answer was lost
    assert [use.operation for use in approval.core.uses[approval.owner.label]].count("approve") == 1


@pytest.mark.parametrize(
    "lie",
    [
        {"namespace": "other.example"},
        {"label": "+4930666666"},
        {"identity_version": 1},
        {"identity_version": 3},
        {"identity_key": bytes(32)},
        {"approver": bytes(32)},
    ],
    ids=str,
)
def test_an_approval_for_anything_else_is_refused(approval: Approval, lie: dict[str, object]) -> None:
    assert approval.refuses(approval.signed(**lie)) == "VAULT_APPROVAL_INVALID"


def test_an_approval_that_is_changed_or_made_for_another_purpose_is_refused(approval: Approval) -> None:
    good = approval.signed()
    for bad in (b"", good[:-1], bytes([good[0] ^ 1]) + good[1:], sign(approval.tablet, bytes(64))):
        assert approval.refuses(bad) == "VAULT_APPROVAL_INVALID"


def test_an_approval_is_used_for_one_identity_and_not_for_the_next(approval: Approval) -> None:
    """The thief has seen the owner's approval, and registers the number after it."""
    signature = approval.signed()
    approval.approve(signature)
    approval.enter(Owner(approval.owner.label))
    assert approval.refuses(signature) == "VAULT_APPROVAL_INVALID"


def test_the_identitys_own_signature_is_no_approval(approval: Approval) -> None:
    approval.tablet = approval.owner.seed
    assert approval.refuses(approval.signed()) == "VAULT_APPROVER_UNKNOWN"


def test_an_approver_is_a_key_of_full_order(core: Core, rig: Rig) -> None:
    owner = Owner()
    core.head = rig.directory.publish(owner)
    client, stream = rig.client(owner), core.stream()
    handshake(client, stream)
    with pytest.raises(OperationRefused) as refused:
        client.on_answer(stream.exchange(client.add_approver_request(b"\1" + bytes(31))))
    assert refused.value.reason == "KEY_INVALID"


def test_a_longer_delay_ends_the_wait_for_a_shorter_one(vault: Vault) -> None:
    """Else it would fall by itself, when its owner had made it longer."""
    vault.do(SetChangeDelay(DAY))
    vault.do(SetChangeDelay(2 * DELAY))
    for _ in range(3):
        listing = vault.listing()
        assert (listing.change_delay_ms, listing.next_change_delay_ms) == (2 * DELAY, 0)
        vault.now += DELAY
