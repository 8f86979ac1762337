"""An account's access history: every use of its keys, in a chain that can be added to and not rewritten unseen.

The vault answers with entries and with the whole history's length and chain head; a device that remembers both, once,
sees at any later time whether what it is shown continues them (the vault spec, State).
"""

from typing import NamedTuple

from ipls.crypto.encoding import tagged_hash
from ipls.proto.vault.v1.vault_pb2 import HistoryAnswer, HistoryEntry
from ipls.vault.errors import SessionRefused

MAX_ENTRIES = 500
"""In one answer: the largest fit a frame."""


class Seen(NamedTuple):
    """How far a history is known: `length` entries, over which the chain has this head (32 bytes; zeros for none)."""

    length: int = 0
    chain_head: bytes = bytes(32)

    def extended(self, entry: HistoryEntry) -> "Seen":
        """After one more entry, whose number is not looked at."""
        head = tagged_hash(
            "ipls/vault/v1 history",
            self.chain_head,
            entry.number,
            entry.time_ms,
            entry.operation,
            entry.generation,
            entry.identity_version,
            entry.epoch,
            entry.delay_ms,
            entry.approver,
        )
        return Seen(self.length + 1, head)


def follow(seen: Seen, answer: HistoryAnswer) -> list[tuple[HistoryEntry, Seen]]:
    """The entries that continue what was seen, each with what is seen after it; there may be more than one answer has.

    Raises SessionRefused VAULT_HISTORY_REWRITTEN if the history is shorter than it was, has a hole or another past.
    """
    if answer.length < seen.length or bool(answer.entries) != (answer.length > seen.length):
        raise _rewritten("it is shorter than it was, or entries are left out")
    found = []
    for entry in answer.entries:
        if entry.number != seen.length + 1 or entry.number > answer.length:
            raise _rewritten("its entries are not numbered one after the other")
        seen = seen.extended(entry)
        found.append((entry, seen))
    if seen.length == answer.length and seen.chain_head != answer.chain_head:
        raise _rewritten("an entry is not what it was")
    return found


def _rewritten(what: str) -> SessionRefused:
    return SessionRefused("VAULT_HISTORY_REWRITTEN", f"the account's access history was rewritten: {what}")
