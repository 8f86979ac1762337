"""Contact codes: known answers, one form, and names that a person can be shown."""

import json
from base64 import b32encode
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipls.contacts.contact_code import MAX_NAME, ContactCode
from ipls.contacts.errors import CardError

ROWS: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "vectors/safety.json").read_text())[
    "contact_codes"
]
CODE = ContactCode("+15550100", "Ada Lovelace")


@pytest.mark.parametrize("row", ROWS)
def test_known_answers(row: dict[str, Any]) -> None:
    code = ContactCode(row["label"], row["name"])
    assert code.text == row["text"]
    assert ContactCode.parse(row["text"]) == code


names = st.text(st.characters(exclude_categories=["Cc", "Cf", "Zl", "Zp", "Cs"]), min_size=1, max_size=32).filter(
    lambda text: text.strip()
)


@given(st.integers(0, 10**15 - 1), names)
def test_a_contact_code_comes_back(number: int, name: str) -> None:
    code = ContactCode(f"+{number}", name)
    assert ContactCode.parse(code.text) == code
    assert set(code.text) <= set("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ $%*+-./:")  # a QR's alphanumeric mode


def test_one_that_was_broken_up_on_its_way_is_read() -> None:
    text = CODE.text
    assert ContactCode.parse(f" {text[:20]}\r\n{text[20:30]}\u00a0{text[30:]}\n") == CODE


@given(st.text() | st.text("IPLS-CONTACT:1+0123456789ABCDE=", max_size=60).map(lambda rest: "IPLS-CONTACT:1:" + rest))
def test_text_is_no_contact_code_or_has_one_form(text: str) -> None:
    with suppress(CardError):
        assert ContactCode.parse(text).text == "".join(text.split())


@given(st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", max_size=24))
def test_a_name_has_one_form(name: str) -> None:
    """Also where the last character has bits beyond the last byte, or there is one more than any name has."""
    with suppress(CardError):
        assert ContactCode.parse(f"IPLS-CONTACT:1:+15550100:{name}").text.endswith(f":{name}")


@pytest.mark.parametrize("name", ["Ada", "گوشی\u200cمن", "👩\u200d💻", "ё" * 64, "山田 太郎"])
def test_a_name_may_be_in_any_script(name: str) -> None:
    assert ContactCode.parse(ContactCode("+15550100", name).text).name == name


def raw(name: bytes) -> str:
    """As a contact code, by somebody who does not keep to the rules."""
    return f"IPLS-CONTACT:1:+15550100:{b32encode(name).decode().rstrip('=')}"


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "x" * (MAX_NAME + 1),
        "x" * 10_000,
        "Ada\x1b[2J",
        "two\nlines",
        "a\u202eb",
        "a\u2066b",
        "a\u2028b",
        "\ud800",
    ],
)
def test_a_name_that_steers_what_a_person_sees_is_refused_by_both(name: str) -> None:
    for attempt in (
        lambda: ContactCode("+15550100", name).text,
        lambda: ContactCode.parse(raw(name.encode(errors="surrogatepass"))),
    ):
        with pytest.raises(CardError) as error:
            attempt()
        assert error.value.reason == "CONTACT_CODE_INVALID"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no contact code"),
        (CODE.text.lower(), "no contact code"),
        ("IPLS-LINK:1:+15550100:AA", "no contact code"),
        (CODE.text.replace(":1:", ":2:"), "another version"),
        ("IPLS-CONTACT:1:+15550100:", "cut off"),
        (CODE.text + "=", "cut off"),
        (CODE.text * 2, "cut off"),
        (CODE.text.replace("+15550100", "15550100"), "cut off"),
        (CODE.text.replace("+15550100", "+" + "1" * 16), "cut off"),
        (CODE.text.replace("+15550100", "+١٢٣"), "cut off"),
        ("IPLS-CONTACT:1:" + "A" * 10**6, "cut off"),
        ("IPLS-CONTACT:1:+15550100:AAA", "can't be read"),  # no number of bytes
        (raw(b"\xff\xfe"), "can't be read"),
        ("IPLS-CONTACT:1:+15550100:IF", "a character"),  # bits beyond the last byte: another form of A
    ],
)
def test_what_is_no_contact_code_is_refused_clearly(text: str, says: str) -> None:
    with pytest.raises(CardError, match=says) as error:
        ContactCode.parse(text)
    assert error.value.reason == "CONTACT_CODE_INVALID"
    assert "1555" not in error.value.message


def test_a_contact_code_is_of_a_number() -> None:
    with pytest.raises(CardError) as error:
        _ = ContactCode("a name", "Ada").text
    assert error.value.reason == "CONTACT_CODE_INVALID"
