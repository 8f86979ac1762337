import asyncio
import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ipls.server.log.service import PIECE, log_app
from ipls.store.errors import StoreError
from ipls.store.log import FileLog, LogStore, ObjectInfo, object_name
from tests.environment import DIES_WITH_US

OLD, NEW = b"\x01" * 32, b"\x02" * 32
EMPTY, LARGE = 3, 9
LARGE_BLOB = bytes(range(251)) * (3 * PIECE // 251)
CONDITIONS = ["Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"]
S3 = {"s3": "http://s3.amazonaws.com/doc/2006-03-01/"}


def name(epoch: int) -> str:
    return object_name(epoch, OLD, NEW)


def blob(epoch: int) -> bytes:
    return b"blob %d" % epoch


@pytest.fixture(scope="module", params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LogStore:
    folder = tmp_path_factory.mktemp("log")
    store = FileLog(folder / "log") if request.param == "folder" else request.getfixturevalue("s3").log()
    for epoch in (1, 2, 10):
        store.put(name(epoch), blob(epoch))
    store.put(name(LARGE), LARGE_BLOB)
    store.put(name(EMPTY), b"")
    (folder / "secret").write_text("not for anyone")
    return store


@pytest.fixture
async def http(store: LogStore) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(log_app(store))
    async with httpx.AsyncClient(transport=transport, base_url="http://log") as client:
        yield client


async def test_objects_are_at_the_root(http: httpx.AsyncClient) -> None:
    got = await http.get(f"/{name(10)}")
    assert (got.status_code, got.content) == (200, b"blob 10")
    head = await http.head(f"/{name(10)}")
    assert (head.status_code, head.content) == (200, b"")
    assert {**got.headers} == {**head.headers}
    assert (head.headers["content-length"], head.headers["accept-ranges"]) == ("7", "bytes")
    assert (await http.get(f"/{name(EMPTY)}")).content == b""


async def test_an_object_larger_than_a_piece_comes_whole(http: httpx.AsyncClient) -> None:
    got = await http.get(f"/{name(LARGE)}")
    assert got.content == LARGE_BLOB
    first = 100
    got = await http.get(f"/{name(LARGE)}", headers={"Range": f"bytes={first}-"})
    assert (got.status_code, got.content) == (206, LARGE_BLOB[first:])


async def test_it_is_read_a_piece_at_a_time(store: LogStore) -> None:
    """Whoever takes no more holds no more than a piece, however large the object is."""
    read: list[int] = []

    class Watched(LogStore):
        stat, get, list, put = store.stat, store.get, store.list, store.put

        def read(self, name: str, offset: int, length: int) -> bytes | None:
            read.append(offset)
            return store.read(name, offset, length)

    sent: list[dict[str, Any]] = []
    taken = asyncio.Event()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)
        if message["type"] == "http.response.body":
            taken.set()
            await asyncio.Event().wait()

    async def receive() -> dict[str, Any]:
        return await asyncio.Event().wait()

    scope = {"type": "http", "method": "GET", "path": f"/{name(LARGE)}", "headers": [], "query_string": b""}
    reader = asyncio.create_task(log_app(Watched())({**scope, "asgi": {"spec_version": "2.3"}}, receive, send))
    await asyncio.wait_for(taken.wait(), 60)
    assert (read, len(sent[-1]["body"])) == ([0], PIECE)
    reader.cancel()


RANGES = [
    ("bytes=0-0", (0, 1)),
    ("bytes=1-3", (1, 4)),
    ("bytes=5-", (5, 7)),
    ("bytes=0-6", None),  # all of it, and no more
    ("bytes=3-999", (3, 7)),
    ("bytes=-2", (5, 7)),
    ("bytes=-999", None),
]
NO_RANGES = [
    *("", "bytes=", "bytes=-", "bytes=a-b", "bytes=1-x", "bytes= 1-2", "bytes=1 -2", "bytes=3-1", "items=0-1", "0-1"),
    *("bytes=0-1,3-4", "bytes=0-0,-1", "bytes=--1", "bytes=+1-2", "bytes=0x1-2", "bytes=1_0-", "bytes=1.5-"),
    *("bytes=" + "9" * 500 + "-", "bytes=" + "0-1," * 2000, "bytes=\xb2-\xb3"),
]


@pytest.mark.parametrize(("asked", "part"), RANGES)
async def test_a_range(http: httpx.AsyncClient, asked: str, part: tuple[int, int] | None) -> None:
    got = await http.get(f"/{name(10)}", headers={"Range": asked})
    start, stop = part or (0, 7)
    assert (got.status_code, got.content) == (206 if part else 200, blob(10)[start:stop])
    assert got.headers.get("content-range") == (f"bytes {start}-{stop - 1}/7" if part else None)
    assert got.headers["content-length"] == str(stop - start)


@pytest.mark.parametrize("asked", ["bytes=7-", "bytes=7-8", "bytes=999999999999999999-", "bytes=-0"])
async def test_a_range_that_is_not_there(http: httpx.AsyncClient, asked: str) -> None:
    got = await http.get(f"/{name(10)}", headers={"Range": asked})
    assert (got.status_code, got.content, got.headers["content-range"]) == (416, b"", "bytes */7")
    assert (await http.get(f"/{name(EMPTY)}", headers={"Range": "bytes=0-"})).status_code == 416


@pytest.mark.parametrize("asked", NO_RANGES)
async def test_what_is_not_one_range_gets_all(http: httpx.AsyncClient, asked: str) -> None:
    got = await http.get(f"/{name(10)}", headers={"Range": asked.encode("latin-1")})
    assert (got.status_code, got.content) == (200, b"blob 10")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.text(st.characters(max_codepoint=255), max_size=40), st.sampled_from(CONDITIONS))
