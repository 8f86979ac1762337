"""Signed calls to the contact store: whose they are, and the place that each gets, in every version of its service.

Tested by tests/server/contacts/test_service.py and tests/server/contacts/test_lines.py.
"""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeVar

from google.protobuf.message import DecodeError, Message

from ipls._grpc import grpc
from ipls.clock import system_now_ms
from ipls.contacts.admission import Caller
from ipls.contacts.errors import LineError
from ipls.contacts.sealing import name_of
from ipls.crypto.errors import VerificationError
from ipls.crypto.keys import verify
from ipls.rpc.channel import CHUNK
from ipls.rpc.errors import ServiceError, refuse
from ipls.rpc.peer import network_of
from ipls.runtime.executors import FairExecutor
from ipls.runtime.places import Places
from ipls.server.contacts.identities import Identities
from ipls.store.contacts import ContactsStore
from ipls.store.errors import StoreRefused
from ipls.store.line import Quota
from ipls.trust.calls import CALL_WINDOW_MS, NONCE_BYTES, call_digest, is_timely
from ipls.trust.identity import check_label


@dataclass(frozen=True)
class Limits:
    """What one call and one account may ask for; sizes in bytes."""

    call_records: int = 2000
    call_keys: int = 10_000
    calls: int = 2000
    """Calls of an account whose nonces are still kept, about four minutes' worth."""
    line_records: int = 1000
    """Of one call to a line; and what is read by one call is `line_call` bytes, within `line_get_s` seconds."""
    line_call: int = 8 << 20
    line_get_s: float = 10.0
    line_heal: int = 16 << 20
    """Links and commits that one call gives back; and so many commits, whose signatures are checked."""
    line_heal_commits: int = 10_000
    line: Quota = field(default_factory=lambda: Quota(1_500_000, 16 << 30))
    """Four generations of what one snapshot can name; half of it is a later identity version's."""
    calls_at_once: int = 256
    """In work, of accounts that are known by then; what is sent back is in memory, a manifest whole."""
    account_calls: int = 8
    uploads: int = 32
    """Of these; each in memory until it is complete."""
    account_uploads: int = 4


READING, WRITING = 4, 1
"""Threads: of the database's writers one gets on at a time."""
MAX_WAITING = 128
"""Works on the database that wait for a thread, of all accounts, of either kind."""

Body = TypeVar("Body", bound=Message)
P = ParamSpec("P")
R = TypeVar("R")


class Call(Protocol):
    """A SignedCall of whatever version."""

    label: str
    public_key: bytes
    body: bytes
    timestamp_ms: int
    nonce: bytes
    signature: bytes


class Upload(Protocol):
    """A message of a stream that begins with its call."""

    call: Any
    chunk: bytes

    def WhichOneof(self, oneof_group: Any) -> Any: ...


class Method(NamedTuple):
    """What is signed of a method: its package's version and its name; and whether it only reads."""

    version: int
    name: str
    reading: bool = False


