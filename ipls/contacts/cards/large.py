"""A card that is larger than a record can be."""

from ipls.contacts.cards.lines import card_lines
from ipls.contacts.cards.writing import write_lines


def without_largest(card: bytes, most: int) -> bytes:
    """The card in at most `most` bytes: its largest properties are left out, as few as must be.

    Raises CardError CARD_EDIT_REFUSED: it is too broken for that.
    """
    gone: dict[int, bytes] = {}
    excess = len(card) - most
    for line in sorted(card_lines(card), key=lambda line: line.start - line.end):
        if excess <= 0:
            break
        gone[line.start] = b""
        excess -= line.end - line.start
    return write_lines(card, gone) if gone else card
