"""The accounts in the state store, and the count of releases of them all.

Tested by tests/hsm/core/test_core.py and tests/hsm/core/test_limits.py.
"""

from collections.abc import Callable, Iterator

from ipls.hsm.state.replay import PAGE
from ipls.hsm.state.store import StateStore
from ipls.proto.vault.v1.vault_pb2 import HistoryAnswer, HistoryEntry
from ipls.trust.identity import Identity
from ipls.vault.account import Account, Times, apply
from ipls.vault.errors import SessionRefused
from ipls.vault.history import MAX_ENTRIES, Seen
from ipls.vault.limits import Limits, Releases
from ipls.vault.session.effects import Operation, Result
from ipls.vault.state.journal import account_key, other_key

_RELEASES = other_key("releases")


class Accounts:
    """What a session commits. For works of the state store."""

    def __init__(self, state_store: StateStore, times: Callable[[], Times], limits: Limits) -> None:
        self._state_store = state_store
        self._times = times
        self._limits = limits

    def commit(self, label: str, identity: Identity, operation: Operation) -> Result:
        """See `effects.Commit`; the entries of a `HistoryAnswer` are `history`'s to add. Raises SessionRefused, and the
        account stays as it was; StoreError."""
        key = account_key(label)
        record = self._state_store.get(key)
        before, present = Account.decode(record) if record else None, self._releases()
        account, releases, result, use = apply(before, present, identity, operation, self._times(), self._limits)
        if releases != present:  # first: if the account can't be put, one too many is counted, never one too few
            self._state_store.put(_RELEASES, releases.encode())
        if record != account.encode():
            self._state_store.put(key, account.encode(), use=use)
        return result

    def _releases(self) -> Releases:
        """Of the present hour. Where the count was edited it begins anew, as if the hour's releases were all given."""
        try:
            counted = self._state_store.get(_RELEASES)
        except SessionRefused:
            counted = Releases(self._times().witness_ms, self._limits.hourly_releases).encode()
            self._state_store.put(_RELEASES, counted)
        return Releases.decode(counted) if counted else Releases()

    def history(self, label: str, first: int, answer: HistoryAnswer) -> Iterator[bool]:
        """Adds to the answer at most MAX_ENTRIES uses from number `first` on, at its end. All behind are read too, as
        they must lead there, however many they are: a page a work, other works in between. Raises SessionRefused."""
        first, whole, seen, found = max(first, 1), Seen(answer.length, answer.chain_head), Seen(), list[HistoryEntry]()
        if first > whole.length:
            return
        for read, entry in enumerate(self._state_store.uses(account_key(label), max(first - 1, 1)), 1):
            use = entry.history
            if use is not None and seen == Seen() and use.number == first - 1 > 0:
                # Where the chain stood is not verified: from no other place it leads to the end.
                seen = Seen(use.number, Account.decode(entry.record).chain_head)
                continue
            if use is None or use.number != seen.length + 1:
                break
            seen = seen.extended(use)
            if len(found) < MAX_ENTRIES:
                found.append(use)
            if seen.length == whole.length:
                break
            if read % PAGE == 0:
                yield True
        if seen != whole:
            raise SessionRefused("VAULT_DATABASE_EDITED", "the account's access history is not as it was written")
        answer.entries.extend(found)
