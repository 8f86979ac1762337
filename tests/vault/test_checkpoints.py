"""Checkpoints: what a vault keeps of how far the contacts' line had come, and who can't take that back.

Through the account and through a session with the real token; across a kill and over a database that was put back:
tests/hsm/core/test_state.py, tests/attack/test_vault_state.py.
"""

import pytest

from ipls.proto.vault.v1 import vault_pb2 as pb
from ipls.trust.identity import Identity
from ipls.vault.account import MAX_CHECKPOINTS
from ipls.vault.errors import OperationRefused
from ipls.vault.limits import Limits
from ipls.vault.session.client import ClientSession
from ipls.vault.session.effects import (
    AddApprover,
    Approve,
    Checkpoint,
    Delete,
    FinishRotation,
    Handshake,
    SetChangeDelay,
)
from tests.hsm.rig import Owner, Rig
from tests.vault.accounts import DAY, FIRST, FOURTH, NOW, SECOND, THIRD, Vault, store
from tests.vault.rig import Core, Stream, handshake

LINE, OTHER_LINE = b"l" * 32, b"o" * 32
HIGHEST = 2**64 - 1


def at(n: int, *, line: bytes = LINE, fork: bytes = b"") -> Checkpoint:
    """Each n has its own chain."""
    return Checkpoint(line, n, (b"chain %d " % n + fork).ljust(32))


@pytest.fixture
def vault() -> Vault:
    return Vault()


def kept(vault: Vault, identity: Identity = FIRST) -> list[tuple[int, Checkpoint]]:
    listing = vault.listing(identity)
    return [(c.identity_version, Checkpoint(c.line, c.n, c.chain)) for c in listing.checkpoints]


def test_the_newest_is_kept(vault: Vault) -> None:
    assert kept(vault) == []
    for n in (1, 2, 64, HIGHEST):
        assert vault.do(at(n)) == pb.CheckpointAnswer()
        assert kept(vault) == [(1, at(n))]


@pytest.mark.parametrize("back", [at(0), at(6), at(7, fork=b"another")], ids=["none", "lower", "forked"])
def test_a_line_goes_neither_back_nor_on_from_another_chain(vault: Vault, back: Checkpoint) -> None:
    """A device that a store has shown an old head, or another branch, learns it here, whatever it then sets."""
    vault.do(at(7))
    assert vault.refuses(back) == "VAULT_CHECKPOINT_BELOW"
    assert kept(vault) == [(1, at(7))]
    vault.do(at(8))


def test_a_new_line_takes_the_place_of_the_one_before(vault: Vault) -> None:
    vault.do(at(700))
    vault.do(at(1, line=OTHER_LINE))
    assert kept(vault) == [(1, at(1, line=OTHER_LINE))]


def test_a_thiefs_checkpoint_binds_nobody(vault: Vault) -> None:
    """The thief has the number, is let in, and says that the owner's line has come to its end."""
    vault.do(at(7))
    vault.do(at(HIGHEST), SECOND)
    assert vault.refuses(at(8), FIRST) == "VAULT_IDENTITY_SUPERSEDED"
    assert kept(vault, THIRD) == [(1, at(7)), (2, at(HIGHEST))]
    vault.do(at(8), THIRD)
    assert kept(vault, THIRD) == [(1, at(7)), (2, at(HIGHEST)), (3, at(8))]


def test_who_waits_sets_none_and_reads_those_that_are_there(vault: Vault) -> None:
    vault.do(SetChangeDelay(DAY))
    vault.do(at(7))
    assert vault.refuses(at(HIGHEST), SECOND) == "VAULT_CHANGE_DELAYED"
    assert vault.refuses(at(1, line=OTHER_LINE), SECOND) == "VAULT_CHANGE_DELAYED"
    assert kept(vault, SECOND) == [(1, at(7))]
    vault.now += DAY
    vault.do(at(8), SECOND)


def test_those_of_the_last_four_versions_that_set_one_are_kept(vault: Vault) -> None:
    identities = [Identity(bytes(32), version, version) for version in range(1, MAX_CHECKPOINTS + 3)]
    for identity in identities:
        vault.do(at(identity.version), identity)
        vault.do(at(identity.version + 1), identity)
    assert kept(vault, identities[-1]) == [(i.version, at(i.version + 1)) for i in identities[-MAX_CHECKPOINTS:]]
    silent = Identity(bytes(32), 100, 100)
    vault.do(Handshake(), silent)  # a version that sets none pushes none out
    assert len(kept(vault, silent)) == MAX_CHECKPOINTS == 4


