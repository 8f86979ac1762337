"""The audit log over plain HTTP, read-only: everything in it is public, and whoever reads it checks it.

Objects lie at `/E/<old root>/<new root>`, the root of a host or port of their own, which is where auditors in the field
look for them; `/?list-type=2` lists them as S3's ListObjectsV2 does. An object is sent as it is read, piece by piece.
"""

import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from typing import ParamSpec, TypeVar
from xml.etree import ElementTree as ET

import structlog
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from ipls.runtime.executors import FairExecutor
from ipls.runtime.places import Busy
from ipls.store.errors import StoreError
from ipls.store.log import LogStore, ObjectInfo

log = structlog.get_logger()

MAX_KEYS = 1000
PIECE = 256 * 1024
"""Bytes of an object that are in memory for one reader."""
_S3 = "http://s3.amazonaws.com/doc/2006-03-01/"
READ_THREADS = 8
MAX_READS = 256
"""Of all readers, more than there can be connections: one reader alone has no more than half of them."""
_RETRY = {"Retry-After": "5"}
_RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))", re.ASCII)
_TAG = re.compile(r'(W/)?"([^"]*)"')

_P = ParamSpec("_P")
_T = TypeVar("_T")


def log_app(store: LogStore) -> Starlette:
    """An ASGI application over a store: GET and HEAD of an object and of the listing, 404 for whatever else.

    503 while the store does not answer.
    """
    endpoints = _Endpoints(store)
    return Starlette(routes=[Route("/", endpoints.list_objects), Route("/{name:path}", endpoints.get_object)])


class _Endpoints:
    def __init__(self, store: LogStore) -> None:
        self._store = store
        self._reading = FairExecutor("reads of the log", READ_THREADS, MAX_READS)

    async def get_object(self, request: Request) -> Response:
        entry = await self._ask(request, self._store.stat, request.path_params["name"])
        if entry is None:
            raise HTTPException(404)
        headers = {
            "Accept-Ranges": "bytes",
            "Cache-Control": "public, immutable",
            "ETag": f'"{entry.tag}"',
            "Last-Modified": format_datetime(_modified(entry), usegmt=True),
        }
        if status := _unmet(request.headers, entry):
            return Response(status_code=status, headers=headers)
        part = _range(request, entry)
        if part is None:
            return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{entry.size}"})
        is_part = part != range(entry.size)
        if is_part:
            headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{entry.size}"
        headers |= {"Content-Type": "application/octet-stream", "Content-Length": str(len(part))}
        if request.method == "HEAD" or not part:
            return Response(headers=headers)
        first = await self._piece(request, entry.name, part)  # before the status is sent
        return StreamingResponse(self._pieces(request, entry.name, part, first), 206 if is_part else 200, headers)

    async def _pieces(self, request: Request, name: str, part: range, piece: bytes) -> AsyncIterator[bytes]:
        """The bytes of `part`, of which `piece` is the beginning. What fails here ends the connection, too early."""
        while True:
            yield piece
            part = part[len(piece) :]
            if not part:
                return
            piece = await self._piece(request, name, part)

    async def _piece(self, request: Request, name: str, part: range) -> bytes:
        piece = await self._ask(request, self._store.read, name, part.start, min(len(part), PIECE))
        if not piece:
            raise HTTPException(503, headers=_RETRY)
        return piece

    async def list_objects(self, request: Request) -> Response:
        query = request.query_params
        prefix, start_after = query.get("prefix", ""), query.get("start-after", "")
        token, keys = query.get("continuation-token", ""), query.get("max-keys", str(MAX_KEYS))
        delimiter = query.get("delimiter", "")
        if query.get("list-type") != "2" or delimiter not in ("", "/"):
            return _error("NotImplemented", "only ListObjectsV2 (list-type=2), with the delimiter / or none")
        texts = f"{prefix}{start_after}{token}"
        if not (re.fullmatch("[0-9]{1,9}", keys) and texts.isascii() and texts.isprintable()):
            return _error("InvalidArgument", "max-keys is a number; prefix and start-after are printable ASCII")
        limit = min(int(keys), MAX_KEYS)
        entries = await self._ask(
            request, self._store.list, start_after=max(start_after, token), prefix=prefix, limit=limit + 1
        )
        truncated = len(entries) > limit > 0
        folders = [_folder(entry.name, prefix, delimiter) for entry in entries[:limit]]
        whole = [entry for entry, folder in zip(entries, folders, strict=False) if folder is None]
        told = _folder(token, prefix, delimiter)  # where one began on the page before
        common = [folder for folder in dict.fromkeys(folders) if folder not in (None, told)]
        root = ET.Element("ListBucketResult", xmlns=_S3)
        _add(root, "Name", "log")
        _add(root, "Prefix", prefix)
        _add(root, "StartAfter", start_after)
        if delimiter:
            _add(root, "Delimiter", delimiter)
        _add(root, "KeyCount", str(len(whole) + len(common)))
        _add(root, "MaxKeys", str(limit))
        _add(root, "IsTruncated", "true" if truncated else "false")
        if truncated:
            _add(root, "NextContinuationToken", entries[limit - 1].name)
        for entry in whole:
            contents = ET.SubElement(root, "Contents")
            _add(contents, "Key", entry.name)
            _add(contents, "LastModified", _modified(entry).strftime("%Y-%m-%dT%H:%M:%S.000Z"))
            _add(contents, "ETag", f'"{entry.tag}"')
            _add(contents, "Size", str(entry.size))
            _add(contents, "StorageClass", "STANDARD")
        for folder in common:
            _add(ET.SubElement(root, "CommonPrefixes"), "Prefix", folder)
        return _xml(root, 200)

    async def _ask(self, request: Request, method: Callable[_P, _T], *arguments: _P.args, **options: _P.kwargs) -> _T:
        """What the store answers, in turn by reader, or the HTTP status that says why it does not."""
        try:
            return await self._reading.run(request.client and request.client.host, method, *arguments, **options)
        except StoreError as e:
            if e.reason == "LOG_NAME_INVALID":
                raise HTTPException(404) from e
            log.error("the log can't be read", reason=e.reason, why=str(e))
            raise HTTPException(503, headers=_RETRY) from e
        except Busy as e:
            raise HTTPException(503, headers=_RETRY) from e
        except OSError as e:
            log.warning("the log does not answer", why=str(e))
            raise HTTPException(503, headers=_RETRY) from e


