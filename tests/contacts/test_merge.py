"""What the contacts spec claims of merging, over real cards."""

import sys
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipls.contacts.cards.units import card_form, card_units, unit_of
from ipls.contacts.envelope import Conflict, Envelope, Kind, Placement, Verified
from ipls.contacts.merge import merge as merge_by
from tests.contacts.cards.strategies import any_cards, cards

DEVICE, MS = b"\x07" * 32, 1_700_000_000_000
US = "US"


def merge(base: Envelope | None, mine: Envelope | None, theirs: Envelope | None) -> Envelope | None:
    return merge_by(base, mine, theirs, device=DEVICE, ms=MS, country=US)


def card(*lines: str, version: str = "3.0", newline: str = "\r\n") -> bytes:
    return newline.join(["BEGIN:VCARD", f"VERSION:{version}", *lines, "END:VCARD"]).encode()


def merged(base: bytes, mine: bytes, theirs: bytes) -> Envelope:
    result = merge(Envelope(base), Envelope(mine), Envelope(theirs))
    assert result is not None
    return result


def lines(envelope: Envelope) -> list[str]:
    return envelope.card.decode().splitlines()[2:-1]


def forms(envelope: Envelope) -> set[bytes]:
    return {unit.form for unit in card_units(envelope.card, US) if unit.names not in (("UID",), ("REV",), ("PRODID",))}


def conflict_forms(envelope: Envelope) -> set[bytes]:
    return {unit_of(each.unit, US).form for each in envelope.conflicts}


def repeats(envelope: Envelope) -> bool:
    """Then taking one out is not the same twice."""
    units = card_units(envelope.card, US)
    names = [unit.names for unit in units if unit.names not in (("TEL",), ("EMAIL",), ("CATEGORIES",))]
    forms = [unit.form for unit in units]
    return len(set(names)) < len(names) or len(set(forms)) < len(forms)


placements = st.sampled_from(Placement)
times = st.integers(0, 5)
sound = st.none() | st.builds(Envelope, cards, placement=placements, created_ms=times, changed_ms=times)
hostile = st.none() | st.builds(Envelope, any_cards)


def check(base: Envelope | None, mine: Envelope | None, theirs: Envelope | None) -> Envelope | None:
    out = merge(base, mine, theirs)
    assert merge(base, theirs, theirs) == theirs
    assert merge(base, base, theirs) == theirs
    assert merge(base, mine, base) == mine
    if out is None or mine is None or theirs is None:
        assert out is None or out in (mine, theirs)
        return None
    was = forms(base) if base else set()
    both = forms(mine) | forms(theirs)
    there = forms(out) | conflict_forms(out)
    assert both - was <= there, "what was added is gone"
    assert was & forms(mine) & forms(theirs) <= there, "what nobody took out is gone"
    assert forms(out) <= both | was
    assert merge(theirs, out, theirs) == out
    assert merge(base, out, out) == out
    return out


@given(sound, sound, sound)
@settings(max_examples=300)
def test_nothing_is_lost_and_merging_again_changes_nothing(
    base: Envelope | None, mine: Envelope | None, theirs: Envelope | None
):
    out = check(base, mine, theirs)
    if out:
        assert Envelope.decode(out.encode()) == out
        if not any(repeats(each) for each in (base, mine, theirs) if each):
            again = merge(base, mine, out)
            assert again is not None
            assert (forms(again), conflict_forms(again)) == (forms(out), conflict_forms(out))


@given(hostile, hostile, hostile)
@settings(max_examples=300)
def test_so_it_is_with_cards_that_no_program_writes(
    base: Envelope | None, mine: Envelope | None, theirs: Envelope | None
):
    check(base, mine, theirs)


@given(cards, cards, cards)
def test_both_ways_have_the_same_lines_but_where_one_had_to_give_way(base: bytes, mine: bytes, theirs: bytes):
    one, other = merged(base, mine, theirs), merged(base, theirs, mine)
    if not one.conflicts and not other.conflicts:
        assert forms(one) == forms(other)


def lined(number: int, *more: str) -> bytes:
    return card("FN:Ada", *more, *(f"TEL:{n}" for n in range(number)))


