"""The contact store: ciphertexts for accounts whose identity signed the call. It is trusted for availability only."""

import hashlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, ParamSpec, Protocol, TypeVar

from google.protobuf.message import DecodeError, Message

from ipls._grpc import grpc
from ipls.clock import system_now_ms
from ipls.crypto.errors import VerificationError
from ipls.crypto.keys import verify
from ipls.proto.contacts.v1 import contacts_pb2 as pb
from ipls.proto.contacts.v1.contacts_pb2_grpc import ContactsServiceServicer
from ipls.rpc.channel import CHUNK, chunks, cut
from ipls.rpc.errors import ServiceError, refuse
from ipls.rpc.peer import network_of
from ipls.runtime.executors import FairExecutor
from ipls.runtime.places import Places
from ipls.server.contacts.identities import Identities
from ipls.store.contacts import ContactsStore, Manifest, RecordKey
from ipls.store.errors import StoreRefused
from ipls.trust.calls import CALL_WINDOW_MS, NONCE_BYTES, call_digest, is_timely
from ipls.trust.identity import check_label
from ipls.trust.limits import MAX_INT
from ipls.trust.root import TrustRoot


@dataclass(frozen=True)
class Limits:
    """What one call and one account may ask for; sizes in bytes."""

    record_sizes: frozenset[int] = frozenset(2**k + 28 for k in range(8, 22))
    """Nonce, padded card, tag: nothing else is a record, so a card that nobody sealed is not one."""
    manifest: int = (16 << 20) + 28
    call_records: int = 2000
    call_keys: int = 10_000
    call: int = 16 << 20
    """All ciphertexts of one call."""
    calls: int = 2000
    """Calls of an account whose nonces are still kept, about four minutes' worth."""
    account_records: int = 700_000
    """Two generations of what one manifest can name."""
    account: int = 8 << 30
    calls_at_once: int = 256
    """In work, of accounts that are known by then; what is sent back is in memory, a manifest whole."""
    account_calls: int = 8
    uploads: int = 32
    """Of these; each in memory until it is complete."""
    account_uploads: int = 4


THREADS = 4
MAX_WAITING = 128
"""Works on the database that wait for a thread, of all accounts."""

Body = TypeVar("Body", bound=Message)
P = ParamSpec("P")
R = TypeVar("R")


class _Upload(Protocol):
    """PutRecordsRequest and SwapManifestRequest."""

    call: pb.SignedCall
    chunk: bytes

    def WhichOneof(self, oneof_group: Any) -> Any: ...


