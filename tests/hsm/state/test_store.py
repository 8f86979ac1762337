"""The state store: what is acknowledged is durable and anchored, whatever fails in between; many writes share one
anchor."""

import secrets
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ipls.hsm.state.store import StateStore
from ipls.proto.vault.v1.vault_pb2 import HistoryEntry
from ipls.store.vault import Changes, Server, VaultStore
from ipls.vault.errors import SessionRefused
from ipls.vault.state.journal import Highest, other_key
from tests.hsm.state_stores import Dying, Fuse, Killed, MemoryNotary, new_ledger, perform
from tests.store.postgres import PostgresServer
from tests.store.vault_databases import FAILED

KEYS = [other_key("test", number) for number in range(5)]


def putting(state_store: StateStore, key: bytes, record: bytes) -> Callable[[], bytes]:
    def work() -> bytes:
        state_store.put(key, record)
        return record

    return work


Step = tuple[list[tuple[bytes, bytes]], str | None, int]
STEPS: st.SearchStrategy[list[Step]] = st.lists(
    st.tuples(
        st.lists(st.tuples(st.sampled_from(KEYS), st.binary(max_size=3)), max_size=4),
        st.sampled_from(["store", "anchor service", None]),
        st.integers(0, 2),
    ),
    max_size=12,
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_any_order_of_writes_and_deaths_loses_nothing_acknowledged(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Step]
) -> None:
    """A batch is acknowledged whole, or it has come to be whole or not at all."""
    write_and_die(tmp_path_factory.mktemp("ledger") / "vault.db", steps)


@settings(max_examples=12)
@given(STEPS)
def test_nor_in_postgresql(postgres: PostgresServer, steps: list[Step]) -> None:
    write_and_die(postgres.new().place, steps)


def write_and_die(database: Path | Server, steps: list[Step]) -> None:
    token = MemoryNotary()
    with new_ledger(database, token) as first:
        store = first._store
        model: dict[bytes, bytes] = {}
        state_store, fuses = _restarted(store, token)
        for puts, victim, left in steps:
            if victim is not None:
                fuses[victim].left = left
            after = model | dict(puts)
            try:
                assert state_store.perform([putting(state_store, *put) for put in puts]) == [
                    record for _, record in puts
                ]
                model = after
            except Killed:
                state_store, fuses = _restarted(store, token)
                records = perform(state_store, lambda state_store=state_store: [state_store.get(key) for key in KEYS])
                found = {key: record for key, record in zip(KEYS, records, strict=True) if record is not None}
                assert found in (model, after)
                model = found
            fuses["store"].left = fuses["anchor service"].left = None
        walk = state_store.check()
        while (found := perform(state_store, lambda: next(walk, None))) is not None:
            assert found == []


def _restarted(store: VaultStore, token: MemoryNotary) -> tuple[StateStore, dict[str, Fuse]]:
    fuses = {"store": Fuse(), "anchor service": Fuse()}
    return StateStore(Dying(store, fuses["store"]), Dying(token, fuses["anchor service"])), fuses


def test_nothing_acknowledged_is_lost_when_the_databases_server_is_killed_again_and_again(
    postgres: PostgresServer,
) -> None:
    """In the middle of a batch wherever it may be, and the state store goes on by itself."""
    answers: SimpleQueue[None] = SimpleQueue()
    over = threading.Event()
    acknowledged: dict[bytes, bytes] = {}
    failed: list[object] = []

    def write() -> None:
        number = 0
        while not over.is_set():
            puts = {key: secrets.token_bytes(8) for key in KEYS[number % 5 :]}
            while True:
                outcomes = state_store.perform([putting(state_store, *put) for put in puts.items()])
                if outcomes == list(puts.values()):
                    break
                failed.append(outcomes[0])
            acknowledged.update(puts)
            answers.put(None)
            number += 1

    with new_ledger(postgres.new().place) as state_store:
        writer = threading.Thread(target=write)
        writer.start()
        for _ in range(5):
            for _ in range(secrets.randbelow(20)):
                answers.get()
            postgres.kill()
            postgres.start()
        over.set()
        writer.join()
        assert {key: perform(state_store, lambda key=key: state_store.get(key)) for key in acknowledged} == acknowledged
        walk = state_store.check()
        while (found := perform(state_store, lambda: next(walk, None))) is not None:
            assert found == []
    assert failed
    assert all(isinstance(each, FAILED) for each in failed)


