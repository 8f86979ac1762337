"""Finding contacts as a person types: any part of a name, number or address, in any script, order and spelling.

A card's texts are folded to a key (case, accents, width, marks that show nothing); what differs in it may still be
equal in ASCII (`second_key`). A number is known by its digits as written, in E.164 and in national form.
"""

import re
import unicodedata
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from heapq import merge
from itertools import chain, islice
from typing import Any, Generic, TypeVar

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
        ids, names, texts, in_ascii, spelled = list[Id](), _Rows(), _Rows(), _Rows(), _Rows()
        for id, contact in contacts:
            ids.append(id)
            names.add(contact.name)
            texts.add(_marked(_texts(contact)))
            in_ascii.add(_second_texts(contact))
            spelled.add(_FIELD.join(contact.numbers))
        # By name, so that what is found in this order is sorted already; contacts of one name as they came.
        order = sorted(range(len(ids)), key=lambda at: search_key(names[at]))
        self._ids = [ids[at] for at in order]
        self._names, self._texts = names.sorted(order), texts.sorted(order)
        self._in_ascii, self._spelled = in_ascii.sorted(order), spelled.sorted(order)

    @cached_property
    def _numbers(self) -> "_Rows":
        """Of each its numbers' forms. They take most of the time, and who looks for a name needs none."""
        rows = _Rows()
        for spelled in self._spelled:
            forms = (form for number in spelled.split(_FIELD) for form in number_forms(number, self._country))
            rows.add(_FIELD + _FIELD.join(forms))
        return rows

    def find(self, query: str, limit: int | None = None) -> list[Id]:
        """Whom the query finds, best first: a name or number equal to it as typed, then folded; each of its words
        beginning one; inside one; equal in ASCII only. Then by name. An empty query finds everybody. `limit`: how many
        are wanted at most.
        """
        plain = plain_digits(query)
        ranks = self._by_number(plain) if _NUMBER.fullmatch(plain) else self._by_text(query)
        return [self._ids[at] for at in islice(_once(chain.from_iterable(ranks)), limit)]

    def _by_number(self, plain: str) -> Iterator[Iterable[int]]:
        forms = number_forms(plain, self._country)
        if len(plain) >= _WHOLE:
            yield self._with_any(_FIELD + form + _FIELD for form in forms)
        yield self._with_any(_FIELD + form for form in forms)
        # What holds a form holds each form that is a part of that.
        yield self._with_any(form for form in forms if not any(other in form for other in forms if other != form))

    def _with_any(self, digits: Iterable[str]) -> Iterable[int]:
        return _merged(self._numbers.holding(_bytes(each)) for each in digits)

    def _by_text(self, query: str) -> Iterator[Iterable[int]]:
        key, second = search_key(query), second_key(query)
        at = bisect_left(self._names, key, key=search_key)
        equal = range(at, bisect_right(self._names, key, at, key=search_key))
        typed = unicodedata.normalize("NFC", query).strip()
        yield (at for at in equal if self._names[at] == typed)
        yield equal
        words = [_marked(word) for word in key.split()]
        yield self._having([[(self._texts, _bytes(w if w[0] == _START else _FIELD + w))] for w in words])
        yield self._having([self._places(word) for word in words])
        found = [self._having([self._places_in_ascii(word) for word in words])]
        if second and second != key:
            found.append(self._having([self._places_in_ascii(_marked(word)) for word in second.split()]))
        yield _merged(found)

    def _places(self, word: str) -> list["_Place"]:
        """Where a marked word may stand: inside a text, and, as a part of a number, in the numbers."""
        digits = _part_of_number(word.replace(_START, ""))
        places = [(self._texts, _bytes(word.removeprefix(_START)))]
        return [*places, (self._numbers, _bytes(digits))] if digits else places

    def _places_in_ascii(self, word: str) -> list["_Place"]:
        return [*self._places(word), (self._in_ascii, _bytes(word.replace(_START, "")))]

    def _having(self, words: Sequence[Sequence["_Place"]]) -> Iterable[int]:
        """Who has each word in one of its places, in order."""
        if not words:
            return range(len(self._ids))
        longest, *others = sorted(words, key=lambda places: -len(places[0][1]))
        found = _merged(rows.holding(part) for rows, part in longest)
        return (at for at in found if _has_each(at, others))


class _Rows(Sequence[str]):
    """Texts, one behind the other in one piece of memory, which is searched at once."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._bounds = array("Q", [0])

    def add(self, text: str) -> None:
        """Behind the others."""
        self._data += _bytes(text + _FIELD)
        self._bounds.append(len(self._data))

    def sorted(self, order: Sequence[int]) -> "_Rows":
        """All of them in this order."""
        rows = _Rows()
        for at in order:
            rows.add(self[at])
        return rows

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __getitem__(self, at: Any) -> Any:
        return self._data[self._bounds[at] : self._bounds[at + 1] - 1].decode("utf-8", "surrogatepass")

    def holding(self, part: bytes) -> Iterator[int]:
        """Those that hold it, in order, sought as they are asked for."""
        data, bounds = self._data, self._bounds
        at, hit = 0, data.find(part)
        while hit >= 0:
            while (end := bounds[at + 1]) <= hit:
                at += 1
            yield at
            hit = data.find(part, end)

    def holds(self, at: int, part: bytes) -> bool:
        """Whether this one does."""
        return self._data.find(part, self._bounds[at], self._bounds[at + 1]) >= 0


_Place = tuple[_Rows, bytes]


def _has_each(at: int, words: Sequence[Sequence[_Place]]) -> bool:
    for places in words:
        for rows, part in places:
            if rows.holds(at, part):
                break
        else:
            return False
    return True


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _merged(found: Iterable[Iterable[int]]) -> Iterable[int]:
    """All of them, in order."""
    each, *others = found or [()]
    return merge(each, *others) if others else each


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
    return _FIELD + _FIELD.join(texts + joined)


def _marked(text: str) -> str:
    """With a mark where a word begins."""
    return _WORD_START.sub(_START, text)


def _second_texts(contact: Contact) -> str:
    texts = [text for text in (contact.name, *contact.others) if not text.isascii()]
    return _FIELD.join(second_key(text) for text in texts)


def search_key(text: str) -> str:
    """Text as it is compared. Accents go from letters of scripts where they are accents; a vowel sign is a letter."""
    if text.isascii():
        return " ".join(text.casefold().replace("'", "").replace(_START, "").split())
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    kept: list[str] = []
    accented = False
    for letter in text:
        category = unicodedata.category(letter)
        if category == "Mn" and accented:
            continue
        if category == "Cf" or letter in _PASSED_OVER:
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
_PASSED_OVER = f"'’{_START}"
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
