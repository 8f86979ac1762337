"""Every parser of what comes from outside, with a fixed budget; `scripts/fuzz` goes on for as long as it is let."""

from collections.abc import Iterator
from functools import cache
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.meter import Hangs, check
from tests.fuzz.mutation import mutate
from tests.fuzz.target import Target, clean_up
from tests.fuzz.targets import TARGETS

EXAMPLES = 120


@pytest.fixture(autouse=True, scope="module")
def _clean() -> Iterator[None]:
    yield
    clean_up()


@cache
def all_made() -> dict[str, Target]:
    """In the targets' own order, whatever the tests': the token that is opened last stays open."""
    return {name: make() for name, make in TARGETS.items()}


def made(name: str) -> Target:
    return all_made()[name]


@pytest.mark.parametrize("name", TARGETS)
def test_valid_inputs_are_taken(name: str) -> None:
    """Or what is bent out of them would be refused at the door, and nothing behind it tried."""
    for seed in made(name).seeds:
        assert check(made(name), seed)


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_does_harm(name: str) -> None:
    target = made(name)
    for seed in target.seeds:
        target.run(seed)  # what is made once is not the input's

    @settings(max_examples=max(10, EXAMPLES // target.weight))
    @given(st.randoms(use_true_random=False) | st.binary(max_size=200))
    def harmless(source: Random | bytes) -> None:
        check(target, source if isinstance(source, bytes) else mutate(source, target.seeds, target.longest))

    harmless()


def endless(data: bytes) -> None:
    while data:
        pass


def hoarding(data: bytes) -> None:
    if data:
        bytes(64 << 20)


def failing(data: bytes) -> None:
    int(data)


@pytest.mark.parametrize(("run", "fault"), [(endless, Hangs), (hoarding, AssertionError), (failing, ValueError)])
def test_a_hang_a_hoard_and_a_foreign_error_are_seen(run: object, fault: type[BaseException]) -> None:
    assert callable(run)
    with pytest.raises(fault):
        check(Target(run, (KeyError,), (b"seed",)), b"input")