class SignedCalls:
    """For every method: the call is signed, timely, new and by the account's identity, or one of its devices; then its
    body is looked at."""

    def __init__(
        self,
        store: ContactsStore,
        identities: Identities,
        namespace: str,
        *,
        now_ms: Callable[[], int] = system_now_ms,
        limits: Limits | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.namespace = namespace
        self.now_ms = now_ms
        self._store = store
        self._identities = identities
        self._calls = Places(self.limits.calls_at_once, self.limits.account_calls)
        self._uploads = Places(self.limits.uploads, self.limits.account_uploads)
        self._reading = FairExecutor("the database", READING, MAX_WAITING)
        self._writing = FairExecutor("the database's changes", WRITING, MAX_WAITING)

    def close(self) -> None:
        """End its threads; no call may follow."""
        self._reading.close()
        self._writing.close()

    async def read(self, whose: str, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Work off the event loop, in turn by whose it is: an account's, or a peer's who is not known yet. Raises
        ServiceError."""
        return await _run(self._reading, whose, work, *args, **kwargs)

    async def write(self, label: str, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The same, of what changes the database: it holds up nothing that reads."""
        return await _run(self._writing, label, work, *args, **kwargs)

    @asynccontextmanager
    async def admitted(
        self, context: Any, method: Method, call: Call, body: type[Body]
    ) -> AsyncIterator[tuple[Caller, Body]]:
        """Whose call it is, and its body, once it is known that they signed it, just now and for this method; and a
        place, which who is not known gets none of, nor one account all of them.

        What costs least comes first. A nonce is kept of nobody but an account's own, and counts for that account.
        """
        caller = await self.prove(context, method, call)
        with self._calls.place(call.label):
            yield caller, parsed(body, call)

    @asynccontextmanager
    async def upload(
        self, context: Any, method: Method, requests: AsyncIterator[Upload], body: type[Body]
    ) -> AsyncIterator[tuple[str, Caller, Body]]:
        """The account, who calls for it and the body that the stream begins with, and a place among the uploads."""
        first = await anext(requests, None)
        if first is None or first.WhichOneof("part") != "call":
            raise ServiceError("BODY_INVALID", "a stream begins with its call")
        label = first.call.label
        async with self.admitted(context, method, first.call, body) as (caller, admitted):
            with self._uploads.place(label):
                yield label, caller, admitted

    async def prove(self, context: Any, method: Method, call: Call) -> Caller:
        """Whose call it is. Raises ServiceError."""
        now_ms = self.now_ms()
        try:
            check_label(call.label)
            if len(call.nonce) != NONCE_BYTES:
                raise ServiceError("BODY_INVALID", f"a nonce has {NONCE_BYTES} bytes")
            if not is_timely(call.timestamp_ms, now_ms):
                message = "the call's time is more than two minutes from the service's clock"
                raise ServiceError("CALL_STALE", message, time_ms=now_ms)
            digest = call_digest(
                self.namespace,
                call.label,
                call.public_key,
                method.name,
                call.body,
                call.timestamp_ms,
                call.nonce,
                version=method.version,
            )
            verify(call.public_key, digest, call.signature)
        except VerificationError as error:
            refuse(error, code=grpc.StatusCode.UNAUTHENTICATED)
        caller = await self.caller(context, method, call)
        await self.write(
            call.label,
            self._store.admit,
            call.label,
            call.nonce,
            call.timestamp_ms,
            now_ms=now_ms,
            window_ms=CALL_WINDOW_MS,
            max_calls=self.limits.calls,
            reading=method.reading,
        )
        return caller

    async def caller(self, context: Any, method: Method, call: Call) -> Caller:
        """Who that key is: the account's identity now, or, but in version 1, a device that this identity's line lists.

        The directory is asked for a key that the line does not know at the peer's cost, else at that identity's own.
        Raises ServiceError as `Identities.check`.
        """
        label, key, peer = call.label, call.public_key, network_of(context)
        standing = None if method.version == 1 else await self.read(peer, self._store.lines.standing, label)
        if standing and key in (standing.identity_key, *standing.devices):
            identity_key = standing.identity_key
            version = await self._identities.check(label, identity_key, (label, identity_key))
            if key != identity_key and version != standing.version:  # that key once more, of a newer version
                raise ServiceError(
                    "IDENTITY_SUPERSEDED", "the account has a newer identity, which lists no such device"
                )
            return Caller(key, version, identity_key)
        return Caller(key, await self._identities.check(label, key, peer), key)


async def _run(executor: FairExecutor, label: str, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    try:
        return await executor.run(label, work, *args, **kwargs)
    except (StoreRefused, LineError) as error:
        refuse(error)


def parsed(body: type[Body], call: Call) -> Body:
    """Raises ServiceError BODY_INVALID."""
    try:
        return body.FromString(call.body)
    except DecodeError as error:
        raise ServiceError("BODY_INVALID", "the call's body can't be read") from error


async def collect(requests: AsyncIterator[Upload], size: int) -> bytes:
    """The stream's chunks, together exactly `size` bytes. Raises ServiceError CHUNK_INVALID, SIZE_MISMATCH."""
    data = bytearray()
    async for request in requests:
        if request.WhichOneof("part") != "chunk" or not 1 <= len(request.chunk) <= CHUNK:
            raise ServiceError("CHUNK_INVALID", "after the call come chunks of 1 byte to 1 MiB")
        data += request.chunk
        if len(data) > size:
            break
    if len(data) != size:
        raise ServiceError("SIZE_MISMATCH", "more or less data than the call was signed for")
    return bytes(data)


def check_names(sealed: Iterable[tuple[bytes, bytes]]) -> None:
    """That each of these bytes has the name, the SHA-256, before it. Raises ServiceError DIGEST_MISMATCH."""
    if any(name_of(data) != name for name, data in sealed):
        raise ServiceError("DIGEST_MISMATCH", "the data is not what the call was signed for")
