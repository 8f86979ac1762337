"""Who may use the CardDAV server: programs on this machine, each with a password of its own, kept as scrypt.

No web page: its name for this machine is none of ours (DNS rebinding), and it gets no word that it may read an answer.

Tested by tests/attack/test_carddav.py.
"""

import base64
import hashlib
import hmac
import ipaddress
import math
import os
import secrets
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ipls.client.addressbook.dav.server import Request, Response
from ipls.client.rows import Rows, Table

TRIES = 10
"""Wrong passwords for one client; then it waits."""
WAIT_S = 60


class DavClient(NamedTuple):
    """A program that was given a password: scrypt (n 2^14, r 8, p 1) of it under `salt`."""

    name: str
    salt: bytes
    verifier: bytes


CLIENTS = Table("dav_client", DavClient, "name")


def add_client(rows: Rows, name: str) -> str:
    """Give a program a password, in place of the one that it had. `name`: without a colon."""
    password, salt = secrets.token_urlsafe(24), os.urandom(16)
    rows.put(CLIENTS, DavClient(name, salt, _derive(password.encode(), salt)))
    return password


class Access:
    """Of one server. It asks nothing of the profile: who is refused keeps nobody from it."""

    def __init__(self, clients: Iterable[DavClient], clock_s: Callable[[], float]) -> None:
        """`clock_s`: one that is never set."""
        self._clients = {client.name: client for client in clients}
        self._clock_s = clock_s
        self._secret = os.urandom(32)
        self._known: dict[bytes, bytes] = {}  # HMAC of a password that was right -> its client's verifier
        self._wrong: dict[str, tuple[int, float]] = {}

    def admit(self, request: Request) -> str | Response:
        """By a request's head: whose it is, or what to answer who may not be served."""
        if not is_local(request.headers.get("host", "")):
            return Response(421)
        authorization = request.headers.get("authorization", "")
        name, password = _credentials(authorization)
        count, since_s = self._wrong.get(name, (0, 0.0))
        wait_s = since_s + WAIT_S - self._clock_s()
        if count >= TRIES and wait_s > 0:
            return Response(429, {"Retry-After": str(math.ceil(wait_s))})
        if self._is_known(authorization, name, password):
            self._wrong.pop(name, None)
            return name
        if name in self._clients:
            self._wrong[name] = (count % TRIES + 1, self._clock_s())
        return Response(401, {"WWW-Authenticate": 'Basic realm="IPLS", charset="UTF-8"'})

    def _is_known(self, authorization: str, name: str, password: bytes) -> bool:
        client = self._clients.get(name)
        if client is None:
            _derive(password, bytes(16))  # as long as for one that is there
            return False
        seen = hmac.digest(self._secret, authorization.encode("utf-8", "surrogateescape"), "sha256")
        if hmac.compare_digest(self._known.get(seen, b""), client.verifier):
            return True
        if not hmac.compare_digest(_derive(password, client.salt), client.verifier):
            return False
        self._known[seen] = client.verifier
        return True


def is_local(host: str) -> bool:
    """Whether a Host header names this machine as such: localhost, or a loopback address."""
    name = host[: host.index("]") + 1] if host.startswith("[") and "]" in host else host.partition(":")[0]
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def _credentials(authorization: str) -> tuple[str, bytes]:
    """Name and password of HTTP's Basic; empty ones for what is none."""
    scheme, _, encoded = authorization.partition(" ")
    try:
        name, _, password = base64.b64decode(encoded if scheme.lower() == "basic" else "", validate=True).partition(
            b":"
        )
        return name.decode(), password
    except ValueError:
        return "", b""


def _derive(password: bytes, salt: bytes) -> bytes:
    return hashlib.scrypt(password, salt=salt, n=1 << 14, r=8, p=1, dklen=32)