class ContactsServicer(ContactsServiceServicer):
    """Every method: the call is signed, timely, new and by the account's identity; then its body is looked at."""

    def __init__(
        self,
        store: ContactsStore,
        identities: Identities,
        root: TrustRoot,
        *,
        now_ms: Callable[[], int] = system_now_ms,
        limits: Limits | None = None,
    ) -> None:
        self._store = store
        self._identities = identities
        self._namespace = root.namespace
        self._now_ms = now_ms
        self._limits = limits or Limits()
        self._calls = Places(self._limits.calls_at_once, self._limits.account_calls)
        self._uploads = Places(self._limits.uploads, self._limits.account_uploads)
        self._working = FairExecutor("the database", THREADS, MAX_WAITING)

    def close(self) -> None:
        """End its threads; no call may follow."""
        self._working.close()

    async def PutRecords(self, request_iterator: Any, context: Any) -> pb.PutRecordsResponse:
        async with self._upload(context, "PutRecords", request_iterator, pb.PutRecordsBody) as (label, body):
            sizes = [record.size for record in body.records]
            if not 1 <= len(sizes) <= self._limits.call_records or sum(sizes) > self._limits.call:
                raise ServiceError("CALL_TOO_LARGE", "too many records, or too large together, for one call")
            if not self._limits.record_sizes.issuperset(sizes):
                raise ServiceError("RECORD_SIZE", "a record is a sealed power of two from 256 bytes to 2 MiB")
            keys = [_key(record.key) for record in body.records]
            data = await _collect(request_iterator, sum(sizes))
            records = list(zip(keys, cut(data, sizes), strict=True))
            await self._run(label, _check_digests, records)
            await self._run(
                label,
                self._store.put,
                label,
                records,
                max_records=self._limits.account_records,
                max_bytes=self._limits.account,
            )
        return pb.PutRecordsResponse()

    async def GetRecords(self, request: pb.GetRecordsRequest, context: Any) -> AsyncIterator[pb.GetRecordsResponse]:
        label = request.call.label
        async with self._admitted(context, "GetRecords", request.call, pb.GetRecordsBody, reading=True) as body:
            keys = [_key(key) for key in body.keys]
            if not 1 <= len(keys) <= self._limits.call_records:
                raise ServiceError("CALL_TOO_LARGE", f"1 to {self._limits.call_records} records a call")
            sizes = await self._run(label, self._store.sizes, label, keys)
            yield pb.GetRecordsResponse(sizes=pb.RecordSizes(sizes=sizes))
            for group in _groups(keys, sizes):
                data = await self._run(label, self._store.read, label, group)
                for chunk in chunks(data):
                    yield pb.GetRecordsResponse(chunk=chunk)

    async def ListRecords(self, request: pb.ListRecordsRequest, context: Any) -> AsyncIterator[pb.ListRecordsResponse]:
        label = request.call.label
        async with self._admitted(context, "ListRecords", request.call, pb.ListRecordsBody, reading=True):
            after: RecordKey | None = None
            while page := await self._run(label, self._store.page, label, after=after, limit=self._limits.call_keys):
                records = [pb.RecordSize(key=pb.RecordKey(**key._asdict()), size=size) for key, size in page]
                yield pb.ListRecordsResponse(records=records)
                after = page[-1][0]

    async def DropRecords(self, request: pb.DropRecordsRequest, context: Any) -> pb.DropRecordsResponse:
        async with self._admitted(context, "DropRecords", request.call, pb.DropRecordsBody) as body:
            if len(body.keys) > self._limits.call_keys:
                raise ServiceError("CALL_TOO_LARGE", f"at most {self._limits.call_keys} records a call")
            keys = [_key(key) for key in body.keys]
            await self._run(request.call.label, self._store.drop, request.call.label, keys)
            return pb.DropRecordsResponse()

    async def GetManifest(self, request: pb.GetManifestRequest, context: Any) -> AsyncIterator[pb.GetManifestResponse]:
        async with self._admitted(context, "GetManifest", request.call, pb.GetManifestBody, reading=True):
            manifest = await self._run(request.call.label, self._store.manifest, request.call.label)
            if manifest is None:
                raise ServiceError("MANIFEST_ABSENT", "the account has stored nothing")
            yield pb.GetManifestResponse(
                header=pb.ManifestHeader(
                    generation=manifest.generation,
                    version=manifest.version,
                    check_value=manifest.check_value,
                    size=len(manifest.ciphertext),
                )
            )
            for chunk in chunks(manifest.ciphertext):
                yield pb.GetManifestResponse(chunk=chunk)

    async def SwapManifest(self, request_iterator: Any, context: Any) -> pb.SwapManifestResponse:
        async with self._upload(context, "SwapManifest", request_iterator, pb.SwapManifestBody) as (label, body):
            if body.size > self._limits.manifest:
                raise ServiceError("CALL_TOO_LARGE", "the manifest is too large")
            if len(body.check_value) != 32 or not 1 <= body.generation <= MAX_INT or body.version > MAX_INT:
                raise ServiceError("BODY_INVALID", "a field of the manifest is out of its bounds")
            data = await _collect(request_iterator, body.size)
            if hashlib.sha256(data).digest() != body.digest:
                raise ServiceError("DIGEST_MISMATCH", "the data is not what the call was signed for")
            manifest = Manifest(body.version, body.generation, body.check_value, data)
            await self._run(label, self._store.swap, label, body.expected_version, manifest)
        return pb.SwapManifestResponse()

    @asynccontextmanager
    async def _admitted(
        self, context: Any, method: str, call: pb.SignedCall, body: type[Body], *, reading: bool = False
    ) -> AsyncIterator[Body]:
        """The call's body, once the account's identity is known to have signed it, just now and for this method; and a
        place, which who is not known gets none of, nor one account all of them.

        What costs least comes first. A nonce is kept of nobody but an account's identity, and counts for that account.
        """
        try:
            check_label(call.label)
            if len(call.nonce) != NONCE_BYTES:
                raise ServiceError("BODY_INVALID", f"a nonce has {NONCE_BYTES} bytes")
            if not is_timely(call.timestamp_ms, self._now_ms()):
                raise ServiceError("CALL_STALE", "the call's time is more than two minutes from the service's clock")
            digest = call_digest(
                self._namespace, call.label, call.public_key, method, call.body, call.timestamp_ms, call.nonce
            )
            verify(call.public_key, digest, call.signature)
        except VerificationError as error:
            refuse(error, code=grpc.StatusCode.UNAUTHENTICATED)
        await self._identities.check(call.label, call.public_key, network_of(context))
        await self._run(
            call.label,
            self._store.admit,
            call.label,
            call.nonce,
            call.timestamp_ms,
            now_ms=self._now_ms(),
            window_ms=CALL_WINDOW_MS,
            max_calls=self._limits.calls,
            reading=reading,
        )
        with self._calls.place(call.label):
            try:
                parsed = body.FromString(call.body)
            except DecodeError as error:
                raise ServiceError("BODY_INVALID", "the call's body can't be read") from error
            yield parsed

    @asynccontextmanager
    async def _upload(
        self, context: Any, method: str, requests: AsyncIterator[_Upload], body: type[Body]
    ) -> AsyncIterator[tuple[str, Body]]:
        """The account and the body that the stream begins with, and a place among the uploads."""
        first = await anext(requests, None)
        if first is None or first.WhichOneof("part") != "call":
            raise ServiceError("BODY_INVALID", "a stream begins with its call")
        label = first.call.label
        async with self._admitted(context, method, first.call, body) as admitted:
            with self._uploads.place(label):
                yield label, admitted

    async def _run(self, label: str, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """The database's work, off the event loop, in turn by account."""
        try:
            return await self._working.run(label, work, *args, **kwargs)
        except StoreRefused as error:
            refuse(error)


async def _collect(requests: AsyncIterator[_Upload], size: int) -> bytes:
    """The stream's chunks, together exactly `size` bytes."""
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


def _key(key: pb.RecordKey) -> RecordKey:
    if len(key.id) != 16 or len(key.digest) != 32 or not 1 <= key.generation <= MAX_INT:
        raise ServiceError("BODY_INVALID", "a field of a record's key is out of its bounds")
    return RecordKey(key.generation, key.id, key.digest)


def _check_digests(records: Iterable[tuple[RecordKey, bytes]]) -> None:
    if any(hashlib.sha256(ciphertext).digest() != key.digest for key, ciphertext in records):
        raise ServiceError("DIGEST_MISMATCH", "the data is not what the call was signed for")


def _groups(keys: Iterable[RecordKey], sizes: Iterable[int]) -> Iterator[list[RecordKey]]:
    """The keys in runs of about CHUNK bytes, so that a read holds no more in memory than that (or one record)."""
    group: list[RecordKey] = []
    total = 0
    for key, size in zip(keys, sizes, strict=True):
        if group and total + size > CHUNK:
            yield group
            group, total = [], 0
        group.append(key)
        total += size
    yield group
