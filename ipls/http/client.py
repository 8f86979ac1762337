"""Plain HTTP GETs of what others serve, bounded in bytes and in time. Blocking: for threads."""

import http.client
import io
import socket
import threading
import time
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from ipls.errors import IplsError

TIMEOUT_S = 30.0
_CHUNK = 256 * 1024


class HttpUnavailable(IplsError):
    """Nobody answered, or not in time, or not in HTTP: nothing is known, and it may be tried again."""

    def __init__(self, message: str) -> None:
        super().__init__("HTTP_UNAVAILABLE", message)


class HttpTooLarge(IplsError):
    """The answer is longer than was allowed; no more of it was read than that."""

    def __init__(self, limit: int) -> None:
        super().__init__("HTTP_TOO_LARGE", f"the answer has over {limit} bytes")


class HttpClient:
    """Keeps a connection a thread and host; an answer takes about `timeout_s` seconds at most.

    Redirects are not followed: a URL that was pinned is meant.
    """

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._local = threading.local()

    def head(self, url: str) -> int:
        """The status that a GET of an http or https URL would have. Raises HttpUnavailable."""
        return self._ask("HEAD", url, 0)[0]

    def get(self, url: str, *, limit: int) -> tuple[int, bytes]:
        """(status, body of at most `limit` bytes) of an http or https URL. Raises HttpUnavailable, HttpTooLarge."""
        return self._ask("GET", url, limit)

    def _ask(self, method: str, url: str, limit: int) -> tuple[int, bytes]:
        parts = urlsplit(url)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        key = (parts.scheme, parts.netloc)
        kept: dict[tuple[str, str], http.client.HTTPConnection] = self._local.__dict__.setdefault("kept", {})
        deadline = time.monotonic() + self._timeout_s
        while True:
            connection = kept.pop(key, None)
            fresh = connection is None
            if connection is None:
                https = parts.scheme == "https"
                make = http.client.HTTPSConnection if https else http.client.HTTPConnection
                connection = make(parts.netloc, timeout=self._timeout_s)
            try:
                answer = _exchange(connection, method, path, limit, deadline)
            except HttpTooLarge:
                connection.close()
                raise
            except (OSError, http.client.HTTPException, ValueError) as e:
                connection.close()
                if fresh:
                    raise HttpUnavailable(f"{parts.netloc}: {type(e).__name__}") from e
                continue  # the other side may close what it kept open, at any time
            kept[key] = connection
            return answer


def _exchange(
    connection: http.client.HTTPConnection, method: str, path: str, limit: int, deadline: float
) -> tuple[int, bytes]:
    connection.response_class = partial(_Response, deadline)  # type: ignore[assignment]  # called as a class is
    connection.request(method, path, headers={"Accept-Encoding": "identity"})
    response = connection.getresponse()
    body = bytearray()
    # One read at a time, so that no length that is announced can hold more than it may.
    while chunk := response.read1(min(_CHUNK, limit + 1 - len(body))):
        body += chunk
        if len(body) > limit:
            raise HttpTooLarge(limit)
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)
    response.close()  # or the connection could not be used again
    return response.status, bytes(body)


class _Response(http.client.HTTPResponse):
    """One that ends at a deadline, wherever it is then: a trickle of headers, or of interim answers, has no end."""

    def __init__(self, deadline: float, sock: socket.socket, **options: Any) -> None:
        super().__init__(sock, **options)
        self.fp.close()
        self.fp = io.BufferedReader(_Until(deadline, sock))


class _Until(io.RawIOBase):
    """What a socket receives; raises TimeoutError at the deadline."""

    def __init__(self, deadline: float, sock: socket.socket) -> None:
        self._deadline = deadline
        self._socket = sock
        self._raw = sock.makefile("rb", buffering=0)  # it keeps the socket open until it is closed itself

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._socket.settimeout(left_s)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()