class Counting(MemoryNotary):
    anchors_written = 0

    def replace(self, expected: Sequence[bytes], new: bytes) -> None:
        super().replace(expected, new)
        self.anchors_written += 1


def test_works_that_wait_together_share_one_transaction_and_one_anchor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    appended: list[Changes] = []
    anchor_service = Counting()
    with new_ledger(tmp_path / "vault.db", anchor_service) as state_store:
        append = VaultStore.append
        monkeypatch.setattr(VaultStore, "append", lambda self, each: (appended.append(each), append(self, each)))
        before = anchor_service.anchors_written
        works = [putting(state_store, other_key("many", number), b"%d" % number) for number in range(100)]
        assert state_store.perform(works) == [b"%d" % number for number in range(100)]
        assert [len(changes.log) for changes in appended] == [100]
        assert anchor_service.anchors_written == before + 1
        state_store.perform([lambda: state_store.get(KEYS[0])])
        assert (len(appended), anchor_service.anchors_written) == (1, before + 1)  # a reader writes nothing


def test_what_one_work_raises_is_its_own(tmp_path: Path) -> None:
    with new_ledger(tmp_path / "vault.db") as state_store:
        refused = SessionRefused("VAULT_GENERATION_CONFLICT", "no")

        def refuse() -> None:
            raise refused

        assert state_store.perform(
            [putting(state_store, KEYS[0], b"a"), refuse, putting(state_store, KEYS[1], b"b")]
        ) == [
            b"a",
            refused,
            b"b",
        ]
        assert perform(state_store, lambda: (state_store.get(KEYS[0]), state_store.get(KEYS[1]))) == (b"a", b"b")


def test_later_works_see_what_earlier_ones_put(tmp_path: Path) -> None:
    with new_ledger(tmp_path / "vault.db") as state_store:
        assert state_store.perform([putting(state_store, KEYS[0], b"a"), lambda: state_store.get(KEYS[0])]) == [
            b"a",
            b"a",
        ]


def test_an_accounts_uses_are_those_of_the_present_batch_too_and_no_others(tmp_path: Path) -> None:
    with new_ledger(tmp_path / "vault.db") as state_store:

        def use(key: bytes, number: int) -> Callable[[], None]:
            return lambda: state_store.put(key, b"%d" % number, use=HistoryEntry(number=number))

        def numbers(first: int) -> Callable[[], list[int]]:
            return lambda: [use.number for entry in state_store.uses(KEYS[0], first) if (use := entry.history)]

        state_store.perform([use(KEYS[0], 1)])
        works = [use(KEYS[0], 2), use(KEYS[1], 1), numbers(1), use(KEYS[0], 3), numbers(1), numbers(3)]
        assert state_store.perform(works) == [None, None, [1, 2], None, [1, 2, 3], [3]]


@pytest.mark.parametrize("part", ["store", "anchor service"])
def test_a_callback_waits_for_the_anchor(tmp_path: Path, part: str) -> None:
    token, called = MemoryNotary(), list[str]()
    with new_ledger(tmp_path / "vault.db", token) as first:
        state_store, fuses = _restarted(first._store, token)

        def work() -> None:
            state_store.put(KEYS[0], b"a")
            state_store.on_commit(lambda: called.append("called"))

        fuses[part].left = 0
        with pytest.raises(Killed):
            state_store.perform([work])
        assert called == []
        state_store, _ = _restarted(first._store, token)
        state_store.perform([work])
        assert called == ["called"]


def test_the_highest_head_lies_in_the_anchor(tmp_path: Path) -> None:
    token = MemoryNotary()
    with new_ledger(tmp_path / "vault.db", token) as state_store:
        highest = Highest(7, b"r" * 32, 1234)
        perform(state_store, lambda: state_store.put(KEYS[0], b"a", highest=highest))
        again = StateStore(state_store._store, token)
        assert perform(again, lambda: again.highest) == highest
