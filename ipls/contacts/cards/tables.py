"""Address books as tables: the CSV that Google, Outlook and Thunderbird write, known by its headings; both ways.

What people do to keep a spreadsheet off their numbers is undone, and several values in one cell are parted as Google
writes them. A column that no property is for goes into the note.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from ipls.contacts.cards.editing import write_property
from ipls.contacts.cards.headings import TELL_LITTLE, in_english
from ipls.contacts.cards.lines import Card, Skipped, card_lines, utf8
from ipls.contacts.cards.reading import is_group, one_line, read_card, telephone
from ipls.contacts.cards.values import components, parameters, plain_text, unescape, value_text

NO_CONTACT = "a row without a name, number or address"


def read_table(data: bytes) -> Iterator[Card | Skipped]:
    """A card (3.0) for each row, with the row's line; nothing of a table without an address book's headings."""
    lines = plain_text(utf8(data)).removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    # A spreadsheet's first line may only name the delimiter.
    above = next((at for at, line in enumerate(lines) if line.strip() and line[:4].lower() != "sep="), 0)
    delimiter = max(",;\t", key=lines[above].count)
    rows = csv.reader((line + "\n" for line in lines[above:]), delimiter=delimiter)
    try:
        columns = _columns(next(rows, []))
        if not any(column.name in _SIGNS and _folded(column.heading) not in TELL_LITTLE for column in columns):
            return
        line = above + rows.line_num + 1
        for row in rows:
            cells = [_plain(cell) for cell in row]
            if card := _card(columns, cells):
                yield Card(line, card)
            elif any(cells):
                yield Skipped(line, NO_CONTACT)
            line = above + rows.line_num + 1
    except csv.Error:
        yield Skipped(above + rows.line_num, "no table from here on")


def write_table(cards: Iterable[bytes], layout: str) -> bytes:
    """A table as `google` or `outlook` read it: names, numbers, addresses, organisation, birthday, note, groups. It
    has no place for pictures and what else a card has; lists of others are no rows of it.
    """
    people = [_Person(card) for card in cards if not is_group(card)]
    if layout == "google":
        headings = ["First Name", "Middle Name", "Last Name", "Name Prefix", "Name Suffix"]
    else:
        headings = ["First Name", "Middle Name", "Last Name", "Title", "Suffix"]
    rows = [list(person.name) for person in people]
    for name, google, outlook in _ONE_CELL:
        headings.append(google if layout == "google" else outlook)
        for row, person in zip(rows, people, strict=True):
            row.append(person.text(name))
    for name, google in (("EMAIL", "E-mail"), ("TEL", "Phone")):
        found = [person.values(name) for person in people]
        if layout == "google":
            count = max(map(len, found), default=0)
            headings += [f"{google} {n + 1} - {part}" for n in range(count) for part in ("Label", "Value")]
            for row, values in zip(rows, found, strict=True):
                row += [cell for value in values for cell in value] + [""] * 2 * (count - len(values))
        else:
            columns = _OUTLOOK[name]
            headings += columns
            for row, values in zip(rows, found, strict=True):
                row += _placed(columns, values)
    lines = _Lines()
    csv.writer(lines).writerows([headings, *([_guarded(cell) for cell in row] for row in rows)])
    return b"\xef\xbb\xbf" + "".join(lines).encode()


class _Column(NamedTuple):
    """What a heading means: a property or a part of one, its type, and which of several it belongs to."""

    heading: str
    name: str
    type: str = ""
    number: str = ""


_NAMES = {
    "name": "FN",
    "display name": "FN",
    "full name": "FN",
    "given name": "GIVEN",
    "first name": "GIVEN",
    "additional name": "MIDDLE",
    "middle name": "MIDDLE",
    "family name": "FAMILY",
    "last name": "FAMILY",
    "surname": "FAMILY",
    "name prefix": "PREFIX",
    "title": "PREFIX",
    "name suffix": "SUFFIX",
    "suffix": "SUFFIX",
    "nickname": "NICKNAME",
    "birthday": "BDAY",
    "notes": "NOTE",
    "company": "ORG",
    "organization": "ORG",
    "organization name": "ORG",
    "organization 1 - name": "ORG",
    "department": "UNIT",
    "organization department": "UNIT",
    "organization 1 - department": "UNIT",
    "job title": "TITLE",
    "organization title": "TITLE",
    "organization 1 - title": "TITLE",
    "group membership": "CATEGORIES",
    "labels": "CATEGORIES",
    "categories": "CATEGORIES",
    "web page": "URL",
}
_SIGNS = ("GIVEN", "FAMILY", "EMAIL", "TEL")
"""Of an address book: no other table has all of its columns without one of these."""
_SAYS_NOTHING = re.compile(
    r"e-?mail( \d)? (type|display name)( \d)?|file as|initials|priority|private|sensitivity|gender|language|photo"
    r"|organization \d - (type|symbol|yomi name|location)|phonetic .*|.* yomi.*"
)
_NUMBERED = re.compile(r"(e-?mail|phone|website|address) (\d+) - (.*)")
_EMAIL = re.compile(r"(?:(primary|secondary|home|work) )?e-?mail(?: \d)?(?: address)?")
_PHONE = re.compile(r"(?:(.*) )?(?:(phone|telephone|tel|mobile|cell|fax|pager)|number)(?: (?:phone|number))?(?: \d)?")
_ADDRESS = re.compile(
    r"(home|work|business|other) (street|address|city|state|postal code|zipcode|country|country/region)(?: [23])?"
)
_ADR = {"street": 2, "address": 2, "city": 3, "state": 4, "region": 4, "postal code": 5, "zipcode": 5, "country": 6}
_ADR |= {"country/region": 6, "po box": 0, "extended address": 1}
_TYPES = {"mobile": "CELL", "cell": "CELL", "home": "HOME", "work": "WORK", "business": "WORK", "fax": "FAX"}
_TYPES |= {"pager": "PAGER", "car": "CAR", "primary": "PREF", "main": "PREF"}


def _columns(headings: Sequence[str]) -> list[_Column]:
    columns = [_Column(heading.strip(), *_meaning(in_english(_folded(heading)))) for heading in headings]
    # Outlook calls both the form of address and the job "Titre".
    first, *more = [at for at, column in enumerate(columns) if _folded(column.heading) == "titre"] or [0]
    if more:
        columns[first] = columns[first]._replace(name="PREFIX")
    return columns


def _folded(heading: str) -> str:
    return " ".join(heading.casefold().replace("_", " ").split())


def _meaning(plain: str) -> tuple[str, str, str]:
    """Name, type, number of a column."""
    if name := _NAMES.get(plain):
        return name, "", ""
    if _SAYS_NOTHING.fullmatch(plain):
        return "", "", ""
    if found := _NUMBERED.fullmatch(plain):
        name = {"phone": "TEL", "website": "URL", "address": "ADR"}.get(found[1], "EMAIL")
        if found[3] in ("type", "label"):
            return "TYPE OF", name, found[2]
        if name == "ADR" and found[3] != "value":
            return "ADR", found[3], found[2]
        return name, "", found[2]
    if found := _ADDRESS.fullmatch(plain):
        return "ADR", found[2], found[1]
    if found := _EMAIL.fullmatch(plain):
        return "EMAIL", _types(found[1] or ""), ""
    if found := _PHONE.fullmatch(plain):
        return "TEL", _types(f"{found[1] or ''} {found[2] or ''}"), ""
    return "OTHER", "", ""


def _types(text: str) -> str:
    """What a person reads as a kind of number, as a card has it."""
    found = dict.fromkeys(_TYPES.get(word, "") for word in text.casefold().replace("*", " ").split())
    return ",".join(filter(None, found))


def _plain(cell: str) -> str:
    """What stands in a cell, without what keeps a spreadsheet from reading it as a number."""
    cell = cell.strip()
    if cell[:2] == '="' and cell[-1:] == '"' and len(cell) > 2:
        cell = cell[2:-1]
    return cell.removeprefix("'").strip()


def _card(columns: Sequence[_Column], cells: Sequence[str]) -> bytes | None:
    one: dict[str, str] = {}
    notes: list[str] = []
    many: list[tuple[str, str, str]] = []  # property, types, value
    labels: dict[tuple[str, str], str] = {}
    addresses: dict[str, list[str]] = {}
    beyond = [_Column("", "OTHER")] * (len(cells) - len(columns))
    for column, cell in zip((*columns, *beyond), cells, strict=False):
        if not cell or not column.name:
            continue
        if column.name == "TYPE OF":
            labels[column.type, column.number] = _types(cell)
        elif column.name == "ADR":
            parts = addresses.setdefault(column.number, [""] * 7)
            at = _ADR.get(column.type)
            if at is not None:
                parts[at] = ", ".join(filter(None, (parts[at], cell)))
        elif column.name in ("TEL", "EMAIL", "URL"):
            label = labels.get((column.name, column.number), "") if column.number else column.type
            many += [(column.name, label, value) for value in cell.split(" ::: ") if value]
        elif column.name == "NOTE":
            notes.append(cell)
        elif column.name == "BDAY" and not re.search("[1-9]", cell):
            continue  # Outlook's 0/0/00
        elif column.name == "OTHER" or one.setdefault(column.name, cell) != cell:  # of the rest a card has one each
            notes.append(f"{column.heading}: {cell}" if column.heading else cell)
    n = [one.get(part, "") for part in ("FAMILY", "GIVEN", "MIDDLE", "PREFIX", "SUFFIX")]
    whole = " ".join(filter(None, (n[3], n[1], n[2], n[0], n[4])))
    name = one.get("FN") or whole or one.get("ORG") or one.get("NICKNAME") or next((value for _, _, value in many), "")
    if not name:
        return None
    org = [one.get("ORG", ""), *filter(None, [one.get("UNIT")])]
    lines = [_line("FN", name), _line("N", *(n if any(n) or "FN" not in one else ["", name, "", "", ""]))]
    lines += [_line("ORG", *org)] if any(org) else []
    lines += [_line(part, one[part]) for part in ("NICKNAME", "TITLE", "BDAY") if part in one]
    lines += [_line(part, value, types=types) for part, types, value in many]
    lines += [_line("ADR", *parts, types=_types(number)) for number, parts in addresses.items() if any(parts)]
    lines += [_line("NOTE", "\n".join(notes))] if notes else []
    if groups := [group.removeprefix("* ") for group in one.get("CATEGORIES", "").replace(";", " ::: ").split(" ::: ")]:
        lines += [_categories(groups)] if any(groups) else []
    return b"\r\n".join([b"BEGIN:VCARD", b"VERSION:3.0", *lines, b"END:VCARD"])


def _line(name: str, *parts: str, types: str = "") -> bytes:
    header = f";TYPE={types}".encode() if types else b""
    return write_property(name, parts, header, old=False)


def _categories(groups: Sequence[str]) -> bytes:
    return b",".join([b"CATEGORIES:" + groups[0].encode(), *(group.encode() for group in groups[1:])])


_ONE_CELL = (
    ("NICKNAME", "Nickname", "Nickname"),
    ("ORG", "Organization Name", "Company"),
    ("TITLE", "Organization Title", "Job Title"),
    ("BDAY", "Birthday", "Birthday"),
    ("NOTE", "Notes", "Notes"),
    ("CATEGORIES", "Labels", "Categories"),
)
_OUTLOOK = {
    "EMAIL": ["E-mail Address", "E-mail 2 Address", "E-mail 3 Address"],
    "TEL": [
        *("Mobile Phone", "Home Phone", "Business Phone", "Business Fax", "Pager", "Other Phone", "Mobile Phone 2"),
        *("Home Phone 2", "Business Phone 2", "Other Phone 2"),
    ],
}
_LABELS = {"FAX": "Fax", "PAGER": "Pager", "CELL": "Mobile", "HOME": "Home", "WORK": "Work"}
_KINDS = {"Mobile": "Mobile", "Home": "Home", "Work": "Business Phone", "Fax": "Business Fax", "Pager": "Pager"}


class _Person:
    """What a table has of a card; `name`: given, additional, family, prefix, suffix."""

    def __init__(self, card: bytes) -> None:
        self._lines = card_lines(card)
        parts = [" ".join(filter(None, part)) for part in components(next(self._texts("N"), ""))]
        family, given, *rest = (parts + [""] * 5)[:5]
        self.name = (given, rest[0], family, rest[1], rest[2])
        if not any(self.name):
            self.name = (read_card(card).name, "", "", "", "")

    def text(self, name: str) -> str:
        found = next(self._texts(name), "")
        if name == "ORG":
            return ", ".join(filter(None, map(", ".join, components(found, ";"))))
        if name == "CATEGORIES":
            return " ::: ".join(filter(None, components(found)[0]))
        return unescape(found)

    def values(self, name: str) -> list[tuple[str, str]]:
        """Label and value of each line of this name."""
        found = []
        for line in self._lines:
            if line.name == name:
                types = {part for _, value in parameters(line) for part in value.upper().split(",")}
                with suppress(ValueError):  # base64 that is none
                    value = one_line(telephone(value_text(line)))
                    if value:
                        found.append((next((label for kind, label in _LABELS.items() if kind in types), ""), value))
        return found

    def _texts(self, name: str) -> Iterator[str]:
        for line in self._lines:
            if line.name == name:
                with suppress(ValueError):
                    yield value_text(line)


def _placed(columns: Sequence[str], values: Sequence[tuple[str, str]]) -> list[str]:
    """Each value in a column of its kind, or else in any; what is left over goes into the last one's cell."""
    cells = dict.fromkeys(columns, "")
    for label, value in values:
        fitting = [column for column in columns if not cells[column] and column.startswith(_KINDS.get(label, "Other"))]
        free = fitting or [column for column in columns if not cells[column]]
        cells[free[0] if free else columns[-1]] += value if free else f" ::: {value}"
    return list(cells.values())


def _guarded(cell: str) -> str:
    """Nothing that a spreadsheet would run; a number's + stays, for address books read it."""
    return f"'{cell}" if cell[:1] in ("=", "@", "-", "\t", "'") else cell


class _Lines(list[str]):
    """What csv writes to."""

    def write(self, text: str) -> int:
        self.append(text)
        return len(text)
