"""Whoever learned a log key that a rotation has retired: it makes no entry and no hand-off that anybody takes."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from ipls.hsm.anchor_service import AnchorServiceProcess
from ipls.hsm.state import replay
from ipls.hsm.state.anchor import genesis, read_anchor
from ipls.hsm.state.handoff import hand_off, take_over
from ipls.hsm.state.mending import mend_log
from ipls.hsm.state.owner import OWNER, Owner
from ipls.hsm.state.store import StateStore
from ipls.store.vault import Changes, open_vault_store
from ipls.vault.state.journal import JournalEntry, State, handoff_digest, other_key
from ipls.vault.state.trie import Trie, digest_of
from tests.attack.vault_state import outcome
from tests.hsm.core.test_rotation import add_root
from tests.hsm.rig import Rig
from tests.hsm.state_stores import Keys, MemoryStore, perform
from tests.hsm.tokens import MODULES

KEY = other_key("test")
RETIRED, NEWEST = 1, 2


def put(state_store: StateStore, record: bytes = b"record", key: bytes = KEY) -> object:
    return outcome(lambda: perform(state_store, lambda: state_store.put(key, record)))


class Vault:
    """It wrote under the log key that was retired since, and under the newest."""

    def __init__(self) -> None:
        self.token, self.store = Keys(RETIRED), MemoryStore()
        genesis(self.store, self.token)
        assert put(self.open()) is None
        self.token.numbers = [RETIRED, NEWEST]
        assert put(self.open()) is None

    def open(self) -> StateStore:
        return StateStore(self.store, self.token)

    def forge(self, key: bytes = KEY, record: bytes = b"forged") -> State:
        """The attacker's entry, which continues the log in all but its key; what the vault's state would be."""
        state = read_anchor(self.token).state
        trie = Trie(state.records_root, self.store.nodes)
        before = trie.get(key) or bytes(32)
        trie.put(key, digest_of(key, record))
        entry = JournalEntry(
            state.sequence + 1, state.chain_head, key, before, trie.root, state.highest, record, use=b""
        )
        row = replay.log_row(entry, entry.encode(), b"")
        [mac] = Keys(RETIRED).macs(replay.log_digests(self.token, [row]))
        self.store.append(Changes([row._replace(mac=mac)], {key: record}, trie.changed))
        return state.followed_by(entry)


@pytest.fixture
def vault() -> Vault:
    return Vault()


def test_what_it_signed_before_the_rotation_holds(vault: Vault) -> None:
    state_store = vault.open()
    assert put(state_store) is None
    walk = state_store.check()
    while (found := perform(state_store, lambda: next(walk, None))) is not None:
        assert found == []


@pytest.mark.parametrize("had", [True, False])
def test_what_it_signed_is_mended_and_not_signed_anew(vault: Vault, had: bool) -> None:
    """By a token that came to the fleet later too."""
    before = dict(vault.store.rows)
    vault.token.numbers = [RETIRED, NEWEST] if had else [NEWEST]
    vault.store.rows[1] = before[1]._replace(entry=bytes([before[1].entry[0] ^ 1]) + before[1].entry[1:])
    assert list(mend_log(vault.store, vault.token, read_anchor(vault.token).state)) == [1]
    assert vault.store.rows == before


def starts(vault: Vault) -> object:
    return outcome(lambda: perform(vault.open(), lambda: None))


def checked_offline(vault: Vault) -> object:
    return outcome(lambda: replay.catch_up(vault.store, vault.token, read_anchor(vault.token).state))


@pytest.mark.parametrize("verify", [starts, checked_offline])
def test_an_entry_of_it_is_refused(vault: Vault, verify: Callable[[Vault], object]) -> None:
    vault.forge()
    assert verify(vault) == "VAULT_LOG_BROKEN"


def test_an_entry_of_it_is_refused_by_a_vault_that_runs(vault: Vault) -> None:
    running = vault.open()
    assert put(running) is None
    vault.forge()
    assert outcome(lambda: perform(running, lambda: running.get(KEY))) == "VAULT_LOG_BROKEN"


def test_it_hands_no_shard_on(vault: Vault) -> None:
    """Neither by an entry nor by the hand-off itself, over a database that leads to it."""
    thief = Owner(b"a thief's token".ljust(32), 2)
    state = vault.forge(OWNER, thief.encode())
    content = state.encode() + thief.encode()
    [mac] = Keys(RETIRED).macs([handoff_digest(content)])
    another = Keys(RETIRED, NEWEST)
    another.key_id = thief.hsm_key_id
    assert outcome(lambda: take_over(vault.store, another, content + mac)) == "VAULT_HANDOFF_REFUSED"
    assert starts(vault) == "VAULT_LOG_BROKEN"


def test_a_hand_off_from_before_the_rotation_is_signed_again(vault: Vault) -> None:
    """By the token that gave the shard away, when it has joined: so the refusal says."""
    next_ = Keys(RETIRED, NEWEST, 3)
    next_.key_id = b"the next token".ljust(32)
    to = Owner(next_.key_id, 2)
    before = hand_off(vault.store, vault.token, to)
    assert outcome(lambda: take_over(vault.store, next_, before)) == "VAULT_HANDOFF_REFUSED"
    vault.token.numbers = next_.numbers
    take_over(vault.store, next_, hand_off(vault.store, vault.token, to))
    assert put(StateStore(vault.store, next_)) is None


@pytest.mark.parametrize("entries", [0, replay.PAGE])
def test_what_a_vault_that_died_wrote_under_it_stays_behind_in_a_recovery(vault: Vault, entries: int) -> None:
    """Nobody was answered: the refusal names the command, and the vault goes on from its anchor, wherever in a page of
    the log that is."""
    state_store = vault.open()
    state_store.perform([lambda: state_store.put(KEY, b"record")] * entries)
    vault.forge()
    aside, vault.store = vault.store, MemoryStore()
    anchored = read_anchor(vault.token).state
    assert replay.recover(aside, vault.store, vault.token) == anchored
    assert outcome(lambda: perform(state_store := vault.open(), lambda: state_store.get(KEY))) == b"record"


@pytest.mark.parametrize("name", MODULES)
def test_a_vault_that_runs_signs_by_the_newest_from_the_moment_of_its_join(name: str, tmp_path: Path) -> None:
    """Its anchor service had the token open long before."""
    rig = Rig(tmp_path, name)
    digest = bytes(32)
    with (
        closing(open_vault_store(rig.folder / "vault.db")) as store,
        closing(AnchorServiceProcess(rig.config_path, 0, store.lock)) as anchor_service,
    ):
        state_store = StateStore(store, anchor_service)
        assert put(state_store) is None
        [retired] = anchor_service.macs([digest])
        assert anchor_service.holds([digest], [retired]) == [True]
        add_root(rig.token, rig.tokens.profile)
        [newest] = anchor_service.macs([digest])
        assert newest != retired
        assert anchor_service.holds([digest] * 2, [retired, newest]) == [False, True]
        assert anchor_service.holds([digest] * 2, [retired, newest], retired=True) == [True, True]
        assert put(state_store, b"later") is None
        last = store.last()
        assert last is not None
        assert anchor_service.holds(replay.log_digests(anchor_service, [last]), [last.mac]) == [True]
