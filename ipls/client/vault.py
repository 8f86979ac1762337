"""The device's end of a vault session, over its gRPC stream."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import DecodeError

from ipls._grpc import grpc
from ipls.client.approvals import Approval
from ipls.client.calls import RETRY_FOR_S, retrying, within
from ipls.client.directory import DirectoryReader
from ipls.client.errors import RefusedError, TryLaterError
from ipls.client.events import FrameSent, Report, VaultAccepted, silent
from ipls.client.profile import BundleSeen, Profile
from ipls.crypto.errors import VerificationError
from ipls.http.client import HttpClient, HttpTooLarge, HttpUnavailable
from ipls.proto.vault.v1 import vault_pb2 as pb
from ipls.rpc.errors import Ending
from ipls.trust.bundle import MAX_SIGNED_BUNDLE, bundle_head, check_follows, predecessor, verify_bundle
from ipls.trust.errors import BundleRefused
from ipls.trust.heads import Head
from ipls.trust.root import TrustRoot
from ipls.vault.errors import SessionRefused
from ipls.vault.history import Seen, follow
from ipls.vault.session.client import Answer, ClientSession, RetrievedKey

if TYPE_CHECKING:
    from ipls.proto.vault.v1.vault_pb2_grpc import VaultServiceAsyncStub

Result = TypeVar("Result")


class FrameStream:
    """The gRPC stream of a session."""

    def __init__(self, stub: "VaultServiceAsyncStub", timeout_s: float, report: Report = silent) -> None:
        self._call = stub.Session(None, timeout=timeout_s)
        self._ending = Ending(self._call)
        self._report = report

    async def exchange(self, frame: pb.SessionRequest) -> pb.SessionResponse:
        """Send a frame, return the one that answers it. Raises AioRpcError, TryLaterError."""
        try:
            with suppress(asyncio.InvalidStateError):  # the stream has ended: reading says how
                await self._call.write(frame)
            self._report(FrameSent(frame))
            response = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise self._ending.why(error) from error
        if not isinstance(response, pb.SessionResponse):
            raise TryLaterError("VAULT_STREAM_ENDED", "the vault ended the session early")
        return response

    def close(self) -> None:
        """End it, whatever it is at."""
        self._call.cancel()


class VaultSession:
    """An open session, in which the vault has accepted this device's identity."""

    def __init__(self, stream: FrameStream, session: ClientSession) -> None:
        self._stream = stream
        self._session = session

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

    async def delete(self) -> None:
        """Let all generations go."""
        await self._ask(self._session.delete_request())

    async def set_change_delay(self, delay_ms: int) -> int:
        """Set how long a new identity waits; when that takes effect, ms."""
        answer = await self._ask(self._session.change_delay_request(delay_ms))
        assert isinstance(answer, pb.SetChangeDelayAnswer)
        return answer.effective_ms

    async def add_approver(self, approver: bytes) -> None:
        """Name a device's Ed25519 key, which may let a later identity in at once."""
        await self._ask(self._session.add_approver_request(approver))

    async def remove_approver(self, approver: bytes) -> None:
        """Take that back."""
        await self._ask(self._session.remove_approver_request(approver))

    async def approve(self, approval: Approval) -> None:
        """Hand in what such a device signed for this one."""
        await self._ask(self._session.approve_request(*approval))

    async def checkpoint(self, line: bytes, n: int, chain: bytes) -> None:
        """Keep with the vault how far the line of the contacts has come; with the same bytes as often as needed.

        `line` and `chain` have 32 bytes. Raises OperationRefused VAULT_CHECKPOINT_BELOW where this identity has set one
        in this line that is higher, or has another chain there; VAULT_CHANGE_DELAYED; VAULT_ACCOUNT_LIMIT.
        """
        await self._ask(self._session.checkpoint_request(line, n, chain))

    async def list(self) -> pb.ListAnswer:
        """The generations that the vault holds, the last one that it ever stored, the account's settings, and the
        checkpoints, one of each of the last four identity versions that set any."""
        answer = await self._ask(self._session.list_request())
        assert isinstance(answer, pb.ListAnswer)
        return answer

    async def history(self, seen: Seen) -> Sequence[tuple[pb.HistoryEntry, Seen]]:
        """The uses of the account since `seen`, in order, each with what is seen after it."""
        found: list[tuple[pb.HistoryEntry, Seen]] = []
        while True:
            answer = await self._ask(self._session.history_request(seen.length + 1))
            assert isinstance(answer, pb.HistoryAnswer)
            found += follow(seen, answer)
            seen = found[-1][1] if found else seen
            if seen.length == answer.length:
                return found

    async def _ask(self, request: pb.SessionRequest) -> RetrievedKey | Answer:
        return self._session.on_answer(await self._stream.exchange(request))


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
        retry_for_s: float = RETRY_FOR_S,
    ) -> None:
        self._stub = stub
        self._root = root
        self._profile = profile
        self._directory = directory
        self._now_ms = now_ms
        self._report = report
        self._retry_for_s = retry_for_s
        self._http = HttpClient(within(retry_for_s))

    async def run(self, work: Callable[[VaultSession], Awaitable[Result]]) -> Result:
        """Open a session as this device's account and do `work` in it; all of it again if the vault goes away."""

        async def attempt() -> Result:
            stream = FrameStream(self._stub, within(self._retry_for_s), self._report)
            try:
                return await work(await self._open(stream))
            finally:
                stream.close()

        try:
            return await retrying(attempt, self._retry_for_s, service="the vault")
        except (SessionRefused, VerificationError) as error:
            raise RefusedError(error.reason, f"vault: {error.message}") from error

    async def _open(self, stream: FrameStream) -> VaultSession:
        bundle = await self._bundle()
        account = self._profile.account
        session = ClientSession(
            self._root, bundle, account.label, account.seed, self._profile.head, own_epoch=account.epoch
        )
        hello = await stream.exchange(session.hello(self._now_ms()))
        proof = session.on_hello(hello, self._now_ms())
        head = self._directory.observe(session.head)
        version, epoch = session.on_confirmation(await stream.exchange(proof))
        hsm_key_id = pb.VaultHello.FromString(hello.hello.m2).hsm_key_id
        self._report(VaultAccepted(bundle.number, hsm_key_id, *head, version, epoch))
        return VaultSession(stream, session)

    async def _bundle(self) -> pb.Bundle:
        """The fleet's bundle, followed from the one that this device has seen; from now on none below it is taken."""
        signed = (await self._stub.GetBundle(pb.GetBundleRequest(), timeout=within(self._retry_for_s))).bundle
        row = self._profile.get(BundleSeen)
        seen = None if row is None else Head(*row)
        bundle = verify_bundle(self._root, signed, now_ms=self._now_ms(), seen=seen)
        if seen is not None and bundle.number > seen.epoch + 1:
            await asyncio.to_thread(self._follow, bundle, seen)
        self._profile.put(BundleSeen(*bundle_head(signed)))
        return bundle

    def _follow(self, bundle: pb.Bundle, seen: Head) -> None:
        """Back through the log's bundles to the one seen, each vouched for by the next. Blocking."""
        while bundle.number > seen.epoch + 1:
            bundle = predecessor(bundle, self._published(bundle.number - 1))
        check_follows(bundle, seen)

    def _published(self, number: int) -> pb.SignedBundle:
        url = f"{self._root.log_url.rstrip('/')}/fleet/{number}"
        try:
            status, data = self._http.get(url, limit=MAX_SIGNED_BUNDLE)
        except HttpUnavailable:
            raise TryLaterError("LOG_SILENT", "the audit log, which has the bundles between, does not answer") from None
        except HttpTooLarge:
            raise BundleRefused("BUNDLE_INVALID", f"the audit log's bundle {number} is too large") from None
        if status >= 500:
            raise TryLaterError("LOG_SILENT", "the audit log, which has the bundles between, can't be read")
        if status != 200:
            raise BundleRefused("BUNDLE_GAP", f"the audit log has no bundle {number}, which was passed over here")
        try:
            return pb.SignedBundle.FromString(data)
        except DecodeError:
            raise BundleRefused("BUNDLE_INVALID", f"the audit log's bundle {number} can't be read") from None