async def test_no_header_breaks_it(http: httpx.AsyncClient, text: str, header: str) -> None:
    got = await http.get(f"/{name(10)}", headers={header: text.encode("latin-1")})
    assert got.status_code in (200, 206, 304, 412, 416)
    assert got.status_code in (304, 412, 416) or got.content in blob(10)


async def test_a_tag_names_the_bytes(http: httpx.AsyncClient) -> None:
    tags = {(await http.head(f"/{name(epoch)}")).headers["etag"] for epoch in (1, 2, 10)}
    assert len(tags) == 3
    assert all(re.fullmatch('"[0-9a-f]{32,64}"', tag) for tag in tags)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_conditions(http: httpx.AsyncClient, method: str) -> None:
    known = (await http.head(f"/{name(10)}")).headers
    tag, time = known["etag"], known["last-modified"]
    early, late = "Mon, 01 Jan 1990 00:00:00 GMT", "Fri, 01 Jan 2100 00:00:00 GMT"
    for headers, status in (
        ({"If-None-Match": tag}, 304),
        ({"If-None-Match": f'"x", W/{tag}'}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": '"x"'}, 200),
        ({"If-Modified-Since": time}, 304),
        ({"If-Modified-Since": late}, 304),
        ({"If-Modified-Since": early}, 200),
        ({"If-Modified-Since": "yesterday"}, 200),
        ({"If-None-Match": '"x"', "If-Modified-Since": late}, 200),  # the tag counts alone
        ({"If-Match": tag}, 200),
        ({"If-Match": "*"}, 200),
        ({"If-Match": f"W/{tag}"}, 412),
        ({"If-Match": '"x", "y"'}, 412),
        ({"If-Unmodified-Since": early}, 412),
        ({"If-Unmodified-Since": time}, 200),
        ({"If-Match": tag, "If-Unmodified-Since": early}, 200),
        ({"If-Match": tag, "If-None-Match": tag}, 304),
    ):
        got = await http.request(method, f"/{name(10)}", headers=headers)
        assert got.status_code == status, headers
        assert got.headers["etag"] == tag
        assert got.content == (b"blob 10" if (status, method) == (200, "GET") else b"")


async def test_a_range_of_what_it_was(http: httpx.AsyncClient) -> None:
    known = (await http.head(f"/{name(10)}")).headers
    for condition, status in (
        (known["etag"], 206),
        (f"W/{known['etag']}", 200),
        ('"x"', 200),
        (known["last-modified"], 206),
        ("Fri, 01 Jan 2100 00:00:00 GMT", 200),
        ("x", 200),
    ):
        got = await http.get(f"/{name(10)}", headers={"Range": "bytes=1-2", "If-Range": condition})
        assert got.status_code == status, condition


@pytest.mark.parametrize(
    "path",
    [
        name(4),
        "1",
        "%00",
        "%ff/%fe",
        "1%2f" + "0" * 64,
        "..%5csecret",
        "." * 5000,
        "1/",
        "../secret",
        "%2e%2e/secret",
        "1/%2e%2e/%2e%2e/secret",
        "x",
        f"{name(1)}/",
        f"/{name(1)}",
    ],
)
async def test_whatever_else_is_not_there(http: httpx.AsyncClient, path: str) -> None:
    assert (await http.get(f"/{path}")).status_code == 404


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "PATCH"])
async def test_it_is_read_only(http: httpx.AsyncClient, method: str) -> None:
    for path in ("/", f"/{name(1)}", f"/{name(4)}"):
        assert (await http.request(method, path, content=b"x")).status_code == 405
    assert (await http.get(f"/{name(1)}")).content == b"blob 1"


