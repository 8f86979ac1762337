"""The vault's core: policy, accounts, and the worker processes that hold the token. It opens nothing on the network
but, where its database is a PostgreSQL server's, the connection to that.

`python -m ipls.hsm.core.core CONFIG` reads its own configuration and speaks CoreRequest and CoreResponse on stdin and
stdout with the front, which it does not trust. It ends when stdin does. A session runs in one worker
(`ipls.hsm.worker`); what it asks for is done here, where all that is durable has its one writer.
"""

import asyncio
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

import structlog
from google.protobuf.message import DecodeError

from ipls.config import ConfigError, CoreConfig, check_private, load_core, load_trust_root
from ipls.crypto.errors import VerificationError
from ipls.hsm import pipe
from ipls.hsm.anchor_service import AnchorServiceProcess
from ipls.hsm.core.accounts import Accounts
from ipls.hsm.core.bundles import BundleKeeper
from ipls.hsm.core.heads import HeadKeeper
from ipls.hsm.core.rotation import Rotation, keep_rotated
from ipls.hsm.messages import Command, Ended, Opened, decode, encode
from ipls.hsm.process import main
from ipls.hsm.state.store import StateStore, Transaction
from ipls.proto.trust.v1.evidence_pb2 import Evidence
from ipls.proto.vault.v1.core_pb2 import CoreRequest, CoreResponse, NeedsHistory, Ready, Refused
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.rpc.half_open import HalfOpenTable
from ipls.store.errors import StoreError
from ipls.store.vault import open_vault_store
from ipls.trust.root import TrustRoot
from ipls.vault.errors import SessionRefused
from ipls.vault.limits import Limits
from ipls.vault.session.effects import (
    Admit,
    Commit,
    Effect,
    Handshake,
    JudgeBy,
    NeedHistory,
    Receive,
    ReceiveRequest,
    Send,
)

log = structlog.get_logger()

TRANSIENT = ("VAULT_NOTARY_LOST", "VAULT_STORAGE_FAILED")
"""Faults of the vault that a repeat may find mended."""
FAULTS = (
    *TRANSIENT,
    "VAULT_ANCHOR_MISSING",
    "VAULT_ANCHOR_MOVED",
    "VAULT_DATABASE_BEHIND",
    "VAULT_DATABASE_EDITED",
    "VAULT_DATABASE_FORKED",
    "VAULT_LOG_BROKEN",
)
"""These end a session; a refusal of what it asked for is the worker's to answer."""
WORKER_RESTART_S = 1.0
"""Between the starts of a worker that can't open its token."""
HELLOS = 4
"""First frames that a worker has at once: what an open session asks for waits for no more than these."""
MAX_BATCH = 256
"""Works that share one transaction and one anchor."""
CHECK_PAUSE_S = 0.1
"""Between the steps of the walk through the whole database: service goes first."""
CHECK_EVERY_S = 24 * 3600.0
"""Between two walks."""

_T = TypeVar("_T")


