"""The vault's front: it carries sessions between the network and the core, a child process or one of another user.

It is trusted with nothing: it sees frames whose secrets are wrapped and sealed beyond its reach, fetches the proofs
that the core asks for, and holds no key but that of its TLS certificate.
"""

import asyncio
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from google.protobuf.message import DecodeError

from ipls._grpc import grpc
from ipls.config import VaultConfig
from ipls.hsm import pipe
from ipls.hsm.core.heads import MAX_SIGNED_HEAD
from ipls.hsm.process import ended
from ipls.proto.directory.v1.directory_pb2 import AbsenceRequest, HistoryRequest, WatchHeadsRequest
from ipls.proto.trust.v1.evidence_pb2 import Evidence
from ipls.proto.vault.v1.core_pb2 import CoreRequest, CoreResponse, HistoryHandIn, NeedsHistory, Refused
from ipls.proto.vault.v1.vault_pb2 import (
    ClientAuth,
    GetBundleRequest,
    GetBundleResponse,
    SessionRequest,
    SessionResponse,
    SignedBundle,
)
from ipls.proto.vault.v1.vault_pb2_grpc import VaultServiceServicer
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.rpc.errors import ServiceError
from ipls.rpc.peer import network_of
from ipls.rpc.quota import PeerQuota, Recent
from ipls.rpc.reads import read_history
from ipls.rpc.reasons import STATUSES
from ipls.runtime.tasks import TaskScope
from ipls.store.errors import StoreError
from ipls.store.evidence import EvidenceFolder
from ipls.vault.session.transcript import MAX_FRAME

if TYPE_CHECKING:
    from ipls.proto.directory.v1.directory_pb2_grpc import DirectoryServiceAsyncStub

    Context = grpc.aio.ServicerContext[SessionRequest, SessionResponse]
    BundleContext = grpc.aio.ServicerContext[GetBundleRequest, GetBundleResponse]

log = structlog.get_logger()

CORE_RESTART_S = 0.5
DIRECTORY_DEADLINE_S = 10.0
DIRECTORY_RETRY_S = 0.5
IN_VAIN = 60
"""Keys that are no account's newest, and that the directory is asked for in a minute for one caller's network."""
KNOWN = 100_000
"""Keys that were it when they last opened a session: their sessions don't count for their networks."""


def service_error(reason: str, message: str) -> ServiceError:
    """What the core refused, as a status; FAILED_PRECONDITION for a head, a bundle and the like, which have none."""
    if reason == "IDENTITY_RECORD_INVALID":  # it is the directory's, not of the client's making
        code = grpc.StatusCode.PERMISSION_DENIED
    else:
        code = STATUSES.get(reason, grpc.StatusCode.FAILED_PRECONDITION)
    return ServiceError(reason, message, code=code)


class CoreSession:
    """One stream's end of the pipe."""

    def __init__(self, core: "CoreProcess") -> None:
        self._core = core
        self._number = 0
        self.key = b""
        """The identity key that the client says it holds; the core has seen it signed for when it needs a history."""
        # The core answers what it is handed and ends a session once: that bounds the queue.
        self.responses: asyncio.Queue[SessionResponse | NeedsHistory | Refused | None] = asyncio.Queue()
        """None: the client sends no more."""
        self.turn = asyncio.Event()
        """Set when the client's frame was answered and the next may be read."""

    async def frame(self, frame: SessionRequest) -> None:
        """Hands the client's frame in. Raises ServiceError."""
        encoded = frame.SerializeToString()
        if len(encoded) > MAX_FRAME:
            raise service_error("VAULT_FRAME_TOO_LARGE", f"a frame has at most {MAX_FRAME} bytes")
        self.turn.clear()
        if frame.HasField("proof"):
            self.key = _identity_key(frame.proof.m3)
        if not self._number:  # only now: the core wants the first frames of sessions in the order of their numbers
            self._number = self._core.number(self)
        await self._core.send(self._number, CoreRequest.FRAME_FIELD_NUMBER, encoded)

    async def history(self, history: HistoryHandIn) -> None:
        """Hands in what `needs_history` asked for. Raises ServiceError, PipeError if it is too large for the pipe."""
        await self._core.send(self._number, CoreRequest.HISTORY_FIELD_NUMBER, history.SerializeToString())

    def refuse(self, reason: str, message: str) -> None:
        """Ends the stream as if the core had refused it."""
        self.responses.put_nowait(Refused(reason=reason, message=message))

    async def close(self) -> None:
        """The stream has ended; the core may forget the session."""
        if not self._number:
            return
        del self._core.sessions[self._number]
        with suppress(ServiceError):
            await self._core.send(self._number, CoreRequest.CLOSED_FIELD_NUMBER)


def _identity_key(m3: bytes) -> bytes:
    with suppress(DecodeError):  # the core refuses it
        return ClientAuth.FromString(m3).identity_key
    return b""