async def listing(http: httpx.AsyncClient, **query: str) -> tuple[list[str], str | None]:
    answer = await http.get("/", params={"list-type": "2", **{k.replace("_", "-"): v for k, v in query.items()}})
    assert answer.status_code == 200
    root = ET.fromstring(answer.content)
    keys = [key.text or "" for key in root.findall("s3:Contents/s3:Key", S3)]
    assert root.findtext("s3:KeyCount", namespaces=S3) == str(len(keys))
    token = root.findtext("s3:NextContinuationToken", namespaces=S3)
    assert root.findtext("s3:IsTruncated", namespaces=S3) == ("false" if token is None else "true")
    return keys, token


async def test_a_listing_is_s3_s(http: httpx.AsyncClient) -> None:
    everything = [name(1), name(10), name(2), name(EMPTY), name(LARGE)]
    assert await listing(http) == (everything, None)
    assert await listing(http, prefix="1") == (everything[:2], None)
    assert await listing(http, prefix="2/") == ([name(2)], None)
    assert await listing(http, start_after=name(1)) == (everything[1:], None)
    assert await listing(http, max_keys="0") == ([], None)
    keys, token = await listing(http, max_keys="2")
    assert (keys, token) == (everything[:2], name(10))
    assert await listing(http, max_keys="2", continuation_token=name(10)) == ([name(2), name(EMPTY)], name(EMPTY))
    assert await listing(http, max_keys="2", continuation_token=name(EMPTY)) == ([name(LARGE)], None)


async def folders(http: httpx.AsyncClient, **query: str) -> tuple[list[str], list[str], str | None]:
    """The names, what stands for others, and where the listing goes on."""
    answer = await http.get("/", params={"list-type": "2", "delimiter": "/", **query})
    root = ET.fromstring(answer.content)
    keys, common = (
        [each.text or "" for each in root.findall(path, S3)]
        for path in ("s3:Contents/s3:Key", "s3:CommonPrefixes/s3:Prefix")
    )
    assert root.findtext("s3:KeyCount", namespaces=S3) == str(len(keys) + len(common))
    return keys, common, root.findtext("s3:NextContinuationToken", namespaces=S3)


async def test_a_listing_by_folders_is_s3_s(http: httpx.AsyncClient) -> None:
    assert await folders(http) == ([], ["1/", "10/", "2/", f"{EMPTY}/", f"{LARGE}/"], None)
    assert await folders(http, prefix="1") == ([], ["1/", "10/"], None)
    assert await folders(http, prefix="1/") == ([], [f"1/{OLD.hex()}/"], None)
    assert await folders(http, prefix=f"1/{OLD.hex()}/") == ([name(1)], [], None)
    assert await folders(http, delimiter="") == (*(await listing(http))[:1], [], None)
    keys, common, token = await folders(http, **{"max-keys": "2"})
    assert (keys, common) == ([], ["1/", "10/"])
    assert token is not None
    assert await folders(http, **{"max-keys": "2", "continuation-token": token}) == (
        [],
        ["2/", f"{EMPTY}/"],
        name(EMPTY),
    )


async def test_a_folder_is_told_once_however_the_pages_cut_it() -> None:
    """Of a log that an operator wrote two objects into."""
    names = [object_name(epoch, OLD, bytes([each]) * 32) for epoch in (1, 2) for each in (1, 2, 3)]

    class Twice(Away):
        def list(self, *, start_after: str = "", prefix: str = "", limit: int = 1000) -> list[ObjectInfo]:
            return [ObjectInfo(each, 1, 0, "tag") for each in names if each > start_after][:limit]

    transport = httpx.ASGITransport(log_app(Twice(OSError())))
    async with httpx.AsyncClient(transport=transport, base_url="http://log") as client:
        told, token = list[str](), ""
        while token is not None:
            _, common, token = await folders(client, **{"max-keys": "2", "continuation-token": token})
            told += common
    assert told == ["1/", "2/"]


