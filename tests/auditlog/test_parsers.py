"""Whatever a log or a witness sends, its parsers refuse it with their own error or read what is there."""

import json
import re
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipls.auditlog.cosignatures import parse_cosignature, parse_epoch
from ipls.auditlog.errors import AuditFault, CosignatureInvalid
from ipls.auditlog.listing import MAX_PAGE, Listing, LogObject, Page, parse_page
from tests.attack.log import answer, listing
from tests.trust.roots import NOW, WITNESSES, make_root

ROOT = make_root()
VOTE = answer(WITNESSES[0], 5, b"\x01" * 32)
PAGE = listing([("1/" + "ab" * 32 + "/" + "cd" * 32, 9), ("2/" + "cd" * 32 + "/" + "ef" * 32, 9)], 1)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=40).map(bytes.hex),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
)
QUIET = settings(deadline=None)


@QUIET
@given(st.binary(max_size=300))
def test_bytes(data: bytes) -> None:
    with suppress(AuditFault):
        parse_page(data)
    with suppress(CosignatureInvalid):
        parse_epoch(data)


@QUIET
@given(st.integers(0, len(PAGE) - 1), st.binary(max_size=12), st.integers(0, 12))
def test_a_changed_page(at: int, put: bytes, cut: int) -> None:
    with suppress(AuditFault):
        page = parse_page(PAGE[:at] + put + PAGE[at + cut :])
        assert len(page.entries) <= 2


@QUIET
@given(st.dictionaries(st.sampled_from(sorted(VOTE)), JSON, min_size=1))
def test_a_changed_vote_counts_for_nothing_else(changes: dict[str, Any]) -> None:
    with suppress(CosignatureInvalid):
        signed = parse_cosignature(ROOT, ROOT.witnesses[0], 5, json.dumps({**VOTE, **changes}).encode(), NOW)
        assert signed[:2] == (b"\x01" * 32, NOW)


@QUIET
@given(st.lists(st.integers(1, 10**19 - 1), unique=True, max_size=30), st.integers(1, 7))
def test_pages_of_good_names_are_read_whole(epochs: list[int], size: int) -> None:
    objects = [LogObject(epoch, bytes(32), b"\x01" * 32, 7) for epoch in epochs]
    names = sorted((found.name, found.size) for found in objects)
    reader, read = Listing(10**19), []
    for start in range(0, len(names), size):
        page = parse_page(listing(names[start:], size))
        assert page == Page(
            tuple(names[start : start + size]), names[start + size - 1][0] if start + size < len(names) else None
        )
        read += reader.take(page)
    assert sorted(read) == sorted(objects)


BAD_PAGES = {
    "too large": PAGE + b" " * MAX_PAGE,
    "not XML": PAGE[:-1],
    "a document type": PAGE.replace(b"?>", b"?><!DOCTYPE ListBucketResult>", 1),
    "another document": PAGE.replace(b"ListBucketResult", b"ListAllMyBuckets"),
    "too deep": PAGE.replace(b"<Key>", b"<a>" * 9 + b"</a>" * 9 + b"<Key>", 1),
    "a field twice": PAGE.replace(b"<Size>", b"<Size>9</Size><Size>", 1),
    "a field too long": PAGE.replace(b"<Key>", b"<Key>" + b"a" * 5000, 1),
    "no size": PAGE.replace(b"<Size>9", b"<Size>x", 1),
    "no end": PAGE.replace(b"<IsTruncated>true</IsTruncated>", b""),
    "no token": re.sub(b"<NextContinuationToken>.*</NextContinuationToken>", b"", PAGE),
    "too many names": PAGE.replace(b"</Contents>", b"</Contents>" + b"<Contents><Size>1</Size></Contents>" * 1000, 1),
}


@pytest.mark.parametrize("fault", BAD_PAGES)
def test_a_page_that_is_none(fault: str) -> None:
    assert parse_page(PAGE).entries
    with pytest.raises(AuditFault) as caught:
        parse_page(BAD_PAGES[fault])
    assert caught.value.reason == "AUDIT_LISTING_INVALID"


def test_what_else_a_page_says_is_passed_over() -> None:
    more = PAGE.replace(b"<IsTruncated>", b"<Name>log</Name><CommonPrefixes/><CommonPrefixes/><IsTruncated>")
    more = more.replace(b"<Key>", b"<Owner><ID>1</ID><ID>2</ID></Owner><Key>", 1)
    assert more != PAGE
    assert parse_page(more) == parse_page(PAGE)


@pytest.mark.parametrize(
    ("epochs", "reason"),
    [
        ([1, 10, 2, 20], ""),
        ([2, 1], "AUDIT_LISTING_ORDER"),
        ([1, 1], "AUDIT_LISTING_ORDER"),
        ([1, 21], "AUDIT_AHEAD"),
        ([0], "AUDIT_NAME_INVALID"),
    ],
)
def test_a_listing_goes_up_and_ends(epochs: list[int], reason: str) -> None:
    """In the order of the names; each of the names on a page of its own."""
    reader, objects = Listing(20), [LogObject(epoch, bytes(32), b"\x01" * 32, 7) for epoch in epochs]
    pages = [Page(((found.name, found.size),), "more") for found in objects]
    if not reason:
        assert [found for page in pages for found in reader.take(page)] == objects
        return
    for page in pages[:-1]:
        reader.take(page)
    with pytest.raises(AuditFault, check=lambda fault: fault.reason == reason):
        reader.take(pages[-1])


def test_an_epoch_has_one_object() -> None:
    names = sorted(LogObject(7, bytes(32), bytes([n]) * 32, 7).name for n in (1, 2))
    with pytest.raises(AuditFault, check=lambda fault: fault.reason == "AUDIT_TWO_OBJECTS"):
        Listing(20).take(Page(tuple((name, 7) for name in names), None))
