"""The one way in which a card is changed: whole lines are replaced, taken out or added, every other byte stays.

Tested by tests/contacts/cards/test_editing.py and tests/contacts/test_merge.py.
"""

from collections.abc import Iterable, Mapping

from ipls.contacts.cards.lines import NEWLINE, card_end, card_lines
from ipls.contacts.errors import CardError


def write_lines(card: bytes, changes: Mapping[int, bytes], added: Iterable[bytes] = ()) -> bytes:
    """The card with other lines: by each line's `start` what is to stand there (nothing: it goes, and the line endings
    after it), and what is to stand before its END. What is new takes the card's own line end.

    Raises CardError CARD_EDIT_REFUSED: read again, lines that were to stay would not be the same lines. What is new is
    for who asked to read again.
    """
    found = NEWLINE.search(card)
    newline = found[0] if found else b"\r\n"
    lines = card_lines(card)
    kept: set[tuple[int, int]] = set()  # where they stand afterwards
    made, at, moved = [], 0, 0
    for line in lines:
        if line.start in changes:
            new = NEWLINE.sub(newline, changes[line.start])
            made += [card[at : line.start], new]
            at = line.stop if new else line.end
            moved += len(new) - (at - line.start)
        else:
            kept.add((line.start + moved, line.stop + moved))
    end = lines[-1].end if lines else card_end(card)
    front = b"".join([*made, card[at:end]])
    new_lines = b"".join(NEWLINE.sub(newline, text) + newline for text in added)
    if new_lines:
        front += (b"" if front.endswith((b"\n", b"\r")) else newline) + new_lines
    edited = front + card[end:]
    if not kept <= {(line.start, line.stop) for line in card_lines(edited)} or card_end(edited) != (
        len(front) + card_end(card) - end
    ):
        raise edit_refused()
    return edited


def edit_refused() -> CardError:
    """The card is too broken to be changed here without changing something elsewhere in it."""
    return CardError("CARD_EDIT_REFUSED", "the card is so broken that something else would change with it")
