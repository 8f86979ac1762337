"""An envelope and the records that it goes in: one, or, where it is over MAX_ENVELOPE, one of its own and parts
(contacts.md, Keys). Above this, and in the merge, there are whole envelopes only. Pure.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace

from ipls.contacts.cards.large import without_largest
from ipls.contacts.cards.lines import MOST_LINES, is_endless
from ipls.contacts.envelope import Envelope, Kind, Parts
from ipls.contacts.errors import CardError
from ipls.contacts.sealing import MAX_ENVELOPE, id_of_part

MAX_PARTS = 16
PART_BYTES = 31 << 16
"""Of the whole envelope in each part but the last."""
MAX_WHOLE = MAX_PARTS * PART_BYTES
"""Bytes of a whole envelope: 31 MiB."""
UNEDITABLE = "too broken to take what the list has"
_EMPTY = Envelope()


def split(id: bytes, whole: bytes) -> dict[bytes, bytes]:
    """What the records of a contact's envelope hold, by their ids, its own last: that is `whole` itself if it fits.

    It has MAX_WHOLE bytes at most (`fitting`).
    """
    if len(whole) <= MAX_ENVELOPE:
        return {id: whole}
    chunks = [whole[at : at + PART_BYTES] for at in range(0, len(whole), PART_BYTES)]
    parts = {id_of_part(id, i): Envelope(chunk, Kind.PART, placement=0).encode() for i, chunk in enumerate(chunks)}
    return parts | {id: own_record(whole)}


def own_record(whole: bytes) -> bytes:
    """What the record with the contact's own id holds; it tells one whole envelope from every other."""
    if len(whole) <= MAX_ENVELOPE:
        return whole
    parts = Parts(-(-len(whole) // PART_BYTES), hashlib.sha256(whole).digest())
    return Envelope(kind=0, placement=0, parts=parts).encode()


def part_ids(id: bytes, own: Envelope) -> list[bytes]:
    """The ids of the parts that the record with the contact's own id speaks of; none: it holds all itself.

    Raises CardError ENVELOPE_INVALID: there can't be so many.
    """
    number = own.parts.number if own.parts else 0
    if number > MAX_PARTS:
        raise _invalid()
    return [id_of_part(id, i) for i in range(number)]


def join(id: bytes, records: Mapping[bytes, bytes]) -> bytes:
    """The whole envelope of these records' contents, by id, as `split` made them.

    Raises CardError ENVELOPE_INVALID: one is not there, or other than it has to be.
    """
    parts = part_ids(id, Envelope.decode(records[id]))
    if any(part not in records for part in parts):
        raise _invalid()
    whole = b"".join(Envelope.decode(records[part]).card for part in parts) if parts else records[id]
    if split(id, whole) != {each: records[each] for each in (*parts, id)}:
        raise _invalid()
    if parts and (Envelope.decode(whole).kind == Kind.PART or Envelope.decode(whole).parts):
        raise _invalid()
    return whole


def fitting(whole: bytes) -> bytes:
    """The envelope in MAX_WHOLE bytes at most: of a larger one the largest values are left out, what gave way in a
    merge first, as few as must be. Raises CardError CARD_EDIT_REFUSED: its card is too broken for that."""
    if len(whole) <= MAX_WHOLE:
        return whole
    envelope, excess = Envelope.decode(whole), len(whole) - MAX_WHOLE
    conflicts = sorted(envelope.conflicts, key=lambda each: len(each.unit))
    while conflicts and excess > 0:
        excess -= len(replace(_EMPTY, conflicts=(conflicts.pop(),)).encode()) - len(_EMPTY.encode())
    card = envelope.card if excess <= 0 else without_largest(envelope.card, len(envelope.card) - excess)
    return replace(envelope, card=card, conflicts=tuple(conflicts)).encode()


def fits(envelope: Envelope) -> bool:
    """Whether it goes into the list as it is."""
    return len(envelope.encode()) <= MAX_WHOLE


def unkeepable(card: bytes) -> str:
    """Why a card is not taken in; empty: it is."""
    if is_endless(card):
        return f"more than {MOST_LINES} lines"
    return "" if is_keepable(Envelope(card)) else f"over {MAX_WHOLE} bytes, and too broken to be cut"


def is_keepable(envelope: Envelope) -> bool:
    """Whether it fits, or can be made to."""
    try:
        return bool(fitting(envelope.encode()))
    except CardError:
        return False


def _invalid() -> CardError:
    return CardError("ENVELOPE_INVALID", "the parts of a large contact are not those that its record speaks of")
