"""The three-way merge of contacts (the contacts spec, Merging). By no clock: times only stand in the result."""

from collections import Counter
from typing import TypeVar

from ipls.contacts.cards.lines import is_long
from ipls.contacts.cards.merging import Merged, merge_cards, merge_counts
from ipls.contacts.cards.units import card_form, unit_of
from ipls.contacts.envelope import MAX_CONFLICTS, Conflict, Envelope, Kind, Placement, Verified

Value = TypeVar("Value")


def merge(
    base: Envelope | None,
    mine: Envelope | None,
    theirs: Envelope | None,
    *,
    device: bytes,
    ms: int,
    country: str | None,
) -> Envelope | None:
    """What goes on top of theirs; None: the contact is not there.

    `base`: as last folded (None: new on both sides). `mine`: as edited here. `theirs`: at the line's head, last written
    by the device with this Ed25519 key at `ms`, which is what a conflict names. `country`: see `country_of`.

    All are whole envelopes (`ipls.contacts.whole`). An edit beats a removal. Nothing that either side added is lost: it
    is in the card or a conflict.
    """
    if mine in (base, theirs):
        return theirs
    if theirs == base:
        return mine
    if mine is None or theirs is None:
        return mine or theirs
    before = base or Envelope()
    if {mine.kind, theirs.kind} <= {Kind.CONTACT, Kind.GROUP}:
        card, lost = _merge_cards(before.card, mine.card, theirs.card, country)
        fresh = tuple(Conflict(unit, device, ms) for unit in lost)
        conflicts = _merge_conflicts(before, mine, theirs, fresh, card, country)
    else:
        card, conflicts = _either(before.card, mine.card, theirs.card), theirs.conflicts
    return Envelope(
        card=card,
        kind=_either(before.kind, mine.kind, theirs.kind),
        placement=_merge_placement(before.placement if base else None, mine.placement, theirs.placement),
        created_ms=min(mine.created_ms, theirs.created_ms),
        changed_ms=max(mine.changed_ms, theirs.changed_ms),
        conflicts=conflicts,
        verified=_merge_verified(before, mine, theirs),
        unknown=_either(before.unknown, mine.unknown, theirs.unknown),
    )


def _either(base: Value, mine: Value, theirs: Value) -> Value:
    """Mine, if only mine changed it or both did."""
    return theirs if mine == base else mine


def _merge_cards(base: bytes, mine: bytes, theirs: bytes, country: str | None) -> Merged:
    """Unit by unit; where a card is too long for that, or too much would give way, one side's stays, and of two that
    were changed all of mine gives way."""
    if not any(map(is_long, (base, mine, theirs))):
        merged = merge_cards(base, mine, theirs, country)
        if len(merged.lost) <= MAX_CONFLICTS:
            return merged
    return Merged(_either(base, theirs, mine), [] if mine in (base, theirs) or theirs == base else [mine])


def _merge_conflicts(
    base: Envelope, mine: Envelope, theirs: Envelope, fresh: tuple[Conflict, ...], card: bytes, country: str | None
) -> tuple[Conflict, ...]:
    """Like units, and without what the card has, if that is not too long; MAX_CONFLICTS of them: the
    fresh ones, then the newest."""
    by_form: dict[bytes, Conflict] = {}
    sides = []
    for conflicts in (base.conflicts, mine.conflicts, theirs.conflicts, fresh):
        forms = {unit_of(each.unit, country).form: each for each in conflicts}
        by_form |= forms
        sides.append(Counter(forms.keys()))
    merged = (merge_counts(*sides[:3]) | sides[3]) - (Counter() if is_long(card) else card_form(card, country))
    newest = sorted(merged, key=lambda form: (form in sides[3], by_form[form].ms, by_form[form]))[-MAX_CONFLICTS:]
    return tuple(sorted(by_form[form] for form in newest))


def _merge_placement(base: int | None, mine: int, theirs: int) -> int:
    if mine in (base, theirs):
        return theirs
    return mine if theirs == base else Placement.IPLS_ONLY


def _merge_verified(base: Envelope, mine: Envelope, theirs: Envelope) -> tuple[Verified, ...]:
    """By number. Changed on both sides, the higher epoch counts; changed and taken out, what was changed."""
    before, my, their = ({each.label: each for each in side.verified} for side in (base, mine, theirs))
    merged = []
    for label in sorted(my.keys() | their.keys()):
        was, one, other = before.get(label), my.get(label), their.get(label)
        if one == was:
            one = other
        elif other != was and other is not None:
            one = max((one, other), key=lambda each: (each.epoch, each.version, each.public_key)) if one else other
        if one:
            merged.append(one)
    return tuple(merged)
