"""Safety numbers: known answers, the same on both sides, one form, and what another key, pair or service gives."""

import json
from contextlib import suppress
from operator import eq
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipls.trust.errors import IdentityRefused
from ipls.trust.safety import Comparison, Party, SafetyNumber

ROWS: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "vectors/safety.json").read_text())[
    "safety_numbers"
]
ADA, BOB = Party("+15550100", bytes(range(32))), Party("+15550101", bytes(range(32, 64)))
NUMBER = SafetyNumber.between("example.org", ADA, BOB)

labels = st.integers(0, 10**15 - 1).map(lambda number: f"+{number}")
parties = st.builds(Party, labels, st.binary(min_size=32, max_size=32))
namespaces = st.text("abcXYZ019._-", min_size=1, max_size=64)
pairs = st.tuples(parties, parties).filter(lambda pair: pair[0].label != pair[1].label)


@pytest.mark.parametrize("row", ROWS)
def test_known_answers(row: dict[str, Any]) -> None:
    one = Party(row["label"], bytes.fromhex(row["key"]))
    other = Party(row["other_label"], bytes.fromhex(row["other_key"]))
    number = SafetyNumber.between(row["namespace"], one, other)
    assert (number.digits, number.text) == (row["digits"], row["text"])


@given(namespaces, pairs)
def test_both_see_the_same_60_digits_in_12_groups(namespace: str, pair: tuple[Party, Party]) -> None:
    one, other = pair
    number = SafetyNumber.between(namespace, one, other)
    assert number == SafetyNumber.between(namespace, other, one)
    assert [len(group) for group in number.groups] == [5] * 12
    assert "".join(number.groups) == number.digits
    assert number.digits.isdecimal()
    assert number.compare(SafetyNumber.parse(number.text)) is Comparison.MATCHES


@given(namespaces, pairs, st.integers(0, 255), st.booleans())
def test_another_key_on_either_side_differs(namespace: str, pair: tuple[Party, Party], bit: int, first: bool) -> None:
    """A directory that has a key of its own published for one of them, whatever it then shows to the other."""
    one, other = pair
    number = SafetyNumber.between(namespace, one, other)
    swapped = pair[not first]
    key = bytearray(swapped.public_key)
    key[bit // 8] ^= 1 << bit % 8
    seen = SafetyNumber.between(namespace, Party(swapped.label, bytes(key)), pair[first])
    assert number.compare(seen) is Comparison.DIFFERS
    assert sum(map(eq, number.groups, seen.groups)) < 3  # nearly every group is another


@pytest.mark.parametrize(
    "other",
    [
        SafetyNumber.between("example.org", ADA, BOB._replace(label="+15550102")),
        SafetyNumber.between("example.org", ADA._replace(label="+15550099"), BOB),
        SafetyNumber.between("example.net", ADA, BOB),
    ],
    ids=["their number", "my number", "service"],
)
def test_of_another_pair_or_service_it_says_nothing(other: SafetyNumber) -> None:
    """Whatever its digits are: those of this pair, too."""
    assert NUMBER.compare(other) is Comparison.OTHER_PAIR
    assert NUMBER.compare(other._replace(digits=NUMBER.digits)) is Comparison.OTHER_PAIR


@pytest.mark.parametrize("label", ["15550100", "+", "+1 555", "", "+" + "1" * 16])
def test_a_party_has_a_number(label: str) -> None:
    with pytest.raises(IdentityRefused, match="label") as error:
        SafetyNumber.between("example.org", ADA, BOB._replace(label=label))
    assert error.value.reason == "LABEL_INVALID"


def test_there_is_none_with_oneself() -> None:
    with pytest.raises(IdentityRefused) as error:
        SafetyNumber.between("example.org", ADA, ADA._replace(public_key=BOB.public_key))
    assert error.value.reason == "SAFETY_NUMBER_INVALID"


def test_one_that_was_broken_up_on_its_way_is_read() -> None:
    text = " \n".join(NUMBER.text[at : at + 20] for at in range(0, len(NUMBER.text), 20))
    assert SafetyNumber.parse(f"\t{text}\r\n") == NUMBER


@given(st.text() | st.text("IPLS-SAFETY:1+0123456789.", max_size=130).map(lambda rest: "IPLS-SAFETY:1:" + rest))
def test_text_is_no_safety_number_or_has_one_form(text: str) -> None:
    with suppress(IdentityRefused):
        assert SafetyNumber.parse(text).text == "".join(text.split())


@given(st.integers(0, len(NUMBER.text) - 1), st.characters(codec="utf-8"))
def test_one_with_another_character_is_refused_or_another(at: int, character: str) -> None:
    text = NUMBER.text[:at] + character + NUMBER.text[at + 1 :]
    with suppress(IdentityRefused):
        assert SafetyNumber.parse(text) != NUMBER or text == NUMBER.text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no safety number"),
        (NUMBER.digits, "no safety number"),
        (NUMBER.text.lower(), "no safety number"),
        ("IPLS-LINK:1:+15550100:A", "no safety number"),
        (NUMBER.text.replace(":1:", ":2:"), "another version"),
        (NUMBER.text[:-1], "cut off"),
        (NUMBER.text + "0", "cut off"),
        (NUMBER.text * 2, "cut off"),
        (NUMBER.text[:-1] + "٣", "cut off"),
        (NUMBER.text.replace("+15550101", "15550101"), "cut off"),
        (NUMBER.text.replace("+15550101", "+" + "1" * 16), "cut off"),
        (NUMBER.text.replace("example.org", "example org/"), "cut off"),
        (NUMBER.text.replace("example.org", "x" * 65), "cut off"),
        (NUMBER.text.replace("+15550101", "+15550100"), "a character"),
        (f"IPLS-SAFETY:1:example.org:+15550101:+15550100:{NUMBER.digits}", "a character"),
        ("IPLS-SAFETY:1:" + "1" * 10**6, "cut off"),
    ],
)
def test_what_is_no_safety_number_is_refused_clearly(text: str, says: str) -> None:
    with pytest.raises(IdentityRefused, match=says) as error:
        SafetyNumber.parse(text)
    assert error.value.reason == "SAFETY_NUMBER_INVALID"
    assert "1555" not in error.value.message
