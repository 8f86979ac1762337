import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from ipls.client.address_book import UNDO_FOR_MS, AddressBook, Settlement
from ipls.client.addressbook.dav.server import BOOK, Request, Response
from ipls.client.addressbook.sync import SyncTerms
from ipls.client.errors import ProfileError
from ipls.client.linked_devices import LinkedDevices
from ipls.client.profile import Account, KnownVersion, Profile
from ipls.contacts.cards.editing import Changes
from ipls.contacts.cards.lines import join_cards
from ipls.contacts.cards.reading import read_card
from ipls.contacts.device_record import DeviceRecord
from ipls.contacts.envelope import Conflict, Envelope, Kind, Placement, Verified
from ipls.contacts.errors import CardError
from ipls.contacts.sealing import id_of_uid
from ipls.contacts.whole import MAX_WHOLE
from ipls.crypto.keys import public_key

NOW_MS = 1_800_000_000_000


class Clock:
    now_ms = NOW_MS

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def profile(tmp_path: Path) -> Iterator[Profile]:
    profile = Profile(tmp_path / "phone")
    yield profile
    profile.close()


@pytest.fixture
def book(profile: Profile, clock: Clock) -> AddressBook:
    return AddressBook(profile, clock)


def card(*lines: str, version: str = "3.0", newline: str = "\r\n") -> bytes:
    return newline.join(["BEGIN:VCARD", f"VERSION:{version}", *lines, "END:VCARD"]).encode()


def counts(book: AddressBook, *cards: bytes, **how: bool) -> tuple[int, ...]:
    (outcome,) = book.import_cards(join_cards(cards), **how)
    return outcome[:4]


def names(book: AddressBook) -> list[str]:
    return [contact.name for contact in book.contacts()]


def id_of(book: AddressBook, name: str) -> str:
    (contact,) = (each for each in book.contacts() if each.name == name)
    return contact.id


def whole(book: AddressBook, name: str) -> Envelope:
    """What the list has of a contact besides its card."""
    return book._profile.contacts()[[read_card(each).name for each in book.cards()].index(name)].envelope


ADA, BOB = card("UID:a", "FN:Ada", "TEL:+1 202 555 0100"), card("FN:Bob", "TEL:(202) 555-0101")


def test_a_card_is_new_once_then_the_same(book: AddressBook):
    assert counts(book, ADA, BOB, ADA, BOB.replace(b"\r\n", b"\n")) == (2, 0, 2, 0)
    assert counts(book, ADA, BOB) == (0, 0, 2, 0)
    assert book.export() == join_cards([ADA, BOB])
    again = card("TEL:(202) 555 0101", "fn:Bob"), card("FN:Ada", "UID:a", "TEL;VALUE=uri:tel:+1-202-555-0100")
    assert counts(book, *again) == (0, 0, 2, 0)
    assert book.cards() == [ADA, BOB]


def test_what_has_the_uid_changes_the_contact_by_what_was_last_imported(book: AddressBook):
    counts(book, ADA, BOB)
    newer = card("UID:a", "FN:Ada King", "TEL:+1 202 555 0100", "NOTE:x")
    assert counts(book, newer, BOB) == (0, 1, 1, 0)
    assert book.cards() == [newer, BOB]
    # What was changed here stays, beside what the file changed since the last import.
    book.edit(id_of(book, "Ada King"), Changes(add_numbers=["+1 202 555 0199"]))
    assert counts(book, newer) == (0, 0, 1, 0)
    newest = newer.replace(b"NOTE:x", b"NOTE:y").replace(b"+1 202 555 0100", b"+1 202 555 0102")
    assert counts(book, newest) == (0, 1, 0, 0)
    (ada,) = (each for each in book.contacts() if each.name == "Ada King")
    assert set(ada.numbers) == {"+1 202 555 0199", "+1 202 555 0102"}
    assert b"NOTE:y" in book.card(ada.id)


def test_of_what_both_changed_the_file_s_counts_and_undo_brings_back_ours(book: AddressBook):
    counts(book, ADA)
    book.edit(id_of(book, "Ada"), Changes("Ada Mine"))
    mine = book.cards()
    (outcome,) = book.import_cards(ADA.replace(b"FN:Ada", b"FN:Ada Theirs"))
    assert (outcome.changed, outcome.conflicts) == (1, 1)
    assert names(book) == ["Ada Theirs"]
    assert [conflict.unit for conflict in whole(book, "Ada Theirs").conflicts] == [b"FN:Ada Mine"]
    book.undo()
    assert book.cards() == mine
    assert whole(book, "Ada Mine").conflicts == ()


