"""Who makes room when a table is full."""

from ipls.runtime.half_open import HalfOpenTable


def test_who_has_been_there_longest_makes_room() -> None:
    table = HalfOpenTable[str](2)
    assert [table.admit(guest) for guest in "abc"] == [None, None, "a"]
    table.leave("b")
    table.leave("b")
    assert [table.admit(guest) for guest in "de"] == [None, "c"]


def test_it_is_one_of_those_of_whom_there_are_most() -> None:
    table = HalfOpenTable[int](4)
    table.admit(0, "few")
    for guest in range(1, 4):
        table.admit(guest, "many")
    assert [table.admit(guest, "many") for guest in range(4, 20)] == list(range(1, 17))
    assert table.admit(20, "few") == 17
    assert table.admit(21, "few") == 0  # as many as the others by now, and the oldest