def _folder(name: str, prefix: str, delimiter: str) -> str | None:
    """What stands for a name in a listing with a delimiter: its beginning, to the first one after the prefix."""
    end = name.find(delimiter, len(prefix)) if delimiter else -1
    return None if end < 0 else name[: end + 1]


def _modified(entry: ObjectInfo) -> datetime:
    return datetime.fromtimestamp(entry.modified_ms // 1000, UTC)


def _unmet(headers: Headers, entry: ObjectInfo) -> int:
    """412 or 304 where a condition does not hold, else 0; in the order of RFC 9110, 13.2.2."""
    if "if-match" in headers:
        if not _names(headers["if-match"], entry, weak=False):
            return 412
    elif (since := _time(headers.get("if-unmodified-since"))) and _modified(entry) > since:
        return 412
    if "if-none-match" in headers:
        if _names(headers["if-none-match"], entry, weak=True):
            return 304
    elif (since := _time(headers.get("if-modified-since"))) and _modified(entry) <= since:
        return 304
    return 0


def _names(tags: str, entry: ObjectInfo, *, weak: bool) -> bool:
    """Whether a list of entity tags has the object's, or is `*`; a weak one counts in a weak comparison only."""
    return tags.strip() == "*" or any(tag == entry.tag and (weak or not w) for w, tag in _TAG.findall(tags))


def _time(text: str | None) -> datetime | None:
    """An HTTP date; None for what is none, which counts as not said."""
    try:
        time = parsedate_to_datetime(text or "")
    except (ValueError, OverflowError):
        return None
    return time.replace(tzinfo=time.tzinfo or UTC)


def _range(request: Request, entry: ObjectInfo) -> range | None:
    """The bytes that are asked for; None if there are none of these. Whatever is not one plain range means all."""
    whole = range(entry.size)
    match = _RANGE.fullmatch(request.headers.get("range", ""))
    if match is None or request.method != "GET" or not _if_range(request.headers, entry):
        return whole
    first, last, suffix = match.groups()
    if suffix is not None:
        return whole[-int(suffix) :] or None if int(suffix) else None
    if last and int(last) < int(first):
        return whole
    return whole[int(first) : int(last) + 1 if last else None] or None


def _if_range(headers: Headers, entry: ObjectInfo) -> bool:
    """Whether a range is wanted of the object as it is: by its strong tag, or by its exact time."""
    condition = headers.get("if-range")
    return condition is None or condition == f'"{entry.tag}"' or _time(condition) == _modified(entry)


def _add(parent: ET.Element, tag: str, text: str) -> None:
    # XML can't hold control characters, not even escaped; a key that is no object's name may have some.
    ET.SubElement(parent, tag).text = "".join(c if c.isprintable() else "?" for c in text)


def _xml(root: ET.Element, status: int) -> Response:
    return Response(ET.tostring(root, "utf-8", xml_declaration=True), status, media_type="application/xml")


def _error(code: str, message: str) -> Response:
    root = ET.Element("Error")
    _add(root, "Code", code)
    _add(root, "Message", message)
    return _xml(root, 501 if code == "NotImplemented" else 400)
