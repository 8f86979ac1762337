"""The protocol between directory processes, their database, witnesses and log, explored by random deaths and restores.

Everything that decides is the real code: `Publisher`, `Witnesses`, `DirectoryStore`, `WitnessService`, `WitnessStore`,
`FileLog`. The network between directory and witnesses is simulated: it loses requests and replies, and delivers
proposals late and again. Safety: no epoch gets two roots, signed or as heads; what a witness has signed is in the log;
the log has no second object for an epoch, leads the head by one at most, and all in it but the newest is signed.
Liveness: whatever has happened, while k witnesses live, one process publishes the next epoch.

    IPLS_MODEL_EXAMPLES=500 pytest tests/server/directory/test_protocol_model.py      # the longer run
"""

import asyncio
import contextlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Coroutine, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import pytest
from grpc.aio import AioRpcError, Metadata
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ipls._grpc import grpc
from ipls.auditlog.errors import AuditUnavailable
from ipls.http.client import HttpClient, HttpUnavailable
from ipls.http.public_log import PublicReader
from ipls.proto.witness.v1.witness_pb2 import ProposeRequest
from ipls.server.directory.errors import NoQuorum
from ipls.server.directory.pruning import Pruner
from ipls.server.directory.publisher import Publisher
from ipls.server.directory.witnesses import Witnesses
from ipls.server.log.service import log_app
from ipls.server.witness.http import auditor_app
from ipls.server.witness.service import WitnessService
from ipls.store.directory import DirectoryStore, open_directory_store
from ipls.store.directory.fsck import Fsck
from ipls.store.directory.sqlite import SqliteDirectory
from ipls.store.errors import StoreError
from ipls.store.log import FileLog
from tests.server.directories import NOW, PROPOSER, World, record
from tests.server.loopback import CALLER
from tests.server.witnesses import make_service, open_store

N, K = 3, 2
EXAMPLES = int(os.environ.get("IPLS_MODEL_EXAMPLES", "50"))
STEPS = 25
LABELS = [b"+49170%07d" % n for n in range(3)]


class Crash(Exception):
    """A directory process dies here."""


class Fuse:
    """Burns down with each durable step of a process; at its end the process dies."""

    def __init__(self) -> None:
        self.left = 0

    def burn(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Crash


class MortalStore(SqliteDirectory):
    """Dies after a commit."""

    fuse = Fuse()

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with super()._write() as db:
            yield db
        self.fuse.burn()


class MortalLog(FileLog):
    """Dies after a put."""

    fuse = Fuse()

    def put(self, name: str, blob: bytes) -> None:
        super().put(name, blob)
        self.fuse.burn()


class Link:
    """What stands for a stub: the way to one witness. `mood`: up, down, deaf (requests lost), mute (replies)."""

    def __init__(self, service: WitnessService, sent: list[ProposeRequest]) -> None:
        self.service = service
        self.mood = "up"
        self._sent = sent

    def _lost(self) -> AioRpcError:
        return AioRpcError(grpc.StatusCode.UNAVAILABLE, Metadata(), Metadata())

    async def GetState(self, request: Any, timeout: float) -> Any:
        if self.mood != "up":
            raise self._lost()
        return await self.service.GetState(request, CALLER)

    async def Propose(self, request: ProposeRequest, timeout: float) -> Any:
        self._sent.append(request)
        if self.mood in ("down", "deaf"):
            raise self._lost()
        answer = await self.service.Propose(request, None)
        if self.mood == "mute":
            raise self._lost()
        return answer


class Web(HttpClient):
    """The log and the witnesses' addresses, without a network; a witness that is not up does not answer."""

    def __init__(self, model: "Protocol") -> None:
        super().__init__()
        self._model = model
        root = model.world.root
        self._apps = {root.log_url: log_app(model.log)}
        for witness, store in zip(root.witnesses, model.witnesses, strict=True):
            self._apps[witness.url] = auditor_app(root, witness, store, self._readable, model.world.clock)

    def _readable(self, name: str) -> bool:
        return self._model.log.get(name) is not None

    def get(self, url: str, *, limit: int) -> tuple[int, bytes]:
        host = next(host for host in self._apps if url.startswith(host))
        if host == self._model.world.root.log_url and "?" not in url:  # by a witness, in a thread of its own
            blob = self._model.log.get(url.removeprefix(host + "/"))
            return (404, b"") if blob is None else (200, blob)
        moods = dict(zip((w.url for w in self._model.world.root.witnesses), self._model.links, strict=True))
        if host in moods and moods[host].mood != "up":
            raise HttpUnavailable(host)
        return self._model.loop.run_until_complete(self._get(host, url))

    async def _get(self, host: str, url: str) -> tuple[int, bytes]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self._apps[host])) as client:
            answer = await client.get(url)
        return answer.status_code, answer.content


