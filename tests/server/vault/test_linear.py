"""The checker of recorded histories, on histories that are linearizable and that are not."""

from dataclasses import replace
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.server.vault.linear import Operation, Register, Retrieve, Store, linearizable

KEYS = [bytes([number]) for number in range(5)]


@st.composite
def histories(draw: st.DrawFn) -> list[Operation]:
    """What several devices may see of a register that does one thing after the other.

    Operation i is done at 10 i; its call and return lie around that, so that a device's own don't overlap. Some returns
    are lost, and of those some operations too.
    """
    history, register = list[Operation](), Register()
    free = dict.fromkeys(range(3), 0)  # when each device's last operation returned
    for number in range(draw(st.integers(0, 25))):
        device = draw(st.integers(0, 2))
        done = 10 * number
        called, returned = draw(st.integers(min(free[device], done - 1), done - 1)), draw(st.integers(done, done + 40))
        times = {"called": called, "returned": returned}
        if draw(st.booleans()):
            expected = max(0, register.generation + draw(st.sampled_from([0, 0, -1, 1])))
            refused = expected != register.generation
            operation: Operation = Store(expected=expected, key=draw(st.sampled_from(KEYS)), refused=refused, **times)
        else:
            operation = Retrieve(found=register, **times)
        fate = draw(st.sampled_from(["returned", "returned", "answer lost", "lost"]))
        if fate != "returned":
            operation = replace(operation, returned=inf)
            if isinstance(operation, Store) and operation.refused:
                continue  # it shows to nobody
        if fate != "lost":
            register = operation.after(register) or register
        free[device] = returned + 1
        history.append(operation)
    return draw(st.permutations(history))


@given(histories())
def test_what_a_register_did_is_accepted(history: list[Operation]) -> None:
    assert linearizable(history)


@given(histories(), st.data())
def test_a_key_that_was_never_stored_is_refused(history: list[Operation], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, 400))
    foreign = Retrieve(called=at, returned=at + 1, found=Register(1, b"foreign"))
    assert not linearizable([*history, foreign])


@given(histories(), st.booleans())
def test_a_lost_acknowledged_write_is_refused(history: list[Operation], read: bool) -> None:
    """At the end of any history: it shows by a key or by a generation that is stored again."""
    at, generation = 10_000, 30
    history = [*history, *chain(generation, at)]
    lost = Store(called=at + 500, returned=at + 501, expected=generation, key=b"lost")
    before = Register(generation, b"last")
    end: Operation = Retrieve(called=at + 600, returned=at + 601, found=before)
    if not read:
        end = Store(called=at + 600, returned=at + 601, expected=generation, key=b"another")
    assert linearizable([*history, lost])
    assert linearizable([*history, end])
    assert not linearizable([*history, lost, end])
    assert linearizable([*history, replace(lost, returned=inf), end])


def chain(generation: int, at: int) -> list[Operation]:
    """Stores of which some bring the register to this generation, wherever it was, the last with the key "last"."""
    return [Store(called=at, expected=number, key=b"last") for number in range(generation)]


STORED = Store(called=0, returned=1, expected=0, key=b"a")
SECOND = Store(called=2, returned=3, expected=1, key=b"b")
OPEN = Store(called=2, expected=1, key=b"b")
A, B = Register(1, b"a"), Register(2, b"b")


@pytest.mark.parametrize(
    "history",
    [
        pytest.param([STORED, SECOND, Retrieve(called=4, returned=5, found=A)], id="a stale read"),
        pytest.param([STORED, Retrieve(called=2, returned=3)], id="nothing found after a store"),
        pytest.param(
            [Retrieve(called=0, returned=1, found=A), replace(STORED, called=2, returned=3)], id="read before"
        ),
        pytest.param([STORED, replace(STORED, key=b"b")], id="two winners"),
        pytest.param([replace(STORED, returned=9), replace(STORED, called=3, returned=4)], id="two winners at once"),
        pytest.param([STORED, replace(STORED, called=2, returned=3, expected=0)], id="the same store, done twice"),
        pytest.param([replace(STORED, refused=True)], id="refused for nothing"),
        pytest.param([STORED, replace(SECOND, refused=True)], id="refused though it was the last"),
        pytest.param([STORED, Retrieve(called=2, returned=3, found=Register(1, b"b"))], id="another key"),
        pytest.param(
            [STORED, OPEN, Retrieve(called=4, returned=5, found=B), Retrieve(called=6, returned=7, found=A)],
            id="an open store, read and taken back",
        ),
        pytest.param(
            [STORED, Retrieve(called=2, returned=3, found=B), replace(OPEN, called=4)], id="read before its call"
        ),
    ],
)
def test_what_no_register_does_is_refused(history: list[Operation]) -> None:
    assert not linearizable(history)


def test_an_open_store_may_have_been_done_at_any_time_or_never() -> None:
    reads = [Retrieve(called=2 * i + 10, returned=2 * i + 11, found=A) for i in range(4)]
    assert linearizable([STORED, OPEN, *reads])
    for since in range(4):
        seen = [replace(read, found=B if i >= since else A) for i, read in enumerate(reads)]
        assert linearizable([STORED, OPEN, *seen])


def test_operations_at_once_may_have_been_done_in_either_order() -> None:
    at_once = {"called": 2, "returned": 9}
    for found in (A, B):
        assert linearizable([STORED, replace(SECOND, **at_once), Retrieve(found=found, **at_once)])


def test_a_long_history_is_judged() -> None:
    """Of five devices at once, a tenth of the stores without an answer."""
    history, register = list[Operation](), Register()
    for number in range(2000):
        times = {"called": 10 * number, "returned": 10 * number + 49}
        if number % 2:
            operation: Operation = Store(expected=register.generation, key=bytes([number % 251]), **times)
            register = operation.after(register) or register
            if number % 20 == 1:
                operation = replace(operation, returned=inf)
        else:
            operation = Retrieve(found=register, **times)
        history.append(operation)
    assert linearizable(history)
    end = 10 * len(history) + 100
    assert not linearizable([*history, Retrieve(called=end, returned=end + 1, found=Register(1, b"foreign"))])
