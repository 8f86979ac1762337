"""A shard handed from one token to another: once, wherever it is interrupted, and to nobody else."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from ipls.hsm.state.anchor import read_anchor
from ipls.hsm.state.handoff import hand_off, take_over
from ipls.hsm.state.owner import OWNER, Owner
from ipls.hsm.state.store import StateStore
from ipls.store.vault import VaultStore, open_vault_store
from ipls.vault.errors import SessionRefused
from ipls.vault.state.journal import other_key
from tests.attack.vault_state import outcome
from tests.hsm.state_stores import Dying, Fuse, Killed, MemoryNotary, new_ledger, perform

KEY = other_key("test")


class Host:
    """A token, and the database that its operator gives it."""

    def __init__(self, name: str, database: Path) -> None:
        self.anchor_service = MemoryNotary()
        self.anchor_service.key_id = name.encode().ljust(32)
        self.database = database

    @property
    def owner(self) -> Owner:
        return Owner(self.anchor_service.key_id, 2)

    @contextmanager
    def store(self) -> Iterator[VaultStore]:
        with closing(open_vault_store(self.database)) as store:
            yield store

    def serve(self, record: bytes = b"more") -> object:
        """What its vault answers: the record that was there, or the reason why it serves nothing."""
        with self.store() as store:
            state_store = StateStore(store, self.anchor_service)
            return outcome(
                lambda: perform(state_store, lambda: (state_store.get(KEY), state_store.put(KEY, record))[0])
            )

    def hand_to(self, other: "Host") -> bytes:
        with self.store() as store:
            return hand_off(store, self.anchor_service, other.owner)

    def take(self, handoff: bytes) -> object:
        with self.store() as store:
            return outcome(lambda: take_over(store, self.anchor_service, handoff))

    def copy(self, folder: Path) -> Path:
        """The database as it is now, in a folder of its own."""
        folder.mkdir()
        (folder / "vault.db").write_bytes(self.database.read_bytes())
        return folder / "vault.db"


@pytest.fixture
def old(tmp_path: Path) -> Host:
    """Whose vault wrote a record."""
    host = Host("old", tmp_path / "vault.db")
    with new_ledger(host.database, host.anchor_service) as state_store:
        perform(state_store, lambda: state_store.put(KEY, b"first"))
    return host


@pytest.fixture
def new(tmp_path: Path) -> Host:
    return Host("new", tmp_path / "vault.db")


def test_the_next_token_goes_on_where_the_old_one_was_and_the_old_one_never_does(old: Host, new: Host) -> None:
    assert new.serve() == "VAULT_ANCHOR_MISSING"
    handoff = old.hand_to(new)
    assert old.serve() == "VAULT_HANDED_OFF"
    new.take(handoff)
    assert new.serve() == b"first"
    assert old.serve() == "VAULT_HANDED_OFF"
    assert new.serve(b"last") == b"more"


def test_the_old_token_refuses_with_any_database_that_it_ever_had(old: Host, new: Host, tmp_path: Path) -> None:
    before = old.copy(tmp_path / "before")
    handoff = old.hand_to(new)
    at_hand_off = old.copy(tmp_path / "at")
    new.take(handoff)
    new.serve()
    for database, reason in (
        (before, "VAULT_DATABASE_BEHIND"),
        (at_hand_off, "VAULT_HANDED_OFF"),
        (old.database, "VAULT_HANDED_OFF"),
    ):
        old.database = database
        assert old.serve() == reason


@pytest.mark.parametrize("left", range(7))
def test_killed_at_any_step_one_of_them_serves_and_the_same_commands_end_it(old: Host, new: Host, left: int) -> None:
    """Six steps last or come before one that does: row and anchor of the old one, anchor of the new one."""
    fuse, handoff = Fuse(left), b""

    def run(host: Host, work: Any) -> Any:
        with host.store() as store:
            return work(Dying(store, fuse), Dying(host.anchor_service, fuse))

    def whole() -> None:
        nonlocal handoff
        handoff = run(old, lambda store, anchor_service: hand_off(store, anchor_service, new.owner))
        run(new, lambda store, anchor_service: take_over(store, anchor_service, handoff))

    killed = False
    try:
        whole()
    except Killed:
        killed = True
    assert killed == (left < 6)
    with old.store() as store:
        serving = [
            host
            for host in (old, new)
            if not isinstance(StateStore(store, host.anchor_service).perform([lambda: None])[0], Exception)
        ]
    assert len(serving) <= 1
    assert (serving == [old]) == (left == 0)
    fuse.left = None
    whole()
    assert (new.serve(), old.serve()) == (b"first", "VAULT_HANDED_OFF")


def test_the_hand_off_is_the_last_thing_that_a_vault_writes(old: Host, new: Host) -> None:
    with old.store() as store:
        state_store = StateStore(store, old.anchor_service)
        perform(state_store, lambda: state_store.put(OWNER, new.owner.encode()))
        for _ in range(2):
            assert outcome(lambda: perform(state_store, lambda: state_store.put(KEY, b"more"))) == "VAULT_HANDED_OFF"


def test_done_again_it_is_the_same(old: Host, new: Host) -> None:
    handoff = old.hand_to(new)
    assert old.hand_to(new) == handoff
    assert new.take(handoff) == new.take(handoff)
    with pytest.raises(SessionRefused, match="handed to the HSM"):
        old.hand_to(Host("third", old.database))
    with old.store() as store:  # nor under a later bundle that names the same HSM
        later = new.owner._replace(bundle_number=3)
        assert outcome(lambda: hand_off(store, old.anchor_service, later)) == "VAULT_HANDED_OFF"


def test_a_hand_off_is_good_for_the_token_and_the_shard_that_it_names(old: Host, new: Host) -> None:
    handoff = old.hand_to(new)
    third = Host("third", old.database)
    assert third.take(handoff) == "VAULT_HANDOFF_REFUSED"
    new.anchor_service.shard = 1
    assert new.take(handoff) == "VAULT_HANDOFF_REFUSED"
    assert old.take(handoff) == "VAULT_HANDOFF_REFUSED"


def test_no_bit_of_a_hand_off_can_be_changed(old: Host, new: Host) -> None:
    handoff = old.hand_to(new)
    with new.store() as store:
        for bit in range(8 * len(handoff)):
            edited = bytearray(handoff)
            edited[bit // 8] ^= 1 << bit % 8
            assert (
                outcome(lambda edited=edited: take_over(store, new.anchor_service, edited)) == "VAULT_HANDOFF_REFUSED"
            )
        for size in range(len(handoff)):
            assert (
                outcome(lambda size=size: take_over(store, new.anchor_service, handoff[:size]))
                == "VAULT_HANDOFF_REFUSED"
            )


def test_another_fleets_hand_off_is_none(old: Host, new: Host) -> None:
    class OtherFleet(MemoryNotary):
        key = b"another log key"

    handoff = old.hand_to(new)
    new.anchor_service, key_id = OtherFleet(), new.anchor_service.key_id
    new.anchor_service.key_id = key_id
    assert new.take(handoff) == "VAULT_HANDOFF_REFUSED"


def test_an_older_or_another_database_is_not_taken_over(old: Host, new: Host, tmp_path: Path) -> None:
    before = old.copy(tmp_path / "before")
    handoff = old.hand_to(new)
    new.database = before
    assert new.take(handoff) == "VAULT_DATABASE_BEHIND"
    assert new.serve() == "VAULT_ANCHOR_MISSING"  # nothing has come of it
    other = Host("old", tmp_path / "other.db")
    with new_ledger(other.database, other.anchor_service) as state_store:
        for _ in range(2):
            perform(state_store, lambda: state_store.put(KEY, b"another life"))
    new.database = other.database
    assert new.take(handoff) == "VAULT_DATABASE_FORKED"


def test_a_token_with_an_anchor_as_far_on_keeps_it(old: Host, new: Host, tmp_path: Path) -> None:
    """It began the shard by itself, and wrote as much."""
    own = Host("new", tmp_path / "own.db")
    with new_ledger(own.database, own.anchor_service) as state_store:
        for record in (b"own", b"own too"):
            perform(state_store, lambda record=record: state_store.put(KEY, record))
    handoff = old.hand_to(new)
    assert read_anchor(own.anchor_service).state.sequence == read_anchor(old.anchor_service).state.sequence
    own.database = old.database
    assert own.take(handoff) == "VAULT_ANCHOR_EXISTS"
    own.database = tmp_path / "own.db"
    assert own.serve() == b"own too"


def test_a_token_that_did_not_keep_its_last_anchor_signs_nothing_over(
    old: Host, new: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the database of before it would go on serving the shard, beside the next one."""
    before = old.copy(tmp_path / "before")
    with monkeypatch.context() as lying:
        lying.setattr(old.anchor_service, "replace", lambda expected, new: None)
        with pytest.raises(SessionRefused, match="did not keep the anchor"):
            old.hand_to(new)
    old.database = before
    assert old.serve() == b"first"


