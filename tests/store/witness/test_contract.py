"""The contract of a witness's store, which every backend is held to."""

import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from ipls.store.errors import StoreError
from ipls.store.witness import ProposedEpoch, State, WitnessStore, init_witness_state, open_witness_store
from ipls.trust.heads import Head
from tests.store.places import Place, new_place
from tests.trust.roots import NAMESPACE, NOW, make_root

R0, R1, R2, FORK = (bytes([i]) * 32 for i in (0, 1, 2, 9))
FIRST = ProposedEpoch(5, 1, R0, R1)


BACKENDS = ["sqlite"]
Open = Callable[..., WitnessStore]


@pytest.fixture(params=BACKENDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    place = new_place(request.param, request, tmp_path)
    init_witness_state(place.location, make_root())
    return place


@pytest.fixture
def open_store(place: Place, tmp_path: Path) -> Open:
    """Once more each time, as another process would."""
    return lambda namespace=NAMESPACE: open_witness_store(place.location, namespace, tmp_path / "w.mark")


@pytest.fixture
def store(open_store: Open) -> WitnessStore:
    return open_store()


def cosign(time_ms: int) -> bytes:
    return b"signed at %d" % time_ms


def refused(store: WitnessStore, step: ProposedEpoch) -> str:
    before = store.state()
    with pytest.raises(StoreError) as e:
        store.sign(step, NOW, cosign)
    assert store.state() == before
    return e.value.reason


def test_a_genesis_again_changes_nothing_and_another_is_refused(place: Place, store: WitnessStore) -> None:
    assert store.state() == State(0, 0, b"", R0, None, 0)
    store.sign(FIRST, NOW, cosign)
    init_witness_state(place.location, make_root())
    assert store.state().epoch == 1
    for other in (make_root(namespace="other"), make_root(start_root=FORK), make_root(start_epoch=1)):
        with pytest.raises(StoreError) as e:
            init_witness_state(place.location, other)
        assert e.value.reason == "WITNESS_STATE_EXISTS"
    assert store.state().epoch == 1


def test_a_state_of_another_namespace_is_refused(open_store: Open) -> None:
    with pytest.raises(StoreError) as e:
        open_store("other")
    assert e.value.reason == "WITNESS_OTHER_NAMESPACE"


def test_what_is_signed_is_there_after_a_restart(open_store: Open, store: WitnessStore) -> None:
    assert store.sign(FIRST, NOW, cosign) == cosign(NOW)
    assert open_store().state() == State(5, 1, R0, R1, cosign(NOW), NOW)


def test_it_is_durable_before_it_leaves(open_store: Open, store: WitnessStore) -> None:
    """Another connection, as after a crash, sees the row at the moment that `sign` returns and not while it signs."""

    def look(time_ms: int) -> bytes:
        assert open_store().state().epoch == 0
        return cosign(time_ms)

    store.sign(FIRST, NOW, look)
    assert open_store().state().epoch == 1


def test_only_the_successor_is_signed(store: WitnessStore) -> None:
    store.sign(FIRST, NOW, cosign)
    for step, reason in (
        (ProposedEpoch(5, 1, R0, FORK), "WITNESS_FORK"),
        (ProposedEpoch(5, 1, R1, FORK), "WITNESS_FORK"),
        (ProposedEpoch(5, 2, FORK, R2), "WITNESS_FORK"),
        (ProposedEpoch(5, 3, R1, R2), "WITNESS_GAP"),
        (ProposedEpoch(5, 0, R0, R0), "WITNESS_BEHIND"),
        (ProposedEpoch(5, 0, R0, FORK), "WITNESS_BEHIND"),
        (ProposedEpoch(2**63, 2, R1, R2), "WITNESS_GAP"),
    ):
        assert refused(store, step) == reason
    store.sign(ProposedEpoch(5, 2, R1, R2), NOW, cosign)


def test_only_the_start_itself_is_signed_without_a_step(store: WitnessStore) -> None:
    assert refused(store, ProposedEpoch(1, 0, FORK, FORK)) == "WITNESS_FORK"
    store.sign(ProposedEpoch(1, 0, R0, R0), NOW, cosign)
    assert (store.state().epoch, store.state().root_hash, store.state().cosignature) == (0, R0, cosign(NOW))


def test_terms_never_fall_and_a_refused_one_raises_nothing(store: WitnessStore) -> None:
    store.sign(FIRST, NOW, cosign)
    assert refused(store, ProposedEpoch(4, 2, R1, R2)) == "WITNESS_TERM"
    assert refused(store, ProposedEpoch(99, 3, R1, R2)) == "WITNESS_GAP"
    store.sign(ProposedEpoch(7, 1, R1, R1), NOW, cosign)
    assert store.state().term == 7
    assert refused(store, ProposedEpoch(6, 2, R1, R2)) == "WITNESS_TERM"


def test_times_never_fall(store: WitnessStore) -> None:
    store.sign(FIRST, NOW, cosign)
    assert store.sign(FIRST, NOW - 1000, cosign) == cosign(NOW)
    assert store.sign(ProposedEpoch(5, 2, R1, R2), NOW - 1000, cosign) == cosign(NOW)
    assert store.sign(ProposedEpoch(5, 2, R1, R2), NOW + 1, cosign) == cosign(NOW + 1)


def test_a_failed_signature_changes_nothing(store: WitnessStore) -> None:
    def fail(_: int) -> bytes:
        raise ZeroDivisionError

    before = store.state()
    with pytest.raises(ZeroDivisionError):
        store.sign(FIRST, NOW, fail)
    assert store.state() == before


def test_of_racing_processes_one_wins(open_store: Open) -> None:
    outcomes: list[str] = []
    barrier = threading.Barrier(6)

    def run(i: int) -> None:
        store = open_store()
        barrier.wait()
        try:
            store.sign(ProposedEpoch(1, 1, R0, bytes([i + 1]) * 32), NOW, cosign)
            outcomes.append("signed")
        except StoreError as e:
            outcomes.append(e.reason)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["WITNESS_FORK"] * 5 + ["signed"]


def test_every_signature_is_kept_with_its_row(open_store: Open, store: WitnessStore) -> None:
    store.sign_start(
        lambda epoch, root_hash, at_ms: (at_ms, b"%d %s %d" % (epoch, root_hash[:1].hex().encode(), at_ms))
    )
    store.sign(FIRST._replace(proposal=b"asked"), NOW + 1, cosign)
    store.sign(ProposedEpoch(5, 2, R1, R2, b"first"), NOW + 2, cosign)
    store.sign(ProposedEpoch(5, 2, R1, R2, b"again"), NOW + 3, cosign)
    again = open_store()
    assert again.signed(0) == (0, b"", R0, b"0 00 0", 0, b"")
    assert again.signed(1) == (1, R0, R1, cosign(NOW + 1), NOW + 1, b"asked")
    assert again.signed(2) == (2, R1, R2, cosign(NOW + 3), NOW + 3, b"first")
    assert (again.signed(3), again.signed(10**30)) == (None, None)


def test_the_start_is_signed_once_and_never_later_than_the_newest(store: WitnessStore) -> None:
    store.sign(FIRST, NOW, cosign)
    store.sign_start(lambda epoch, root_hash, at_ms: (at_ms, cosign(at_ms)))
    store.sign_start(lambda epoch, root_hash, at_ms: (at_ms, b"again"))
    start, state = store.signed(0), store.state()
    assert start is not None
    assert (start.root_hash, start.cosignature) == (R0, cosign(NOW))
    assert (state.epoch, state.cosignature, state.term) == (1, cosign(NOW), 5)


TRUST, FLEET = f"{NAMESPACE}/trust", f"{NAMESPACE}/fleet"


def test_one_document_a_number_is_signed_also_after_a_restart(open_store: Open, store: WitnessStore) -> None:
    assert store.sign_document(TRUST, Head(2, R1), R0, lambda: b"by one key") == b"by one key"
    assert store.sign_document(TRUST, Head(2, R1), R0, lambda: b"by another") == b"by another"
    assert store.sign_document(TRUST, Head(3, R2), R1, lambda: b"the next") == b"the next"
    assert store.sign_document(FLEET, Head(2, R2), R0, lambda: b"a bundle") == b"a bundle"
    store.close()
    with closing(open_store()) as again:
        for document in ((TRUST, Head(2, R2), R0), (TRUST, Head(3, R1), R1), (FLEET, Head(2, R1), R0)):
            with pytest.raises(StoreError) as e:
                again.sign_document(*document, lambda: pytest.fail("it was signed"))
            assert e.value.reason == "WITNESS_DOCUMENT_FORK"


def test_a_document_is_signed_only_if_it_continues_what_was_signed(store: WitnessStore) -> None:
    store.sign_document(FLEET, Head(2, R1), R0, lambda: b"signed")
    for document in ((Head(3, R2), R2), (Head(1, R0), b"")):
        with pytest.raises(StoreError) as e:
            store.sign_document(FLEET, *document, lambda: pytest.fail("it was signed"))
        assert e.value.reason == "WITNESS_DOCUMENT_FORK"
    assert [store.has_signed(FLEET, number) for number in (1, 2, 3)] == [False, True, False]
    assert store.sign_document(FLEET, Head(2, R1), R0, lambda: b"again") == b"again"
    assert store.sign_document(FLEET, Head(4, R2), R0, lambda: b"one was missed") == b"one was missed"


def test_a_document_that_no_key_signed_leaves_its_number_free(store: WitnessStore) -> None:
    def no_key() -> bytes:
        raise StoreError("NO_KEY", "there is none")

    with pytest.raises(StoreError):
        store.sign_document(TRUST, Head(2, R1), R0, no_key)
    assert store.sign_document(TRUST, Head(2, R2), R0, lambda: b"signed") == b"signed"


def test_what_waits_to_be_signed_follows_what_is_here_and_does_not_end_below(store: WitnessStore) -> None:
    for epoch, old_root in ((2, R1), (1, FORK)):
        with pytest.raises(StoreError) as e:
            store.keep_fetched(epoch, old_root, R2)
        assert e.value.reason == "WITNESS_GAP"
    store.keep_fetched(1, R0, FORK)
    store.sign(FIRST, NOW, cosign)
    store.sign(ProposedEpoch(5, 2, R1, R2), NOW, cosign)
    before = store.state()
    with pytest.raises(StoreError) as e:
        store.sign_pulled(b"head", lambda epoch, root_hash, last_ms: (last_ms, b"signed"))
    assert e.value.reason == "WITNESS_BEHIND"
    assert store.state() == before
