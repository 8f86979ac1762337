import pytest

from ipls.contacts.cards.numbers import comparable_number, country_of, plain_digits


def test_the_country_is_the_accounts():
    assert [country_of(label) for label in ("+447700900100", "+12025550100", "+4930231251", "+999", "")] == [
        *("GB", "US", "DE"),
        *(None, None),
    ]


@pytest.mark.parametrize(
    ("spelling", "country", "same"),
    [
        ("+1 (202) 555-0143", None, "+12025550143"),
        ("(202) 555-0143", "US", "+12025550143"),
        ("0044 7700 900463", None, "+447700900463"),
        ("011 44 7700 900463", "US", "+447700900463"),
        ("07700 900463", "GB", "+447700900463"),
        ("+44 (0)7700 900463", None, "+447700900463"),
        ("+49 (0)30 23125-101", None, "+493023125101"),
        ("٠٢٠ ٧٩٤٦ ٠٩٥٥", "GB", "+442079460955"),
        ("＋４４　７７００　９００４６３", None, "+447700900463"),
        ("\u202a+1\u00a0202\u2011555\u20110143\u202c", None, "+12025550143"),
        ("tel:+1-202-555-0119;ext=41", None, "+12025550119;ext=41"),
        ("+1 202 555 0119 x41", None, "+12025550119;ext=41"),
        ("07700 900463", None, "07700900463"),
        ("*102#", "US", "*102#"),
        ("112", "US", "112"),
        ("Taxi 1", "US", "taxi1"),
        ("", "US", ""),
        ("1" * 5000, "US", "1" * 250),
    ],
)
def test_each_spelling_of_a_number_is_the_same(spelling: str, country: str | None, same: str):
    assert comparable_number(spelling, country) == same


def test_another_extension_or_pause_is_another_number():
    numbers = "+1 202 555 0125", "+1 202 555 0125,,4711#", "+1 202 555 0125 ext. 4712", "+1 202 555 0125 p99 w"
    assert len({comparable_number(number, None) for number in numbers}) == 4


def test_digits_of_any_script_are_digits():
    assert plain_digits("०१ ߂ ٣\u200f４⑤") == "01 2 345"