class Protocol(RuleBasedStateMachine):
    """Three witnesses of which two are needed, two directory processes, backups of their database."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp())
        self.patch = patch("ipls.server.directory.witnesses.WitnessServiceStub", lambda link: link)
        self.patch.start()
        self.world = World(self.folder, witnesses=N, k=K)
        self.sent: list[ProposeRequest] = []
        space = self.world.root.namespace
        self.witnesses = [open_store(self.folder / f"witness{n}.db", space) for n in range(N)]
        self.fuse = MortalStore.fuse = MortalLog.fuse = Fuse()
        self.log = MortalLog(self.folder / "log")
        public = PublicReader(self.world.root, http=Web(self), now_ms=self.world.clock, silent_s=0)
        public.end()  # nothing is tried again: the rules do
        self.links = [
            Link(
                make_service(
                    self.world.root,
                    f"w{n}",
                    self.world.seeds[n],
                    store,
                    self.world.clock,
                    self.folder / "evidence",
                    public=public,
                ),
                self.sent,
            )
            for n, store in enumerate(self.witnesses)
        ]
        for link in self.links:
            link.service.sign_start()  # as its process does first of all
        self.database = self.folder / "directory.db"
        self.processes: dict[int, tuple[Publisher, DirectoryStore]] = {}
        self.backups: list[Path] = []
        self.requests = 0
        self.heads: dict[int, bytes] = {}
        self.rows: dict[tuple[int, int], bytes] = {}

    # What happens.

    @rule(label=st.sampled_from(LABELS), value=st.integers(0, 3))
    def submit(self, label: bytes, value: int) -> None:
        """The messaging service queues an update, through any process."""
        self.requests += 1
        request = self.requests.to_bytes(16, "big")
        with closing(self._store()) as store:
            store.submit(request, label, record(value), NOW, daily_quota=10**6, queue_max=10**6)

    @rule(process=st.integers(0, 1), takes_over=st.booleans(), fuse=st.integers(0, 6))
    def work(self, process: int, takes_over: bool, fuse: int) -> None:
        """A process makes a round, by the lease it had or took just now, and may die after any durable step."""
        self._run(self._work(process, takes_over, fuse))

    @rule(number=st.integers(0, N - 1), mood=st.sampled_from(["up", "down", "deaf", "mute"]))
    def reach(self, number: int, mood: str) -> None:
        self.links[number].mood = mood

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), number=st.integers(0, N - 1))
    def deliver_late(self, data: st.DataObject, number: int) -> None:
        """A proposal of any time arrives at any witness, again or for the first time."""
        at = data.draw(st.integers(0, len(self.sent) - 1))
        self._run(self._deliver(self.sent[at], number))

    @precondition(lambda self: self.database.exists())
    @rule()
    def back_up(self) -> None:
        path = self.folder / f"backup{len(self.backups)}.db"
        path.unlink(missing_ok=True)
        with closing(sqlite3.connect(self.database)) as source, closing(sqlite3.connect(path)) as target:
            source.backup(target)
        self.backups.append(path)

    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        """All processes die, and the database is put back, or lost; later backups were of another future."""
        kept = data.draw(st.integers(0, len(self.backups)))
        del self.backups[kept:]
        self._put_back()

    @rule(number=st.integers(0, N - 1))
    def catch_up(self, number: int) -> None:
        """What a witness that was away, or on a losing root, does by itself, from the log and what others signed."""
        with contextlib.suppress(AuditUnavailable):
            self.links[number].service.poll()

    @rule(data=st.data())
    def publishes_while_a_quorum_lives(self, data: st.DataObject) -> None:
        """Liveness: k witnesses, and one process."""
        for link in self.links:
            link.mood = "up"
        self._catch_up(range(N))
        dead = data.draw(st.sampled_from([None, *range(N)]))
        if dead is not None:
            self.links[dead].mood = "down"
        alive = [number for number in range(N) if number != dead]
        self._end(0)
        self._end(1)
        before = max(self.heads, default=-1)
        for attempt in range(8):
            self.requests += 1
            with closing(self._store()) as store:
                update = (self.requests.to_bytes(16, "big"), LABELS[0], record(10 + self.requests % 100))
                store.submit(*update, NOW, daily_quota=10**6, queue_max=10**6)
            self._run(self._work(attempt % 2, True, 0))
            self._catch_up(alive)  # as a witness that refuses a proposal does, told by its head
            self.note()
            if max(self.heads, default=-1) > before:
                return
        raise AssertionError("k witnesses live, and no epoch came")

    def _catch_up(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self.catch_up(number)

    # What must hold.

    @invariant()
    def note(self) -> None:
        """No witness changes a row; no epoch gets two roots, or two heads; the log has all that is signed."""
        names = [entry.name.split("/") for entry in self.log.list()]
        logged = {int(epoch): bytes.fromhex(new) for epoch, _, new in names}
        assert len(logged) == len(names)
        for number, witness in enumerate(self.witnesses):
            for epoch in range(witness.state().epoch + 1):
                row = witness.signed(epoch)
                assert row is not None
                assert self.rows.setdefault((number, epoch), row.root_hash) == row.root_hash
                assert epoch == 0 or logged[epoch] == row.root_hash
        if self.database.exists():
            with closing(self._store()) as store:
                head = store.head()
                step = store.unfinished_step()
            if head:
                assert self.heads.setdefault(head.epoch, head.root_hash) == head.root_hash
                assert self._signatures(head.epoch) >= K
                assert step is None or step.old_root == head.root_hash
        for epoch, old, _ in names:
            assert int(epoch) == len(names) or self._signatures(int(epoch)) >= K
            assert epoch == "1" or logged[int(epoch) - 1] == bytes.fromhex(old)
        assert len(names) <= max(self.heads, default=0) + 1

    def teardown(self) -> None:
        self._end(0)
        self._end(1)
        for link, witness in zip(self.links, self.witnesses, strict=True):
            link.service.close()
            witness.close()
        if self.heads and self.database.exists():
            with contextlib.suppress(StoreError):  # a lost database has no epoch yet
                check = Fsck(self.database, self.world.root.namespace, self.world.key)
                assert check.run(lambda *_: None).differences == []
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        self.patch.stop()
        shutil.rmtree(self.folder)

    # How.

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        """All of it, also what a witness still does that was not waited for: no thread's speed decides what follows."""

        async def to_its_end() -> None:
            try:
                await work
            finally:
                while others := asyncio.all_tasks() - {asyncio.current_task()}:
                    await asyncio.wait(others)

        self.loop.run_until_complete(to_its_end())

    def _store(self) -> DirectoryStore:
        return open_directory_store(self.database, self.world.root.namespace, self.world.key.public_key)

    def _process(self, number: int) -> tuple[Publisher, DirectoryStore]:
        if number not in self.processes:
            root = self.world.root
            store = MortalStore(self.database, root.namespace, self.world.key.public_key)
            links: Any = {f"w{n}": link for n, link in enumerate(self.links)}
            pruner = Pruner(store, self.world.config(), root.max_head_age_ms, self.world.clock)
            self.processes[number] = (
                Publisher(
                    store,
                    root,
                    self.world.key,
                    Witnesses(root, links, PROPOSER, self.world.clock),
                    self.log,
                    pruner,
                    max_updates=100,
                    max_age_s=0,
                    now_ms=self.world.clock,
                ),
                store,
            )
        return self.processes[number]

    async def _work(self, number: int, takes_over: bool, fuse: int) -> None:
        publisher, store = self._process(number)
        self.fuse.left = fuse
        try:
            if takes_over:
                above = await publisher.ask()
                publisher.lead(store.take_lease(store.lease(), above))
            await publisher.advance()
        except NoQuorum:
            pass
        except Crash:
            self._end(number)
        except StoreError as e:
            if e.reason != "LEASE_LOST":
                raise
        finally:
            self.fuse.left = 0

    def _end(self, number: int) -> None:
        if number in self.processes:
            self.processes.pop(number)[1].close()

    def _put_back(self) -> None:
        """The newest backup there is."""
        self._end(0)
        self._end(1)
        for file in self.folder.glob("directory.db*"):
            file.unlink()
        if self.backups:
            shutil.copy(self.backups[-1], self.database)

    async def _deliver(self, request: ProposeRequest, number: int) -> None:
        await self.links[number].service.Propose(request, None)

    def _signatures(self, epoch: int) -> int:
        """How many witnesses have signed it. The start is every witness's."""
        return sum(witness.signed(epoch) is not None for witness in self.witnesses)


Protocol.TestCase.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    derandomize="IPLS_MODEL_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],  # a failure is a few steps long at most; the report must come soon
)
Protocol.TestCase.pytestmark = pytest.mark.timeout(3600)  # a thousand steps, on however busy a machine
test_protocol = Protocol.TestCase
