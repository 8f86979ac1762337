"""Finding contacts as a person types: any part of a name, number or address, in any script, order and spelling.

A card's texts are folded to a key (case, accents, width, marks that show nothing); what differs in it may still be
equal in ASCII (`second_key`). A number is known by its digits as written, in E.164 and in national form.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain, islice
from typing import Generic, TypeVar

import phonenumbers
from anyascii import anyascii

from ipls.contacts.cards.numbers import parse_number, plain_digits
from ipls.contacts.cards.reading import Contact

Id = TypeVar("Id")


class SearchIndex(Generic[Id]):
    """All contacts of a book, ready to be searched: a search of 100,000 takes milliseconds, making this seconds."""

    def __init__(self, contacts: Iterable[tuple[Id, Contact]], country: str | None) -> None:
        """`country`: see `numbers.country_of`."""
        self._country = country
        # By name, so that what is found in this order is sorted already; contacts of one name as they came.
        found = sorted(contacts, key=lambda each: search_key(each[1].name))
        self._ids = [id for id, _ in found]
        self._contacts = [contact for _, contact in found]
        self._texts = [_texts(contact) for contact in self._contacts]
        self._starts = [_WORD_START.sub(_START, text) for text in self._texts]
        seconds = map(_second_texts, self._contacts)
        self._keys = [text + second if second else text for text, second in zip(self._texts, seconds, strict=True)]
        self._numbers = [self._number_row(contact) for contact in self._contacts]
        self._named: dict[str, list[int]] = {}
        for at, contact in enumerate(self._contacts):
            self._named.setdefault(search_key(contact.name), []).append(at)

    def find(self, query: str, limit: int | None = None) -> list[Id]:
        """Whom the query finds, best first: a name or number equal to it as typed, then folded; each of its words
        beginning one; inside one; equal in ASCII only. Then by name. An empty query finds everybody. `limit`: how many
        are wanted at most.
        """
        plain = plain_digits(query)
        ranks = self._by_number(plain) if _NUMBER.fullmatch(plain) else self._by_text(query)
        return [self._ids[at] for at in islice(_once(chain.from_iterable(ranks)), limit)]

    def _by_number(self, plain: str) -> list[Iterable[int]]:
        forms, rows = number_forms(plain, self._country), self._numbers
        # What holds a form holds each form that is a part of that.
        inside: Iterable[int] = ()
        for form in forms:
            if not any(other in form for other in forms if other != form):
                inside = chain(inside, [at for at, row in enumerate(rows) if form in row])
        found = sorted(set(inside))
        beginnings = (at for at in found if any(_FIELD + form in rows[at] for form in forms))
        equal = (at for at in found if any(_FIELD + form + _FIELD in rows[at] for form in forms))
        return [equal if len(plain) >= _WHOLE else (), beginnings, found]

    def _by_text(self, query: str) -> list[Iterable[int]]:
        words, others = search_key(query).split(), second_key(query).split()
        found = self._holding(words)
        equal = self._named.get(" ".join(words), [])
        typed = unicodedata.normalize("NFC", query).strip()
        as_typed = (at for at in equal if self._contacts[at].name == typed)
        beginnings = (at for at in found if all(self._begins(word, at) for word in words))
        inside = (at for at in found if all(self._is_inside(word, at) for word in words))
        in_ascii = self._holding(others) if others and others != words else []
        return [as_typed, equal, beginnings, inside, sorted({*found, *in_ascii}) if in_ascii else found]

    def _holding(self, words: Sequence[str]) -> list[int]:
        """Where each word stands, be it in the second key."""
        keys, numbers = self._keys, self._numbers
        found: Iterable[int] = range(len(keys))
        for word in sorted(words, key=len, reverse=True):
            if digits := _part_of_number(word):
                found = [at for at in found if word in keys[at] or digits in numbers[at]]
            else:
                found = [at for at in found if word in keys[at]]
        return list(found)

    def _begins(self, word: str, at: int) -> bool:
        return _START + word in self._starts[at] or _FIELD + word in self._texts[at]

    def _is_inside(self, word: str, at: int) -> bool:
        return word in self._texts[at] or bool((digits := _part_of_number(word)) and digits in self._numbers[at])

    def _number_row(self, contact: Contact) -> str:
        forms = (form for number in contact.numbers for form in number_forms(number, self._country))
        return _FIELD + _FIELD.join(forms) + _FIELD


def _once(found: Iterable[int]) -> Iterator[int]:
    seen: set[int] = set()
    for at in found:
        if at not in seen:
            seen.add(at)
            yield at


def _texts(contact: Contact) -> str:
    """All texts, and numbers with letters, each between two marks; those with separators in them also without."""
    spelled = [number for number in contact.numbers if any(map(str.isalpha, number))]
    texts = [search_key(text) for text in (contact.name, *contact.others, *spelled, *contact.emails)]
    named = texts[: len(texts) - len(contact.emails)]
    joined = [_SEPARATORS.sub("", text) for text in named if _SEPARATORS.search(text)]
    return _FIELD + _FIELD.join(texts + joined) + _FIELD


def _second_texts(contact: Contact) -> str:
    texts = [text for text in (contact.name, *contact.others) if not text.isascii()]
    return _FIELD.join(second_key(text) for text in texts)


def search_key(text: str) -> str:
    """Text as it is compared. Accents go from letters of scripts where they are accents; a vowel sign is a letter."""
    if text.isascii():
        return " ".join(text.casefold().replace("'", "").split())
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    kept: list[str] = []
    accented = False
    for letter in text:
        category = unicodedata.category(letter)
        if category == "Mn" and accented:
            continue
        if category == "Cf" or letter in "'’":
            continue
        if category != "Mn":
            accented = _takes_accents(letter)
        kept.append(_LETTERS.get(letter, letter))
    return " ".join(unicodedata.normalize("NFC", "".join(kept)).split())


def second_key(text: str) -> str:
    """Text in ASCII, an umlaut as two letters."""
    return search_key(anyascii(unicodedata.normalize("NFC", text).casefold().translate(_UMLAUTS)))


def number_forms(text: str, country: str | None) -> list[str]:
    """The digits by which a number is found, and finds: as written, without a (0), in E.164, in national form with
    and without what stands before it there."""
    plain = plain_digits(text)
    if plain[:4].casefold() == "tel:":
        plain = plain[4:]
    written = _digits(plain)
    forms = [written, _digits(plain.replace("(0)", ""))]
    if len(written) >= _WHOLE:
        forms.append(written.removeprefix("+"))
        number = parse_number(plain, country) or parse_number("+" + written, None)
        if number is not None and number.country_code is not None:
            national = phonenumbers.national_significant_number(number)
            forms += [f"+{number.country_code}{national}", _trunk_prefix(number.country_code) + national, national]
    elif written[:2] == "00":
        forms.append("+" + written[2:])
    return [form for form in dict.fromkeys(forms) if form]


_FIELD, _START = "\x1f", "\x02"
_PART = 3  # of these a word among others is taken for a part of a number
_WHOLE = 7  # digits from which a query may be a whole number
_WORD_START = re.compile(r"(?<!\w)(?=\w)")
_SEPARATORS = re.compile(r"[-._/·・]")
_NUMBER = re.compile(r"(?:tel:)?(?=.*\d)[-+*#,;.()/\[\]\d\s\u2010-\u2015pwx]+(?:ext[.=]?\s*\d+)?", re.IGNORECASE)
_LETTERS = {
    **{"æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i", "ħ": "h", "ŋ": "n"},
    **{"ŧ": "t", "ĸ": "k", "ə": "e"},
}
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue"})
_ACCENTED = ("LATIN ", "GREEK ", "CYRILLIC ", "HEBREW ", "ARABIC ")


@lru_cache(4096)
def _takes_accents(letter: str) -> bool:
    return unicodedata.name(letter, "").startswith(_ACCENTED)


@lru_cache(300)
def _trunk_prefix(country_code: int) -> str:
    """What stands before a national number, as 0 in many countries."""
    region = phonenumbers.region_code_for_country_code(country_code)
    return phonenumbers.ndd_prefix_for_region(region, True) or ""


def _part_of_number(word: str) -> str:
    """The digits of a word in a query of several that may be a part of a number; else nothing."""
    digits = _digits(word) if _NUMBER.fullmatch(word) else ""
    return digits if len(digits) >= _PART else ""


def _digits(text: str) -> str:
    return "".join(letter for letter in text.casefold() if letter in "0123456789+*#,;pw")
