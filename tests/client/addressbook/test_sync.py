"""The rules of a sync with a side (addressbooks.md, Sync with a side): each with the bad thing happening."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipls.client.addressbook.shadows import SHADOWS, shadows_of
from ipls.client.addressbook.side import new_href
from ipls.client.addressbook.sync import SyncCounts
from ipls.client.errors import SideError
from ipls.contacts.cards.reading import read_card, read_person
from ipls.contacts.cards.units import card_form
from ipls.contacts.envelope import Kind, Placement
from ipls.contacts.sealing import id_of_uid
from tests.client.addressbook.rig import LABEL, Crash, MemorySide, Profile, card, number

NONE = SyncCounts(0, 0, 0)


@pytest.fixture
def profile() -> Profile:
    return Profile()


@pytest.fixture
def side() -> MemorySide:
    return MemorySide()


def agreed(profile: Profile, side: MemorySide, count: int) -> list[bytes]:
    """Contacts that both have; their ids."""
    for n in range(count):
        side.cards[f"{n}.vcf"] = card(f"u{n}", f"Person {n}", f"TEL:+4479460000{n:02}")
    profile.sync(side)
    side.written.clear()
    return [id_of_uid(LABEL, f"u{n}") for n in range(count)]


def same(one: bytes, other: bytes) -> bool:
    return card_form(one, "GB") == card_form(other, "GB")


# Both ways


def test_what_is_new_on_either_side_comes_to_the_other_and_stands_in_both_byte_for_byte(profile, side):
    theirs = card("a/1", "Ada", "X-UNKNOWN;x=y: kept ", "NOTE:folded\r\n  line").replace(b"FN", b"fn")
    ours = card("b", "Bo", "PHOTO;ENCODING=b;TYPE=png:iVBORw0KGgo=")
    side.cards["odd name.vcf"] = theirs
    profile.put(number(1), ours)
    report = profile.sync(side)
    assert (report.here, report.there, report.bad) == (SyncCounts(added=1), SyncCounts(added=1), [])
    assert side.cards == {"odd name.vcf": theirs, "b.vcf": ours}
    assert profile.cards() == [ours, theirs]
    assert profile.list.entries()[id_of_uid(LABEL, "a/1")].placement == Placement.ADDRESS_BOOK
    again = profile.sync(side)
    assert (again.here, again.there) == (NONE, NONE)


def test_edits_of_both_are_merged_and_where_both_changed_one_thing_ours_becomes_a_conflict(profile, side):
    (id,) = agreed(profile, side, 1)
    side.cards["0.vcf"] = card("u0", "Side", "TEL:+447946000000", "EMAIL:s@example.org")
    profile.put(id, card("u0", "List", "TEL:+447946000000", "EMAIL:l@example.org"))
    profile.sync(side)
    entry = profile.list.entries()[id]
    assert read_card(entry.card).name == "Side"
    assert sorted(read_card(entry.card).emails) == ["l@example.org", "s@example.org"]
    assert {conflict.unit for conflict in entry.conflicts} == {b"FN:List", b"N:List;;;;"}
    assert same(side.cards["0.vcf"], entry.card)
    assert (profile.sync(side).here, profile.sync(side).there) == (NONE, NONE)


def test_a_program_that_writes_the_whole_card_anew_changes_only_what_it_changed(profile, side):
    (id,) = agreed(profile, side, 1)
    ours = profile.cards()[0]
    anew = b"\n".join(reversed(ours.split(b"\r\n")[1:-1])).replace(b"TEL:", b"item1.TEL;TYPE=VOICE:tel:")
    side.cards["0.vcf"] = b"BEGIN:VCARD\n" + anew + b"\nNICKNAME:Nick\nEND:VCARD"
    kept = side.cards["0.vcf"]
    profile.sync(side)
    entry = profile.list.entries()[id]
    assert entry.card.startswith(b"BEGIN:VCARD\r\nVERSION:3.0\r\nUID:u0\r\nFN:Person 0\r\nN:Person 0;;;;\r\n")
    assert b"NICKNAME:Nick" in entry.card
    assert side.cards["0.vcf"] == kept  # what was just read is not written back
    assert side.written == []


def test_nothing_is_written_where_only_the_spelling_differs(profile, side):
    (id,) = agreed(profile, side, 1)
    side.cards["0.vcf"] = side.cards["0.vcf"].replace(b"\r\n", b"\n").replace(b"TEL:", b"tel:")
    report = profile.sync(side)
    assert (report.here, report.there) == (NONE, NONE)
    profile.put(id, profile.cards()[0].replace(b"+447946000000", b"+44 7946 000000"))
    report = profile.sync(side)
    assert (report.here, report.there, side.written) == (NONE, NONE, [])


# 1. Creation


def test_a_contact_without_a_uid_gets_one_that_every_device_would_give_it(profile, side):
    profile.put(number(7), card(None, "Eve"))
    profile.sync(side)
    other, other_side = Profile(), MemorySide()
    other.put(number(7), card(None, "Eve"))
    other.sync(other_side)
    assert side.cards == other_side.cards
    (href,) = side.cards
    assert (
        read_person(side.cards[href]).uid
        == read_person(profile.cards()[0]).uid
        == "00000000-0000-0000-0000-000000000007"
    )


def test_a_card_that_the_list_has_under_another_id_is_found_by_its_uid_or_by_what_it_says(profile, side):
    profile.put(number(1), card("u", "Ada", "TEL:+447946000001"))
    profile.put(number(2), card(None, "Bo", "TEL:+447946000002"))
    side.cards = {"a.vcf": card("u", "Ada", "EMAIL:a@example.org"), "b.vcf": card(None, "Bo", "TEL:07946 000002")}
    profile.sync(side)
    assert profile.list.entries().keys() == {number(1), number(2)}
    assert read_card(profile.cards()[0]).emails == ("a@example.org",)
    assert b"TEL" in side.cards["a.vcf"]


def test_a_renamed_file_is_the_same_contact_and_its_removals_count(profile, side):
    (id,) = agreed(profile, side, 1)
    side.cards = {"renamed.vcf": card("u0", "Person 0")}  # without its number
    profile.sync(side)
    assert not read_card(profile.list.entries()[id].card).numbers
    assert list(side.cards) == ["renamed.vcf"]
    assert list(shadows_of(profile.rows, side.id)) == ["renamed.vcf"]


def test_a_renamed_file_of_what_was_removed_from_the_list_is_no_new_contact(profile, side):
    for n in (1, 2):
        profile.put(number(n), card(f"u{n}", "Person"))
    profile.sync(side)
    side.cards["renamed.vcf"] = side.cards.pop("u1.vcf")
    profile.put(number(1), None)
    profile.sync(side)
    assert (list(side.cards), list(profile.list.entries())) == (["u2.vcf"], [number(2)])


def test_two_cards_of_one_uid_both_stay_and_are_reported(profile, side):
    agreed(profile, side, 1)
    side.cards["copy.vcf"] = card("u0", "Copy")
    for _ in range(2):
        report = profile.sync(side)
        assert [bad.href for bad in report.bad] == ["copy.vcf"]
        assert (len(side.cards), len(profile.cards()), side.written) == (2, 1, [])
        assert report.here == NONE


def test_of_two_contacts_with_one_uid_a_side_gets_the_first(profile, side):
    profile.put(number(1), card("u", "First"))
    profile.put(number(2), card("u", "Second"))
    for _ in range(2):
        assert len(profile.sync(side).bad) == 1
    assert side.cards == {"u.vcf": card("u", "First")}
    assert len(profile.cards()) == 2


@pytest.mark.parametrize(
    ("uid", "taken", "name"),
    [
        ("abc-1.2_3@x", (), "abc-1.2_3@x.vcf"),
        ("../../etc/passwd", (), "_._.._etc_passwd.vcf"),
        (".hidden", (), "_hidden.vcf"),
        ("é" * 200, (), "_" * 100 + ".vcf"),
        ("a", ("a.vcf", "a-2.vcf"), "a-3.vcf"),
        ("A", ("a.vcf",), "A-2.vcf"),
    ],
)
def test_what_a_new_card_is_called(uid, taken, name):
    assert new_href(uid, taken) == name


# 3. The guard


@pytest.mark.parametrize("gone", [12, 11, 10, 4], ids=["all", "most", "over a quarter", "fewer"])
def test_a_side_or_a_list_that_lost_many_removes_nothing_until_it_is_allowed(profile, side, gone):
    ids, guarded = agreed(profile, side, 12), gone >= 10
    before, cards = dict(side.cards), profile.cards()
    for n in range(gone):
        del side.cards[f"{n}.vcf"]
    if guarded:
        with pytest.raises(SideError) as refused:
            profile.sync(side)
        assert refused.value.reason == "SIDE_SHRUNK"
        assert profile.cards() == cards
        profile.sync(side, allow_removals=True)
    else:
        profile.sync(side)
    assert len(profile.cards()) == 12 - gone

    side.cards, other = before, Profile()
    other.sync(side)
    for id in ids[:gone]:
        other.put(id, None)
    if guarded:
        with pytest.raises(SideError, match="nothing was removed"):
            other.sync(side)
        assert side.cards == before
        other.sync(side, allow_removals=True)
    else:
        other.sync(side)
    assert len(side.cards) == 12 - gone


@pytest.mark.parametrize("where", ["side", "list"])
def test_the_last_of_few_is_not_removed_either_nor_are_few_if_others_went_elsewhere(profile, side, where):
    ids = agreed(profile, side, 3)
    if where == "side":
        side.cards.clear()
        profile.put(ids[0], None)
    else:
        del side.cards["0.vcf"]
        for id in ids:
            profile.put(id, None)
    before = dict(side.cards), profile.cards()
    with pytest.raises(SideError) as refused:
        profile.sync(side)
    assert refused.value.reason == "SIDE_SHRUNK"
    assert (side.cards, profile.cards()) == before


def test_what_went_on_both_since_is_no_reason_to_stop(profile, side):
    ids = agreed(profile, side, 12)
    for n, id in enumerate(ids):
        del side.cards[f"{n}.vcf"]
        profile.put(id, None)
    profile.sync(side)
    assert not shadows_of(profile.rows, side.id)


def test_a_side_that_is_away_or_another_changes_nothing(profile, side):
    agreed(profile, side, 2)
    for away, token in ((True, side.token), (False, "another's")):
        side.away, side.token = away, token
        with pytest.raises(SideError) as refused:
            profile.sync(side, allow_removals=True)
        assert refused.value.reason == "SIDE_AWAY"
    assert len(profile.cards()) == 2


# 4. A bad card costs itself


def test_a_card_that_can_no_longer_be_read_is_not_removed_and_the_others_go_on(profile, side):
    ids = agreed(profile, side, 4)
    side.held = {"1.vcf", "3.vcf"}
    side.cards["0.vcf"] = card("u0", "New name")
    for n in (1, 2):
        profile.put(ids[n], card(f"u{n}", "Edited"))
    before = side.cards["1.vcf"]
    report = profile.sync(side)
    assert (len(profile.cards()), report.put_off) == (4, [])
    assert side.cards["1.vcf"] == before
    assert side.written == ["2.vcf"]
    side.held = set()
    profile.sync(side)
    assert side.written == ["2.vcf", "1.vcf"]


def test_a_contact_that_can_not_go_out_costs_itself(profile, side):
    profile.put(number(1), b"BEGIN:VCARD\r\nFN:no end")
    profile.put(number(2), card("u", "Ada"))
    profile.sync(side)
    assert "u.vcf" in side.cards
    assert len(profile.cards()) == 2


@pytest.mark.parametrize("placement", Placement)
def test_a_card_too_broken_for_what_both_added_costs_itself(profile, side, monkeypatch, placement):
    """Each fits, both together don't, and nothing can be taken out: the list can't have what they come to."""
    monkeypatch.setattr("ipls.contacts.whole.MAX_WHOLE", 100_000)
    broken = "NOTE;QUOTED-PRINTABLE:open="
    side.cards["a.vcf"] = card("a", "Ada", broken, "PHOTO:", "FOO:")
    profile.sync(side)
    theirs = card("a", "Ada", broken, "PHOTO:" + "A" * 60_000, "FOO:")
    side.cards["a.vcf"] = mine = card("a", "Ada", broken, "PHOTO:", "FOO:" + "B" * 60_000)
    profile.put(id_of_uid(LABEL, "a"), theirs, placement=placement)
    side.cards["b.vcf"] = card("b", "Bo")
    for _ in range(2):
        assert [bad.href for bad in profile.sync(side).bad] == ["a.vcf"]
        assert (side.cards["a.vcf"], profile.cards()) == (mine, [theirs, card("b", "Bo")])


def test_a_damaged_contact_is_not_one_that_was_removed(profile, side):
    ids = agreed(profile, side, 3)
    profile.db.execute("UPDATE listed SET sealed = x'00' WHERE number = 1")
    del side.cards["1.vcf"]
    profile.sync(side)
    assert list(side.cards) == ["0.vcf", "2.vcf"]
    assert list(profile.list.entries()) == [ids[2]]
    profile.put(ids[0], card("u0", "Read again"))
    profile.sync(side)
    assert read_card(side.cards["0.vcf"]).name == "Read again"


def test_a_damaged_shadow_loses_nothing(profile, side):
    ids = agreed(profile, side, 3)
    profile.db.execute("UPDATE shadow SET sealed = x'00'")
    del side.cards["0.vcf"]
    profile.put(ids[1], None)
    profile.put(ids[2], card("u2", "Person 2", "EMAIL:e@example.org"))
    profile.sync(side)
    assert len(profile.cards()) == len(side.cards) == 3
    assert read_card(side.cards["2.vcf"]) == read_card(profile.list.entries()[ids[2]].card)
    assert read_card(side.cards["2.vcf"])[1:3] == (("+447946000002",), ("e@example.org",))


# 6. Edits and removals


def test_removals_go_both_ways(profile, side):
    ids = agreed(profile, side, 3)
    del side.cards["0.vcf"]
    profile.put(ids[1], None)
    report = profile.sync(side)
    assert (report.here, report.there) == (SyncCounts(removed=1), SyncCounts(removed=1))
    assert list(side.cards) == ["2.vcf"]
    assert list(profile.list.entries()) == [ids[2]]


def test_an_edit_beats_a_removal(profile, side):
    ids = agreed(profile, side, 2)
    side.cards["0.vcf"] = card("u0", "Edited there")
    profile.put(ids[0], None)
    del side.cards["1.vcf"]
    profile.put(ids[1], card("u1", "Edited here"))
    profile.sync(side)
    assert sorted(read_card(each).name for each in profile.cards()) == ["Edited here", "Edited there"]
    assert sorted(read_card(each).name for each in side.cards.values()) == ["Edited here", "Edited there"]
    assert list(side.cards) == ["0.vcf", "1.vcf"]


def test_another_spelling_is_no_edit_that_would_beat_a_removal(profile, side):
    (id, _) = agreed(profile, side, 2)
    del side.cards["0.vcf"]
    profile.put(id, profile.cards()[0].replace(b"+447946000000", b"+44 7946 000000"))
    profile.sync(side)
    assert id not in profile.list.entries()
    assert list(side.cards) == ["1.vcf"]


def test_what_a_sync_does_to_the_list_is_one_edit_to_be_undone_as_one(profile, side, monkeypatch):
    agreed(profile, side, 4)
    edits = []
    edit = profile.list.edit
    monkeypatch.setattr(profile.list, "edit", lambda changes: (edits.append(changes.keys()), edit(changes)))
    side.cards["0.vcf"] = card("u0", "Edited")
    del side.cards["1.vcf"]
    side.cards["new.vcf"] = card("new", "New")
    profile.sync(side)
    assert edits == [{id_of_uid(LABEL, uid) for uid in ("u0", "u1", "new")}]
    profile.sync(side)
    assert len(edits) == 1


# 7. Placement


def test_only_what_is_in_the_address_book_goes_out(profile, side):
    profile.put(number(1), card("secret", "Secret"), placement=Placement.IPLS_ONLY)
    profile.put(number(2), b"a device's name", kind=Kind.DEVICE)
    profile.put(number(3), card("team", "Team", "KIND:group"), kind=Kind.GROUP)
    profile.sync(side)
    assert list(side.cards) == ["team.vcf"]


def test_a_contact_that_is_for_ipls_only_from_now_on_goes_from_the_side_with_its_last_change_taken(profile, side):
    (id, _) = agreed(profile, side, 2)
    side.cards["0.vcf"] = card("u0", "Last change", "TEL:+447946000000")
    profile.put(id, card("u0", "Person 0", "TEL:+447946000000"), placement=Placement.IPLS_ONLY)
    profile.sync(side)
    assert list(side.cards) == ["1.vcf"]
    entry = profile.list.entries()[id]
    assert (read_card(entry.card).name, entry.placement) == ("Last change", Placement.IPLS_ONLY)
    profile.sync(side)
    assert len(profile.cards()) == 2


def test_a_card_of_a_contact_that_is_kept_apart_is_neither_taken_nor_removed(profile, side):
    profile.put(number(1), card("u", "Ours"), placement=Placement.IPLS_ONLY)
    side.cards["u.vcf"] = card("u", "Theirs")
    report = profile.sync(side)
    assert [bad.href for bad in report.bad] == ["u.vcf"]
    assert side.cards == {"u.vcf": card("u", "Theirs")}
    assert profile.cards() == [card("u", "Ours")]


def test_a_contact_put_back_into_the_address_book_comes_back(profile, side):
    (id, _) = agreed(profile, side, 2)
    ours = profile.list.entries()[id].card
    profile.put(id, ours, placement=Placement.IPLS_ONLY)
    profile.sync(side)
    profile.put(id, ours)
    profile.sync(side)
    assert side.cards["u0.vcf"] == ours


# 8. Only showing


def test_a_first_run_only_shows_until_yes_and_a_dry_run_always(profile, side):
    side.cards["a.vcf"] = card("a", "Ada")
    profile.put(number(1), card("b", "Bo"))
    for terms in ({"yes": False}, {"dry_run": True}):
        report = profile.sync(side, **terms)
        assert (report.shown, report.first, report.here, report.there) == (True, True, SyncCounts(1), SyncCounts(1))
    assert list(side.cards) == ["a.vcf"]
    assert (len(profile.cards()), side.token, profile.rows.count(SHADOWS)) == (1, "", 0)
    profile.sync(side)
    side.cards["c.vcf"] = card("c", "Cy")
    assert profile.sync(side, dry_run=True).here == SyncCounts(1)
    assert len(profile.cards()) == 2
    assert not profile.sync(side, yes=False).shown
    assert len(profile.cards()) == 3


def test_a_side_that_is_only_read_is_never_written_and_what_differs_is_shown(profile, side):
    side.cards = {f"{n}.vcf": card(f"u{n}", f"Person {n}") for n in range(3)}
    profile.put(number(1), card("b", "Bo"))
    profile.sync(side, read_only=True)
    ids = [id_of_uid(LABEL, f"u{n}") for n in range(3)]
    profile.put(ids[0], card("u0", "Edited here"))
    profile.put(ids[1], None)
    side.cards["2.vcf"] = card("u2", "Edited there")
    before = dict(side.cards)
    for _ in range(2):
        report = profile.sync(side, read_only=True)
        assert report.withheld == SyncCounts(1, 1, 1)
    assert (side.cards, side.written, side.token) == (before, [], "")
    assert read_card(profile.list.entries()[ids[2]].card).name == "Edited there"
    assert profile.sync(side).there == SyncCounts(1, 1, 1)  # not any more
    assert read_card(side.cards["0.vcf"]).name == "Edited here"
    assert side.token


# 9. Crashes, and others


def test_what_another_program_changes_meanwhile_is_not_overwritten(profile, side, monkeypatch):
    ids = agreed(profile, side, 2)
    profile.put(ids[0], card("u0", "Ours"))
    profile.put(ids[1], card("u1", "Ours too"))
    write = side.write

    def other_first(href: str, data: bytes, there: bytes | None) -> None:
        if href == "0.vcf":
            side.cards[href] = card("u0", "Person 0", "TEL:+447946000000", "EMAIL:o@example.org")
        write(href, data, there)

    monkeypatch.setattr(side, "write", other_first)
    assert profile.sync(side).put_off == ["0.vcf"]
    assert read_card(side.cards["1.vcf"]).name == "Ours too"
    monkeypatch.undo()
    profile.sync(side)
    assert read_card(side.cards["0.vcf"])[::2][:1] == ("Ours",)
    assert read_card(side.cards["0.vcf"]).emails == ("o@example.org",)


def test_what_another_process_edits_in_the_list_meanwhile_is_not_overwritten(profile, side, monkeypatch):
    (id,) = agreed(profile, side, 1)
    side.cards["0.vcf"] = card("u0", "Person 0", "EMAIL:there@example.org")
    profile.put(id, card("u0", "Person 0", "TEL:+447946000000", "NICKNAME:Nick"))
    write = side.write

    def edit_first(href: str, data: bytes, there: bytes | None) -> None:
        profile.put(id, card("u0", "Edited", "TEL:+447946000000", "NICKNAME:Nick"))
        write(href, data, there)

    monkeypatch.setattr(side, "write", edit_first)
    assert profile.sync(side).put_off == ["0.vcf"]
    assert read_card(profile.cards()[0]).name == "Edited"
    monkeypatch.undo()
    profile.sync(side)
    contact = read_card(profile.cards()[0])
    assert (contact.name, contact.emails) == ("Edited", ("there@example.org",))
    assert same(profile.cards()[0], side.cards["0.vcf"])


def test_a_full_disk_costs_nothing_but_time(profile, side):
    profile.put(number(1), card("b", "Bo"))
    side.full = True
    assert profile.sync(side).failed == ["b.vcf"]
    assert len(profile.cards()) == 1
    side.full = False
    profile.sync(side)
    assert side.cards == {"b.vcf": card("b", "Bo")}


def _day(profile: Profile, side: MemorySide) -> None:
    """Something of everything."""
    ids = agreed(profile, side, 6)
    side.cards["0.vcf"] = card("u0", "There", "TEL:+447946000000")
    profile.put(ids[0], card("u0", "Here", "TEL:+447946000000", "EMAIL:h@example.org"))
    del side.cards["1.vcf"]
    profile.put(ids[2], None)
    del side.cards["3.vcf"]
    profile.put(ids[3], card("u3", "Edited"))
    profile.put(ids[4], profile.list.entries()[ids[4]].card, placement=Placement.IPLS_ONLY)
    side.cards["new.vcf"] = card(None, "New there")
    profile.put(number(9), card(None, "New here"))


def _state(profile: Profile, side: MemorySide) -> tuple[list[object], dict[str, bytes]]:
    entries = profile.list.entries().values()
    return sorted((sorted(card_form(e.card, "GB")), e.conflicts, e.placement) for e in entries), side.cards


def test_killed_at_any_step_the_next_run_ends_where_it_would_have():
    expected = Profile(), MemorySide()
    _day(*expected)
    expected[0].sync(expected[1])
    steps = 0
    while True:
        profile, side = Profile(), MemorySide()
        _day(profile, side)
        side.steps = steps
        try:
            profile.sync(side)
        except Crash:
            side.steps, steps = None, steps + 1
        else:
            break
        profile.sync(side)
        assert _state(profile, side) == _state(*expected)
    assert steps > 8


def test_killed_before_the_transaction_is_done_both_are_as_they_were(profile, side, monkeypatch):
    _day(profile, side)
    before = profile.list.entries(), shadows_of(profile.rows, side.id).keys()
    edit = profile.list.edit

    def edit_and_die(changes):
        edit(changes)
        raise Crash

    monkeypatch.setattr(profile.list, "edit", edit_and_die)
    with pytest.raises(Crash):
        profile.sync(side)
    assert profile.list.entries() == before[0]
    known = shadows_of(profile.rows, side.id)
    assert {href for href, shadow in known.items() if shadow.card} == before[1]
    monkeypatch.undo()
    profile.sync(side)
    expected = Profile(), MemorySide()
    _day(*expected)
    expected[0].sync(expected[1])
    assert _state(profile, side) == _state(*expected)


# All of it at once


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_two_sides_and_the_list_converge_and_lose_nothing_whatever_happens_in_between(seed: int):
    chance = random.Random(seed)
    profile, sides = Profile(), [MemorySide("one"), MemorySide("two")]
    told: set[str] = set()  # numbers that somebody added and nobody took out

    def tell(data: bytes) -> bytes:
        said = f"EMAIL:{len(told)}@example.org"
        told.add(said[6:])
        return data.replace(b"END:VCARD", said.encode() + b"\r\nEND:VCARD")

    def new() -> bytes:
        uid = chance.choice(["a", "b", "c", "d", None])
        return tell(card(uid, f"Name {chance.randrange(3)}", f"NOTE:{chance.randrange(3)}"))

    def rename(data: bytes) -> bytes:
        return data.replace(b"NOTE:", b"NOTE:%d" % chance.randrange(9)) if b"NOTE:" in data else data

    def edit_side() -> None:
        cards = chance.choice(sides).cards
        if cards and chance.random() < 0.7:
            href = chance.choice(sorted(cards))
            cards[href] = chance.choice([tell, rename])(cards[href])
        else:
            data = new()
            if (uid := read_person(data).uid) not in {read_person(each).uid for each in cards.values()} or not uid:
                cards[f"{chance.randrange(10**6)}.vcf"] = data
            else:
                told.discard(read_card(data).emails[0])

    def edit_list() -> None:
        entries = profile.list.entries()
        if entries and chance.random() < 0.7:
            id = chance.choice(list(entries))
            profile.put(id, chance.choice([tell, rename])(entries[id].card))
        else:
            data = new()
            id = id_of_uid(LABEL, read_person(data).uid) if read_person(data).uid else number(chance.randrange(10**6))
            if id in entries:
                told.discard(read_card(data).emails[0])
            else:
                profile.put(id, data)

    def run() -> None:
        side = chance.choice(sides)
        side.steps = chance.choice([None, None, chance.randrange(6)])
        try:
            profile.sync(side)
        except Crash:
            pass
        finally:
            side.steps = None

    actions: list[Callable[[], None]] = [edit_side, edit_side, edit_list, run]
    for _ in range(chance.randrange(4, 40)):
        chance.choice(actions)()
    for _ in range(3):
        for side in sides:
            assert profile.sync(side).bad == []
    for side in sides:
        report = profile.sync(side)
        assert (report.here, report.there) == (NONE, NONE)
    entries = profile.list.entries().values()
    kept = {email for entry in entries for email in read_card(entry.card).emails}
    assert kept == told
    forms = sorted(sorted(card_form(entry.card, "GB")) for entry in entries)
    for side in sides:
        assert sorted(sorted(card_form(each, "GB")) for each in side.cards.values()) == forms