def _response(frame: pipe.Frame) -> SessionResponse | NeedsHistory | Refused:
    """What the core says in a session. Raises PipeError."""
    match frame.kind:
        case CoreResponse.FRAME_FIELD_NUMBER:
            return pipe.parse(SessionResponse, frame.body)
        case CoreResponse.NEEDS_HISTORY_FIELD_NUMBER:
            return pipe.parse(NeedsHistory, frame.body)
        case CoreResponse.REFUSED_FIELD_NUMBER:
            return pipe.parse(Refused, frame.body)
        case _:
            raise pipe.PipeError(f"a frame of kind {frame.kind} in a session")


class CoreProcess:
    """The core as the front sees it. `run` starts it, or goes to the socket of one that was started by itself, and
    again whenever it is lost; its sessions then end UNAVAILABLE. `close` ends it, when `run` has ended."""

    def __init__(self, config_path: Path, evidence: EvidenceFolder, core_socket: Path | None = None) -> None:
        self._config_path = config_path
        self._evidence = evidence
        self._socket = core_socket
        self._process: asyncio.subprocess.Process | None = None
        """What was started last."""
        self._sink: asyncio.StreamWriter | None = None
        """The connection that was made last."""
        self._stdin: asyncio.StreamWriter | None = None
        """The same, while the core is up."""
        self._numbers = count(1)
        self._head = b""
        """The newest that the directory gave."""
        self._handed = b""
        """The one that the core was handed last, and whether it is at that still."""
        self._judging = False
        self.sessions: dict[int, CoreSession] = {}
        self.ready = asyncio.Event()
        """Set when the core has first come up."""

    async def run(self) -> None:
        """For ever. Raises ServiceError where the core refuses to start, until an operator has seen to it."""
        while True:
            try:
                await self._follow(await self._connect())
            except OSError as error:
                log.warning("no vault core", error=str(error))
            except pipe.PipeError as error:
                log.error("vault core not understood", reason=error.reason, error=str(error))
            finally:
                self._stdin = None
                self._handed, self._judging = b"", False
                for session in self.sessions.values():
                    session.refuse("VAULT_CORE_LOST", "the vault's core died; try again")
            await self.close()
            log.error("vault core ended", returncode=self._process and self._process.returncode)
            await asyncio.sleep(CORE_RESTART_S)

    async def _connect(self) -> asyncio.StreamReader:
        """Raises OSError."""
        if self._socket is not None:
            source, self._sink = await asyncio.open_unix_connection(self._socket, limit=pipe.MAX_MESSAGE)
            return source
        mine, theirs = socket.socketpair()
        with theirs:
            # In a session of its own, so that a terminal's Ctrl-C ends the front alone, and the front the core with all
            # that it has started.
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "ipls.hsm.core", str(self._config_path)),
                stdin=theirs.fileno(),
                stdout=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        source, self._sink = await pipe.connect(mine)
        return source

    async def _follow(self, source: asyncio.StreamReader) -> None:
        """Passes the core's responses on until it ends. Raises PipeError; ServiceError as `run`."""
        while (frame := await pipe.receive(source)) is not None:
            if frame.session:
                if session := self.sessions.get(frame.session):  # else its stream has ended
                    session.responses.put_nowait(_response(frame))
                continue
            match frame.kind:
                case CoreResponse.READY_FIELD_NUMBER:
                    self._stdin = self._sink
                    self.ready.set()
                    self._hand_head()
                case CoreResponse.HEAD_JUDGED_FIELD_NUMBER:
                    self._judging = False
                    self._hand_head()
                case CoreResponse.EVIDENCE_FIELD_NUMBER:
                    await asyncio.to_thread(self._keep, pipe.parse(Evidence, frame.body))
                case CoreResponse.REFUSED_FIELD_NUMBER:
                    refused = pipe.parse(Refused, frame.body)
                    error = service_error(refused.reason, refused.message)
                    # A token that has worked may be a network's that is away.
                    passing = self.ready.is_set() and error.reason == "TOKEN_UNUSABLE"
                    if error.code is not grpc.StatusCode.UNAVAILABLE and not passing:
                        raise error
                case _:
                    raise pipe.PipeError(f"a frame of kind {frame.kind} outside a session")

    def _keep(self, evidence: Evidence) -> None:
        try:
            log.error("evidence", file=str(self._evidence.keep(evidence)))
        except (OSError, StoreError) as error:  # the core keeps it too
            log.error("evidence could not be written", error=str(error))

    async def send(self, session: int, kind: int, body: bytes = b"") -> None:
        """Into the pipe, waiting while it is full. Raises ServiceError VAULT_CORE_LOST; PipeError if it is too long."""
        stdin = self._stdin
        try:
            if stdin is None:
                raise ConnectionError
            stdin.write(pipe.framed(session, kind, body))
            await stdin.drain()
        except ConnectionError:
            raise service_error("VAULT_CORE_LOST", "the vault's core is being started; try again") from None

    def offer(self, head: SignedHead) -> None:
        """Has the core judge a head, and again if it is restarted: one at a time, and of those that come meanwhile the
        newest. One that it would not take is left out."""
        encoded = head.SerializeToString()
        if len(encoded) > MAX_SIGNED_HEAD:
            log.error("a head of the directory is too large")
            return
        self._head = encoded
        self._hand_head()

    def _hand_head(self) -> None:
        if self._stdin is None or self._judging or self._head == self._handed:
            return
        self._handed, self._judging = self._head, True
        # Without waiting: a core that waits for its responses to be read reads no more itself.
        self._stdin.write(pipe.framed(0, CoreRequest.HEAD_FIELD_NUMBER, self._handed))

    def number(self, session: CoreSession) -> int:
        """The session's number on the pipe, under which its responses come from now on."""
        number = next(self._numbers)
        self.sessions[number] = session
        return number

    async def close(self) -> None:
        """Leave the core, and end one that was started here, by force if it takes too long."""
        if self._sink is not None:
            self._sink.close()
        if self._process is not None:
            await ended(self._process)


