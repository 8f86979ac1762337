"""One account under `apply`, with the clocks in the test's hand."""

import pytest

from ipls.proto.vault.v1 import vault_pb2 as pb
from ipls.trust.identity import Identity
from ipls.vault.account import Account, Times, apply
from ipls.vault.errors import SessionRefused
from ipls.vault.limits import Limits, Releases
from ipls.vault.session.effects import List, Operation, Retrieve, Store, StoredRecord

NOW = 1_700_000_000_000
DAY = 24 * 3600 * 1000
ROOT_ID = b"r" * 16
FIRST, SECOND, THIRD, FOURTH = (Identity(bytes([n]) * 32, n, 10 * n) for n in (1, 2, 3, 4))


def store(number: int, *, expected: int | None = None, store_id: bytes | None = None) -> Store:
    """Of generation `number`; each has its own id and its own 40 bytes."""
    expected = number - 1 if expected is None else expected
    return Store(expected, store_id or number.to_bytes(16, "big"), ROOT_ID, number.to_bytes(40, "big"))


def format_3(account: Account) -> bytes:
    """Its encoding before there were checkpoints."""
    header = account._replace(checkpoints=(), generations=()).encode()
    generations = account._replace(approvers=(), checkpoints=()).encode()[len(Account().encode()) :]
    return b"\3" + header[1:-1] + generations  # the last of the header is their count


class Vault:
    """One account, changed by `apply` and written and read back each time. `now` moves both clocks."""

    def __init__(self) -> None:
        self.account: Account | None = None
        self.uses: list[pb.HistoryEntry] = []
        self.now = NOW
        self.host_ahead = 0
        """How far the host's clock is ahead of the witnesses', ms."""
        self.limits = Limits()
        self.releases = Releases()
        """Of all accounts: a test may give it to another one."""

    def do(self, operation: Operation, identity: Identity = FIRST) -> object:
        times = Times(self.now + self.host_ahead, self.now)
        applied = apply(self.account, self.releases, identity, operation, times, self.limits)
        account, releases, result, use = applied
        self.uses += [use] if use else []
        self.releases = Releases.decode(releases.encode())
        assert self.releases == releases
        self.account = Account.decode(account.encode())
        assert self.account == account
        return result

    def refuses(self, operation: Operation, identity: Identity = FIRST) -> str:
        before = self.account
        with pytest.raises(SessionRefused) as refused:
            self.do(operation, identity)
        assert self.account == before
        return refused.value.reason

    def listing(self, identity: Identity = FIRST) -> pb.ListAnswer:
        listing = self.do(List(), identity)
        assert isinstance(listing, pb.ListAnswer)
        return listing

    def retrievable(self, identity: Identity = FIRST) -> list[int]:
        listing = self.listing(identity)
        for g in listing.generations:
            record = self.do(Retrieve(g.generation), identity)
            number = g.generation
            assert record == StoredRecord(number, number.to_bytes(16, "big"), ROOT_ID, number.to_bytes(40, "big"))
        return [g.generation for g in listing.generations]

    def operations(self) -> list[str]:
        """What the history's entries say."""
        return [use.operation for use in self.uses]
