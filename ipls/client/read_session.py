"""The session that a device reads the directory in: one signed call pays for the reads of some minutes.

Tested by tests/client/test_directory.py.
"""

import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from ipls._grpc import grpc
from ipls.client.calls import RETRY_FOR_S, retrying, within
from ipls.contacts.listing import Listing
from ipls.crypto.keys import public_key, sign
from ipls.proto.directory.v1 import directory_pb2 as pb
from ipls.rpc.errors import remote_error
from ipls.rpc.reads import SESSION_METADATA
from ipls.trust.calls import NONCE_BYTES, session_digest

if TYPE_CHECKING:
    from ipls.proto.directory.v1.directory_pb2_grpc import DirectoryServiceAsyncStub

Metadata = tuple[tuple[str, bytes], ...]
Result = TypeVar("Result")

_ENDED = ("READ_SESSION_EXPIRED", "READ_SESSION_INVALID")


class Credentials(NamedTuple):
    """An account's number, and the Ed25519 seed of a key that is its identity or was; or that of a linked device, which
    shows its `listing`."""

    label: str
    seed: bytes
    listing: Listing | None = None


class ReadSession:
    """Opened when it is first needed, and again when the directory says that it has ended."""

    def __init__(
        self,
        stub: "DirectoryServiceAsyncStub",
        namespace: str,
        *,
        now_ms: Callable[[], int],
        retry_for_s: float = RETRY_FOR_S,
    ) -> None:
        self._stub = stub
        self._namespace = namespace
        self._now_ms = now_ms
        self._retry_for_s = retry_for_s
        self.call_s = within(retry_for_s)
        """The deadline of each call."""
        self._opened: tuple[Credentials, bytes] | None = None

    async def ask(self, reader: Credentials, call: Callable[[Metadata], Awaitable[Result]]) -> Result:
        """`call` with the metadata of a session, again while the directory is UNAVAILABLE.

        A key that waits for its epoch is waited for. Raises RefusedError, TryLaterError.
        """

        async def attempt() -> Result:
            kept = self._opened is not None
            try:
                return await call(await self._metadata(reader))
            except grpc.aio.AioRpcError as error:
                if not kept or remote_error(error).reason not in _ENDED:
                    raise
            self._opened = None
            return await call(await self._metadata(reader))

        return await retrying(attempt, self._retry_for_s, service="the directory")

    async def _metadata(self, reader: Credentials) -> Metadata:
        if self._opened is None or self._opened[0] != reader:
            now_ms, nonce, key = self._now_ms(), os.urandom(NONCE_BYTES), public_key(reader.seed)
            digest = session_digest(self._namespace, reader.label, key, now_ms, nonce)
            request = pb.OpenSessionRequest(
                label=reader.label,
                public_key=key,
                timestamp_ms=now_ms,
                nonce=nonce,
                signature=sign(reader.seed, digest),
                listing=reader.listing and pb.Listing(**reader.listing._asdict()),
            )
            response = await self._stub.OpenSession(request, timeout=self.call_s)
            self._opened = reader, response.token
        return ((SESSION_METADATA, self._opened[1]),)