def test_a_card_of_very_many_lines_is_not_looked_at_line_by_line(monkeypatch: pytest.MonkeyPatch):
    """What was changed on one side stands; of two changes, theirs does, and all of mine is one conflict."""
    looked_at = list[bytes]()
    monkeypatch.setattr("ipls.contacts.cards.units._form", lambda line, *_: looked_at.append(line.text) or line.text)
    base, mine, theirs = lined(5000), lined(5000, "NOTE:m"), lined(5000, "NOTE:t")
    assert merged(base, mine, theirs) == Envelope(theirs, conflicts=(Conflict(mine, DEVICE, MS),))
    out = merge(Envelope(base), Envelope(mine, changed_ms=1), Envelope(base, changed_ms=2))
    assert out == Envelope(mine, changed_ms=2)
    out = merge(Envelope(base), Envelope(base, changed_ms=1), Envelope(theirs, changed_ms=2))
    assert out == Envelope(theirs, changed_ms=2)
    long = tuple(Conflict(each, DEVICE, MS) for each in sorted((base, mine)))
    out = merge(Envelope(conflicts=long[:1]), Envelope(conflicts=long), Envelope(conflicts=long[:1], changed_ms=2))
    assert out == Envelope(conflicts=long, changed_ms=2)
    assert looked_at == []


def test_a_long_card_gives_way_to_a_short_one_and_comes_back_by_no_further_merge():
    base, mine, theirs = (Envelope(each) for each in (card("FN:Ada"), lined(5000), card("FN:Bea")))
    out = merge(base, mine, theirs)
    assert out == Envelope(theirs.card, conflicts=(Conflict(mine.card, DEVICE, MS),))
    assert merge(base, mine, out) == merge(theirs, out, theirs) == merge(base, out, out) == out


def test_where_more_would_give_way_than_there_can_be_conflicts_all_of_mine_is_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys.modules[merge_by.__module__], "MAX_CONFLICTS", 1)
    base, mine, theirs = (card(f"FN:{a}", f"NOTE:{a}") for a in "ABC")
    assert merged(base, mine, theirs) == Envelope(theirs, conflicts=(Conflict(mine, DEVICE, MS),))


def test_of_too_many_conflicts_the_newest_are_kept_whichever_side_merges():
    old, one, two = (tuple(Conflict(b"X-%d:%d" % (ms, n), DEVICE, ms) for n in range(500)) for ms in (1, 2, 3))
    base = Envelope(card("FN:A"), conflicts=old)
    mine, theirs = (replace(base, conflicts=tuple(sorted(old + more))) for more in (one, two))
    for out in (merge(base, mine, theirs), merge(base, theirs, mine)):
        assert out
        assert set(out.conflicts) == {*one, *two}
        assert Envelope.decode(out.encode()) == out


def test_what_gives_way_now_is_kept_before_what_others_say_gave_way_in_the_future():
    full = tuple(sorted(Conflict(b"X:%d" % n, DEVICE, 1 << 62) for n in range(1000)))
    base, mine, theirs = (Envelope(card(name), conflicts=full) for name in ("FN:A", "FN:B", "FN:C"))
    out = merge(base, mine, theirs)
    assert out
    assert len(out.conflicts) == 1000
    assert Conflict(b"FN:C", DEVICE, MS) in out.conflicts


@pytest.mark.parametrize("text", [b"", b"A:1\r\nB:2", b"BEGIN:VCARD", b"END:VCARD", b"\r\n", b"\0", b":"])
def test_a_conflict_of_no_unit_costs_no_merge(text: bytes):
    """Another device can write any bytes as one."""
    base = Envelope(card("FN:A"))
    theirs = replace(base, conflicts=(Conflict(text, DEVICE, MS),))
    out = merge(base, Envelope(card("FN:A", "NOTE:m")), theirs)
    assert out == Envelope(card("FN:A", "NOTE:m"), conflicts=theirs.conflicts)


ADA = ("UID:a", "FN:Ada", "TEL:+1 202 555 0100")


def test_both_sides_edits_come_together():
    base = card(*ADA)
    out = merged(base, card(*ADA, "TEL:+1 202 555 0101"), card("UID:a", "FN:Ada Lovelace", ADA[2]))
    assert lines(out) == ["UID:a", "FN:Ada Lovelace", ADA[2], "TEL:+1 202 555 0101"]
    assert out.conflicts == ()


