"""The vault's core: policy, accounts, and the worker processes that hold the token. It opens nothing on the network.

`python -m ipls.hsm.core CONFIG` reads its own configuration and speaks CoreRequest and CoreResponse on stdin and stdout
with the front, which it does not trust. It ends when stdin does. A session runs in one worker (`ipls.hsm.worker`); what
it asks for is done here, where all that is durable has its one writer.
"""

import asyncio
import hashlib
import sqlite3
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, Literal, TypeVar

import structlog
from google.protobuf.message import DecodeError

from ipls.config import CoreConfig, configure_logging, load_core, load_trust_root
from ipls.hsm import pipe
from ipls.hsm.heads import HeadKeeper
from ipls.hsm.messages import Command, Ended, Opened, decode, encode
from ipls.proto.vault.v1.core_pb2 import CoreRequest, CoreResponse, NeedsHistory, Ready, Refused
from ipls.proto.vault.v1.vault_pb2 import SignedBundle
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.session.account import apply
from ipls.session.effects import Commit, Effect, JudgeBy, NeedHistory, Receive, Send
from ipls.session.errors import SessionRefused
from ipls.store.vault import VaultStore
from ipls.trust.bundle import hsm_for, verify_bundle
from ipls.trust.errors import TrustError
from ipls.trust.root import TrustRoot

log = structlog.get_logger()

WORKER_RESTART_S = 1.0
"""Between the starts of a worker that can't open its token."""

_T = TypeVar("_T")


