"""The contact store's slot in which a device is linked: what the new one says there, and what both of them read.

Tested by tests/server/contacts/test_slots.py.
"""

import os
from typing import TYPE_CHECKING, NamedTuple

from ipls.client.calls import CALL_S, RETRY_FOR_S, retrying
from ipls.client.errors import RefusedError
from ipls.contacts.linking import MAX_HELLO, MAX_PACKAGE
from ipls.proto.contacts.v2 import contacts_pb2 as pb

if TYPE_CHECKING:
    from ipls.proto.contacts.v2.contacts_pb2_grpc import ContactsServiceAsyncStub


class Said(NamedTuple):
    """What was said in a slot, each b"" until it was; nothing of it is opened yet. They come in this order."""

    hello: bytes = b""
    answer: bytes = b""
    opening: bytes = b""
    package: bytes = b""


class LinkSlot:
    """A slot, known by the link code (`LinkCode.slot`). Raises RefusedError LINK_SLOT_ABSENT, LINK_SLOT_TAKEN;
    TryLaterError."""

    def __init__(self, stub: "ContactsServiceAsyncStub", slot: bytes, *, retry_for_s: float = RETRY_FOR_S) -> None:
        self._stub = stub
        self._slot = slot
        self._token = os.urandom(16)
        self._retry_for_s = retry_for_s

    async def put_hello(self, sealed: bytes) -> None:
        """The new device's first word. The slot takes one."""
        await self._put(pb.PutHelloRequest(slot=self._slot, token=self._token, hello=sealed))

    async def put_opening(self, sealed: bytes) -> None:
        """Its second, by who said the first, when it has the answer."""
        await self._put(pb.PutHelloRequest(slot=self._slot, token=self._token, opening=sealed))

    async def _put(self, request: pb.PutHelloRequest) -> None:
        async def call() -> None:
            await self._stub.PutHello(request, timeout=CALL_S)

        await retrying(call, self._retry_for_s, service="the contact store")

    async def collect(self, have: int = 0) -> Said:
        """What was said, once there is more than the first `have`; or as it is, when the store has waited for a
        while."""

        async def call() -> pb.CollectResponse:
            return await self._stub.Collect(pb.CollectRequest(slot=self._slot, have=have), timeout=CALL_S)

        answer = await retrying(call, self._retry_for_s, service="the contact store")
        said = Said(answer.hello, answer.answer, answer.opening, answer.package)
        if max(map(len, said[:3])) > MAX_HELLO or len(said.package) > MAX_PACKAGE:
            raise RefusedError("STORE_ANSWER_INVALID", "the contact store sends more than a slot holds")
        return said
