"""The audit log over plain HTTP, read-only: everything in it is public, and whoever reads it checks it.

Objects lie at `/E/<old root>/<new root>`, the root of a host or port of their own, which is where auditors in the field
look for them; `/?list-type=2` lists them as S3's ListObjectsV2 does.
"""

import asyncio
from datetime import UTC, datetime
from xml.etree import ElementTree as ET

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ipls.config import LogConfig
from ipls.rpc.server import until_signal
from ipls.server.http import serving
from ipls.store.errors import StoreError
from ipls.store.log import FileLog, LogStore

log = structlog.get_logger()

MAX_KEYS = 1000
_S3 = "http://s3.amazonaws.com/doc/2006-03-01/"


def log_app(store: LogStore) -> Starlette:
    """An ASGI application over a store: GET and HEAD of an object and of the listing, 404 for whatever else."""

    async def get_object(request: Request) -> Response:
        try:
            blob = await asyncio.to_thread(store.get, request.path_params["name"])
        except StoreError as e:
            raise HTTPException(404) from e
        if blob is None:
            raise HTTPException(404)
        return Response(blob, media_type="application/octet-stream", headers={"Cache-Control": "public, immutable"})

    async def list_objects(request: Request) -> Response:
        query = request.query_params
        prefix, start_after = query.get("prefix", ""), query.get("start-after", "")
        token, keys = query.get("continuation-token", ""), query.get("max-keys", str(MAX_KEYS))
        if query.get("list-type") != "2" or "delimiter" in query:
            return _error("NotImplemented", "only ListObjectsV2 (list-type=2) without delimiter")
        if not (keys.isdecimal() and len(keys) < 10 and f"{prefix}{start_after}{token}".isascii()):
            return _error("InvalidArgument", "max-keys is a number; prefix and start-after are ASCII")
        limit = min(int(keys), MAX_KEYS)
        entries = await asyncio.to_thread(
            store.list, start_after=max(start_after, token), prefix=prefix, limit=limit + 1
        )
        truncated = len(entries) > limit > 0
        root = ET.Element("ListBucketResult", xmlns=_S3)
        _add(root, "Name", "log")
        _add(root, "Prefix", prefix)
        _add(root, "StartAfter", start_after)
        _add(root, "KeyCount", str(len(entries[:limit])))
        _add(root, "MaxKeys", str(limit))
        _add(root, "IsTruncated", "true" if truncated else "false")
        if truncated:
            _add(root, "NextContinuationToken", entries[limit - 1].name)
        for entry in entries[:limit]:
            contents = ET.SubElement(root, "Contents")
            _add(contents, "Key", entry.name)
            time = datetime.fromtimestamp(entry.modified_ms / 1000, UTC)
            _add(contents, "LastModified", time.strftime("%Y-%m-%dT%H:%M:%S.000Z"))
            _add(contents, "Size", str(entry.size))
            _add(contents, "StorageClass", "STANDARD")
        return _xml(root, 200)

    return Starlette(routes=[Route("/", list_objects), Route("/{name:path}", get_object)])


def _add(parent: ET.Element, tag: str, text: str) -> None:
    # XML can't hold control characters, not even escaped.
    ET.SubElement(parent, tag).text = "".join(c if c.isprintable() else "?" for c in text)


def _xml(root: ET.Element, status: int) -> Response:
    return Response(ET.tostring(root, "utf-8", xml_declaration=True), status, media_type="application/xml")


def _error(code: str, message: str) -> Response:
    root = ET.Element("Error")
    _add(root, "Code", code)
    _add(root, "Message", message)
    return _xml(root, 501 if code == "NotImplemented" else 400)


async def serve(config: LogConfig) -> None:
    """Serve the log until SIGTERM or SIGINT. Raises OSError if the address is taken."""
    async with serving(log_app(FileLog(config.objects)), config.listen) as port:
        log.info("serving", service="log", ports=[port])
        await until_signal()
