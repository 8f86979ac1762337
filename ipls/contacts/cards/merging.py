"""The three-way merge of cards (the contacts spec, Merging). No unit is lost: what can't stand in the card is handed
back beside it.

Tested by tests/contacts/test_merge.py.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from contextlib import suppress
from typing import NamedTuple, TypeVar

from ipls.contacts.cards.lines import keeps_folded_blanks
from ipls.contacts.cards.units import Groups, Unit, card_form, card_units, unit_of
from ipls.contacts.cards.writing import edit_refused, write_lines
from ipls.contacts.errors import CardError

Value = TypeVar("Value", bound=Hashable)

SINGLE = frozenset(
    ("VERSION", "FN", "N", "BDAY", "ANNIVERSARY", "GENDER", "KIND", "ORG", "TITLE", "ROLE", "NOTE", "PHOTO")
)
"""Single-valued, where no side has two."""
ALONE = frozenset(("VERSION", "UID", "N", "BDAY", "ANNIVERSARY", "GENDER", "KIND", "REV", "PRODID"))
"""Of which a card has one at most (RFC 6350, section 6)."""
_MINE = ("REV", "PRODID")


class Merged(NamedTuple):
    """The card, and the text of each unit of another content that had to give way."""

    card: bytes
    lost: list[bytes]


def merge_cards(base: bytes, mine: bytes, theirs: bytes, country: str | None) -> Merged:
    """Theirs, less what mine took out of base, plus what it added. `base` is empty for a contact that is new on both
    sides. Of a single-valued property that both changed mine stays, theirs is lost.
    """
    sides = [card_units(card, country) for card in (base, mine, theirs)]
    plan = _Plan(*sides)
    with suppress(CardError):
        card = plan.write(mine, theirs)
        if card_form(card, country) == plan.wanted():
            return Merged(card, plan.lost)
    # A card so broken that nothing can be put into it: it stays whole, and so does what was to come.
    return Merged(theirs, [unit.text for unit in (*plan.added, *plan.swapped.values())])


def join_units(card: bytes, other: bytes, country: str | None) -> bytes:
    """The card of one person and what another card of theirs says besides: two cards of one person become one.

    UID, version and the like are the first's, and so is N, of which there may be one; all other values stand together.
    Raises CardError CARD_EDIT_REFUSED.
    """
    first, second = card_units(card, country), card_units(other, country)
    forms = {unit.form for unit in first}
    there = {name for unit in first for name in unit.names}
    apart = {("VERSION",), ("UID",), *((name,) for name in _MINE)} | ({("N",)} if "N" in there else set())
    more = [unit for unit in second if unit.form not in forms and unit.names not in apart]
    alike = keeps_folded_blanks(card) == keeps_folded_blanks(other)
    groups = Groups(first)
    added = map(groups.admit, more)
    return write_lines(card, {}, [unit.raw if alike else unit.text for unit in added])


def put_unit(card: bytes, text: bytes, country: str | None, *, beside: bool) -> bytes:
    """The card with a unit that gave way in it: in the place of what it says of that instead, or `beside` that. Of a
    property of which there may be many nothing gives way.

    Raises CardError CARD_EDIT_REFUSED.
    """
    units, unit = card_units(card, country), unit_of(text, country)
    if not unit.lines:
        raise edit_refused()
    of_it = () if beside or not SINGLE.intersection(unit.names) else (u for u in units if u.names == unit.names)
    old = next(iter(of_it), None)
    rest = [each for each in units if each is not old]
    new = Groups(rest).admit(unit)
    changes = {line.start: b"" for line in old.lines} if old else {}
    if old:
        changes[old.lines[0].start] = new.text
    edited = write_lines(card, changes, () if old else [new.text])
    if card_form(edited, country) != Counter(each.form for each in (*rest, unit)):
        raise edit_refused()
    return edited


def merge_counts(base: Counter[Value], mine: Counter[Value], theirs: Counter[Value]) -> Counter[Value]:
    """Theirs, less what mine took out, plus what it added; what both took out, or both added, counts once."""
    removed = (base - mine) - (base - theirs)
    added = (mine - base) - (theirs - base)
    return theirs - removed + added


class _Plan:
    """What becomes of theirs: `removed`, `swapped` (by place among its units) and `added`."""

    def __init__(self, base: Sequence[Unit], mine: Sequence[Unit], theirs: Sequence[Unit]) -> None:
        self.theirs = theirs
        self.removed: set[int] = set()
        self.swapped: dict[int, Unit] = {}
        self.added: list[Unit] = []
        self.lost: list[bytes] = []
        sides = base, mine, theirs
        single = {name for name in SINGLE if all(_is_single(name, side) for side in sides)}
        for name in sorted(single):
            self._merge_single(*(next((unit for unit in side if unit.names == (name,)), None) for side in sides))
        for name in _MINE:
            self._take_mine(name, mine)
        if not _named("UID", theirs):
            self.added += _named("UID", mine)
        apart = {(name,) for name in (*single, "UID", *_MINE)}
        self._merge_rest(*([unit for unit in side if unit.names not in apart] for side in sides))

    def wanted(self) -> Counter[bytes]:
        kept = [unit for at, unit in enumerate(self.theirs) if at not in self.removed | self.swapped.keys()]
        return Counter(unit.form for unit in (*kept, *self.swapped.values(), *self.added))

    def _merge_single(self, base: Unit | None, mine: Unit | None, theirs: Unit | None) -> None:
        was, my, their = (unit and unit.form for unit in (base, mine, theirs))
        if my in (was, their):
            return
        if theirs is None:
            if mine:
                self.added.append(mine)
        elif mine is not None:
            self.swapped[self.theirs.index(theirs)] = mine
            if their != was:
                self.lost.append(theirs.text)
        elif their == was:
            self.removed.add(self.theirs.index(theirs))

    def _take_mine(self, name: str, mine: Sequence[Unit]) -> None:
        new = _named(name, mine)
        places = [at for at, unit in enumerate(self.theirs) if unit.names == (name,)]
        if not new or Counter(u.form for u in new) == Counter(self.theirs[at].form for at in places):
            return
        self.swapped.update(zip(places, new, strict=False))
        self.removed.update(places[len(new) :])
        self.added += new[len(places) :]

    def _merge_rest(self, base: list[Unit], mine: list[Unit], theirs: list[Unit]) -> None:
        counts = [Counter(unit.form for unit in side) for side in (base, mine, theirs)]
        merged = merge_counts(*counts)
        fewer, more = counts[2] - merged, merged - counts[2]
        places = {unit.lines[0].start: at for at, unit in enumerate(self.theirs)}
        for unit in reversed(theirs):
            if fewer[unit.form] > 0:
                fewer[unit.form] -= 1
                self.removed.add(places[unit.lines[0].start])
        for unit in mine:
            if more[unit.form] > 0:
                more[unit.form] -= 1
                self.added.append(unit)

    def write(self, mine: bytes, theirs: bytes) -> bytes:
        """Theirs with all of it done, byte for byte where nothing is; unfolded where the cards fold in two ways."""
        old = {keeps_folded_blanks(card) for card in (mine, theirs)}
        gone = self.removed | self.swapped.keys()
        there = [unit for at, unit in enumerate(self.theirs) if at not in gone]
        changes = {line.start: b"" for at in gone for line in self.theirs[at].lines}
        if len(old) > 1:
            changes |= {line.start: line.text for unit in there for line in unit.lines}

        groups = Groups(there)

        def text(unit: Unit) -> bytes:
            written = groups.admit(unit)
            return written.text if len(old) > 1 else written.raw

        for at, unit in sorted(self.swapped.items()):
            changes[self.theirs[at].lines[0].start] = text(unit)
        return write_lines(theirs, changes, [text(unit) for unit in self.added])


def _is_single(name: str, side: Sequence[Unit]) -> bool:
    count = sum(unit.names.count(name) for unit in side)
    return count == 0 or (count == 1 and bool(_named(name, side)))


def _named(name: str, side: Sequence[Unit]) -> list[Unit]:
    return [unit for unit in side if unit.names == (name,)]
