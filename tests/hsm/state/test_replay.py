"""The log, followed: what a check finds, and what comes back in a recovery.

Of a whole vault that is in tests/admin/test_vault.py, under attack in tests/attack/test_vault_state.py.
"""

from collections.abc import Sequence
from typing import NamedTuple

import pytest

from ipls.hsm.state import replay
from ipls.hsm.state.anchor import genesis, read_anchor, write_anchor
from ipls.hsm.state.store import StateStore
from ipls.store.errors import StoreDamaged
from ipls.store.vault import Changes
from ipls.vault.errors import SessionRefused
from ipls.vault.state.journal import NO_RECORD, JournalEntry, other_key
from ipls.vault.state.trie import EMPTY_ROOT, prefix_of
from tests.attack.vault_state import outcome
from tests.hsm.state_stores import MemoryNotary, MemoryStore, perform

KEYS = [other_key("test", number) for number in range(3)]


class Store(MemoryStore):
    """Rows of which can't be read."""

    def __init__(self) -> None:
        super().__init__()
        self.unreadable = set[bytes]()

    def _read(self, *rows: bytes) -> None:
        if self.unreadable.intersection(rows):
            raise StoreDamaged("DATABASE_UNREADABLE", "a page of the database is malformed")

    def record(self, key: bytes) -> bytes | None:
        self._read(key)
        return super().record(key)

    def nodes(self, prefixes: Sequence[bytes]) -> dict[bytes, bytes]:
        self._read(*prefixes)
        return super().nodes(prefixes)


class Vault(NamedTuple):
    store: Store
    token: MemoryNotary

    def write(self, *keys: bytes, token: MemoryNotary | None = None) -> None:
        state_store = StateStore(self.store, token or self.token)
        perform(state_store, lambda: [state_store.put(key, key) for key in keys])

    def check(self) -> list[str]:
        """The reasons that it finds."""
        anchored = read_anchor(self.token).state
        return [each.reason for found in replay.check(self.store, self.token, anchored) for each in found]


@pytest.fixture
def vault() -> Vault:
    vault = Vault(Store(), MemoryNotary())
    genesis(vault.store, vault.token)
    vault.write(*KEYS)
    assert vault.check() == []
    return vault


@pytest.mark.parametrize("left", range(3))
def test_a_log_that_does_not_lead_to_the_anchor_is_found(vault: Vault, left: int) -> None:
    for sequence in range(left, 3):
        del vault.store.rows[sequence + 1]
    assert vault.check() == ["VAULT_LOG_BROKEN"]


@pytest.mark.parametrize("more", [1, 3])
def test_entries_that_were_not_anchored_are_caught_up_with(vault: Vault, more: int) -> None:
    ahead = MemoryNotary()
    ahead.values = vault.token.values
    vault.write(*KEYS[:more], token=ahead)
    assert replay.catch_up(vault.store, vault.token, read_anchor(vault.token).state) == read_anchor(ahead).state


def test_a_token_that_is_lost_is_no_damage(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object, **__: object) -> list[bool]:
        raise SessionRefused("VAULT_NOTARY_LOST", "no token answers")

    anchored = read_anchor(vault.token).state
    monkeypatch.setattr(vault.token, "holds", lost)
    check = replay.check_log(vault.store, vault.token, lambda: anchored)
    assert outcome(lambda: list(check)) == "VAULT_NOTARY_LOST"


def test_a_record_that_cant_be_read_is_found(vault: Vault) -> None:
    vault.store.unreadable = {KEYS[1]}
    assert vault.check() == ["VAULT_DATABASE_EDITED"]


def test_a_row_that_cant_be_read_where_no_node_is_costs_nobody(vault: Vault) -> None:
    vault.store.unreadable = {prefix_of(KEYS[0], depth) for depth in range(1, 64)} - vault.store.bodies.keys()
    state_store = StateStore(vault.store, vault.token)
    assert perform(state_store, lambda: state_store.get(KEYS[0])) == KEYS[0]


def test_a_log_that_does_not_add_up_is_not_recovered_from() -> None:
    """Though token and chain vouch for it: a vault that reckoned wrong wrote it."""
    store, target, token = MemoryStore(), MemoryStore(), MemoryNotary()
    genesis(store, token)
    first, values = read_anchor(token)
    entry = JournalEntry(1, first.chain_head, KEYS[0], NO_RECORD, EMPTY_ROOT, first.highest, b"record", b"")
    row = replay.log_row(entry, entry.encode(), b"")
    [mac] = token.macs(replay.log_digests(token, [row]))
    store.append(Changes([row._replace(mac=mac)], {}, {}))
    write_anchor(token, values, first.followed_by(entry))
    assert outcome(lambda: replay.recover(store, target, token)) == "VAULT_LOG_BROKEN"
    assert not target.rows
