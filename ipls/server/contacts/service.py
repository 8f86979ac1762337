"""The contact store's service, version 1: ciphertexts and a manifest, for accounts that have no line yet. It is trusted
for availability only."""

import hashlib
from collections.abc import AsyncIterator, Iterable, Iterator
from functools import partial
from typing import Any

from ipls.proto.contacts.v1 import contacts_pb2 as pb
from ipls.proto.contacts.v1.contacts_pb2_grpc import ContactsServiceServicer
from ipls.rpc.channel import CHUNK, chunks, cut
from ipls.rpc.errors import ServiceError
from ipls.server.contacts.calls import Method, SignedCalls, check_names, collect
from ipls.store.contacts import ContactsStore, Manifest, RecordKey
from ipls.trust.limits import MAX_INT

_method = partial(Method, 1)


class ContactsServicer(ContactsServiceServicer):
    """See `SignedCalls`, for every method."""

    def __init__(self, store: ContactsStore, calls: SignedCalls) -> None:
        self._store = store
        self._calls = calls
        self._limits = calls.limits

    async def PutRecords(self, request_iterator: Any, context: Any) -> pb.PutRecordsResponse:
        upload = self._calls.upload(context, _method("PutRecords"), request_iterator, pb.PutRecordsBody)
        async with upload as (label, _, body):
            sizes = [record.size for record in body.records]
            if not 1 <= len(sizes) <= self._limits.call_records or sum(sizes) > self._limits.call:
                raise ServiceError("CALL_TOO_LARGE", "too many records, or too large together, for one call")
            if not self._limits.record_sizes.issuperset(sizes):
                raise ServiceError("RECORD_SIZE", "a record is a sealed power of two from 256 bytes to 2 MiB")
            keys = [_key(record.key) for record in body.records]
            data = await collect(request_iterator, sum(sizes))
            records = list(zip(keys, cut(data, sizes), strict=True))
            await self._calls.read(label, check_names, [(key.digest, data) for key, data in records])
            await self._calls.write(
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
        async with self._calls.admitted(
            context, _method("GetRecords", reading=True), request.call, pb.GetRecordsBody
        ) as (_, body):
            keys = [_key(key) for key in body.keys]
            if not 1 <= len(keys) <= self._limits.call_records:
                raise ServiceError("CALL_TOO_LARGE", f"1 to {self._limits.call_records} records a call")
            sizes = await self._calls.read(label, self._store.sizes, label, keys)
            yield pb.GetRecordsResponse(sizes=pb.RecordSizes(sizes=sizes))
            for group in _groups(keys, sizes):
                data = await self._calls.read(label, self._store.read, label, group)
                for chunk in chunks(data):
                    yield pb.GetRecordsResponse(chunk=chunk)

    async def ListRecords(self, request: pb.ListRecordsRequest, context: Any) -> AsyncIterator[pb.ListRecordsResponse]:
        label = request.call.label
        async with self._calls.admitted(
            context, _method("ListRecords", reading=True), request.call, pb.ListRecordsBody
        ):
            after: RecordKey | None = None
            while page := await self._calls.read(
                label, self._store.page, label, after=after, limit=self._limits.call_keys
            ):
                records = [pb.RecordSize(key=pb.RecordKey(**key._asdict()), size=size) for key, size in page]
                yield pb.ListRecordsResponse(records=records)
                after = page[-1][0]

    async def DropRecords(self, request: pb.DropRecordsRequest, context: Any) -> pb.DropRecordsResponse:
        async with self._calls.admitted(context, _method("DropRecords"), request.call, pb.DropRecordsBody) as (_, body):
            if len(body.keys) > self._limits.call_keys:
                raise ServiceError("CALL_TOO_LARGE", f"at most {self._limits.call_keys} records a call")
            keys = [_key(key) for key in body.keys]
            await self._calls.write(request.call.label, self._store.drop, request.call.label, keys)
            return pb.DropRecordsResponse()

    async def GetManifest(self, request: pb.GetManifestRequest, context: Any) -> AsyncIterator[pb.GetManifestResponse]:
        async with self._calls.admitted(
            context, _method("GetManifest", reading=True), request.call, pb.GetManifestBody
        ):
            manifest = await self._calls.read(request.call.label, self._store.manifest, request.call.label)
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
        upload = self._calls.upload(context, _method("SwapManifest"), request_iterator, pb.SwapManifestBody)
        async with upload as (label, _, body):
            if body.size > self._limits.manifest:
                raise ServiceError("CALL_TOO_LARGE", "the manifest is too large")
            if len(body.check_value) != 32 or not 1 <= body.generation <= MAX_INT or body.version > MAX_INT:
                raise ServiceError("BODY_INVALID", "a field of the manifest is out of its bounds")
            data = await collect(request_iterator, body.size)
            if hashlib.sha256(data).digest() != body.digest:
                raise ServiceError("DIGEST_MISMATCH", "the data is not what the call was signed for")
            manifest = Manifest(body.version, body.generation, body.check_value, data)
            await self._calls.write(label, self._store.swap, label, body.expected_version, manifest)
        return pb.SwapManifestResponse()


def _key(key: pb.RecordKey) -> RecordKey:
    if len(key.id) != 16 or len(key.digest) != 32 or not 1 <= key.generation <= MAX_INT:
        raise ServiceError("BODY_INVALID", "a field of a record's key is out of its bounds")
    return RecordKey(key.generation, key.id, key.digest)


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
