"""What each operation does to an account, and what no operation can do to it."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipls.proto.vault.v1 import vault_pb2 as pb
from ipls.trust.identity import Identity
from ipls.trust.limits import MAX_INT
from ipls.vault.account import (
    CROWDED,
    MAX_ALL_GENERATIONS,
    MAX_APPROVERS,
    MAX_CHANGE_DELAY_MS,
    MAX_CHECKPOINTS,
    MAX_CROWDED_GENERATIONS,
    MAX_GENERATIONS,
    RETENTION_MS,
    TURN_MS,
    Account,
    Checkpoint,
    Generation,
    Times,
    apply,
)
from ipls.vault.errors import SessionRefused
from ipls.vault.history import Seen, follow
from ipls.vault.session.effects import (
    AddApprover,
    Delete,
    FinishRotation,
    Handshake,
    History,
    List,
    Operation,
    RemoveApprover,
    Retrieve,
    SetChangeDelay,
    Store,
    StoredRecord,
)
from ipls.vault.session.effects import Checkpoint as SetCheckpoint
from ipls.vault.session.transcript import MAX_FRAME
from tests.vault.accounts import DAY, FIRST, NOW, ROOT_ID, SECOND, THIRD, Vault, format_3, store

EPOCH_MS = 3 * 60_000


@pytest.fixture
def vault() -> Vault:
    return Vault()


def test_a_store_is_a_compare_and_swap(vault: Vault) -> None:
    assert vault.do(store(1)) == pb.StoreAnswer(generation=1)
    for number, expected in ((2, 0), (3, 2)):
        assert vault.refuses(store(number, expected=expected)) == "VAULT_GENERATION_CONFLICT"
    assert vault.do(store(2)) == pb.StoreAnswer(generation=2)


def test_a_repeated_store_has_the_same_success(vault: Vault) -> None:
    vault.do(store(1))
    once = vault.account
    assert vault.do(store(1)) == pb.StoreAnswer(generation=1)
    assert vault.account == once
    vault.do(store(2))
    assert vault.do(store(1)) == pb.StoreAnswer(generation=1)
    assert vault.retrievable() == [1, 2]


def test_a_store_id_used_for_another_key_is_no_repeat(vault: Vault) -> None:
    vault.do(store(1))
    other_key = Store(0, (1).to_bytes(16, "big"), ROOT_ID, b"x" * 40)
    assert vault.refuses(other_key) == "VAULT_GENERATION_CONFLICT"
    assert vault.refuses(store(1, store_id=b"y" * 16)) == "VAULT_GENERATION_CONFLICT"


def test_the_current_one_is_retrieved_by_default(vault: Vault) -> None:
    assert vault.refuses(Retrieve(0)) == "VAULT_GENERATION_UNKNOWN"
    vault.do(store(1))
    vault.do(store(2))
    record = vault.do(Retrieve(0))
    assert isinstance(record, StoredRecord)
    assert record.generation == 2
    assert vault.refuses(Retrieve(3)) == "VAULT_GENERATION_UNKNOWN"


def test_the_previous_one_stays_until_the_rotation_is_finished(vault: Vault) -> None:
    vault.do(store(1))
    vault.do(store(2))
    vault.now += 1000 * DAY
    assert vault.retrievable() == [1, 2]
    assert vault.do(FinishRotation(2)) == pb.FinishRotationAnswer()
    assert vault.retrievable() == [2]
    assert vault.do(FinishRotation(2)) == pb.FinishRotationAnswer()


def test_a_rotation_can_only_be_finished_for_what_is_stored(vault: Vault) -> None:
    vault.do(store(1))
    assert vault.refuses(FinishRotation(2)) == "VAULT_GENERATION_UNKNOWN"
    assert vault.retrievable() == [1]


@pytest.mark.parametrize("end", [FinishRotation(3), Delete()], ids=["finish_rotation", "delete"])
def test_a_thiefs_identity_destroys_nothing_for_ninety_days(vault: Vault, end: Operation) -> None:
    vault.do(store(1))
    vault.do(store(2))
    vault.now += 100 * DAY
    vault.do(store(3), SECOND)
    vault.do(end, SECOND)
    vault.now += RETENTION_MS - 1
    assert [n for n in vault.retrievable(THIRD) if n < 3] == [1, 2]
    listing = vault.do(List(), THIRD)
    assert isinstance(listing, pb.ListAnswer)
    assert {g.state for g in listing.generations if g.generation < 3} == {pb.Generation.STATE_RETAINED}
    vault.do(end if isinstance(end, Delete) else FinishRotation(3), THIRD)
    assert vault.account is not None
    assert [g.number for g in vault.account.generations if g.number < 3] == [1, 2]
    vault.now += 1
    assert [n for n in vault.retrievable(THIRD) if n < 3] == []


def test_what_a_thief_deletes_is_there_but_current_no_more(vault: Vault) -> None:
    vault.do(store(1))
    vault.do(Delete(), SECOND)
    assert vault.refuses(Retrieve(0), THIRD) == "VAULT_GENERATION_UNKNOWN"
    assert vault.retrievable(THIRD) == [1]


def test_a_delete_of_ones_own_is_at_once_and_keeps_the_counter(vault: Vault) -> None:
    vault.do(store(1))
    assert vault.do(Delete()) == pb.DeleteAnswer()
    assert vault.account is not None
    assert vault.account.deleted_ms == NOW
    assert vault.retrievable() == []
    assert vault.refuses(Retrieve(0)) == "VAULT_GENERATION_UNKNOWN"
    assert vault.refuses(store(1)) == "VAULT_GENERATION_CONFLICT"
    listing = vault.do(List())
    assert listing == pb.ListAnswer(last_generation=1)
    assert vault.do(store(2)) == pb.StoreAnswer(generation=2)
    assert vault.account.deleted_ms == 0


def test_an_accepted_identity_version_never_falls(vault: Vault) -> None:
    vault.do(Handshake(), SECOND)
    for operation in (Handshake(), List(), Retrieve(0), store(1), Delete()):
        assert vault.refuses(operation, FIRST) == "VAULT_IDENTITY_SUPERSEDED"
    vault.do(Handshake(), SECOND)


def test_when_an_identity_was_first_seen(vault: Vault) -> None:
    vault.do(Handshake())
    vault.now += DAY
    vault.do(Handshake())
    assert vault.account is not None
    assert (vault.account.identity_version, vault.account.first_seen_ms, vault.account.handshakes) == (1, NOW, 2)
    vault.do(Handshake(), SECOND)
    assert (vault.account.identity_epoch, vault.account.first_seen_ms) == (20, NOW + DAY)


def test_a_thief_cannot_use_up_the_owners_generations(vault: Vault) -> None:
    for number in range(1, MAX_GENERATIONS + 1):
        vault.do(store(number), FIRST)
    assert vault.refuses(store(MAX_GENERATIONS + 1), FIRST) == "VAULT_TOO_MANY_GENERATIONS"
    vault.do(store(MAX_GENERATIONS + 1), SECOND)
    vault.do(FinishRotation(MAX_GENERATIONS + 1), SECOND)
    assert vault.retrievable(SECOND) == list(range(1, MAX_GENERATIONS + 2))


def test_the_repeat_of_each_operation_has_its_success_and_adds_nothing(vault: Vault) -> None:
    """Its answer was lost: the client asks again, in another session."""
    for operation in (
        store(1),
        store(2),
        FinishRotation(2),
        SetChangeDelay(DAY),
        SetChangeDelay(1),
        AddApprover(b"t" * 32),
        RemoveApprover(b"t" * 32),
        SetCheckpoint(b"l" * 32, 1, b"c" * 32),
        Delete(),
    ):
        answer, after, length = vault.do(operation), vault.account, len(vault.uses)
        vault.now += 1
        assert vault.do(operation) == answer
        assert (vault.account, len(vault.uses)) == (after, length)


def test_what_a_retained_generation_was_let_go_of_is_not_put_off_by_repeats(vault: Vault) -> None:
    """Nor does a repeat of `delete` move the tombstone."""
    vault.do(store(1))
    vault.do(Delete(), SECOND)
    before = vault.account
    vault.now += DAY
    vault.do(Delete(), SECOND)
    assert vault.account == before


class Unwritten(Vault):
    """Not written and read back each time: for thousands of steps."""

    def do(self, operation: Operation, identity: Identity = FIRST) -> object:
        times = Times(self.now, self.now)
        applied = apply(self.account, self.releases, identity, operation, times, self.limits)
        self.account, self.releases, result, _ = applied
        return result


def identity(version: int) -> Identity:
    return Identity(version.to_bytes(32, "big"), version, version)


def stored(vault: Vault, version: int, most: int) -> int:
    """How many keys an identity may store, which would store so many."""
    for count in range(most):
        try:
            vault.do(store((vault.account.last_generation if vault.account else 0) + 1), identity(version))
        except SessionRefused as refused:
            assert refused.reason == "VAULT_TOO_MANY_GENERATIONS"  # noqa: PT017  # it may be stored, too
            return count
    return most


def test_a_thief_who_takes_the_number_again_and_again_crowds_nobody_out() -> None:
    """With every epoch, for longer than anything is kept, each time with all the keys that it may store. The owner
    takes it back each evening, waits for a turn at most, and rotates."""
    vault, version, owners = Unwritten(), 0, list[int]()
    for _ in range(95):
        evening = vault.now + DAY - TURN_MS
        while vault.now < evening:
            version += 1
            if not stored(vault, version, MAX_GENERATIONS):
                version += TURN_MS // EPOCH_MS  # whatever else it is, until its turn comes
                vault.now += TURN_MS
            vault.now += EPOCH_MS
        vault.now = evening + TURN_MS
        version += 1
        for _ in range(2):  # after a restore, and once more
            assert stored(vault, version, 1)
            assert vault.account
            vault.do(FinishRotation(vault.account.last_generation), identity(version))
        owners.append(vault.account.last_generation)
        assert set(owners[-89:]) <= {g.generation for g in vault.listing(identity(version)).generations}


@pytest.fixture(scope="module")
def crowd() -> Account:
    """Of an account in which so many identities have stored keys that it is crowded."""
    vault, version = Unwritten(), 0
    while not vault.account or len(vault.account.generations) < CROWDED:
        version += 1
        assert stored(vault, version, MAX_GENERATIONS) == MAX_GENERATIONS
    return vault.account


@given(
    st.lists(
        st.tuples(
            st.sampled_from([EPOCH_MS, TURN_MS - 1, TURN_MS, DAY]),
            st.integers(0, MAX_GENERATIONS),
            st.sampled_from([None, FinishRotation(CROWDED), FinishRotation(CROWDED + 2), Delete()]),
        ),
        max_size=20,
    )
)
def test_whatever_others_did_an_owner_stores_after_a_turn_and_has_it_for_90_days(
    crowd: Account, others: list[tuple[int, int, Operation | None]]
) -> None:
    vault = Unwritten()
    vault.account = crowd
    first = crowd.identity_version + 1
    vault.now += TURN_MS
    assert stored(vault, first, 1)
    owners = vault.account.last_generation
    for version, (later_ms, most, end) in enumerate(others, first + 1):
        vault.now += later_ms
        stored(vault, version, most)
        with suppress(SessionRefused):  # there is nothing to finish
            if end:
                vault.do(end, identity(version))
        assert len(vault.account.generations) <= MAX_ALL_GENERATIONS
        kept = {g.number for g in vault.account.generations}
        assert owners in kept or vault.now >= NOW + TURN_MS + RETENTION_MS
    vault.now += TURN_MS
    assert stored(vault, first + len(others) + 1, MAX_CROWDED_GENERATIONS) == MAX_CROWDED_GENERATIONS


def test_an_account_that_is_full_lets_go_of_what_was_superseded_90_days_ago_and_of_nothing_else() -> None:
    vault, version = Unwritten(), 0
    while vault.now < NOW + RETENTION_MS:
        version += 1
        vault.now += TURN_MS
        assert stored(vault, version, MAX_GENERATIONS)
    assert vault.account
    while 1 in {g.number for g in vault.account.generations}:
        full = len(vault.account.generations)
        version += 1
        vault.now += TURN_MS
        assert stored(vault, version, MAX_CROWDED_GENERATIONS) == MAX_CROWDED_GENERATIONS
    assert full + MAX_CROWDED_GENERATIONS >= MAX_ALL_GENERATIONS >= len(vault.account.generations)


def test_the_largest_listing_fits_a_frame() -> None:
    generation = pb.Generation(
        generation=MAX_INT,
        store_id=bytes(16),
        identity_version=MAX_INT,
        identity_epoch=MAX_INT,
        stored_ms=10**14,
        state=pb.Generation.STATE_RETAINED,
    )
    listing = pb.ListAnswer(
        generations=[generation] * MAX_ALL_GENERATIONS,
        last_generation=MAX_INT,
        change_delay_ms=MAX_CHANGE_DELAY_MS,
        next_change_delay_ms=MAX_CHANGE_DELAY_MS,
        next_change_delay_from_ms=10**14,
        approvers=[bytes(32)] * MAX_APPROVERS,
        waits_until_ms=10**14,
        checkpoints=[pb.Checkpoint(identity_version=MAX_INT, line=bytes(32), n=2**64 - 1, chain=bytes(32))]
        * MAX_CHECKPOINTS,
    )
    assert listing.ByteSize() < MAX_FRAME * 7 // 8


def test_each_use_adds_an_entry_and_nothing_takes_one_away(vault: Vault) -> None:
    vault.do(Handshake())
    vault.do(store(1))
    vault.do(store(1))  # a repeat, of which nothing came
    vault.do(List())
    vault.now += 1
    vault.do(Retrieve(0), SECOND)
    vault.do(store(2), SECOND)
    vault.do(FinishRotation(2), SECOND)
    vault.do(Delete(), SECOND)
    assert vault.refuses(Retrieve(0), SECOND) == "VAULT_GENERATION_UNKNOWN"
    rows = [(u.number, u.operation, u.generation, u.identity_version, u.epoch, u.time_ms - NOW) for u in vault.uses]
    assert rows == [
        (1, "handshake", 0, 1, 10, 0),
        (2, "store", 1, 1, 10, 0),
        (3, "retrieve", 1, 2, 20, 1),
        (4, "store", 2, 2, 20, 1),
        (5, "finish_rotation", 2, 2, 20, 1),
        (6, "delete", 0, 2, 20, 1),
    ]
    answer = vault.do(History(1), SECOND)
    assert isinstance(answer, pb.HistoryAnswer)
    answer.entries.extend(vault.uses)
    assert follow(Seen(), answer)[-1][1] == (answer.length, answer.chain_head)


numbers = st.integers(0, 2**64 - 1)
generations = st.builds(
    Generation,
    numbers,
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=40, max_size=40),
    *[numbers] * 5,
)
hashes = st.binary(min_size=32, max_size=32)
checkpoints = st.builds(Checkpoint, numbers, hashes, numbers, hashes)
accounts = st.builds(
    Account,
    *[numbers] * 17,
    st.binary(min_size=32, max_size=32),
    st.lists(st.binary(min_size=32, max_size=32), max_size=3).map(tuple),
    st.lists(checkpoints, max_size=MAX_CHECKPOINTS).map(tuple),
    st.lists(generations, max_size=4).map(tuple),
)


@given(accounts)
def test_the_encoding_has_an_inverse(account: Account) -> None:
    assert Account.decode(account.encode()) == account


@given(st.binary(max_size=400))
def test_a_damaged_row_is_refused_or_has_one_encoding(data: bytes) -> None:
    with suppress(SessionRefused):
        account = Account.decode(data)
        assert account.encode() == data or data == format_3(account)


WITH_ALL = Account(
    approvers=(b"a" * 32, b"b" * 32),
    checkpoints=tuple(Checkpoint(version, b"l" * 32, version, b"c" * 32) for version in (1, 2)),
)


@pytest.mark.parametrize("data", [WITH_ALL.encode(), format_3(WITH_ALL)], ids=["format 4", "format 3"])
def test_a_row_cut_anywhere_is_refused(data: bytes) -> None:
    """Within its approvers and its checkpoints too, where nothing comes after them."""
    for length in range(len(data)):
        with pytest.raises(SessionRefused) as refused:
            Account.decode(data[:length])
        assert refused.value.reason == "VAULT_ACCOUNT_UNREADABLE"


@pytest.mark.parametrize("form", [0, 1, 2, 5, 255])
def test_a_row_of_another_format_is_refused(form: int) -> None:
    with pytest.raises(SessionRefused) as refused:
        Account.decode(bytes([form]) + Account().encode()[1:])
    assert refused.value.reason == "VAULT_ACCOUNT_UNREADABLE"


# Made by the code that wrote format 3: a session, two keys stored, a delay of a second, an approver.
OLD_ROW = bytes.fromhex(
    "03 0000000000000002 0000000000000001 000000000000000a 0000018bcfe56800 0000000000000000 0000000000000000"
    "0000000000000001 0000000000000002 0000000000000000 0000000000000000 0000018bcfe56800 0000000000000005"
    "00000000000003e8 0000018bcfe56800 0000000000000000 0000000000000000 0000000000000005"
    "4980cfdebf4eec4363c31356d2ecd1589d2fec263f3ad7052e73125d72a5d10a"
    "01 7474747474747474747474747474747474747474747474747474747474747474"
    "0000000000000001 00000000000000000000000000000001 72727272727272727272727272727272"
    "00000000000000000000000000000000000000000000000000000000000000000000000000000001"
    "0000000000000001 000000000000000a 0000018bcfe56800 0000018bcfe56801 0000000000000000"
    "0000000000000002 00000000000000000000000000000002 72727272727272727272727272727272"
    "00000000000000000000000000000000000000000000000000000000000000000000000000000002"
    "0000000000000001 000000000000000a 0000018bcfe56801 0000000000000000 0000000000000000"
)


def test_a_row_that_was_written_before_there_were_checkpoints_loses_nothing(vault: Vault) -> None:
    for operation in (Handshake(), store(1), SetChangeDelay(1000), AddApprover(b"t" * 32)):
        vault.do(operation)
    vault.now += 1
    vault.do(store(2))
    assert vault.account == Account.decode(OLD_ROW)
    assert format_3(vault.account) == OLD_ROW
    vault.account = Account.decode(OLD_ROW)
    vault.do(SetCheckpoint(b"l" * 32, 1, b"c" * 32))
    assert vault.retrievable() == [1, 2]


identities = st.sampled_from([FIRST, SECOND, THIRD])
operations = st.one_of(
    st.just(Handshake()),
    st.just(Delete()),
    st.just(List()),
    st.builds(FinishRotation, st.integers(0, 6)),
    st.builds(Retrieve, st.integers(0, 6)),
    st.builds(store, st.integers(1, 6)),
    st.builds(SetChangeDelay, st.integers(0, 10 * DAY)),
)


@given(st.lists(st.tuples(identities, operations, st.integers(0, 40 * DAY)), max_size=25))
def test_no_series_of_operations_destroys_what_it_must_not(steps: list[tuple[Identity, Operation, int]]) -> None:
    vault = Vault()
    for identity, operation, pause in steps:
        vault.now += pause
        before = vault.account or Account()
        try:
            vault.do(operation, identity)
        except SessionRefused:
            assert (vault.account or Account()) == before
            continue
        after = vault.account
        assert after is not None
        assert after.last_generation >= before.last_generation
        assert after.identity_version == max(before.identity_version, identity.version)
        if after.waits_until_ms:
            assert not isinstance(operation, Retrieve | Delete | FinishRotation | SetChangeDelay)
        elif after.identity_version > before.identity_version and not isinstance(operation, SetChangeDelay):
            assert after.change_delay_ms == 0
        for gone in {g.number for g in before.generations} - {g.number for g in after.generations}:
            (g,) = (g for g in before.generations if g.number == gone)
            if g.identity_version == after.identity_version:
                assert isinstance(operation, Delete | FinishRotation)
            else:
                assert g.superseded_ms
                assert vault.now >= g.superseded_ms + RETENTION_MS
