"""The core's worker processes: each takes so many sessions, and another one is ready before it has had them.

Tested by tests/hsm/core/test_workers.py and tests/hsm/core/test_flood.py.
"""

import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Literal

import structlog

from ipls.config import VaultConfig
from ipls.hsm import pipe
from ipls.hsm.messages import Command, Ended, Opened, decode_report, encode_command
from ipls.runtime.service import Service
from ipls.runtime.tasks import race
from ipls.vault.errors import SessionRefused
from ipls.vault.session.effects import Effect, Send

log = structlog.get_logger()

WORKER_RESTART_S = 1.0
"""Between the starts of a worker that can't be started, or can't open its token."""
HELLOS = 4
"""First frames that a worker has at once: what an open session asks for waits for no more than these."""
MAX_REPORTS = 4
"""Of a session, that are not yet dealt with: it waits for an answer after a frame to send and what it asks for."""


class WorkerProcess:
    """One worker process and the sessions that it runs. `answered` is called when it is through with a first frame."""

    def __init__(self, process: asyncio.subprocess.Process, max_sessions: int, answered: Callable[[], None]) -> None:
        self._process = process
        self._left = max_sessions
        self._spare = max_sessions // 4
        self._answered = answered
        self._opening = self._expect()
        self._unanswered: dict[int, asyncio.TimerHandle] = {}
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
        self._unanswered[session] = self._expect()
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
        self._process.stdin.write(encode_command(Command(session, kind, value)))

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
            self._expect()

    def _expect(self) -> asyncio.TimerHandle:
        """Gives it its time for what it is to do next: if the token hangs, or the process, it is killed."""
        return asyncio.get_running_loop().call_later(pipe.HANGS_S, self._hangs)

    def _hangs(self) -> None:
        if self._process.returncode is None:
            log.error("vault worker hangs", seconds=pipe.HANGS_S)
            self._process.kill()

    async def run(self, on_open: Callable[[Opened], None]) -> None:
        """Passes reports on until the process ends, then ends its sessions. `on_open` gets what the token is."""
        try:
            await self._pass_on(on_open)
        except pipe.PipeError as error:  # another version, put in place meanwhile
            log.error("vault worker not understood", reason=error.reason, error=str(error))
            with suppress(ProcessLookupError):
                self._process.kill()
        for reports in self._reports.values():
            reports.put_nowait(Ended("VAULT_WORKER_LOST", "the vault's worker died; try again"))
        self._opening.cancel()
        for session in tuple(self._unanswered):
            self._have_answered(session)
        self.lost = True
        self.draining.set()
        self.retired.set()
        await self._process.wait()
        self.ended.set()

    async def _pass_on(self, on_open: Callable[[Opened], None]) -> None:
        assert self._process.stdout
        while (frame := await pipe.receive(self._process.stdout)) is not None:
            session, content = decode_report(frame)
            if isinstance(content, Opened):
                self.storage_key_id = content.storage_key_id
                self._opening.cancel()
                self.opened.set()
                on_open(content)
                continue
            if isinstance(content, Send | Ended):
                self._have_answered(session)
            if session in self._reports:
                if self._reports[session].qsize() == MAX_REPORTS:
                    raise pipe.PipeError("a session that goes on unanswered")
                self._reports[session].put_nowait(content)
                if isinstance(content, Ended) and content.reason == "VAULT_INTERNAL":
                    self.retire()  # its token may be in any state

    def _have_answered(self, session: int) -> None:
        """Also where the core has given the session up since: what lies in the pipe is bounded."""
        if session in self._unanswered:
            self._unanswered.pop(session).cancel()
            self._answered()


class Workers:
    """So many of them, each in a slot of its own; their tasks are in `process`.

    `on_open` is called when one has opened its token.
    """

    def __init__(self, config_path: Path, vault: VaultConfig, process: Service, on_open: Callable[[], None]) -> None:
        self._config_path = config_path
        self._vault = vault
        self._process = process
        self._on_open = on_open
        self._turns = asyncio.Semaphore(HELLOS * vault.workers)
        self._in_slot: dict[int, WorkerProcess] = {}
        self._running: set[WorkerProcess] = set()
        self.token = Opened(b"", "")
        """What the last one opened."""

    def start(self) -> None:
        """Fills the slots, for ever."""
        for slot in range(self._vault.workers):
            self._process.spawn(f"keep worker {slot}", partial(self._keep, slot))

    async def turn(self) -> WorkerProcess:
        """The worker for a session whose turn it is; it says when the next one's is. Raises SessionRefused."""
        await self._turns.acquire()
        workers = [worker for worker in self._in_slot.values() if not worker.retired.is_set()]
        if not workers:
            self._turns.release()
            raise SessionRefused("VAULT_WORKER_LOST", "the vault's worker is being replaced; try again")
        return min(workers, key=lambda worker: worker.load)

    async def renew(self, storage_key_id: bytes) -> None:
        """Until none runs that stores under another storage root: those that do run their sessions to the end."""
        for worker in tuple(self._running):
            await _any(worker.opened, worker.retired)
            if worker.storage_key_id != storage_key_id:
                worker.draining.set()
                await worker.ended.wait()

    async def _keep(self, slot: int) -> None:
        """Has one worker in the slot that takes sessions: another when it dies, and one that is ready before it has had
        its number of them."""
        while True:
            try:
                worker = await WorkerProcess.start(self._config_path, self._vault.worker_sessions, self._turns.release)
            except OSError as error:
                log.error("vault worker not started", slot=slot, error=str(error))
                await asyncio.sleep(WORKER_RESTART_S)
                continue
            self._running.add(worker)
            self._process.start("worker", self._run(worker))
            before = self._in_slot.get(slot)
            if before is not None:
                await _any(worker.opened, worker.retired, before.retired)
            if not worker.retired.is_set():
                self._in_slot[slot] = worker
                if before is not None:
                    before.retire()
                await worker.draining.wait()
            if worker.lost and not worker.opened.is_set():
                log.error("vault worker failed to start", slot=slot)
                await asyncio.sleep(WORKER_RESTART_S)

    async def _run(self, worker: WorkerProcess) -> None:
        await worker.run(self._opened)
        self._running.remove(worker)

    def _opened(self, token: Opened) -> None:
        self.token = token
        self._on_open()


async def _any(*events: asyncio.Event) -> None:
    """Until one of them is set."""
    await race(*(event.wait() for event in events))