class WorkerProcess:
    """One worker process and the sessions that it runs. `answered` is called when it is through with a first frame."""

    def __init__(self, process: asyncio.subprocess.Process, max_sessions: int, answered: Callable[[], None]) -> None:
        self._process = process
        self._left = max_sessions
        self._spare = max_sessions // 4
        self._answered = answered
        self._unanswered: set[int] = set()
        self._reports: dict[int, asyncio.Queue[Effect | Ended]] = {}
        self.opened = asyncio.Event()
        """Its token is open."""
        self.draining = asyncio.Event()
        """It takes few more sessions, or none: time for another one."""
        self.retired = asyncio.Event()
        """It takes no more sessions, and ends with its last."""
        self.lost = False
        """It answers no more."""
        self.ended = asyncio.Event()
        """Its process has ended."""
        self.storage_key_id = b""
        """The storage root that it stores under, once its token is open."""

    @classmethod
    async def start(cls, config_path: Path, max_sessions: int, answered: Callable[[], None]) -> "WorkerProcess":
        """A new process; it is given sessions at once and runs them when its token is open."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "ipls.hsm.worker", str(config_path)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        return cls(process, max_sessions, answered)

    @property
    def load(self) -> int:
        """Sessions that it runs now."""
        return len(self._reports)

    def open(self, session: int) -> None:
        """Begins a session."""
        self._reports[session] = asyncio.Queue()
        self._unanswered.add(session)
        self.command(session, "open")
        self._left -= 1
        if self._left <= self._spare:
            self.draining.set()
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
        self.draining.set()
        self.retired.set()
        self._end_if_idle()

    def _end_if_idle(self) -> None:
        if self.retired.is_set() and not self._reports:
            assert self._process.stdin
            self._process.stdin.close()

    async def run(self, on_open: Callable[[Opened], None]) -> None:
        """Passes reports on until the process ends, then ends its sessions. `on_open` gets what the token is."""
        try:
            await self._pass_on(on_open)
        except Exception as error:  # whatever it says that is none of ours: another version, put in place meanwhile
            log.error("vault worker not understood", error=type(error).__name__)
            with suppress(ProcessLookupError):
                self._process.kill()
        for reports in self._reports.values():
            reports.put_nowait(Ended("VAULT_WORKER_LOST", "the vault's worker died; try again"))
        for session in tuple(self._unanswered):
            self._have_answered(session)
        self.lost = True
        self.draining.set()
        self.retired.set()
        await self._process.wait()
        self.ended.set()

    async def _pass_on(self, on_open: Callable[[Opened], None]) -> None:
        assert self._process.stdout
        while (message := await pipe.receive(self._process.stdout)) is not None:
            session, content = decode(message)
            if isinstance(content, Opened):
                self.storage_key_id = content.storage_key_id
                self.opened.set()
                on_open(content)
                continue
            if isinstance(content, Send | Ended):
                self._have_answered(session)
            if session in self._reports:
                self._reports[session].put_nowait(content)
                if isinstance(content, Ended) and content.reason == "VAULT_INTERNAL":
                    self.retire()  # its token may be in any state

    def _have_answered(self, session: int) -> None:
        """Also where the core has given the session up since: what lies in the pipe is bounded."""
        if session in self._unanswered:
            self._unanswered.remove(session)
            self._answered()


class Core:
    """The front's requests in, the core's responses out."""

    def __init__(
        self,
        config_path: Path,
        config: CoreConfig,
        root: TrustRoot,
        state_store: StateStore,
        rotation: Rotation,
        sink: asyncio.StreamWriter,
    ) -> None:
        self._config_path = config_path
        self._vault = config.vault
        self._state_store = state_store
        self._rotation = rotation
        self._heads = HeadKeeper(root, state_store, tell=self._tell)
        self._bundles = BundleKeeper(root, state_store, config.vault.bundle)
        limits = Limits(config.vault.daily_uses, config.vault.hourly_releases)
        self._accounts = Accounts(state_store, self._heads.times, limits)
        self._thread = ThreadPoolExecutor(1)  # the ledger and what lies in it belong to this thread
        self._works: list[tuple[Transaction, asyncio.Future[Any]]] = []
        self._performing: asyncio.Task[None] | None = None
        self._broken: SessionRefused | None = None  # what the walk through the database found
        self._sink = sink
        self._workers: dict[int, WorkerProcess] = {}
        self._token = Opened(b"", "")
        self._inboxes: dict[int, asyncio.Queue[CoreRequest]] = {}
        self._sessions: dict[int, asyncio.Task[None]] = {}
        # A session waits for its turn, is answered and half-open, then proven.
        self._turns = asyncio.Semaphore(HELLOS * config.vault.workers)
        self._waiting = HalfOpenTable[int](config.vault.max_half_open)
        self._half_open = HalfOpenTable[int](config.vault.max_half_open)
        self._proven: set[int] = set()
        self._limits: dict[int, asyncio.Timeout] = {}
        self._highest_session = 0
        self._draining: dict[asyncio.Task[None], WorkerProcess] = {}

    async def run(self, source: asyncio.StreamReader) -> None:
        """Serves until `source` ends. Raises PipeError or DecodeError if the front breaks the framing.

        Serves nothing, and tells the front why, if anchor and database do not bear each other out, or others can read
        the token's PIN.
        """
        self._loop = asyncio.get_running_loop()
        try:
            check_private(self._vault.pin)
            for evidence in await self._durably(self._heads.evidence):
                self._write(CoreResponse(session=0, evidence=evidence))
        except (ConfigError, SessionRefused) as refused:
            log.error("vault does not start", reason=refused.reason, error=str(refused))
            self._refuse(0, refused.reason, str(refused))
            return
        keepers = [asyncio.create_task(self._keep_worker(slot)) for slot in range(self._vault.workers)]
        keepers.append(asyncio.create_task(self._keep_checking()))
        keepers.append(asyncio.create_task(keep_rotated(self._rotation, self._durably, self._renew_workers)))
        try:
            while (message := await pipe.receive(source)) is not None:
                await self._handle(CoreRequest.FromString(message))
        finally:
            for task in (*keepers, *self._draining, *self._sessions.values()):
                task.cancel()
            self._thread.shutdown()

    # Workers

    async def _keep_worker(self, slot: int) -> None:
        """Has one worker in the slot that takes sessions: another when it dies, and one that is ready before it has had
        its number of them."""
        while True:
            worker = await WorkerProcess.start(self._config_path, self._vault.worker_sessions, self._turns.release)
            running = asyncio.create_task(worker.run(self._on_open))
            self._draining[running] = worker
            running.add_done_callback(self._draining.pop)
            before = self._workers.get(slot)
            if before is not None:
                await _any(worker.opened, worker.retired, before.retired)
            if not worker.retired.is_set():
                self._workers[slot] = worker
                if before is not None:
                    before.retire()
                await worker.draining.wait()
            if worker.lost and not worker.opened.is_set():
                log.error("vault worker failed to start", slot=slot)
                await asyncio.sleep(WORKER_RESTART_S)

    async def _renew_workers(self, storage_key_id: bytes) -> None:
        """Until none runs that stores under another storage root: those that do run their sessions to the end."""
        for worker in tuple(self._draining.values()):
            await _any(worker.opened, worker.retired)
            if worker.storage_key_id != storage_key_id:
                worker.draining.set()
                await worker.ended.wait()

    def _on_open(self, token: Opened) -> None:
        self._token = token
        self._write(CoreResponse(session=0, ready=Ready()))

    async def _keep_checking(self) -> None:
        """Walks through all that the database holds, at the start and each day; what was edited ends all service."""
        while True:
            try:
                await self._check_all()
            except SessionRefused as refused:
                log.error("vault database check failed", reason=refused.reason, error=refused.message)
                if refused.reason not in TRANSIENT:
                    self._broken = refused
                    return
                await asyncio.sleep(CHECK_PAUSE_S)
            else:
                await asyncio.sleep(CHECK_EVERY_S)

    async def _check_all(self) -> None:
        steps, over = self._state_store.check(), False
        while not over:
            over = await self._durably(partial(next, steps, True)) is True
            await asyncio.sleep(CHECK_PAUSE_S)
        log.info("vault database checked")

    # The front

    def _write(self, response: CoreResponse) -> None:
        self._sink.write(pipe.framed(response.SerializeToString()))

    def _tell(self, evidence: Evidence) -> None:
        """From the database's thread."""
        response = CoreResponse(session=0, evidence=evidence)
        self._loop.call_soon_threadsafe(self._write, response)

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
        except (VerificationError, SessionRefused) as refused:
            log.warning("head refused", reason=refused.reason)

    def _refuse(self, session: int, reason: str, message: str) -> None:
        self._write(CoreResponse(session=session, refused=Refused(reason=reason, message=message)))

    # Sessions

    def _open(self, session: int, first: CoreRequest) -> None:
        inbox = self._inboxes[session] = asyncio.Queue(maxsize=1)
        inbox.put_nowait(first)
        task = self._sessions[session] = asyncio.create_task(self._serve(session, inbox))
        # Not at the end of the task: one that is cancelled at once never starts.
        task.add_done_callback(lambda task: self._forget(session, task))
        self._give_up(self._waiting.admit(session))

    def _give_up(self, session: int | None) -> None:
        """Ends a session that had to make room."""
        if session is not None:
            self._sessions[session].cancel()
            self._refuse(session, "VAULT_BUSY", "more clients knock than the vault can answer; try again")

    def _forget(self, session: int, task: asyncio.Task[None]) -> None:
        self._inboxes.pop(session, None)
        self._waiting.leave(session)
        self._half_open.leave(session)
        self._proven.discard(session)
        self._limits.pop(session, None)
        del self._sessions[session]
        if not task.cancelled() and (error := task.exception()):
            log.error("session failed", error=type(error).__name__)
            self._refuse(session, "VAULT_INTERNAL", "internal error; see the vault's log")

    async def _serve(self, session: int, inbox: asyncio.Queue[CoreRequest]) -> None:
        try:
            async with asyncio.timeout(self._vault.handshake_s) as limit:
                self._limits[session] = limit
                worker = await self._turn()
                worker.open(session)
                try:
                    self._waiting.leave(session)
                    self._give_up(self._half_open.admit(session))
                    ended = await self._drive(session, worker, inbox)
                finally:
                    worker.close(session)
            self._refuse(session, ended.reason, ended.message)
        except SessionRefused as refused:
            self._refuse(session, refused.reason, refused.message)
        except TimeoutError:
            lasts = f"a handshake lasts {self._vault.handshake_s:g} s at most, a session {self._vault.session_s:g} s"
            self._refuse(session, "VAULT_SESSION_EXPIRED", lasts)

    async def _turn(self) -> WorkerProcess:
        """The worker for a session whose turn it is; it says when the next one's is. Raises SessionRefused."""
        await self._turns.acquire()
        workers = [worker for worker in self._workers.values() if not worker.retired.is_set()]
        if not workers:
            self._turns.release()
            raise SessionRefused("VAULT_WORKER_LOST", "the vault's worker is being replaced; try again")
        return min(workers, key=lambda worker: worker.load)

    def _prove(self, session: int) -> None:
        """Counts a session among those of proven identity, which last longer. Raises SessionRefused VAULT_BUSY."""
        if len(self._proven) >= self._vault.max_sessions:
            raise SessionRefused("VAULT_BUSY", "the vault has as many sessions as it takes; try again")
        self._half_open.leave(session)
        self._proven.add(session)
        limit = self._limits[session]
        limit.reschedule((limit.when() or 0) + self._vault.session_s - self._vault.handshake_s)

    async def _drive(self, session: int, worker: WorkerProcess, inbox: asyncio.Queue[CoreRequest]) -> Ended:
        """Does what the session asks for until it ends."""
        while not isinstance(effect := await worker.next(session), Ended):
            if isinstance(effect, Send):
                self._write(CoreResponse(session=session, frame=effect.frame))
                await self._sink.drain()
                continue
            try:
                worker.command(session, "send", await self._perform(session, inbox, effect))
            except (SessionRefused, VerificationError) as refused:
                if refused.reason in FAULTS:
                    return Ended(refused.reason, str(refused))
                worker.command(session, "throw", (refused.reason, str(refused)))
        return effect

    async def _perform(self, session: int, inbox: asyncio.Queue[CoreRequest], effect: Effect) -> object:
        match effect:
            case Receive():
                return await _frame(inbox)
            case ReceiveRequest():
                return await _frame(inbox), self._heads.standing()
            case Admit(label, bundle_number):
                return await self._durably(lambda: self._check_shard(label, bundle_number))
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
                if isinstance(operation, Handshake):
                    self._prove(session)
                return await self._durably(lambda: self._accounts.commit(label, identity, operation))
            case Send():
                raise AssertionError("sent by the caller")

    def _check_shard(self, label: str, bundle_number: int | None = None) -> None:
        """Raises VerificationError, SessionRefused, as `BundleKeeper.check`."""
        self._bundles.check(label, self._token, bundle_number, self._heads.now_ms())

    async def _durably(self, work: Callable[[], _T]) -> _T:
        """What `work` returns, when what it put in the ledger is durable and anchored, as all works that wait then.

        Raises what it raises; SessionRefused VAULT_STORAGE_FAILED if database or bundle fail, and what the walk through
        the database found, for good.
        """
        if self._broken is not None:
            raise self._broken
        future: asyncio.Future[_T] = self._loop.create_future()
        self._works.append((work, future))
        if self._performing is None:
            self._performing = asyncio.create_task(self._perform_all())
        try:
            return await future
        except (StoreError, OSError, DecodeError) as error:
            log.error("vault storage failed", error=f"{type(error).__name__}: {error}")
            raise SessionRefused("VAULT_STORAGE_FAILED", "the vault can't read or write what it keeps") from error

    async def _perform_all(self) -> None:
        try:
            while self._works:
                batch, self._works = self._works[:MAX_BATCH], self._works[MAX_BATCH:]
                await self._perform_batch([(work, future) for work, future in batch if not future.done()])
        finally:
            self._performing = None

    async def _perform_batch(self, batch: list[tuple[Transaction, asyncio.Future[Any]]]) -> None:
        try:
            works = [work for work, _ in batch]
            outcomes = await self._loop.run_in_executor(self._thread, self._state_store.perform, works)
        except Exception as error:  # a fault of ours must end the sessions that it met, and no others
            outcomes = [error] * len(batch)
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            if future.done():
                continue  # its session has ended
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)


async def _frame(inbox: asyncio.Queue[CoreRequest]) -> bytes:
    """The client's next. Raises SessionRefused."""
    request = await inbox.get()
    if request.WhichOneof("message") != "frame":
        raise SessionRefused("VAULT_OUT_OF_ORDER", "a frame was expected")
    return request.frame.SerializeToString()


async def _any(*events: asyncio.Event) -> None:
    """Until one of them is set."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


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
    with (
        closing(open_vault_store(config.vault.database)) as store,
        closing(AnchorServiceProcess(config_path, config.vault.shard, store.lock)) as anchor_service,
    ):
        state_store = StateStore(store, anchor_service)
        await Core(config_path, config, root, state_store, Rotation(state_store, anchor_service), writer).run(reader)


def run(config_path: Path, source: BinaryIO, sink: BinaryIO) -> None:
    """`serve`, in a loop of its own."""
    asyncio.run(serve(config_path, source, sink))


if __name__ == "__main__":
    main("core", run)