def test_an_edited_card_without_uid_is_not_imported_beside_itself(book: AddressBook):
    counts(book, BOB)
    book.edit(id_of(book, "Bob"), Changes("Robert"))
    assert counts(book, BOB) == (0, 0, 1, 0)
    assert names(book) == ["Robert"]


def test_what_was_removed_here_comes_back_only_if_asked_for(book: AddressBook):
    counts(book, ADA, BOB)
    assert [gone.name for gone in book.remove([id_of(book, "Ada"), id_of(book, "Bob")])] == ["Ada", "Bob"]
    assert counts(book, ADA, BOB) == (0, 0, 0, 2)
    assert names(book) == []
    assert counts(book, ADA, again=True) == (1, 0, 0, 0)
    assert book.cards() == [ADA]


def test_two_people_with_one_uid_are_two_contacts_however_often(book: AddressBook):
    one, two = card("UID:u", "FN:One", "TEL:1"), card("UID:u", "FN:Two", "TEL:2")
    (outcome,) = book.import_cards(join_cards([one, two]))
    assert (outcome.new, outcome.shared_uids) == (2, [7])
    assert names(book) == ["One", "Two"]
    assert book.cards()[0] == one
    assert b"UID:u\r\n" not in book.cards()[1]
    assert counts(book, one, two) == (0, 0, 2, 0)
    assert counts(book, two) == (0, 0, 1, 0)
    assert counts(book, one, two.replace(b"TEL:2", b"TEL:3")) == (0, 1, 1, 0)
    assert [contact.numbers for contact in book.contacts()] == [("1",), ("3",)]
    # In another file, another name is the same person's.
    assert counts(book, card("UID:u", "FN:One Married", "TEL:1")) == (0, 1, 0, 0)
    assert names(book) == ["One Married", "Two"]


def test_of_two_versions_of_a_card_in_a_file_the_later_counts_however_often(book: AddressBook):
    older, later = ADA, ADA.replace(b"0100", b"0102")
    assert counts(book, older, later) == (1, 1, 0, 0)
    for _ in range(2):
        assert counts(book, older, later) == (0, 2, 0, 0)
        assert book.cards() == [later]


def test_a_dry_run_changes_nothing(book: AddressBook):
    assert counts(book, ADA, BOB, dry_run=True) == (2, 0, 0, 0)
    assert book.cards() == []
    with pytest.raises(ProfileError, match="there is nothing of the last 30 days"):
        book.undo()


def test_several_books_are_one_import(book: AddressBook):
    first, second = book.import_cards(ADA, BOB + b"\r\nBEGIN:VCARD\r\nFN:cut")
    assert (first.new, second.new, [bad.line for bad in second.bad]) == (1, 1, [6])
    assert book.undo().contacts == 2
    assert book.cards() == []


def test_a_table_is_imported_too(book: AddressBook):
    (outcome,) = book.import_cards(b"First Name,Last Name,Mobile Phone\r\nAda,King,+1 202 555 0100\r\n")
    assert (outcome.new, names(book)) == (1, ["Ada King"])
    assert not book.import_cards(b"Date,Amount\r\n1,2\r\n")[0].readable


