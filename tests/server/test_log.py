import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import httpx
import pytest

from ipls.server.log import log_app
from ipls.store.log import FileLog, object_name

OLD, NEW = b"\x01" * 32, b"\x02" * 32
S3 = {"s3": "http://s3.amazonaws.com/doc/2006-03-01/"}


def name(epoch: int) -> str:
    return object_name(epoch, OLD, NEW)


@pytest.fixture
async def http(tmp_path: Path) -> Iterator[httpx.AsyncClient]:  # type: ignore[misc]  # an async generator
    store = FileLog(tmp_path / "log")
    for epoch in (1, 2, 10):
        store.put(name(epoch), b"blob %d" % epoch)
    (tmp_path / "secret").write_text("not for anyone")
    transport = httpx.ASGITransport(log_app(store))
    async with httpx.AsyncClient(transport=transport, base_url="http://log") as client:
        yield client


async def test_objects_are_at_the_root(http: httpx.AsyncClient) -> None:
    got = await http.get(f"/{name(10)}")
    assert (got.status_code, got.content) == (200, b"blob 10")
    head = await http.head(f"/{name(10)}")
    assert (head.status_code, head.headers["content-length"]) == (200, "7")


@pytest.mark.parametrize(
    "path",
    [name(3), "1", "1/", "../secret", "%2e%2e/secret", "1/%2e%2e/%2e%2e/secret", "x", f"{name(1)}/", f"/{name(1)}"],
)
async def test_whatever_else_is_not_there(http: httpx.AsyncClient, path: str) -> None:
    assert (await http.get(f"/{path}")).status_code == 404


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "PATCH"])
async def test_it_is_read_only(http: httpx.AsyncClient, method: str) -> None:
    for path in ("/", f"/{name(1)}", f"/{name(3)}"):
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
    everything = [name(1), name(10), name(2)]
    assert await listing(http) == (everything, None)
    assert await listing(http, prefix="1") == (everything[:2], None)
    assert await listing(http, prefix="2/") == ([name(2)], None)
    assert await listing(http, start_after=name(1)) == (everything[1:], None)
    assert await listing(http, max_keys="0") == ([], None)
    keys, token = await listing(http, max_keys="2")
    assert (keys, token) == (everything[:2], name(10))
    assert await listing(http, max_keys="2", continuation_token=name(10)) == ([name(2)], None)


@pytest.mark.parametrize(
    ("query", "status"),
    [("", 501), ("list-type=1", 501), ("list-type=2&delimiter=/", 501)]
    + [(f"list-type=2&{bad}", 400) for bad in ("max-keys=x", "max-keys=-1", "max-keys=99999999999", "prefix=%C3%A9")],
)
async def test_other_queries_are_refused(http: httpx.AsyncClient, query: str, status: int) -> None:
    answer = await http.get(f"/?{query}")
    assert answer.status_code == status
    assert ET.fromstring(answer.content).findtext("Message")


async def test_control_characters_make_no_broken_xml(http: httpx.AsyncClient) -> None:
    assert await listing(http, prefix="\x00<&>") == ([], None)


def test_the_service_serves_until_told_to_stop(tmp_path: Path) -> None:
    FileLog(tmp_path).put(name(1), b"blob")
    program = (
        "import asyncio, pathlib, structlog, sys; from ipls.config import LogConfig; from ipls.server.log import serve;"
        "structlog.configure(processors=[structlog.processors.JSONRenderer()]);"
        "asyncio.run(serve(LogConfig(listen='127.0.0.1:0', objects=pathlib.Path(sys.argv[1]))))"
    )
    process = subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    (port,) = json.loads(process.stdout.readline())["ports"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{name(1)}", timeout=20) as answer:
        assert answer.read() == b"blob"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/{name(2)}", timeout=20)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
