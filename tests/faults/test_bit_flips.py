"""One bit of what a service keeps has flipped: nothing wrong is believed, whose row it is gets DATA_LOSS, all others
are served, and a check finds it."""

import pytest

from ipls.hsm.core.accounts import _RELEASES
from ipls.hsm.core.rotation import Rotation
from ipls.vault.limits import Releases
from ipls.vault.session.effects import List
from ipls.vault.state.journal import account_key
from tests.attack.vault_state import NOW, OWNERS, State, Vault, outcome
from tests.hsm.state_stores import perform
from tests.store.vault_databases import SqliteDatabase


def flipped(value: bytes | int) -> bytes | int:
    """One bit of it."""
    return value ^ 4 if isinstance(value, int) else bytes([value[0] ^ 4]) + value[1:]


# The vault


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Vault:
    """Five owners stored a key and used it; the releases of an hour were counted."""
    vault = Vault(SqliteDatabase(tmp_path_factory.mktemp("vault") / "vault.db"))
    with vault.running() as state:
        perform(state.state_store, lambda: state.state_store.put(_RELEASES, Releases(1, 1).encode()))
        state.key(OWNERS[0])  # the anchored entry is an account's
    return vault


def damaged(honest: Vault, table: str, column: str, place: object) -> Vault:
    vault, key = honest.copy(), {"log": "sequence", "records": "key", "nodes": "prefix"}[table]
    [(value,)] = vault.rows(f"SELECT {column} FROM {table} WHERE {key} = ?", place)
    vault.edit(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", flipped(value), place)
    return vault


def served(state: State) -> list[str]:
    """The owners to whom everything is answered."""
    return [
        label
        for label in OWNERS[:-1]
        if not any(
            isinstance(outcome(act), str)
            for act in (
                lambda: state.do(label, List()),  # noqa: B023  # called in this very turn
                lambda: state.key(label),  # noqa: B023
                lambda: state.history(label),  # noqa: B023
            )
        )
    ]


@pytest.mark.parametrize("column", ["key", "record"])
def test_an_accounts_record_costs_that_account(honest: Vault, column: str) -> None:
    victim = OWNERS[2]
    vault = damaged(honest, "records", column, account_key(victim))
    with vault.running() as state:
        assert outcome(lambda: state.key(victim)) == "VAULT_DATABASE_EDITED"
        assert served(state) == [label for label in OWNERS[:-1] if label != victim]
        assert outcome(state.check) == "VAULT_DATABASE_EDITED"


@pytest.mark.parametrize("column", ["entry", "mac", "key", "use_number"])
def test_an_old_entry_of_the_log_costs_the_history_that_it_is_in(honest: Vault, column: str) -> None:
    vault = damaged(honest, "log", column, 4)  # of the second owner
    with vault.running() as state:
        assert set(served(state)) >= {label for label in OWNERS[:-1] if label != OWNERS[1]}
        assert outcome(lambda: state.key(OWNERS[1])) != "VAULT_LOG_BROKEN"
        assert outcome(state.check) == "VAULT_LOG_BROKEN"


def test_the_count_of_releases_begins_anew_as_if_the_hour_were_used_up(honest: Vault) -> None:
    vault = damaged(honest, "records", "record", _RELEASES)
    with vault.running() as state:
        assert served(state) == OWNERS[:-1]
        assert perform(state.state_store, lambda: state.state_store.get(_RELEASES)) == Releases(NOW, 1000).encode()
        state.check()


def test_rotation_goes_past_a_damaged_account(honest: Vault) -> None:
    vault = damaged(honest, "records", "record", account_key(OWNERS[2]))
    with vault.running() as state:
        step = perform(state.state_store, lambda: Rotation(state.state_store, Wrapper()).step(bytes([1]), b""))
    assert (step.wrapped, step.left) == (4, 1)


class Wrapper:
    def storage_key_ids(self) -> list[bytes]:
        return []

    def rewrap(self, each: object) -> list[bytes | None]:
        return [bytes(40) for _ in each]  # type: ignore[attr-defined]
