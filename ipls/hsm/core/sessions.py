"""The sessions that the front opens: each runs in one worker, and what it asks for is done here.

Tested by tests/hsm/core/test_core.py.
"""

import asyncio
from collections import Counter
from functools import partial
from typing import NamedTuple

import structlog

from ipls.config import VaultConfig
from ipls.crypto.errors import VerificationError
from ipls.hsm.core.accounts import Accounts
from ipls.hsm.core.bundles import BundleKeeper
from ipls.hsm.core.commit import TRANSIENT, GroupCommit
from ipls.hsm.core.front import Front
from ipls.hsm.core.heads import HeadKeeper
from ipls.hsm.core.workers import WorkerProcess, Workers
from ipls.hsm.messages import Ended
from ipls.hsm.pipe import Frame, PipeError, parse
from ipls.proto.vault.v1.core_pb2 import CoreRequest, CoreResponse, HistoryHandIn, NeedsHistory
from ipls.proto.vault.v1.vault_pb2 import HistoryAnswer
from ipls.runtime.half_open import HalfOpenTable
from ipls.runtime.service import Service
from ipls.vault.errors import SessionRefused
from ipls.vault.session.effects import (
    Admit,
    Commit,
    Effect,
    Handshake,
    History,
    JudgeBy,
    NeedHistory,
    Receive,
    ReceiveRequest,
    Send,
)
from ipls.vault.session.transcript import check_frame_size

log = structlog.get_logger()

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

ACCOUNT_SESSIONS = 8
"""Proven at once, of one account: more than its devices have."""


class Kept(NamedTuple):
    """What the state store keeps."""

    heads: HeadKeeper
    bundles: BundleKeeper
    accounts: Accounts