def test_what_both_added_or_both_took_out_counts_once():
    base = card(*ADA, ADA[2], ADA[2])
    assert lines(merged(base, card(*ADA, ADA[2]), card(*ADA, ADA[2], "NOTE:x"))).count(ADA[2]) == 2
    added = merged(card("FN:Ada"), card(*ADA[1:]), card("FN:Ada", "TEL;TYPE=pref:1", "TEL:(202) 555-0100"))
    assert lines(added) == ["FN:Ada", "TEL;TYPE=pref:1", "TEL:(202) 555-0100"]


def test_of_a_single_value_that_both_changed_mine_stays_and_theirs_is_a_conflict_until_it_is_settled():
    base, mine, theirs = card("FN:A"), card("FN:B"), card("FN:C\r\n D")
    out = merged(base, mine, theirs)
    assert (out.card, out.conflicts) == (mine, (Conflict(b"FN:CD", DEVICE, MS),))
    settled = merge(out, Envelope(card("FN:CD"), conflicts=out.conflicts), Envelope(card("FN:B", "X:y")))
    assert settled is not None
    assert (lines(settled), settled.conflicts) == (["FN:CD", "X:y"], ())
    dismissed = merge(out, Envelope(mine), Envelope(card("FN:B", "X:y"), conflicts=out.conflicts))
    assert dismissed is not None
    assert dismissed.conflicts == ()


def test_changed_against_taken_out_is_changed():
    base = card("FN:A", "NOTE:one")
    for mine, theirs in ((card("FN:A"), card("FN:A", "NOTE:two")), (card("FN:A", "NOTE:two"), card("FN:A"))):
        out = merged(base, mine, theirs)
        assert (lines(out), out.conflicts) == (["FN:A", "NOTE:two"], ())
    gone = merged(base, card("FN:A"), card("FN:A", "NOTE:one", "TEL:1"))
    assert lines(gone) == ["FN:A", "TEL:1"]


def test_a_property_that_one_side_has_twice_is_no_single_value():
    base = card("FN:A")
    out = merged(base, card("FN:A", "FN:B"), card("FN:C"))
    assert (lines(out), out.conflicts) == (["FN:C", "FN:B"], ())


def test_uid_is_theirs_and_rev_and_prodid_are_mine():
    base = card("UID:a", "REV:1", "PRODID:x", "FN:A")
    out = merged(base, card("UID:b", "REV:2", "PRODID:y", "FN:B"), card("UID:c", "REV:3", "PRODID:x", "FN:A", "TEL:1"))
    assert lines(out) == ["UID:c", "REV:2", "PRODID:y", "FN:B", "TEL:1"]


def test_a_label_goes_with_its_number_under_a_group_name_that_is_free():
    boat = "item1.TEL:+1 202 555 0100", "item1.X-ABLabel:Boat"
    barn = "item1.TEL:+1 202 555 0101", "item1.X-ABLabel:Barn"
    out = merged(card("FN:A"), card("FN:A", *barn), card("FN:A", *boat))
    assert lines(out) == ["FN:A", *boat, "item2.TEL:+1 202 555 0101", "item2.X-ABLabel:Barn"]
    assert lines(merged(card("FN:A", *boat), card("FN:A"), card("FN:A", *boat, "TEL:1"))) == ["FN:A", "TEL:1"]


def test_every_byte_that_nobody_changed_stays_whatever_the_other_side_writes():
    theirs = card("fn:A", 'X-Odd;X="a:b":folded\n  here', "PHOTO;BASE64:\nAAAA\nBBBB\n", newline="\n", version="2.1")
    mine = card("FN:A", "TEL:+1 202\r\n 5550100", version="4.0")
    out = merged(card("FN:A"), mine, theirs.replace(b"2.1", b"4.0"))
    assert out.card == theirs.replace(b"2.1", b"4.0").replace(b"END", b"TEL:+1 202\n 5550100\nEND")


