"""How places are shared."""

from contextlib import suppress

import pytest

from ipls.runtime.places import Busy, Places


def taken(places: Places, holder: str) -> int:
    """How many it gets when it wants all."""
    count = 0
    with suppress(Busy):
        while True:
            places.take(holder)
            count += 1
    return count


def test_each_of_those_who_want_all_leaves_a_part_free() -> None:
    places = Places(100)
    assert [taken(places, holder) for holder in "abc"] == [50, 25, 13]
    for _ in range(50):
        places.leave("a")
    assert taken(places, "d") == 31


def test_the_last_place_is_given() -> None:
    places = Places(1)
    with places.place("a"), pytest.raises(Busy):
        places.take("b")
    places.take("b")


def test_nobody_has_more_than_each_may() -> None:
    places = Places(100, each=3)
    assert [taken(places, holder) for holder in "ab"] == [3, 3]
    places.leave("a")
    assert taken(places, "a") == 1


def test_all_of_one_site_have_what_one_has_alone_and_share_it() -> None:
    places = Places(100, share=5, site=lambda holder: holder[0])
    assert [taken(places, holder) for holder in "ab"] == [20, 16]
    for _ in range(16):
        places.leave("b")
    of_each = [taken(places, f"b{line}") for line in range(100)]
    assert of_each[:4] == [9, 4, 2, 1]
    assert sum(of_each) == 16
    places.leave("b2")
    assert [taken(places, holder) for holder in ("b0", "b3", "b4")] == [0, 0, 1]
    assert taken(places, "c") == 13
