"""A vault's state without its sessions: what it wrote, what its host then does to the database, what comes of it."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

from ipls.hsm.core.accounts import Accounts
from ipls.hsm.state import replay
from ipls.hsm.state.anchor import AnchorService, read_anchor
from ipls.hsm.state.store import StateStore
from ipls.proto.vault.v1.vault_pb2 import HistoryAnswer
from ipls.store.vault import VaultStore
from ipls.trust.identity import Identity
from ipls.vault.account import Times
from ipls.vault.errors import SessionRefused
from ipls.vault.history import Seen, follow
from ipls.vault.limits import Limits
from ipls.vault.session.effects import Handshake, History, List, Operation, Result, Retrieve, Store, StoredRecord
from tests.hsm.state_stores import MemoryNotary, new_ledger, perform
from tests.store.vault_databases import FAILED, Database

ME = Identity(bytes(32), 1, 1)
OWNERS = [f"+49301234560{digit}" for digit in range(6)]
NOW = 1_700_000_000_000


class State:
    """The ledger of a running vault, with one operation a work."""

    def __init__(self, state_store: StateStore) -> None:
        self.state_store = state_store
        self.accounts = Accounts(state_store, lambda: Times(NOW, NOW), Limits())

    def do(self, label: str, operation: Operation, identity: Identity = ME) -> Result:
        return perform(self.state_store, lambda: self.accounts.commit(label, identity, operation))

    def store(self, label: str, number: int) -> None:
        self.do(label, Store(number - 1, bytes([number]) * 16, bytes(16), wrapped(label, number)))

    def key(self, label: str, number: int = 0) -> bytes:
        record = self.do(label, Retrieve(number))
        assert isinstance(record, StoredRecord)
        return record.wrapped

    def uses(self, label: str, first: int, identity: Identity = ME) -> HistoryAnswer:
        """Those from that number on."""
        answer = self.do(label, History(first), identity)
        assert isinstance(answer, HistoryAnswer)
        steps = self.accounts.history(label, first, answer)
        while perform(self.state_store, lambda: next(steps, None)):
            pass
        return answer

    def history(self, label: str, seen: Seen = Seen()) -> Seen:  # noqa: B008  # it never changes
        """How far it goes, from what was seen. Raises SessionRefused as the client does."""
        return follow(seen, self.uses(label, seen.length + 1))[-1][1]

    def check(self) -> None:
        """The walk through everything, to its end."""
        steps = self.state_store.check()
        while (found := perform(self.state_store, lambda: next(steps, None))) is not None:
            for refused in found:
                raise refused


def wrapped(label: str, number: int) -> bytes:
    """A contact key as it lies in the database."""
    return f"{label} {number}".encode().ljust(40)


def use(state: State, labels: list[str]) -> None:
    """A session of each owner, who stores a second key."""
    for label in labels:
        state.do(label, Handshake())
        state.store(label, 2)
        assert state.key(label) == wrapped(label, 2)


class Vault:
    """A vault's database and its token; some owners stored a key and used it."""

    def __init__(self, database: Database, shard: int = 0) -> None:
        self.database = database
        self.anchor_service = MemoryNotary()
        self.anchor_service.shard = shard
        with new_ledger(database.place, self.anchor_service) as state_store:
            state = State(state_store)
            for label in OWNERS[:-1]:
                state.do(label, Handshake())
                state.store(label, 1)
                assert state.key(label) == wrapped(label, 1)

    @contextmanager
    def running(self, anchor_service: AnchorService | None = None, database: Database | None = None) -> Iterator[State]:
        with closing((database or self.database).open()) as store:
            yield State(StateStore(store, anchor_service or self.anchor_service))

    def copy(self) -> "Vault":
        """Another host's, with a token of the same content."""
        copy = object.__new__(Vault)
        copy.database = self.database.copy()
        copy.anchor_service = self.copy_of_token()
        return copy

    def copy_of_token(self) -> MemoryNotary:
        """With what its own has now."""
        copy = MemoryNotary()
        copy.shard, copy.values = self.anchor_service.shard, list(self.anchor_service.values)
        return copy

    def edit(self, statement: str, *values: object) -> None:
        """By the host, while the vault runs or not."""
        assert self.database.execute(statement, *values)

    def rows(self, query: str, *values: object) -> list[Any]:
        return self.database.rows(query, *values)

    def put_back(self, backup: Database) -> None:
        """A backup in the place of what is there, under a vault that runs."""
        self.database.put_back(backup)


def outcome(attempt: Callable[[], object]) -> object:
    """What it returns, or the reason why it is refused; for a file that is no database any more, that."""
    try:
        return attempt()
    except SessionRefused as refused:
        return refused.reason
    except FAILED:
        return "not a database"


def checked(store: VaultStore, anchor_service: AnchorService) -> object:
    """What `ipls vault check` finds first, None if nothing; it only reads."""

    def check() -> None:
        anchored = replay.catch_up(store, anchor_service, read_anchor(anchor_service).state)
        for found in replay.check(store, anchor_service, anchored):
            for refused in found:
                raise refused

    return outcome(check)


def offline(vault: Vault) -> object:
    """`checked`, of a vault that is off."""
    with closing(vault.database.open()) as store:
        return checked(store, vault.anchor_service)


def looked_at(state: State) -> dict[str, object]:
    """What a start finds, and what every account is answered; by what adds nothing to the log."""
    found: dict[str, object] = {"start": outcome(lambda: perform(state.state_store, lambda: None))}
    for label in OWNERS:
        listing = outcome(lambda label=label: state.do(label, List()))
        history = outcome(lambda label=label: state.do(label, History(1)))
        found |= {f"{label} list": listing, f"{label} history": history}
    return found
