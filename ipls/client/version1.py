"""What an account stored before there was a line of commits: read once, to begin the line with it.

Tested by tests/client/test_version1.py.
"""

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from google.protobuf.message import Message

from ipls.client.calls import CALL_S, RETRY_FOR_S, carrying, retrying, signed_call
from ipls.client.errors import RefusedError
from ipls.client.events import Progress, Report
from ipls.client.line.kept import Kept
from ipls.client.line.parts import KeyVault
from ipls.contacts import version1
from ipls.contacts.envelope import Envelope
from ipls.contacts.errors import CardError
from ipls.contacts.sealing import MAX_ENVELOPE
from ipls.crypto.keys import Signer
from ipls.proto.contacts.v1 import contacts_pb2 as pb
from ipls.rpc.channel import cut

if TYPE_CHECKING:
    from ipls.proto.contacts.v1.contacts_pb2_grpc import ContactsServiceAsyncStub

Result = TypeVar("Result")
Went = Callable[[], None]

_BATCH = 1000
_UNREADABLE = {"RECORD_ABSENT", "RECORD_DAMAGED", "STORE_ANSWER_INVALID"}


class _Stored(NamedTuple):
    """A manifest as the store keeps it; not yet opened, so nothing of it is believed."""

    generation: int
    version: int
    check_value: bytes
    ciphertext: bytes


class OldContacts:
    """One account's. Raises RefusedError, TryLaterError, and CardError where nothing of it can be read."""

    def __init__(
        self,
        stub: "ContactsServiceAsyncStub",
        namespace: str,
        label: str,
        signer: Signer,
        kept: Kept,
        *,
        now_ms: Callable[[], int],
        report: Report,
        retry_for_s: float = RETRY_FOR_S,
    ) -> None:
        self._stub = stub
        self._namespace = namespace
        self._label = label
        self._signer = signer
        self._kept = kept
        self._now_ms = now_ms
        self._report = report
        self._retry_for_s = retry_for_s
        self._found: _Stored | None = None

    async def are_there(self) -> bool:
        """Whether the store shows any."""
        self._found = self._found or await self._manifest()
        return self._found is not None

    async def bring(self, vault: KeyVault) -> None:
        """Add what is not here to what waits to be sent: contacts could neither be changed nor removed then, so what is
        here is the same. A record that can't be read costs itself; a list that can't is passed over where this device
        has contacts of its own."""
        if not await self.are_there():
            return
        stored = self._found
        assert stored is not None
        here = self._kept.entries()
        try:
            key = await vault.fetch(stored.generation)
            listed = version1.open_manifest(key.secret, self._label, *stored)
        except CardError:
            if here:
                return
            raise
        missing = [(id, digest) for id, digest in listed.items() if id not in here]
        for at in range(0, len(missing), _BATCH):
            batch = missing[at : at + _BATCH]
            self._kept.put(
                {
                    id: Envelope(card).encode()
                    for id, card in (await self._cards(key.secret, stored.generation, batch)).items()
                }
            )
            self._report(Progress("restoring", at + len(batch), len(missing)))

    async def _cards(self, secret: bytes, generation: int, wanted: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
        """Those of these records, id and digest, that can be read."""
        cards, left = dict[bytes, bytes](), list(wanted)
        while left:
            try:
                found = await self._get(generation, left)
            except RefusedError as error:
                if error.reason not in _UNREADABLE:
                    raise
                found = []
            if not found:  # one that is not there, or damaged: asked for by itself, it is passed over
                found = [b""]
                if len(left) > 1:
                    half = len(left) // 2
                    first = await self._cards(secret, generation, left[:half])
                    return cards | first | await self._cards(secret, generation, left[half:])
            for (id, digest), data in zip(left, found, strict=False):
                if hashlib.sha256(data).digest() == digest:
                    try:
                        cards[id] = version1.open_record(secret, self._label, generation, id, data)
                    except CardError:
                        continue
            left = left[len(found) :]
        return cards

    async def _get(self, generation: int, wanted: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
        """The ciphertexts of the first of these, as many as one call carries."""
        keys = [pb.RecordKey(generation=generation, id=id, digest=digest) for id, digest in wanted]

        async def call(went: Went) -> list[bytes]:
            sizes: list[int] = []
            data = bytearray()
            request = pb.GetRecordsRequest(call=self._sign("GetRecords", pb.GetRecordsBody(keys=keys)))
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

        return await self._retrying(call)

    async def _manifest(self) -> _Stored | None:
        async def call(went: Went) -> _Stored:
            header = pb.ManifestHeader()
            data = bytearray()
            request = pb.GetManifestRequest(call=self._sign("GetManifest", pb.GetManifestBody()))
            async for response in self._stub.GetManifest(request, timeout=CALL_S):
                went()
                if response.WhichOneof("part") == "header":
                    header = response.header
                data += response.chunk
                if len(data) > min(header.size, 2 * version1.MAX_MANIFEST):
                    raise RefusedError("STORE_ANSWER_INVALID", "the contact store sends more than it announced")
            return _Stored(header.generation, header.version, header.check_value, bytes(data))

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

        return await retrying(attempt, self._retry_for_s, service="the contact store")

    def _sign(self, method: str, body: Message) -> pb.SignedCall:
        time_ms = self._now_ms()
        return signed_call(pb.SignedCall, self._signer, self._namespace, self._label, method, body, time_ms, version=1)


def _fitting(sizes: Sequence[int]) -> list[int]:
    """The first of these sizes: as many as one call carries, one at least."""
    if any(size > 2 * MAX_ENVELOPE for size in sizes):
        raise RefusedError("STORE_ANSWER_INVALID", "the contact store sends more than it may hold")
    fitting, total = 0, 0
    for size in sizes:
        total += size
        if fitting and total > 4 * MAX_ENVELOPE:
            break
        fitting += 1
    return list(sizes[:fitting])