async def test_a_listing_has_the_tags_and_sizes(http: httpx.AsyncClient) -> None:
    root = ET.fromstring((await http.get("/?list-type=2")).content)
    for contents in root.findall("s3:Contents", S3):
        key, tag, size = (contents.findtext(f"s3:{field}", namespaces=S3) for field in ("Key", "ETag", "Size"))
        head = (await http.head(f"/{key}")).headers
        assert (tag, size) == (head["etag"], head["content-length"])


async def test_answers_are_named_as_s3_names_them(http: httpx.AsyncClient) -> None:
    """Whoever lists a bucket lists the log."""
    query = {"list-type": "2", "delimiter": "/", "max-keys": "1", "start-after": "1"}
    listed = await http.get("/", params=query)
    root = ET.fromstring(listed.content)
    space = "{" + S3["s3"] + "}"
    assert listed.headers["content-type"].startswith("application/xml")
    assert listed.content.startswith(b"<?xml")
    assert root.tag == space + "ListBucketResult"
    found = {each.tag.removeprefix(space): each.text for each in root}
    expected = {"Name": "log", "Prefix": None, "StartAfter": "1", "Delimiter": "/", "KeyCount": "1", "MaxKeys": "1"}
    assert {name: found[name] for name in expected} == expected
    for query, code in (({}, "NotImplemented"), ({"list-type": "2", "max-keys": "x"}, "InvalidArgument")):
        refused = ET.fromstring((await http.get("/", params=query)).content)
        assert (refused.tag, refused.findtext("Code")) == ("Error", code)


@pytest.mark.parametrize(
    ("query", "status"),
    [("", 501), ("list-type=1", 501), ("list-type=2&delimiter=-", 501)]
    + [(f"list-type=2&{bad}", 400) for bad in ("max-keys=x", "max-keys=-1", "max-keys=99999999999", "prefix=%C3%A9")],
)
async def test_other_queries_are_refused(http: httpx.AsyncClient, query: str, status: int) -> None:
    answer = await http.get(f"/?{query}")
    assert answer.status_code == status
    assert ET.fromstring(answer.content).findtext("Message")


async def test_no_text_breaks_the_xml(http: httpx.AsyncClient) -> None:
    assert await listing(http, prefix="<&>]]>'\"") == ([], None)
    assert len((await listing(http, start_after="'<&>\"]]>"))[0]) == 5


@pytest.mark.parametrize("text", ["\x00", "1\n", "\x7f", "é", "\ud7ff"])
async def test_only_printable_ascii_is_looked_for(http: httpx.AsyncClient, text: str) -> None:
    for field in ("prefix", "start-after", "continuation-token"):
        assert (await http.get("/", params={"list-type": "2", field: text})).status_code == 400


class Away(LogStore):
    """A store that does not answer, or can't be a log."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def fail(self, *_: object, **__: object) -> Any:
        raise self._error

    put = get = read = stat = list = fail


@pytest.mark.parametrize("error", [OSError("away"), StoreError("LOG_REFUSED", "never")])
async def test_a_store_that_does_not_answer_is_503(error: Exception) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(log_app(Away(error))), base_url="http://log") as client:
        for path in ("/?list-type=2", f"/{name(1)}"):
            got = await client.get(path)
            assert (got.status_code, got.headers["retry-after"]) == (503, "5")


def test_the_service_serves_until_told_to_stop(tmp_path: Path) -> None:
    FileLog(tmp_path).put(name(1), b"blob")
    program = (
        "import functools, pathlib, structlog, sys; from ipls.config import LogConfig;"
        "from ipls.runtime.service import run; from ipls.server.log import app;"
        "structlog.configure(processors=[structlog.processors.JSONRenderer()]);"
        "config = LogConfig(listen='127.0.0.1:0', objects=pathlib.Path(sys.argv[1]));"
        "run('log', functools.partial(app.run, config))"
    )
    process = subprocess.Popen(
        [*DIES_WITH_US, sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    (port,) = json.loads(process.stdout.readline())["ports"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{name(1)}", timeout=20) as answer:
        assert answer.read() == b"blob"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/{name(2)}", timeout=20)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
