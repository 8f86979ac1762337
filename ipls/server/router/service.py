"""The one address of a fleet's vaults: carries each session to the vault that keeps the account's shard.

It is trusted with nothing, as the vaults' fronts and the network are: it reads the label in a session's first frame,
and who answers must have the HSM key that the fleet bundle gives that shard.
"""

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from ipls._grpc import grpc
from ipls.proto.vault.v1.vault_pb2 import (
    ClientHello,
    GetBundleRequest,
    GetBundleResponse,
    SessionRequest,
    SessionResponse,
)
from ipls.proto.vault.v1.vault_pb2_grpc import (
    VaultServiceServicer,
)
from ipls.rpc.errors import Ending, ServiceError, remote_error
from ipls.rpc.peer import CALLER_METADATA, network_of
from ipls.trust.bundle import shard_of

if TYPE_CHECKING:
    from ipls.proto.vault.v1.vault_pb2_grpc import VaultServiceAsyncStub

    Context = grpc.aio.ServicerContext[SessionRequest, SessionResponse]
    BundleContext = grpc.aio.ServicerContext[GetBundleRequest, GetBundleResponse]

BUNDLE_DEADLINE_S = 5.0
"""For each vault that is asked for the bundle."""


class Router(VaultServiceServicer):
    """`vaults` are by the number of their shard."""

    def __init__(self, vaults: Sequence["VaultServiceAsyncStub"]) -> None:
        self._vaults = vaults
        self._answering = 0

    async def GetBundle(self, request: GetBundleRequest, context: "BundleContext") -> GetBundleResponse:
        """Of the vault that last answered, or of the next one that does: all have the same. Raises ServiceError."""
        error, asked_first = _away(), self._answering
        for number in (*range(asked_first, len(self._vaults)), *range(asked_first)):
            try:
                answer: GetBundleResponse = await self._vaults[number].GetBundle(request, timeout=BUNDLE_DEADLINE_S)
            except grpc.aio.AioRpcError as failed:
                error = _of_vault(failed)
            else:
                self._answering = number
                return answer
        raise error

    async def Session(
        self, requests: AsyncIterator[SessionRequest], context: "Context"
    ) -> AsyncIterator[SessionResponse]:
        """One session, at the vault of its account. Raises what that one raises; ServiceError while it is away."""
        first = await anext(requests, None)
        if first is None:
            return

        async def frames() -> AsyncIterator[SessionRequest]:
            yield first
            async for frame in requests:
                yield frame

        call = self._vault(first).Session(frames(), metadata=((CALLER_METADATA, network_of(context)),))
        ending = Ending(call)
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as failed:
            raise _of_vault(ending.why(failed)) from None
        finally:
            call.cancel()

    def _vault(self, first: SessionRequest) -> "VaultServiceAsyncStub":
        try:
            label = ClientHello.FromString(first.m1).label
        except DecodeError:
            raise ServiceError("MESSAGE_UNREADABLE", "the first frame is no hello") from None
        return self._vaults[shard_of(label, len(self._vaults))]


def _of_vault(failed: grpc.aio.AioRpcError) -> ServiceError:
    error = remote_error(failed)
    return _away() if error.unanswered else error


def _away() -> ServiceError:
    return ServiceError("VAULT_AWAY", "the vault of this shard does not answer; try again")