def test_a_shard_goes_there_and_back_and_no_earlier_hand_off_counts(old: Host, new: Host) -> None:
    there = old.hand_to(new)
    new.take(there)
    new.serve(b"second")
    back = new.hand_to(old)
    assert old.serve() == "VAULT_HANDED_OFF"
    assert new.take(there) == "VAULT_ANCHOR_EXISTS"
    old.take(back)
    assert (old.serve(b"third"), new.serve()) == (b"second", "VAULT_HANDED_OFF")
    assert old.take(back) == "VAULT_ANCHOR_EXISTS"
    assert new.take(there) == "VAULT_ANCHOR_EXISTS"
    again = old.hand_to(new)
    new.take(again)
    assert (new.serve(), old.serve()) == (b"third", "VAULT_HANDED_OFF")


def test_a_hand_back_that_was_not_anchored_is_none_of_the_old_tokens(old: Host, new: Host, tmp_path: Path) -> None:
    """The new one dies between row and anchor, and goes on over a backup; the old one is given the row."""
    new.take(old.hand_to(new))
    backup = new.copy(tmp_path / "backup")
    fuse = Fuse(2)
    with new.store() as store, pytest.raises(Killed):
        hand_off(Dying(store, fuse), Dying(new.anchor_service, fuse), old.owner)
    assert old.serve() == "VAULT_HANDED_OFF"
    new.database = backup
    assert new.serve() == b"first"
    assert old.serve() == "VAULT_HANDED_OFF"


def test_a_vault_hands_its_shard_to_another_alone(old: Host) -> None:
    with old.store() as store:
        assert outcome(lambda: hand_off(store, old.anchor_service, old.owner)) == "VAULT_HANDOFF_REFUSED"
    assert old.serve() == b"first"