class WorkerProcess:
    """One worker process and the sessions that it runs."""

    def __init__(self, process: asyncio.subprocess.Process, max_sessions: int) -> None:
        self._process = process
        self._left = max_sessions
        self._reports: dict[int, asyncio.Queue[Effect | Ended]] = {}
        self.retired = asyncio.Event()
        """It takes no more sessions, and ends with its last."""
        self.lost = False
        """Its process has ended."""

    @classmethod
    async def start(cls, config_path: Path, max_sessions: int) -> "WorkerProcess":
        """A new process; it is given sessions at once and runs them when its token is open."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "ipls.hsm.worker", str(config_path)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        return cls(process, max_sessions)

    @property
    def load(self) -> int:
        """Sessions that it runs now."""
        return len(self._reports)

    def open(self, session: int) -> None:
        """Begins a session."""
        self._reports[session] = asyncio.Queue()
        self.command(session, "open")
        self._left -= 1
        if self._left == 0:
            self.retire()

    async def next(self, session: int) -> Effect | Ended:
        """What the session asks for next, or its end."""
        return await self._reports[session].get()

    def command(self, session: int, kind: Literal["open", "send", "throw", "close"], value: object = None) -> None:
        """Hands a session what it waits for: one thing at a time, which bounds what lies in the pipe."""
        assert self._process.stdin
        self._process.stdin.write(pipe.framed(encode(Command(session, kind, value))))

    def close(self, session: int) -> None:
        """Ends a session, if it has not ended."""
        self.command(session, "close")
        del self._reports[session]
        self._end_if_idle()

    def retire(self) -> None:
        """Lets the sessions that it has run to their end, then ends the process."""
        self.retired.set()
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        if self.retired.is_set() and not self._reports:
            assert self._process.stdin
            self._process.stdin.close()

    async def run(self, opened: Callable[[bytes], None]) -> None:
        """Passes reports on until the process ends, then ends its sessions. `opened` gets the HSM key id."""
        assert self._process.stdout
        while (message := await pipe.receive(self._process.stdout)) is not None:
            session, content = decode(message)
            if isinstance(content, Opened):
                opened(content.hsm_key_id)
            elif session in self._reports:
                self._reports[session].put_nowait(content)
                if isinstance(content, Ended) and content.reason == "VAULT_INTERNAL":
                    self.retire()  # its token may be in any state
        for reports in self._reports.values():
            reports.put_nowait(Ended("VAULT_WORKER_LOST", "the vault's worker died; try again"))
        self.lost = True
        self.retired.set()
        await self._process.wait()


class Core:
    """The front's requests in, the core's responses out."""

    def __init__(
        self, config_path: Path, config: CoreConfig, root: TrustRoot, store: VaultStore, sink: asyncio.StreamWriter
    ) -> None:
        self._config_path = config_path
        self._vault = config.vault
        self._root = root
        self._store = store
        self._heads = HeadKeeper(root, store)
        self._database = ThreadPoolExecutor(1)  # store and heads belong to this thread
        self._sink = sink
        self._workers: dict[int, WorkerProcess] = {}
        self._hsm_key_id = b""
        self._inboxes: dict[int, asyncio.Queue[CoreRequest]] = {}
        self._sessions: dict[int, asyncio.Task[None]] = {}
        self._highest_session = 0
        self._draining: set[asyncio.Task[None]] = set()

    async def run(self, source: asyncio.StreamReader) -> None:
        """Serves until `source` ends. Raises PipeError or DecodeError if the front breaks the framing."""
        keepers = [asyncio.create_task(self._keep_worker(slot)) for slot in range(self._vault.workers)]
        try:
            while (message := await pipe.receive(source)) is not None:
                await self._handle(CoreRequest.FromString(message))
        finally:
            for task in (*keepers, *self._draining, *self._sessions.values()):
                task.cancel()
            self._database.shutdown()
            self._store.close()

    # Workers

    async def _keep_worker(self, slot: int) -> None:
        """Has one worker in the slot that takes sessions; replaces it when it dies or has had its number of them."""
        while True:
            worker = await WorkerProcess.start(self._config_path, self._vault.worker_sessions)
            self._workers[slot] = worker
            opened = asyncio.Event()

            def on_open(hsm_key_id: bytes, opened: asyncio.Event = opened) -> None:
                opened.set()
                self._hsm_key_id = hsm_key_id
                self._write(CoreResponse(session=0, ready=Ready()))

            running = asyncio.create_task(worker.run(on_open))
            self._draining.add(running)
            running.add_done_callback(self._draining.discard)
            await worker.retired.wait()
            del self._workers[slot]
            if worker.lost and not opened.is_set():
                log.error("vault worker failed to start", slot=slot)
                await asyncio.sleep(WORKER_RESTART_S)

    # The front

    def _write(self, response: CoreResponse) -> None:
        self._sink.write(pipe.framed(response.SerializeToString()))

    async def _handle(self, request: CoreRequest) -> None:
        kind = request.WhichOneof("message")
        session = request.session
        if kind == "head":
            await self._offer(request.head)
        elif kind == "closed":
            if task := self._sessions.get(session):
                task.cancel()
                await asyncio.wait((task,))  # its place is free for the next message
        elif session in self._inboxes:
            try:
                self._inboxes[session].put_nowait(request)
            except asyncio.QueueFull:
                del self._inboxes[session]  # it is refused once
                self._sessions[session].cancel()
                self._refuse(session, "VAULT_OUT_OF_ORDER", "a frame before the last one was answered")
        elif kind == "frame" and session > self._highest_session:
            # A session number is used once: a late frame to one that is over opens nothing.
            self._highest_session = session
            self._open(session, request)

    async def _offer(self, head: SignedHead) -> None:
        try:
            await self._durably(lambda: self._heads.offer(head))
        except (TrustError, SessionRefused) as refused:
            log.warning("head refused", reason=refused.reason)

    def _refuse(self, session: int, reason: str, message: str) -> None:
        self._write(CoreResponse(session=session, refused=Refused(reason=reason, message=message)))

    # Sessions

    def _open(self, session: int, first: CoreRequest) -> None:
        if len(self._sessions) >= self._vault.max_sessions:
            return self._refuse(session, "VAULT_BUSY", "the vault has as many sessions as it takes")
        workers = [worker for worker in self._workers.values() if not worker.retired.is_set()]
        if not workers:
            return self._refuse(session, "VAULT_WORKER_LOST", "the vault's worker is being replaced; try again")
        worker = min(workers, key=lambda worker: worker.load)
        inbox = self._inboxes[session] = asyncio.Queue(maxsize=1)
        inbox.put_nowait(first)
        worker.open(session)
        task = self._sessions[session] = asyncio.create_task(self._serve(session, worker, inbox))
        # Not at the end of the task: one that is cancelled at once never starts.
        task.add_done_callback(lambda task: self._forget(session, worker, task))
        return None

    def _forget(self, session: int, worker: WorkerProcess, task: asyncio.Task[None]) -> None:
        worker.close(session)
        self._inboxes.pop(session, None)
        del self._sessions[session]
        if not task.cancelled() and (error := task.exception()):
            log.error("session failed", error=type(error).__name__)
            self._refuse(session, "VAULT_INTERNAL", "internal error; see the vault's log")

    async def _serve(self, session: int, worker: WorkerProcess, inbox: asyncio.Queue[CoreRequest]) -> None:
        try:
            async with asyncio.timeout(self._vault.session_s):
                ended = await self._drive(session, worker, inbox)
            self._refuse(session, ended.reason, ended.message)
        except TimeoutError:
            self._refuse(session, "VAULT_SESSION_EXPIRED", f"a session lasts {self._vault.session_s:g} s at most")

    async def _drive(self, session: int, worker: WorkerProcess, inbox: asyncio.Queue[CoreRequest]) -> Ended:
        """Does what the session asks for until it ends."""
        while not isinstance(effect := await worker.next(session), Ended):
            if isinstance(effect, Send):
                self._write(CoreResponse(session=session, frame=effect.frame))
                await self._sink.drain()
                continue
            try:
                worker.command(session, "send", await self._perform(session, inbox, effect))
            except (SessionRefused, TrustError) as refused:
                worker.command(session, "throw", (refused.reason, str(refused)))
        return effect

    async def _perform(self, session: int, inbox: asyncio.Queue[CoreRequest], effect: Effect) -> object:
        match effect:
            case Receive():
                request = await inbox.get()
                if request.WhichOneof("message") != "frame":
                    raise SessionRefused("VAULT_OUT_OF_ORDER", "a frame was expected")
                return request.frame.SerializeToString()
            case JudgeBy(client_head):
                return await self._durably(lambda: self._heads.judge_by(client_head))
            case NeedHistory(label, epoch):
                await self._durably(lambda: self._check_shard(label))
                self._write(CoreResponse(session=session, needs_history=NeedsHistory(label=label, epoch=epoch)))
                request = await inbox.get()
                if request.WhichOneof("message") != "history" or request.history.epoch != epoch:
                    raise SessionRefused("VAULT_OUT_OF_ORDER", "a history proof was expected")
                return request.history.proof
            case Commit(label, identity, operation):
                return await self._durably(
                    lambda: self._store.change(
                        label, lambda account: apply(account, identity, operation, self._heads.now_ms())
                    )
                )
            case Send():
                raise AssertionError("sent by the caller")

    def _check_shard(self, label: str) -> None:
        """Raises TrustError, or SessionRefused VAULT_WRONG_SHARD: the fleet's bundle gives the label to another HSM."""
        now_ms = self._heads.now_ms()
        signed = SignedBundle.FromString(self._vault.bundle.read_bytes())
        hsm = hsm_for(verify_bundle(self._root, signed, now_ms=now_ms), label, now_ms=now_ms)
        if hashlib.sha256(hsm.public_key).digest() != self._hsm_key_id:
            raise SessionRefused("VAULT_WRONG_SHARD", "the fleet's bundle gives this account to another HSM")

    async def _durably(self, work: Callable[[], _T]) -> _T:
        """Runs `work` in the database's thread. Raises what it raises; SessionRefused if database or bundle fail."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._database, work)
        except (sqlite3.Error, OSError, DecodeError) as error:
            log.error("vault storage failed", error=type(error).__name__)
            raise SessionRefused("VAULT_STORAGE_FAILED", "the vault can't read or write what it keeps") from error


async def _connect(source: BinaryIO, sink: BinaryIO) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=pipe.MAX_MESSAGE)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), source)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, sink)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


async def serve(config_path: Path, source: BinaryIO, sink: BinaryIO) -> None:
    """Runs the core until `source` ends. Raises ConfigError."""
    config = load_core(config_path)
    root = load_trust_root(config.trust_root)
    reader, writer = await _connect(source, sink)
    await Core(config_path, config, root, VaultStore(config.vault.database), writer).run(reader)


if __name__ == "__main__":
    configure_logging()
    asyncio.run(serve(Path(sys.argv[1]), *pipe.take_stdio()))