def test_neither_a_rotation_nor_a_delete_takes_one_away(vault: Vault) -> None:
    """A thief who deletes the keys would else have a new phone take any line."""
    vault.do(store(1))
    vault.do(at(7))
    for end in (store(2), FinishRotation(2), Delete()):
        vault.do(end, SECOND)
    assert kept(vault, THIRD) == [(1, at(7))]


def test_one_is_no_use_of_a_key_and_adds_nothing_to_the_history(vault: Vault) -> None:
    vault.do(Handshake())
    before = vault.account
    vault.do(at(7))
    assert vault.operations() == ["handshake"]
    assert vault.account is not None
    assert before is not None
    assert (vault.account.history_length, vault.account.chain_head) == (before.history_length, before.chain_head)


def test_a_flood_of_them_ends_with_the_days_uses_and_costs_no_other_identity(vault: Vault) -> None:
    """Each is a write for good. Repeats, which are none, go on."""
    vault.limits = Limits(daily_uses=3)
    vault.do(Handshake())
    for n in (1, 2):
        vault.do(at(n))
    assert vault.refuses(at(3)) == "VAULT_ACCOUNT_LIMIT"
    vault.do(at(2))
    other = Vault()
    other.limits = vault.limits
    other.do(at(1))
    vault.do(at(3), SECOND)
    vault.now = NOW + DAY
    vault.do(at(4), SECOND)


def test_an_approved_identity_sets_one_at_once(vault: Vault) -> None:
    for operation in (SetChangeDelay(DAY), AddApprover(b"t" * 32)):
        vault.do(operation)
    assert vault.refuses(at(1), FOURTH) == "VAULT_CHANGE_DELAYED"
    vault.do(Approve(b"t" * 32), FOURTH)
    vault.do(at(1), FOURTH)


# In a session


class Phone:
    """One identity's session."""

    def __init__(self, core: Core, rig: Rig, owner: Owner) -> None:
        core.head = rig.directory.publish(owner)
        self.client: ClientSession = rig.client(owner)
        self.stream: Stream = core.stream()
        handshake(self.client, self.stream)

    def sets(self, line: bytes, n: int, chain: bytes) -> None:
        answer = self.client.on_answer(self.stream.exchange(self.client.checkpoint_request(line, n, chain)))
        assert answer == pb.CheckpointAnswer()

    def refused(self, line: bytes, n: int, chain: bytes) -> str:
        with pytest.raises(OperationRefused) as refused:
            self.sets(line, n, chain)
        return refused.value.reason

    def listed(self) -> list[tuple[int, int]]:
        listing = self.client.on_answer(self.stream.exchange(self.client.list_request()))
        assert isinstance(listing, pb.ListAnswer)
        return [(c.identity_version, c.n) for c in listing.checkpoints]


def test_a_session_sets_and_lists_them(core: Core, rig: Rig) -> None:
    owner = Owner()
    phone = Phone(core, rig, owner)
    phone.sets(LINE, 7, b"c" * 32)
    phone.sets(LINE, 7, b"c" * 32)  # the answer was lost
    assert phone.refused(LINE, 6, b"c" * 32) == "VAULT_CHECKPOINT_BELOW"
    thief = Phone(core, rig, Owner(owner.label))
    thief.sets(LINE, HIGHEST, b"t" * 32)
    again = Phone(core, rig, Owner(owner.label))
    again.sets(LINE, 8, b"d" * 32)
    assert again.listed() == [(1, 7), (2, HIGHEST), (3, 8)]
    assert {use.operation for use in core.uses[owner.label]} == {"handshake"}


@pytest.mark.parametrize("length", [0, 31, 33, 4096])
def test_a_line_and_a_chain_have_32_bytes(core: Core, rig: Rig, length: int) -> None:
    phone = Phone(core, rig, Owner())
    assert phone.refused(bytes(length), 1, bytes(32)) == "VAULT_FIELD_INVALID"
    assert phone.refused(bytes(32), 1, bytes(length)) == "VAULT_FIELD_INVALID"
    phone.sets(bytes(32), 1, bytes(32))
