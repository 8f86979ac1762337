"""The accounts in the state store, and the count of releases of them all.

Tested by tests/hsm/core/test_core.py and tests/hsm/core/test_limits.py.
"""

from collections.abc import Callable

from ipls.hsm.state.store import StateStore
from ipls.proto.vault.v1.vault_pb2 import HistoryAnswer, HistoryEntry
from ipls.trust.identity import Identity
from ipls.vault.account import Account, Times, apply
from ipls.vault.errors import SessionRefused
from ipls.vault.history import MAX_ENTRIES, Seen
from ipls.vault.limits import Limits, Releases
from ipls.vault.session.effects import History, Operation, Result
from ipls.vault.state.journal import account_key, other_key

_RELEASES = other_key("releases")


class Accounts:
    """What a session commits. For works of the state store."""

    def __init__(self, state_store: StateStore, times: Callable[[], Times], limits: Limits) -> None:
        self._state_store = state_store
        self._times = times
        self._limits = limits

    def commit(self, label: str, identity: Identity, operation: Operation) -> Result:
        """See `effects.Commit`. Raises SessionRefused, and the account stays as it was; StoreError."""
        key = account_key(label)
        record = self._state_store.get(key)
        before, present = Account.decode(record) if record else None, self._releases()
        account, releases, result, use = apply(before, present, identity, operation, self._times(), self._limits)
        if releases != present:  # first: if the account can't be put, one too many is counted, never one too few
            self._state_store.put(_RELEASES, releases.encode())
        if record != account.encode():
            self._state_store.put(key, account.encode(), use=use)
        if isinstance(operation, History):
            assert isinstance(result, HistoryAnswer)
            result.entries.extend(self._history(key, Seen(result.length, result.chain_head), operation.first))
        return result

    def _releases(self) -> Releases:
        """Of the present hour. Where the count was edited it begins anew, as if the hour's releases were all given."""
        try:
            counted = self._state_store.get(_RELEASES)
        except SessionRefused:
            counted = Releases(self._times().witness_ms, self._limits.hourly_releases).encode()
            self._state_store.put(_RELEASES, counted)
        return Releases.decode(counted) if counted else Releases()

    def _history(self, key: bytes, whole: Seen, first: int) -> list[HistoryEntry]:
        """At most MAX_ENTRIES uses from number `first` on; all behind are read too, as they must lead to the end."""
        first = max(first, 1)
        if first > whole.length:
            return []
        seen, found = Seen(), list[HistoryEntry]()
        for entry in self._state_store.uses(key, max(first - 1, 1)):
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
        if seen != whole:
            raise SessionRefused("VAULT_DATABASE_EDITED", "the account's access history is not as it was written")
        return found
