"""The one way in which a card is changed: whole lines are replaced, taken out or added, every other byte stays.

Tested by tests/contacts/test_merge.py.
"""

from collections.abc import Iterable, Mapping

from ipls.contacts.cards.lines import NEWLINE, card_end, card_lines


def write_lines(card: bytes, changes: Mapping[int, bytes], added: Iterable[bytes] = ()) -> bytes:
    """The card with other lines: by each line's `start` what is to stand there (nothing: it goes, and the line endings
    after it), and what is to stand before its END. What is new takes the card's own line end.
    """
    found = NEWLINE.search(card)
    newline = found[0] if found else b"\r\n"
    lines = card_lines(card)
    made, at = [], 0
    for line in lines:
        if line.start in changes:
            new = changes[line.start]
            made += [card[at : line.start], NEWLINE.sub(newline, new)]
            at = line.stop if new else line.end
    end = lines[-1].end if lines else card_end(card)
    front = b"".join([*made, card[at:end]])
    for text in added:
        front += (b"" if front.endswith((b"\n", b"\r")) else newline) + NEWLINE.sub(newline, text) + newline
    return front + card[end:]
