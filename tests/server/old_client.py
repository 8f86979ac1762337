"""Reading calls of version 1 to the contact store, as devices made them before there was a line of commits."""

import hashlib
import itertools
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from google.protobuf.message import Message

from ipls.client.calls import CALL_S, RETRY_FOR_S, carrying, retrying
from ipls.client.errors import RefusedError
from ipls.client.line_store import MAX_BYTES
from ipls.client.profile import Account
from ipls.crypto.keys import public_key, sign
from ipls.proto.contacts.v1 import contacts_pb2 as pb
from ipls.rpc.channel import cut
from ipls.trust.calls import NONCE_BYTES, call_digest
from tests.contacts.old_records import MAX_CARD, MAX_MANIFEST

if TYPE_CHECKING:
    from ipls.proto.contacts.v1.contacts_pb2_grpc import ContactsServiceAsyncStub

Result = TypeVar("Result")
Went = Callable[[], None]
"""What a call calls whenever a part of it went through."""

_LARGEST = 2 * MAX_MANIFEST  # bytes that a manifest may have
_MOST_KEYS = 1_000_000  # that a listing may have, more than an account may


class RecordKey(NamedTuple):
    """Names one ciphertext by the SHA-256 of its bytes."""

    generation: int
    id: bytes
    digest: bytes


class StoredManifest(NamedTuple):
    """A manifest as the store keeps it; not yet opened, so nothing of it is believed."""

    generation: int
    version: int
    check_value: bytes
    ciphertext: bytes


class ContactStore:
    """One account's calls. Each may be repeated, and is, signed anew, while the store is UNAVAILABLE.

    Raises RefusedError and TryLaterError.
    """

    def __init__(
        self,
        stub: "ContactsServiceAsyncStub",
        namespace: str,
        account: Account,
        *,
        now_ms: Callable[[], int],
        retry_for_s: float = RETRY_FOR_S,
    ) -> None:
        self._stub = stub
        self._namespace = namespace
        self._account = account
        self._now_ms = now_ms
        self._retry_for_s = retry_for_s

    async def get(self, keys: Sequence[RecordKey]) -> list[bytes]:
        """The ciphertexts, each with its digest, of the first of these keys (at most MAX_RECORDS), in order.

        They are as many as one call carries, and one at least: ask again for those behind them.
        """
        body = pb.GetRecordsBody(keys=map(_message, keys))

        async def call(went: Went) -> list[bytes]:
            sizes: Sequence[int] = ()
            data = bytearray()
            request = pb.GetRecordsRequest(call=self._sign("GetRecords", body))
            responses = self._stub.GetRecords(request, timeout=CALL_S)
            async for response in responses:
                went()
                if response.WhichOneof("part") == "sizes":
                    sizes = _fitting(response.sizes.sizes)
                data += response.chunk
                if len(data) >= sum(sizes):
                    break
            responses.cancel()
            return list(cut(bytes(data), sizes))

        ciphertexts = await self._retrying(call)
        digests = [key.digest for key in keys[: len(ciphertexts)]]
        if not ciphertexts or [hashlib.sha256(ciphertext).digest() for ciphertext in ciphertexts] != digests:
            raise _mismatch()
        return ciphertexts

    async def list(self) -> set[RecordKey]:
        """All ciphertexts that the account has there."""

        async def call(went: Went) -> set[RecordKey]:
            request = pb.ListRecordsRequest(call=self._sign("ListRecords", pb.ListRecordsBody()))
            keys: set[RecordKey] = set()
            async for response in self._stub.ListRecords(request, timeout=CALL_S):
                went()
                keys.update(RecordKey(r.key.generation, r.key.id, r.key.digest) for r in response.records)
                if len(keys) > _MOST_KEYS:
                    raise _too_much()
            return keys

        return await self._retrying(call)

    async def manifest(self) -> StoredManifest | None:
        """The newest manifest that the store shows, None if it shows none."""

        async def call(went: Went) -> StoredManifest:
            header = pb.ManifestHeader()
            data = bytearray()
            request = pb.GetManifestRequest(call=self._sign("GetManifest", pb.GetManifestBody()))
            async for response in self._stub.GetManifest(request, timeout=CALL_S):
                went()
                if response.WhichOneof("part") == "header":
                    header = response.header
                _collect(data, response.chunk, min(header.size, _LARGEST))
            return StoredManifest(header.generation, header.version, header.check_value, bytes(data))

        try:
            return await self._retrying(call)
        except RefusedError as error:
            if error.reason == "MANIFEST_ABSENT":
                return None
            raise

    async def _retrying(self, call: Callable[[Went], Awaitable[Result]]) -> Result:
        async def attempt() -> Result:
            async with carrying(self._retry_for_s) as went:
                return await call(went)

        return await retrying(attempt, self._retry_for_s)

    def _sign(self, method: str, body: Message) -> pb.SignedCall:
        data, nonce, now_ms = body.SerializeToString(), os.urandom(NONCE_BYTES), self._now_ms()
        label, key = self._account.label, public_key(self._account.seed)
        digest = call_digest(self._namespace, label, key, method, data, now_ms, nonce)
        return pb.SignedCall(
            label=label,
            public_key=key,
            body=data,
            timestamp_ms=now_ms,
            nonce=nonce,
            signature=sign(self._account.seed, digest),
        )


def _message(key: RecordKey) -> pb.RecordKey:
    return pb.RecordKey(generation=key.generation, id=key.id, digest=key.digest)


def _fitting(sizes: Sequence[int]) -> Sequence[int]:
    """The first of these sizes: as many as one call carries, one at least. Raises RefusedError RECORD_MISMATCH."""
    if any(size > 2 * MAX_CARD for size in sizes):
        raise _mismatch()
    within = (total <= MAX_BYTES for total in itertools.accumulate(sizes))
    return sizes[: max(1, sum(within))]


def _collect(data: bytearray, chunk: bytes, limit: int) -> None:
    data += chunk
    if len(data) > limit:
        raise _too_much()


def _too_much() -> RefusedError:
    return RefusedError("STORE_ANSWER_INVALID", "the contact store sends more than it announced, or than it may hold")


def _mismatch() -> RefusedError:
    return RefusedError("RECORD_MISMATCH", "the contact store gave other records than those asked for")
