"""Phone numbers, for comparing only: the text of a card stays as it was written."""

import unicodedata
from contextlib import suppress

import phonenumbers

_LONGEST = 250  # letters; libphonenumber reads no longer ones either


def country_of(label: str) -> str | None:
    """The region (two letters, as GB) that an account's number belongs to, by which national numbers are read."""
    number = parse_number(label, None)
    if number is None or number.country_code is None:
        return None
    # Where the number itself is nobody's, the first of the regions that share its code.
    return phonenumbers.region_code_for_number(number) or phonenumbers.region_code_for_country_code(number.country_code)


def parse_number(text: str, country: str | None) -> phonenumbers.PhoneNumber | None:
    """The number that a text stands for, if it can be one. `country`: see `country_of`; 00 begins an international
    number wherever it can."""
    plain = plain_digits(text)
    for spelling in (plain, "+" + plain[2:]) if plain[:2] == "00" else (plain,):
        with suppress(phonenumbers.NumberParseException):
            number = phonenumbers.parse(spelling, country)
            if phonenumbers.is_possible_number(number):
                return number
    return None


def comparable_number(text: str, country: str | None) -> str:
    """The same for every spelling of a number: E.164 and its extension, or else its letters and digits."""
    if number := parse_number(text, country):
        extension = f";ext={number.extension}" if number.extension else ""
        return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164) + extension
    return "".join(c for c in plain_digits(text).casefold() if c.isalnum() or c in "+*#,;")


def plain_digits(text: str) -> str:
    """Digits of any script as 0 to 9, blanks of all kinds as one, and no marks that show nothing."""
    text = unicodedata.normalize("NFKC", text[:_LONGEST])
    shown = (c for c in text if unicodedata.category(c) != "Cf")
    return " ".join("".join(str(int(c)) if c.isdecimal() else c for c in shown).split())
