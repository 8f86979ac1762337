"""The contact store's service, version 1: ciphertexts and a manifest, as accounts stored them before there were lines.
It is only read."""

from collections.abc import AsyncIterator, Iterable, Iterator
from functools import partial
from typing import Any

from ipls.proto.contacts.v1 import contacts_pb2 as pb
from ipls.proto.contacts.v1.contacts_pb2_grpc import ContactsServiceServicer
from ipls.rpc.channel import CHUNK, chunks
from ipls.rpc.errors import ServiceError
from ipls.server.contacts.calls import Method, SignedCalls
from ipls.store.contacts import ContactsStore, RecordKey
from ipls.trust.limits import MAX_INT

_method = partial(Method, 1)


class ContactsServicer(ContactsServiceServicer):
    """See `SignedCalls`, for every method."""

    def __init__(self, store: ContactsStore, calls: SignedCalls) -> None:
        self._store = store
        self._calls = calls
        self._limits = calls.limits

    async def PutRecords(self, request_iterator: Any, context: Any) -> pb.PutRecordsResponse:
        """LINE_EXISTS, to everybody."""
        raise _only_read()

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
        """LINE_EXISTS, to everybody."""
        raise _only_read()

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
        """LINE_EXISTS, to everybody."""
        raise _only_read()


def _only_read() -> ServiceError:
    return ServiceError("LINE_EXISTS", "contacts are kept in a line: the phone needs a newer version of this software")


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