class VaultGateway(VaultServiceServicer):
    """Sessions and the bundle."""

    def __init__(
        self,
        core: CoreProcess,
        directory: "DirectoryServiceAsyncStub",
        config: VaultConfig,
        *,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._core = core
        self._directory = directory
        self._config = config
        self._in_vain = PeerQuota(IN_VAIN, now_s=now_s)
        self._known = Recent[tuple[str, bytes], None](KNOWN)

    async def follow_heads(self) -> None:
        """Hands the directory's heads to the core, for ever; it judges them."""
        while True:
            try:
                async for response in self._directory.WatchHeads(WatchHeadsRequest()):
                    self._core.offer(response.head)
            except grpc.aio.AioRpcError as error:
                log.warning("no heads from the directory", code=error.code().name)
            await asyncio.sleep(DIRECTORY_RETRY_S)

    async def GetBundle(self, request: GetBundleRequest, context: "BundleContext") -> GetBundleResponse:
        """The bundle as it lies in its file now. Raises ServiceError UNAVAILABLE VAULT_BUNDLE_MISSING."""
        try:
            signed = SignedBundle.FromString(self._config.bundle.read_bytes())
        except (OSError, DecodeError):  # it is not there, or cut off
            signed = SignedBundle()
        if not signed.bundle:
            raise ServiceError("VAULT_BUNDLE_MISSING", "the vault has no bundle to show")
        return GetBundleResponse(bundle=signed)

    async def Session(
        self, requests: AsyncIterator[SessionRequest], context: "Context"
    ) -> AsyncIterator[SessionResponse]:
        """One session, frame by frame: the client's next is read when the last was answered. Raises ServiceError."""
        session = CoreSession(self._core)
        account: tuple[str, bytes] = ("", b"")
        holder: Hashable = None
        try:
            async with TaskScope() as scope:
                scope.start("read frames", self._read(requests, session))
                while True:
                    match await session.responses.get():
                        case SessionResponse() as frame:
                            if frame.HasField("confirmation"):
                                self._in_vain.give_back(holder)
                                self._known.put(account, None)
                            yield frame
                            session.turn.set()
                        case NeedsHistory() as needs:
                            if holder is None:  # later ones are of a proven session
                                account = (needs.label, session.key)
                                holder = account if account in self._known else network_of(context)
                                self._in_vain.take(holder)
                            await self._hand_in(session, needs, account in self._known)
                        case Refused() as refused:
                            if refused.reason == "VAULT_IDENTITY_MISMATCH":
                                self._known.drop(account)
                            raise service_error(refused.reason, refused.message)
                        case None:
                            return
        finally:
            await session.close()

    async def _read(self, requests: AsyncIterator[SessionRequest], session: CoreSession) -> None:
        """Hands the client's frames in, one at a time, until it sends no more."""
        try:
            async for frame in requests:
                await session.frame(frame)
                await session.turn.wait()
        except ServiceError as refused:
            session.refuse(refused.reason, refused.message)
        else:
            session.responses.put_nowait(None)

    async def _hand_in(self, session: CoreSession, needs: NeedsHistory, known: bool) -> None:
        """The proof that the directory has. For a key that is not known it is asked both ways, and makes one proof,
        whether there is such an account or not."""
        history = HistoryHandIn(epoch=needs.epoch)
        try:
            if needs.epoch:  # else the directory is empty, and 0 would ask for the newest epoch
                history.proof = await self._history(needs)
                if not known:
                    history.absence = await self._absence(needs)
            await session.history(history)
        except (grpc.aio.AioRpcError, pipe.PipeError):
            raise service_error("VAULT_DIRECTORY_UNAVAILABLE", "the directory gives the vault no proof") from None

    async def _history(self, needs: NeedsHistory) -> bytes:
        request = HistoryRequest(label=needs.label.encode(), epoch=needs.epoch, most_recent=1)
        try:
            _, proof = await read_history(
                self._directory, request, timeout=DIRECTORY_DEADLINE_S, limit=pipe.MAX_MESSAGE
            )
            return proof
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return b""
            raise

    async def _absence(self, needs: NeedsHistory) -> bytes:
        request = AbsenceRequest(label=needs.label.encode(), epoch=needs.epoch)
        try:
            return (await self._directory.Absence(request, timeout=DIRECTORY_DEADLINE_S)).proof
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.FAILED_PRECONDITION:  # it is there
                return b""
            raise