def test_a_card_of_too_many_lines_costs_itself(book: AddressBook, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ipls.contacts.cards.lines.MOST_LINES", 1000)
    (outcome,) = book.import_cards(join_cards([card("FN:Endless", *[" "] * 1000), BOB]))
    assert (outcome.new, [bad.line for bad in outcome.bad], names(book)) == (1, [1], ["Bob"])


def test_a_card_too_broken_for_what_it_and_the_list_added_costs_itself(
    book: AddressBook, profile: Profile, monkeypatch: pytest.MonkeyPatch
):
    """Each fits, both together don't, and nothing can be left out."""
    monkeypatch.setattr("ipls.contacts.whole.MAX_WHOLE", 100_000)
    broken = "UID:u", "FN:Broken", "NOTE;QUOTED-PRINTABLE:open=", "PHOTO:" + "A" * 45_000
    book.import_cards(card(*broken))
    (contact,) = profile.contacts()
    here = card(*broken, "BAR:" + "B" * 30_000)
    profile.put_contacts([contact._replace(envelope=contact.envelope.with_card(here))])
    (outcome,) = book.import_cards(join_cards([card(*broken, "FOO:" + "C" * 30_000), BOB]))
    assert (outcome.new, [bad.line for bad in outcome.bad], book.cards()) == (1, [1], [here, BOB])


def test_a_card_that_is_too_large_to_be_stored_is_kept_whole(book: AddressBook):
    large = card("FN:Large", "PHOTO;ENCODING=b:" + "A" * MAX_WHOLE, "TEL:1")
    (outcome,) = book.import_cards(join_cards([BOB, large]))
    assert (outcome.new, outcome.large, outcome.bad) == (2, [6], [])
    assert book.export() == join_cards([BOB, large])


def test_one_file_makes_the_same_ids_on_each_device_of_an_account(profile: Profile, book: AddressBook):
    profile.put(Account("+12025550111", bytes(32), 1, 1))
    counts(book, ADA)
    assert id_of(book, "Ada") == id_of_uid("+12025550111", "a").hex()
    assert book.country == "US"
    assert counts(book, BOB, card("FN:Bob", "TEL:+12025550101")) == (1, 0, 1, 0)


def test_what_is_done_can_be_taken_back(book: AddressBook, clock: Clock):
    counts(book, ADA, BOB)
    both = book.cards()
    carl = book.add(Changes("Carl", add_numbers=["3"]))
    book.edit(carl.id, Changes("Karl"))
    book.remove([id_of(book, "Bob")])
    merged = book.merge(id_of(book, "Ada"), carl.id)
    assert (merged.name, merged.numbers) == ("Ada", ("+1 202 555 0100", "3"))
    assert book.undo()[0] == "merge"
    assert names(book) == ["Ada", "Karl"]
    assert book.undo()[0] == "remove"
    assert names(book) == ["Ada", "Bob", "Karl"]
    assert book.undo()[0] == "edit"
    assert names(book) == ["Ada", "Bob", "Carl"]
    clock.now_ms += 1
    undone = book.undo()
    assert (undone.what, undone.ms, undone.contacts, undone.kept) == ("add", NOW_MS, 1, 0)
    assert sorted(book.cards()) == sorted(both)
    assert book.undo()[0] == "import"
    assert book.cards() == []
    assert counts(book, ADA, BOB) == (2, 0, 0, 0)  # taken back is not removed


def test_what_was_changed_since_stays_when_a_step_is_taken_back(book: AddressBook, profile: Profile):
    counts(book, ADA, BOB)
    (ada,) = (contact for contact in profile.contacts() if contact.card == ADA)
    profile.put_contacts([ada._replace(envelope=Envelope(card("FN:Ada elsewhere")))])  # as a sync does
    undone = book.undo()
    assert (undone.contacts, undone.kept, names(book)) == (1, 1, ["Ada elsewhere"])


def test_what_is_kept_beside_a_card_outlives_what_is_done_to_it(
    book: AddressBook, profile: Profile, clock: Clock, tmp_path: Path
):
    counts(book, ADA, card("FN:Choir", "X-ADDRESSBOOKSERVER-KIND:group"))
    assert whole(book, "Choir").kind == Kind.GROUP
    (ada, _) = profile.contacts()
    beside = {
        "placement": Placement.ADDRESS_BOOK,
        "conflicts": (Conflict(b"FN:Ida", b"k" * 32, 5),),
        "verified": (Verified("+12025550100", bytes(32), 1, 2),),
        "unknown": b"\xa2\x06\x01x",  # of a later client
    }
    profile.put_contacts([ada._replace(envelope=replace(ada.envelope, **beside))])

    def kept(name: str) -> bool:
        now = whole(book, name)
        return all(getattr(now, field) == value for field, value in beside.items()) and now.created_ms == NOW_MS

    clock.now_ms += 9
    book.edit(ada.id.hex(), Changes(add_numbers=["5"]))
    assert kept("Ada")
    assert whole(book, "Ada").changed_ms == NOW_MS + 9
    assert counts(book, ADA.replace(b"0100", b"0102")) == (0, 1, 0, 0)
    assert kept("Ada")
    folder = tmp_path / "folder"
    folder.mkdir()
    book.sync_folder(folder, SyncTerms(yes=True))
    (folder / "a.vcf").write_bytes((folder / "a.vcf").read_bytes().replace(b"FN:Ada", b"FN:Eda"))
    assert book.sync_folder(folder, SyncTerms()).here.changed == 1
    assert kept("Eda")
    clock.now_ms = NOW_MS  # by a clock that is behind
    book.edit(ada.id.hex(), Changes("Ada"))
    assert whole(book, "Ada").changed_ms == NOW_MS + 9
    book.remove([ada.id.hex()])
    book.undo()
    assert kept("Ada")


def test_an_undo_leaves_a_key_that_was_compared_meanwhile(book: AddressBook, profile: Profile):
    counts(book, ADA)
    book.edit(id_of(book, "Ada"), Changes("Eda"))
    (eda,) = profile.contacts()
    compared = (Verified("+12025550100", bytes(32), 1, 2),)
    profile.put_contacts([eda._replace(envelope=replace(eda.envelope, verified=compared))])
    assert book.undo().contacts == 1
    assert whole(book, "Ada").verified == compared


def test_what_gave_way_in_a_sync_is_a_conflict_of_this_device(book: AddressBook, profile: Profile, tmp_path: Path):
    profile.put(Account("+12025550111", bytes(32), 1, 1))
    counts(book, ADA)
    book.sync_folder(tmp_path, SyncTerms(yes=True))
    book.edit(id_of(book, "Ada"), Changes("Here"))
    (tmp_path / "a.vcf").write_bytes(ADA.replace(b"FN:Ada", b"FN:There"))
    assert book.sync_folder(tmp_path, SyncTerms()).conflicts == 1
    assert whole(book, "There").conflicts == (Conflict(b"FN:Here", public_key(bytes(32)), NOW_MS),)


def test_a_contact_is_only_in_ipls_or_also_elsewhere_and_new_ones_as_the_person_has_it(
    book: AddressBook, profile: Profile
):
    counts(book, ADA)
    assert book.placement == Placement.ADDRESS_BOOK
    book.place_new(Placement.IPLS_ONLY)
    assert counts(book, BOB) == (1, 0, 0, 0)
    assert [each.only_ipls for each in book.contacts()] == [False, True]
    assert not book.add(Changes("Cy"), Placement.ADDRESS_BOOK).only_ipls
    assert book.add(Changes("Di")).only_ipls
    assert [each.only_ipls for each in book.place([id_of(book, "Ada"), id_of(book, "Cy")], Placement.IPLS_ONLY)] == [
        True,
        True,
    ]
    assert book.undo().what == "placing"
    assert [each.only_ipls for each in book.contacts()] == [False, True, False, True]
    assert len(book.contacts()) == profile.count().readable == 4  # settings are nobody
    profile.put_settings(replace(profile.settings, placement=7))  # of a later client: not ours to give out
    assert book.placement == Placement.IPLS_ONLY


def test_only_what_is_also_elsewhere_is_in_a_folder_and_its_last_change_is_kept(book: AddressBook, tmp_path: Path):
    book.place_new(Placement.IPLS_ONLY)
    counts(book, ADA, card("UID:b", "FN:Bob"))
    book.place([id_of(book, "Ada")], Placement.ADDRESS_BOOK)
    book.sync_folder(tmp_path, SyncTerms(yes=True))
    assert [file.name for file in tmp_path.glob("*.vcf")] == ["a.vcf"]
    (tmp_path / "c.vcf").write_bytes(card("UID:c", "FN:Cy"))
    book.sync_folder(tmp_path, SyncTerms())
    assert not book.contact(id_of(book, "Cy")).only_ipls  # new on a side

    (tmp_path / "a.vcf").write_bytes(ADA.replace(b"FN:Ada", b"FN:Ida"))
    book.place([id_of(book, "Ada")], Placement.IPLS_ONLY)
    report = book.sync_folder(tmp_path, SyncTerms())
    assert (report.there.removed, report.here.changed, report.bad) == (1, 1, [])
    assert [file.name for file in tmp_path.glob("*.vcf")] == ["c.vcf"]
    assert book.contact(id_of(book, "Ida")).only_ipls
    assert not any(any(book.sync_folder(tmp_path, SyncTerms())[at]) for at in (2, 3))

    book.place([id_of(book, "Ida"), id_of(book, "Bob")], Placement.ADDRESS_BOOK)
    assert book.sync_folder(tmp_path, SyncTerms()).there.added == 2
    (tmp_path / "b.vcf").write_bytes(card("UID:b", "FN:Rob"))
    book.sync_folder(tmp_path, SyncTerms())
    assert names(book) == ["Cy", "Ida", "Rob"]


@pytest.mark.parametrize("letters", [700, 1000])
def test_a_card_in_a_folder_keeps_its_picture_whether_or_not_the_list_takes_it(
    book: AddressBook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, letters: int
) -> None:
    """One that it does not take is kept beside the contact on this device."""
    monkeypatch.setattr("ipls.contacts.whole.MAX_WHOLE", 1000)  # for 31 MiB
    picture = "PHOTO;ENCODING=b:" + "A" * letters
    path = tmp_path / "a.vcf"
    path.write_bytes(card("UID:a", "FN:Ada", picture))
    assert book.sync_folder(tmp_path, SyncTerms(yes=True)).here.added == 1
    assert book.card(id_of(book, "Ada")) == path.read_bytes()
    path.write_bytes(card("UID:a", "FN:Augusta", picture))
    assert book.sync_folder(tmp_path, SyncTerms()).here.changed == 1
    book.edit(id_of(book, "Augusta"), Changes(name="Lady L"))
    assert book.sync_folder(tmp_path, SyncTerms()).there.changed == 1
    assert path.read_bytes() == book.card(id_of(book, "Lady L"))
    assert picture.encode() in path.read_bytes()


def test_all_taken_out_of_a_folder_at_once_is_no_accident(book: AddressBook, tmp_path: Path):
    counts(book, *(card(f"UID:{n}", f"FN:N{n}") for n in range(12)))
    book.sync_folder(tmp_path, SyncTerms(yes=True))
    book.place([each.id for each in book.contacts()], Placement.IPLS_ONLY)
    assert book.sync_folder(tmp_path, SyncTerms()).there.removed == 12
    book.sync_folder(tmp_path, SyncTerms())
    assert (len(names(book)), list(tmp_path.glob("*.vcf"))) == (12, [])


def test_only_what_is_also_elsewhere_is_shown_to_carddav_clients(book: AddressBook, clock: Clock):
    service = book.dav_service(allow_removals=False, told=lambda error: None)

    def ask(method: str, href: str, body: bytes = b"") -> Response:
        return service.handle(Request(method, f"{BOOK}{href}", {"content-type": "text/vcard"}, body))

    counts(book, ADA)
    service.bring_together()
    assert b"".join(ask("GET", "a.vcf").body).rstrip() == ADA
    assert ask("PUT", "a.vcf", ADA.replace(b"FN:Ada", b"FN:Ida")).status in (200, 204)
    book.place([id_of(book, "Ada")], Placement.IPLS_ONLY)
    service.bring_together()
    assert ask("GET", "a.vcf").status == 404
    assert [(each.name, each.only_ipls) for each in book.contacts()] == [("Ida", True)]
    assert ask("PUT", "b.vcf", card("UID:b", "FN:Bo")).status == 201
    service.finish()
    assert [(each.name, each.only_ipls) for each in book.contacts()] == [("Bo", False), ("Ida", True)]
    book.place([id_of(book, "Ida")], Placement.ADDRESS_BOOK)
    service.bring_together()
    assert b"".join(ask("GET", "a.vcf").body).rstrip() == ADA.replace(b"FN:Ada", b"FN:Ida")


@pytest.fixture
def other(tmp_path: Path, clock: Clock) -> Iterator[AddressBook]:
    """Another account's."""
    with closing(Profile(tmp_path / "other phone")) as profile:
        profile.put(Account("+12025550112", bytes(range(32)), 1, 1))
        yield AddressBook(profile, clock)


def test_copied_contacts_are_whole_and_one_however_often(
    book: AddressBook, profile: Profile, other: AddressBook, clock: Clock
):
    counts(book, ADA, BOB)
    ada, bob = profile.contacts()
    kept = replace(
        ada.envelope,
        placement=Placement.IPLS_ONLY,
        conflicts=(Conflict(b"FN:Ida", b"k" * 32, 5),),
        verified=(Verified("+12025550100", bytes(32), 1, 2),),
    )
    profile.put_contacts([ada._replace(envelope=kept)])
    clock.now_ms += 5
    for _ in range(2):
        book.copy_to(other, [ada.id.hex(), bob.id.hex()])
        assert whole(other, "Ada") == replace(kept, changed_ms=NOW_MS + 5)
        assert other.cards() == [ADA, BOB]
    assert id_of(other, "Ada") == id_of_uid("+12025550112", "a").hex()
    assert names(book) == ["Ada", "Bob"]
    assert (other.undo().what, other.cards()) == ("copy", [])
    with pytest.raises(ProfileError) as refused:
        other.undo()
    assert refused.value.reason == "NOTHING_TO_UNDO"


def test_what_the_other_profile_has_of_a_contact_stays(book: AddressBook, profile: Profile, other: AddressBook):
    counts(book, ADA)
    counts(other, ADA.replace(b"FN:Ada", b"FN:Eda").replace(b"0100", b"0102"))
    (there,) = book.copy_to(other, [id_of(book, "Ada")])
    assert (there.name, set(there.numbers), there.conflicts) == ("Eda", {"+1 202 555 0100", "+1 202 555 0102"}, 1)
    assert other.conflicts()[0].other == "Ada"


def test_nothing_is_removed_before_the_other_account_has_it(book: AddressBook, profile: Profile, other: AddressBook):
    counts(book, ADA)
    ada = id_of(book, "Ada")
    for copied in (False, True):
        if copied:
            book.copy_to(other, [ada])
        with pytest.raises(ProfileError) as refused:
            book.remove_moved(other, [ada])
        assert (refused.value.reason, names(book)) == ("MOVE_UNFINISHED", ["Ada"])


ADA_TWICE = card("UID:a", "FN:Ada", "N:;Ada;;;", "NOTE:x", "item1.TEL:1", "item1.X-ABLABEL:Boat")


@pytest.fixture
def torn(book: AddressBook, profile: Profile) -> str:
    """The id of a contact with three conflicts: 1 of FN, 2 of N, 3 of NOTE."""
    profile.put(Account("+12025550111", bytes(32), 1, 1))
    counts(book, ADA_TWICE)
    (ada,) = profile.contacts()
    mine, other = public_key(bytes(32)), b"\x0a" * 32
    gave_way = Conflict(b"FN:Eda", mine, 5), Conflict(b"N:;Eda;;;", mine, 5), Conflict(b"NOTE:y", other, 6)
    profile.put_contacts([ada._replace(envelope=replace(ada.envelope, conflicts=gave_way))])
    return ada.id.hex()


def test_conflicts_say_what_stands_what_gave_way_and_from_where(book: AddressBook, profile: Profile, torn: str):
    counts(book, BOB)
    assert [tuple(each[1:5]) + each[6:] for each in book.conflicts()] == [
        (1, "FN", ("Ada",), "Eda", "this device", 5, True),
        (2, "N", ("Ada",), "Eda", "this device", 5, False),
        (3, "NOTE", ("x",), "y", "device 0a0a0a0a", 6, True),
    ]
    assert book.conflicts(id_of(book, "Bob")) == []
    assert book.contact(torn).conflicts == 3
    profile.add_versions([KnownVersion(2, 3, b"\x0a" * 32, "own")])
    assert book.conflicts(torn)[2].wrote == "the phone of identity version 2"
    LinkedDevices(profile).put(DeviceRecord(b"\x0a" * 32, b"", "Laptop", "linux"), NOW_MS)
    assert book.conflicts(torn)[2].wrote == "the device Laptop"


@pytest.mark.parametrize(
    ("how", "numbers", "left", "lines"),
    [
        ("keep", [1, 2], [b"NOTE:y"], ADA_TWICE),
        ("keep", [], [], ADA_TWICE),
        ("take", [2, 1], [b"NOTE:y"], ADA_TWICE.replace(b"Ada", b"Eda")),
        ("take", [3], [b"FN:Eda", b"N:;Eda;;;"], ADA_TWICE.replace(b"NOTE:x", b"NOTE:y")),
        ("both", [3], [b"FN:Eda", b"N:;Eda;;;"], ADA_TWICE.replace(b"END", b"NOTE:y\r\nEND")),
    ],
)
def test_a_person_settles_conflicts(
    book: AddressBook, profile: Profile, torn: str, how: Settlement, numbers: list[int], left: list[bytes], lines: bytes
):
    (before,) = profile.contacts()
    assert book.settle(torn[:6], how, numbers).conflicts == len(left)
    (after,) = profile.contacts()
    assert ([each.unit for each in after.envelope.conflicts], after.card) == (left, lines)
    assert book.undo().what == "settling"
    assert profile.contacts() == [before]


@pytest.mark.parametrize(
    ("how", "numbers", "reason"),
    [
        ("keep", [4], "CONFLICT_UNKNOWN"),
        ("both", [2, 3], "CONFLICT_ALONE"),  # there is one N
        ("take", [1, 4], "CONFLICT_UNKNOWN"),
    ],
)
def test_what_can_t_be_settled_so_changes_nothing(
    book: AddressBook, profile: Profile, torn: str, how: Settlement, numbers: list[int], reason: str
):
    before = profile.contacts()
    with pytest.raises(ProfileError) as refused:
        book.settle(torn, how, numbers)
    assert (refused.value.reason, profile.contacts()) == (reason, before)


def test_of_two_that_gave_way_to_one_value_one_is_taken(book: AddressBook, profile: Profile, torn: str):
    (ada,) = profile.contacts()
    names = tuple(Conflict(b"FN:" + name, b"", 5) for name in (b"Eda", b"Ida"))
    profile.put_contacts([ada._replace(envelope=replace(ada.envelope, conflicts=names))])
    with pytest.raises(ProfileError) as refused:
        book.settle(torn, "take")
    assert refused.value.reason == "CONFLICT_ALONE"
    assert book.settle(torn, "take", [2]).name == "Ida"
    assert [each.wrote for each in book.conflicts()] == ["another device"]
    assert book.settle(torn, "keep").conflicts == 0
    with pytest.raises(ProfileError) as refused:
        book.settle(torn, "keep")
    assert refused.value.reason == "CONFLICT_UNKNOWN"


def test_merged_contacts_have_what_both_had_beside_their_cards(book: AddressBook, profile: Profile):
    counts(book, ADA, BOB)
    ada, bob = profile.contacts()
    conflicts = Conflict(b"FN:Ida", b"k" * 32, 5), Conflict(b"FN:Rob", b"k" * 32, 6)
    ours = replace(ada.envelope, conflicts=conflicts[:1], verified=(Verified("+1202", b"old", 1, 2),))
    theirs = replace(
        bob.envelope,
        conflicts=conflicts[1:],
        verified=(Verified("+1202", b"new", 2, 9),),
        placement=Placement.IPLS_ONLY,
    )
    profile.put_contacts([ada._replace(envelope=ours), bob._replace(envelope=theirs)])
    book.merge(ada.id.hex(), bob.id.hex())
    merged = whole(book, "Ada")
    assert (merged.conflicts, merged.verified) == (conflicts, (Verified("+1202", b"new", 2, 9),))
    assert merged.placement == Placement.IPLS_ONLY  # of what one of them kept out of other address books
    book.undo()
    assert [each.envelope for each in profile.contacts()] == [replace(ours, verified=merged.verified), theirs]


def test_after_thirty_days_nothing_is_taken_back(book: AddressBook, profile: Profile, clock: Clock):
    counts(book, ADA)
    clock.now_ms += UNDO_FOR_MS
    with pytest.raises(ProfileError) as refused:
        book.undo()
    assert refused.value.reason == "NOTHING_TO_UNDO"
    book.add(Changes("Bo"))
    assert len(profile.steps()) == 1


def test_an_edit_changes_its_lines_and_what_is_to_be_stored(book: AddressBook, profile: Profile):
    counts(book, ADA)
    (before,) = profile.contacts()
    profile.put_contacts([before._replace(sent=True)])
    edited = book.edit(before.id.hex()[:6], Changes(add_emails=["a@example.org"]))
    assert (edited.emails, edited.stored) == (("a@example.org",), False)
    assert book.cards() == [ADA.replace(b"END:VCARD", b"EMAIL:a@example.org\r\nEND:VCARD")]
    with pytest.raises(CardError):
        book.edit(edited.id, Changes(remove_numbers=["5"]))
    steps = len(profile.steps())
    assert book.edit(edited.id, Changes("Ada", remove_emails=["A@example.org"])).emails == ()
    book.replace(edited.id, book.card(edited.id), book.card(edited.id).replace(b"\r\n", b"\n"))
    assert len(profile.steps()) == steps + 1  # what changes nothing is no step


def test_a_card_from_an_editor_is_taken_only_over_what_it_showed(book: AddressBook):
    counts(book, ADA)
    id = id_of(book, "Ada")
    book.replace(id, ADA, ADA.replace(b"FN:Ada", b"FN:Ada King"))
    assert names(book) == ["Ada King"]
    with pytest.raises(ProfileError) as refused:
        book.replace(id, ADA, ADA)
    assert refused.value.reason == "CONTACT_CHANGED"


def test_duplicates_are_proposed_with_their_reason_and_never_merged(book: AddressBook, profile: Profile):
    profile.put(Account("+12025550111", bytes(32), 1, 1))
    people = [
        *(card("FN:Sam Alike", "TEL:+1 202 555 0145"), card("FN:Samuel", "TEL:(202) 555-0145")),
        *(card("FN:Eva", "EMAIL:eva@example.org"), card("FN:E. B.", "EMAIL:EVA@example.org")),
        *(card("FN:Zoë", "ORG:Acme"), card("FN:zoe", "ORG:ACME"), card("FN:Zoë")),
        card("NOTE:nobody"),
        card("NOTE:nobody "),
    ]
    counts(book, *people)
    pairs = [(pair.first.name, pair.second.name, pair.why) for pair in book.duplicates()]
    assert pairs == [("Eva", "E. B.", "email"), ("Sam Alike", "Samuel", "number"), ("Zoë", "zoe", "name")]
    eva = book.duplicates()[0]
    book.keep_apart(eva.second.id, eva.first.id)
    assert [pair.why for pair in book.duplicates()] == ["number", "name"]
    sam = book.duplicates()[0]
    assert book.merge(sam.first.id, sam.second.id).name == "Sam Alike"
    assert book.find("Samuel")[0].name == "Sam Alike"
    assert [pair.why for pair in book.duplicates()] == ["name"]
    with pytest.raises(ProfileError) as refused:
        book.merge(sam.first.id, sam.first.id)
    assert refused.value.reason == "CONTACT_SAME"


def test_merged_contacts_have_one_n_and_one_uid_and_all_else(book: AddressBook):
    boat = "item1.TEL:2", "item1.X-ABLabel:Boat"
    one = card("UID:a", "FN:A", "N:A;;;;", "item1.TEL:1", "item1.X-ABLabel:Barn")
    counts(book, one, card("UID:b", "FN:B", "N:B;;;;", *boat, "NOTE:x", version="4.0"))
    book.merge(id_of(book, "A"), id_of(book, "B"))
    (merged,) = book.cards()
    assert merged == one.replace(b"END", b"FN:B\r\nitem2.TEL:2\r\nitem2.X-ABLabel:Boat\r\nNOTE:x\r\nEND")


def test_groups_are_kept_and_are_nobody(book: AddressBook):
    group = card("FN:Choir", "X-ADDRESSBOOKSERVER-KIND:group", "UID:g")
    assert counts(book, group, ADA) == (2, 0, 0, 0)
    assert names(book) == ["Ada"]
    assert book.find("choir") == []
    assert book.export() == join_cards([group, ADA])


def test_groups_tell_who_is_in_them(book: AddressBook):
    ours = card("FN:Choir", "KIND:group", "UID:g", "MEMBER:urn:uuid:a", "MEMBER:b", "MEMBER:urn:uuid:a", version="4.0")
    apple = card("FN:Band", "X-ADDRESSBOOKSERVER-KIND:group", "X-ADDRESSBOOKSERVER-MEMBER:urn:uuid:zz")
    counts(book, ours, ADA, card("UID:b", "FN:Bob"), apple)
    assert [(each.name, [who.name for who in each.members], each.absent) for each in book.groups()] == [
        ("Band", [], 1),
        ("Choir", ["Ada", "Bob"], 0),
    ]
    assert book.contact(book.groups()[1].id).name == "Choir"
    book.remove([id_of(book, "Ada")])
    assert (book.groups()[1].absent, book.cards()[0]) == (1, ours)


def damage(profile: Profile, place: int) -> None:
    """The row of this contact's edit, from 0."""
    db = profile.rows._db
    (number,) = db.execute("SELECT number FROM edit ORDER BY number LIMIT 1 OFFSET ?", (place,)).fetchone()
    db.execute("UPDATE edit SET sealed = zeroblob(60) WHERE number = ?", (number,))


def test_what_was_damaged_comes_back_by_undo_as_it_was_before(book: AddressBook, profile: Profile):
    counts(book, ADA, BOB)
    book.edit(id_of(book, "Ada"), Changes("Ida"))
    damage(profile, 0)
    assert [each.name for each in book.contacts()] == ["Bob", ""]
    assert book.undo()[2:] == (1, 0)
    assert names(book) == ["Ada", "Bob"]
    damage(profile, 0)
    assert (book.undo()[2:], book.contacts()) == ((2, 0), [])  # added with the others


def test_while_the_settings_can_t_be_read_nothing_new_goes_out(book: AddressBook, profile: Profile):
    book.place_new(Placement.ADDRESS_BOOK)
    assert not book.add(Changes("Cy")).only_ipls
    damage(profile, 0)
    assert book.add(Changes("Di")).only_ipls
    book.place_new(Placement.ADDRESS_BOOK)
    assert not book.add(Changes("Eve")).only_ipls


def test_what_was_damaged_for_good_can_be_removed(book: AddressBook, profile: Profile):
    counts(book, ADA, BOB)
    damage(profile, 0)
    (_, lost) = book.contacts()
    assert lost.unreadable
    assert book.remove([lost.id[:8]]) == [lost]
    assert names(book) == ["Bob"]
    with pytest.raises(ProfileError) as refused:
        book.remove([lost.id[:8]])
    assert refused.value.reason == "CONTACT_UNKNOWN"


def test_a_contact_is_named_by_the_first_digits_of_its_id(book: AddressBook):
    counts(book, ADA, BOB)
    assert book.card(id_of(book, "Bob")[:8].upper()) == BOB
    for id, reason in (("zz", "CONTACT_UNKNOWN"), ("", "CONTACT_AMBIGUOUS")):
        with pytest.raises(ProfileError) as refused:
            book.remove([id_of(book, "Ada"), id])
        assert refused.value.reason == reason
    assert names(book) == ["Ada", "Bob"]


def test_what_a_contact_is_shown_as_can_be_json(book: AddressBook):
    counts(book, ADA)
    assert json.loads(json.dumps(book.contacts()[0]._asdict()))["numbers"] == ["+1 202 555 0100"]


def test_many_of_one_name_take_linear_time(book: AddressBook):
    size = 3_000  # what took the square of it would run into the suite's time limit
    assert counts(book, *(card("FN:Ada", f"NOTE:{n}") for n in range(size))) == (size, 0, 0, 0)
    again = (card(f"NOTE:{n}", "fn:Ada") for n in range(size))
    assert counts(book, *again) == (0, 0, size, 0)
