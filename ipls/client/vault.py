"""The device's end of a vault session, over its gRPC stream."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import grpc

from ipls.client.calls import CALL_S, PATIENCE_S, retrying
from ipls.client.directory import DirectoryReader
from ipls.client.errors import RefusedError, TryLaterError
from ipls.client.events import FrameSent, Report, VaultAccepted, silent
from ipls.client.profile import Profile
from ipls.proto.vault.v1 import vault_pb2 as pb
from ipls.session.client import Answer, ClientSession, RetrievedKey
from ipls.session.errors import SessionRefused
from ipls.trust.bundle import verify_bundle
from ipls.trust.errors import TrustError
from ipls.trust.root import TrustRoot

if TYPE_CHECKING:
    from ipls.proto.vault.v1.vault_pb2_grpc import VaultServiceAsyncStub

    Stream = grpc.aio.StreamStreamCall[pb.SessionRequest, pb.SessionResponse]

Result = TypeVar("Result")


class VaultSession:
    """An open session, in which the vault has accepted this device's identity."""

    def __init__(self, stream: "Stream", session: ClientSession, report: Report) -> None:
        self._stream = stream
        self._session = session
        self._report = report

    async def store(self, expected_generation: int, store_id: bytes, contact_key: bytes) -> None:
        """Store a key as generation `expected_generation` + 1; with the same 16-byte `store_id` as often as needed."""
        await self._ask(self._session.store_request(expected_generation, store_id, contact_key))

    async def retrieve(self, generation: int) -> bytes:
        """The contact key of a generation, 32 bytes."""
        answer = await self._ask(self._session.retrieve_request(generation))
        assert isinstance(answer, RetrievedKey)
        return answer.contact_key

    async def finish_rotation(self, generation: int) -> None:
        """Let the generations below this one go."""
        await self._ask(self._session.finish_rotation_request(generation))

    async def list(self) -> pb.ListAnswer:
        """The generations that the vault holds, and the last one that it ever stored."""
        answer = await self._ask(self._session.list_request())
        assert isinstance(answer, pb.ListAnswer)
        return answer

    async def _ask(self, request: pb.SessionRequest) -> RetrievedKey | Answer:
        return self._session.on_answer(await exchange(self._stream, request, self._report))


async def exchange(stream: "Stream", frame: pb.SessionRequest, report: Report = silent) -> pb.SessionResponse:
    """Send a frame, return the one that answers it. Raises AioRpcError, TryLaterError."""
    with suppress(asyncio.InvalidStateError):  # the stream has ended: reading says how
        await stream.write(frame)
    report(FrameSent(frame))
    response = await stream.read()
    if not isinstance(response, pb.SessionResponse):
        raise TryLaterError("VAULT_STREAM_ENDED", "the vault ended the session early")
    return response


class Vault:
    """Raises RefusedError for whatever does not hold or is refused, TryLaterError while the vault is away."""

    def __init__(
        self,
        stub: "VaultServiceAsyncStub",
        root: TrustRoot,
        profile: Profile,
        directory: DirectoryReader,
        *,
        now_ms: Callable[[], int],
        report: Report,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._stub = stub
        self._root = root
        self._profile = profile
        self._directory = directory
        self._now_ms = now_ms
        self._report = report
        self._patience_s = patience_s

    async def run(self, work: Callable[[VaultSession], Awaitable[Result]]) -> Result:
        """Open a session as this device's account and do `work` in it; all of it again if the vault goes away."""

        async def attempt() -> Result:
            stream = self._stub.Session(None, timeout=CALL_S)
            try:
                return await work(await self._open(stream))
            finally:
                stream.cancel()

        try:
            return await retrying(attempt, self._patience_s)
        except (SessionRefused, TrustError) as error:
            raise RefusedError(error.reason, f"vault: {error.message}") from error

    async def _open(self, stream: "Stream") -> VaultSession:
        bundle = await self._bundle()
        account = self._profile.account
        session = ClientSession(
            self._root, bundle, account.label, account.seed, self._profile.head, own_epoch=account.epoch
        )
        hello = await exchange(stream, session.hello(self._now_ms()), self._report)
        proof = session.on_hello(hello, self._now_ms())
        head = self._directory.observe(session.head)
        version, epoch = session.on_confirmation(await exchange(stream, proof, self._report))
        hsm_key_id = pb.VaultHello.FromString(hello.hello.m2).hsm_key_id
        self._report(VaultAccepted(bundle.number, hsm_key_id, *head, version, epoch))
        return VaultSession(stream, session, self._report)

    async def _bundle(self) -> pb.Bundle:
        response = await self._stub.GetBundle(pb.GetBundleRequest(), timeout=CALL_S)
        progress = self._profile.progress
        bundle = verify_bundle(
            self._root, response.bundle, now_ms=self._now_ms(), at_least_number=progress.bundle_number
        )
        self._profile.put(progress._replace(bundle_number=bundle.number))
        return bundle
