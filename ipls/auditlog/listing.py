"""The log's listing: pages of S3's ListObjectsV2, and the order that its names must keep.

Tested by tests/auditlog/test_parsers.py.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple
from xml.parsers import expat

from ipls.auditlog.errors import AuditFault
from ipls.auditlog.names import object_name, split_name

MAX_PAGE = 2 * 1024 * 1024
"""Bytes of a page; S3's have at most 1,000 names."""
MAX_KEYS = 1000
_MAX_DEPTH = 8
_MAX_TEXT = 4096
_CONTENTS = ("ListBucketResult", "Contents")
_FIELDS = {
    ("ListBucketResult", "IsTruncated"),
    ("ListBucketResult", "NextContinuationToken"),
    (*_CONTENTS, "Key"),
    (*_CONTENTS, "Size"),
}


class LogObject(NamedTuple):
    """The object of the step `epoch` - 1 -> `epoch`, whose roots have 32 bytes; `size` in bytes, as listed."""

    epoch: int
    old_root: bytes
    new_root: bytes
    size: int

    @property
    def name(self) -> str:
        return object_name(self.epoch, self.old_root, self.new_root)


def parse_name(name: str, size: int) -> LogObject:
    """The object of that name. Raises AuditFault AUDIT_NAME_INVALID."""
    parts = split_name(name)
    if parts is None:
        raise AuditFault("AUDIT_NAME_INVALID", f"an object {name[:200]!r}, which is no epoch's name")
    epoch, old_root, new_root = parts
    return LogObject(int(epoch), bytes.fromhex(old_root), bytes.fromhex(new_root), size)


class Page(NamedTuple):
    """Names with sizes in bytes, in the page's order; `next_token` is None on the last page."""

    entries: tuple[tuple[str, int], ...]
    next_token: str | None


def parse_page(data: bytes) -> Page:
    """Reads a ListBucketResult. Raises AuditFault AUDIT_LISTING_INVALID for whatever else.

    No document type is accepted, so there are no entities; depth, texts and names are bounded.
    """
    if len(data) > MAX_PAGE:
        raise _invalid("a page is too large")
    parser, reader = expat.ParserCreate("utf-8", " "), _Reader()
    parser.StartDoctypeDeclHandler = reader.doctype
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    try:
        parser.Parse(data, True)
    except expat.ExpatError as e:
        raise _invalid("a page is not well-formed XML") from e
    return reader.page()


class _Reader:
    """Takes the fields of one page; a field that stands twice in its element is refused."""

    def __init__(self) -> None:
        self._path: tuple[str, ...] = ()
        self._page: dict[str, str] = {}
        self._entry: dict[str, str] = {}
        self._entries: list[tuple[str, int]] = []

    def doctype(self, *_: object) -> None:
        raise _invalid("a page has a document type")

    def start(self, tag: str, _: object) -> None:
        name = tag.rpartition(" ")[2]
        self._path = (*self._path, name)
        if len(self._path) > _MAX_DEPTH or self._path[0] != "ListBucketResult":
            raise _invalid("a page is not a ListBucketResult")
        if self._path == _CONTENTS:
            self._entry = {}
        elif self._path in _FIELDS:
            if name in self._fields():
                raise _invalid("a field stands twice")
            self._fields()[name] = ""

    def text(self, text: str) -> None:
        if self._path in _FIELDS:
            fields, name = self._fields(), self._path[-1]
            fields[name] += text
            if len(fields[name]) > _MAX_TEXT:
                raise _invalid("a field is too long")

    def end(self, _: str) -> None:
        if self._path == _CONTENTS:
            self._entries.append((self._entry.get("Key", ""), _size(self._entry.get("Size", ""))))
            if len(self._entries) > MAX_KEYS:
                raise _invalid(f"a page has more than {MAX_KEYS} names")
        self._path = self._path[:-1]

    def _fields(self) -> dict[str, str]:
        return self._entry if self._path[:2] == _CONTENTS else self._page

    def page(self) -> Page:
        truncated, token = self._page.get("IsTruncated"), self._page.get("NextContinuationToken")
        if truncated not in ("true", "false") or (truncated == "true" and not (token and self._entries)):
            raise _invalid("a page does not say whether and where the listing goes on")
        return Page(tuple(self._entries), token if truncated == "true" else None)


def _size(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,15}", text):
        raise _invalid("an object has no size")
    return int(text)


def _invalid(message: str) -> AuditFault:
    return AuditFault("AUDIT_LISTING_INVALID", message)


class Listing:
    """The pages of one listing, in order."""

    def __init__(self, last_allowed: int) -> None:
        """No epoch may be above `last_allowed`: a log that is made up as it is listed would have no end."""
        self._last_allowed = last_allowed
        self._last_name = ""
        self._last_epoch = 0

    def take(self, page: Page) -> Sequence[LogObject]:
        """The page's objects. Raises AuditFault: AUDIT_NAME_INVALID, AUDIT_LISTING_ORDER, AUDIT_TWO_OBJECTS,
        AUDIT_AHEAD.

        S3 lists in the order of the names' bytes, so two objects of an epoch are neighbours.
        """
        return [self._object(name, size) for name, size in page.entries]

    def _object(self, name: str, size: int) -> LogObject:
        found = parse_name(name, size)
        epoch = found.epoch
        if name <= self._last_name:
            raise AuditFault("AUDIT_LISTING_ORDER", "the log is not listed in the order of its names", epoch)
        if epoch == self._last_epoch:
            raise AuditFault("AUDIT_TWO_OBJECTS", "the log has two objects for it", epoch)
        if epoch > self._last_allowed:
            raise AuditFault("AUDIT_AHEAD", "the log has an object far above what any witness signed", epoch)
        self._last_name, self._last_epoch = name, epoch
        return found