class Sessions:
    """All that are open; their tasks are in `process`."""

    def __init__(
        self,
        vault: VaultConfig,
        kept: Kept,
        commit: GroupCommit,
        workers: Workers,
        front: Front,
        process: Service,
    ) -> None:
        self._vault = vault
        self._kept = kept
        self._durably = commit.durably
        self._workers = workers
        self._front = front
        self._process = process
        self._inboxes: dict[int, asyncio.Queue[Frame]] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        # A session waits for its turn, is answered and half-open, then proven.
        self._waiting = HalfOpenTable[int](vault.max_half_open)
        self._half_open = HalfOpenTable[int](vault.max_half_open)
        self._proven: dict[int, str] = {}
        """Whose they are, by its label."""
        self._idle = HalfOpenTable[int](vault.max_sessions)
        """Those of the proven that wait for their client."""
        self._limits: dict[int, asyncio.Timeout] = {}
        self._highest = 0

    def hand(self, frame: Frame) -> None:
        """Gives a session what it waits for; a client's frame of a new number opens one."""
        session = frame.session
        if session in self._inboxes:
            try:
                self._inboxes[session].put_nowait(frame)
            except asyncio.QueueFull:
                del self._inboxes[session]  # it is refused once
                self._tasks[session].cancel()
                self._front.refuse(session, "VAULT_OUT_OF_ORDER", "a frame before the last one was answered")
        elif frame.kind == CoreRequest.FRAME_FIELD_NUMBER and session > self._highest:
            # A session number is used once: a late frame to one that is over opens nothing.
            self._highest = session
            self._open(session, frame)

    async def close(self, session: int) -> None:
        """Its stream has ended; its place is free for the next message."""
        if task := self._tasks.get(session):
            task.cancel()
            await asyncio.wait((task,))

    def _open(self, session: int, first: Frame) -> None:
        inbox = self._inboxes[session] = asyncio.Queue(maxsize=1)
        inbox.put_nowait(first)
        task = self._tasks[session] = self._process.start(f"session {session}", self._serve(session, inbox))
        # Not at the end of the task: one that is cancelled at once never starts.
        task.add_done_callback(lambda _: self._forget(session))
        self._give_up(self._waiting.admit(session))

    def _give_up(self, session: int | None) -> None:
        """Ends a session that had to make room."""
        if session is not None:
            self._tasks[session].cancel()
            self._front.refuse(session, "VAULT_BUSY", "more clients knock than the vault can answer; try again")

    def _forget(self, session: int) -> None:
        self._inboxes.pop(session, None)
        self._waiting.leave(session)
        self._half_open.leave(session)
        self._proven.pop(session, None)
        self._idle.leave(session)
        self._limits.pop(session, None)
        del self._tasks[session]

    async def _serve(self, session: int, inbox: asyncio.Queue[Frame]) -> None:
        try:
            ended = await self._run(session, inbox)
            self._front.refuse(session, ended.reason, ended.message)
        except SessionRefused as refused:
            self._front.refuse(session, refused.reason, refused.message)
        except TimeoutError:
            lasts = f"a handshake lasts {self._vault.handshake_s:g} s at most, a session {self._vault.session_s:g} s"
            self._front.refuse(session, "VAULT_SESSION_EXPIRED", lasts)
        except Exception as error:  # a fault of ours must end this session, and no others
            log.error("session failed", error=type(error).__name__)
            self._front.refuse(session, "VAULT_INTERNAL", "internal error; see the vault's log")

    async def _run(self, session: int, inbox: asyncio.Queue[Frame]) -> Ended:
        async with asyncio.timeout(self._vault.handshake_s) as limit:
            self._limits[session] = limit
            worker = await self._workers.turn()
            worker.open(session)
            try:
                self._waiting.leave(session)
                self._give_up(self._half_open.admit(session))
                return await self._drive(session, worker, inbox)
            finally:
                worker.close(session)

    def _prove(self, session: int, label: str) -> None:
        """Counts a session among those of proven identity, which last longer. One that waits for its client makes room,
        the account's own where it has as many as it may. Raises SessionRefused VAULT_BUSY."""
        crowded = Counter(self._proven.values())[label] >= ACCOUNT_SESSIONS
        if crowded or len(self._proven) >= self._vault.max_sessions:
            longest = self._idle.push_out(label) if crowded else self._idle.push_out()
            if longest is None:
                raise SessionRefused("VAULT_BUSY", "the vault has as many sessions as it takes; try again")
            del self._proven[longest]
            self._give_up(longest)
        self._half_open.leave(session)
        self._proven[session] = label
        limit = self._limits[session]
        limit.reschedule((limit.when() or 0) + self._vault.session_s - self._vault.handshake_s)

    async def _drive(self, session: int, worker: WorkerProcess, inbox: asyncio.Queue[Frame]) -> Ended:
        """Does what the session asks for until it ends."""
        while not isinstance(effect := await worker.next(session), Ended):
            if isinstance(effect, Send):
                self._front.send(session, CoreResponse.FRAME_FIELD_NUMBER, effect.frame)
                await self._front.drain()
                continue
            try:
                worker.command(session, "send", await self._perform(session, inbox, effect))
            except (SessionRefused, VerificationError) as refused:
                if refused.reason in FAULTS:
                    return Ended(refused.reason, str(refused))
                worker.command(session, "throw", (refused.reason, str(refused)))
        return effect

    async def _perform(self, session: int, inbox: asyncio.Queue[Frame], effect: Effect) -> object:
        heads, _, accounts = self._kept
        match effect:
            case Receive():
                return await _frame(inbox)
            case ReceiveRequest():
                self._idle.admit(session, self._proven[session])
                frame = await _frame(inbox)
                self._idle.leave(session)
                return frame, heads.standing()
            case Admit(label, bundle_number):
                return await self._durably(lambda: self._check_shard(label, bundle_number))
            case JudgeBy(client_head):
                return await self._durably(lambda: heads.judge_by(client_head))
            case NeedHistory(label, epoch):
                await self._durably(lambda: self._check_shard(label))
                needs = NeedsHistory(label=label, epoch=epoch).SerializeToString()
                self._front.send(session, CoreResponse.NEEDS_HISTORY_FIELD_NUMBER, needs)
                return await _history(inbox, epoch)
            case Commit(label, identity, operation):
                if isinstance(operation, Handshake):
                    self._prove(session, label)
                result = await self._durably(lambda: accounts.commit(label, identity, operation))
                if isinstance(operation, History):
                    assert isinstance(result, HistoryAnswer)
                    steps = accounts.history(label, operation.first, result)
                    while await self._durably(partial(next, steps, None)):
                        pass
                return result
            case Send():
                raise AssertionError("sent by the caller")

    def _check_shard(self, label: str, bundle_number: int | None = None) -> None:
        """Raises VerificationError, SessionRefused, as `BundleKeeper.check`."""
        heads, bundles, _ = self._kept
        bundles.check(label, self._workers.token, bundle_number, heads.now_ms())


async def _frame(inbox: asyncio.Queue[Frame]) -> bytes:
    """The client's next, unread. Raises SessionRefused."""
    frame = await inbox.get()
    if frame.kind != CoreRequest.FRAME_FIELD_NUMBER:
        raise SessionRefused("VAULT_OUT_OF_ORDER", "a frame was expected")
    check_frame_size(len(frame.body))
    return frame.body


async def _history(inbox: asyncio.Queue[Frame], epoch: int) -> HistoryHandIn:
    """The front's proofs for this epoch. Raises SessionRefused."""
    frame = await inbox.get()
    if frame.kind != CoreRequest.HISTORY_FIELD_NUMBER:
        raise SessionRefused("VAULT_OUT_OF_ORDER", "a history proof was expected")
    try:
        history = parse(HistoryHandIn, frame.body)
    except PipeError:
        raise SessionRefused("VAULT_FRAME_MALFORMED", "what should have a history proof can't be read") from None
    if history.epoch != epoch:
        raise SessionRefused("VAULT_OUT_OF_ORDER", "a history proof of another epoch was expected")
    return history