def test_lines_keep_their_meaning_where_the_two_cards_fold_in_different_ways():
    mine, theirs = card("NOTE:a\r\n  b", "TEL:1", version="2.1"), card("NOTE:a\r\n  b", version="3.0")
    out = merged(card(version="3.0"), mine, theirs)
    assert lines(out) == ["NOTE:a  b", "TEL:1"]
    assert out.conflicts == (Conflict(b"NOTE:a b", DEVICE, MS),)


def test_a_card_that_takes_no_more_lines_stays_whole_and_what_was_added_is_kept_beside():
    theirs = card("FN:A", "NOTE;QUOTED-PRINTABLE:swallows what comes next=", version="2.1")
    out = merged(card("FN:A", version="2.1"), card("FN:B", "UNHEARD-OF:1", version="2.1"), theirs)
    assert (out.card, out.conflicts) == (theirs, (Conflict(b"FN:B", DEVICE, MS), Conflict(b"UNHEARD-OF:1", DEVICE, MS)))


def test_an_edit_beats_a_removal():
    a, b = Envelope(card("FN:A")), Envelope(card("FN:B"))
    assert merge(a, None, b) == b == merge(a, b, None)
    assert merge(a, None, a) is None
    assert merge(a, a, None) is None


def test_placement_times_and_kind():
    ipls, also = Placement.IPLS_ONLY, Placement.ADDRESS_BOOK
    a, b, c = card("FN:A"), card("FN:A", "TEL:1"), card("FN:A", "TEL:2")

    def placed(base: int, mine: int, theirs: int) -> int:
        out = merge(Envelope(a, placement=base), Envelope(b, placement=mine), Envelope(c, placement=theirs))
        assert out is not None
        return out.placement

    assert [placed(also, ipls, also), placed(also, also, ipls), placed(ipls, also, ipls)] == [ipls, ipls, also]
    assert placed(9, also, ipls) == placed(9, ipls, also) == ipls
    new = merge(None, Envelope(b, placement=also), Envelope(c, placement=ipls))
    assert new is not None
    assert new.placement == ipls
    out = merge(
        Envelope(a), Envelope(b, created_ms=5, changed_ms=9), Envelope(c, Kind.GROUP, created_ms=7, changed_ms=8)
    )
    assert out is not None
    assert (out.created_ms, out.changed_ms, out.kind) == (5, 9, Kind.GROUP)


def test_of_a_number_verified_on_both_sides_the_higher_epoch_counts():
    def verified(*epochs: tuple[str, int]) -> tuple[Verified, ...]:
        return tuple(Verified(label, b"k" * 32, 1, epoch) for label, epoch in epochs)

    base, mine, theirs = (
        verified(("+1", 3), ("+2", 3), ("+4", 1)),
        verified(("+1", 7), ("+3", 4)),
        verified(("+1", 5), ("+2", 3)),
    )
    a, b, c = (Envelope(card("FN:A", f"TEL:{n}"), verified=v) for n, v in enumerate((base, mine, theirs)))
    for out in (merge(a, b, c), merge(a, c, b)):
        assert out is not None
        assert out.verified == verified(("+1", 7), ("+3", 4))


def test_fields_of_a_later_client_go_with_whoever_changed_them():
    later, other = b"\xfa\x01\x01x", b"\xfa\x01\x01y"
    a, b = card("FN:A"), card("FN:B")
    assert merge(Envelope(a), Envelope(b), Envelope(a, unknown=later)) == Envelope(b, unknown=later)
    assert merge(Envelope(a), Envelope(a, unknown=other), Envelope(b)) == Envelope(b, unknown=other)


def test_what_is_no_contact_is_not_taken_for_a_card():
    device = Kind.DEVICE
    out = merge(Envelope(b"a", device), Envelope(b"b", device, created_ms=1), Envelope(b"c", device, changed_ms=2))
    assert out == Envelope(b"b", device, changed_ms=2)


@pytest.mark.parametrize("country", [None, "US"])
def test_the_country_only_compares(country: str | None):
    base, other = Envelope(card("TEL:202-555-0100")), Envelope(card("TEL:+12025550100", "FN:A"))
    out = merge_by(None, base, other, device=DEVICE, ms=MS, country=country)
    assert out is not None
    assert len(card_form(out.card, None)) == (3 if country else 4)
    assert Counter(out.card.splitlines())[b"TEL:+12025550100"] == 1
