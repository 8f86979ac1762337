"""What people do with their contacts on two devices of one account: both come to the same."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ipls.client.address_book import Settlement
from ipls.contacts.cards.editing import Changes
from ipls.contacts.envelope import Placement
from tests.client.line.phones import Phone, phones
from tests.client.test_address_book import ADA


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[Phone, Phone]]:
    with phones(tmp_path) as both:
        yield both


def settled(two: tuple[Phone, Phone]) -> None:
    for phone in (*two, *two):
        phone.sync()


@pytest.fixture
def torn(two: tuple[Phone, Phone]) -> str:
    """The id of a contact that both have renamed: the second one's name stands, the first one's gave way."""
    one, other = two
    one.book.import_cards(ADA)
    settled(two)
    (ada,) = one.book.contacts()
    one.book.edit(ada.id, Changes("One"))
    other.book.edit(ada.id, Changes("Other"))
    settled(two)
    return ada.id


def test_both_devices_tell_of_a_conflict_and_from_where(two: tuple[Phone, Phone], torn: str) -> None:
    for phone, wrote in zip(two, ("this device", f"device {two[0].device.key.hex()[:8]}"), strict=True):
        told = [(each.property, each.here, each.other, each.wrote) for each in phone.book.conflicts()]
        assert told == [("FN", ("Other",), "One", wrote), ("N", ("Other",), "One", wrote)]


@pytest.mark.parametrize("by", [0, 1])
@pytest.mark.parametrize(("how", "name"), [("keep", "Other"), ("take", "One")])
def test_what_is_settled_on_one_is_settled_on_the_other(
    two: tuple[Phone, Phone], torn: str, how: Settlement, name: str, by: int
) -> None:
    two[by].book.settle(torn, how)
    settled(two)
    assert two[0].cards() == two[1].cards()
    assert [[each.name for each in phone.book.contacts()] for phone in two] == [[name], [name]]
    assert [phone.book.conflicts() for phone in two] == [[], []]


def test_who_settle_it_each_their_way_agree_too(two: tuple[Phone, Phone], torn: str) -> None:
    two[0].book.settle(torn, "take")
    two[1].book.settle(torn, "keep")
    settled(two)
    assert [phone.book.contacts()[0].name for phone in two] == ["One", "One"]
    assert [phone.book.conflicts() for phone in two] == [[], []]


def test_a_contact_of_the_line_that_is_damaged_here_is_brought_back_or_removed(two: tuple[Phone, Phone]) -> None:
    one, other = two
    one.book.import_cards(ADA)
    settled(two)
    one.book.edit(one.book.contacts()[0].id, Changes("Ida"))
    settled(two)

    def damaged() -> None:
        one.profile.rows._db.execute("UPDATE contacts SET sealed = zeroblob(60)")
        assert [each.unreadable for each in one.book.contacts()] == [True]

    damaged()
    assert one.book.undo()[2:] == (1, 0)
    assert one.cards() == [ADA]
    settled(two)
    assert one.cards() == other.cards()
    damaged()
    one.book.remove([one.book.contacts()[0].id])
    assert one.book.contacts() == []
    settled(two)
    assert (one.cards(), other.cards()) == ([], [])


def test_where_contacts_are_placed_is_the_same_on_both(two: tuple[Phone, Phone]) -> None:
    one, other = two
    one.book.import_cards(ADA)
    settled(two)
    one.book.place_new(Placement.IPLS_ONLY)
    other.book.place([other.book.contacts()[0].id], Placement.IPLS_ONLY)
    settled(two)
    assert [phone.book.placement for phone in two] == [Placement.IPLS_ONLY] * 2
    assert [phone.book.contacts()[0].only_ipls for phone in two] == [True, True]
    assert [phone.profile.count().readable for phone in two] == [1, 1]


def test_of_two_first_settings_the_more_private_one_counts(two: tuple[Phone, Phone]) -> None:
    for phone, placement in zip(two, (Placement.ADDRESS_BOOK, Placement.IPLS_ONLY), strict=True):
        phone.book.place_new(placement)
    settled(two)
    assert [phone.book.placement for phone in two] == [Placement.IPLS_ONLY] * 2
