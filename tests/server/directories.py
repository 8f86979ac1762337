"""A directory with its witnesses and audit log in this process, on loopback gRPC with TLS."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from ipls._grpc import grpc
from ipls.admin.certificates import Authority
from ipls.admin.deployment import free_ports
from ipls.akd import EMPTY_ROOT, DirectoryKey
from ipls.config import DirectoryConfig, TlsFiles
from ipls.crypto.keys import public_key
from ipls.proto.directory.v1 import directory_pb2 as pb
from ipls.proto.directory.v1.directory_pb2_grpc import DirectoryServiceStub, UpdateServiceStub
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.proto.witness.v1.witness_pb2_grpc import WitnessServiceServicer, add_WitnessServiceServicer_to_server
from ipls.rpc.channel import open_channel
from ipls.rpc.reads import read_history
from ipls.rpc.server import ANYONE, GrpcServer, Listener
from ipls.runtime.service import Service
from ipls.server.directory import app
from ipls.server.directory.epochs import prepare
from ipls.server.directory.evidence import EvidenceRecorder
from ipls.server.directory.level import PATIENCE_S
from ipls.server.directory.pruning import Pruner
from ipls.server.directory.publisher import Publisher
from ipls.server.directory.witnesses import Witnesses
from ipls.store.directory import DirectoryStore, EpochRow, StoredHead, open_directory_store
from ipls.store.evidence import EvidenceFolder
from ipls.store.log import FileLog, LogStore
from ipls.store.witness import init_witness_state
from ipls.trust.heads import verify_head
from ipls.trust.identity import encode_record
from ipls.trust.root import TrustRoot, Witness, WitnessKey
from tests.server.witnesses import LogOnly, make_service, open_store, reader

NOW = 1_700_000_000_000
YEAR = 365 * 24 * 3_600_000
ALICE, BOB = b"+491700000001", b"+491700000002"


def seed(number: int) -> bytes:
    return bytes([number]) * 32


VRF, PROPOSER, OPERATOR = seed(1), seed(2), seed(3)


def record(number: int) -> bytes:
    return encode_record(public_key(seed(100 + number)))


class World:
    """Keys, certificates, trust root, and state that outlives the servers. Time stands still until `now_ms` is set."""

    def __init__(self, folder: Path, *, witnesses: int = 1, k: int = 1, **root: Any) -> None:
        self.folder = folder
        self.now_ms = NOW
        self.witnesses_ahead_ms = 0
        authority = Authority(folder, "test.ipls")
        authority.issue_server("server")
        authority.issue_client("messaging", "messaging-service")
        authority.issue_client("stranger", "vault")
        authority.issue_client("reader", "reader")
        for name, secret in (("vrf", VRF), ("proposal", PROPOSER)):
            (folder / f"{name}.seed").touch(0o600)
            (folder / f"{name}.seed").write_text(secret.hex() + "\n")
        self.ca = folder / "ca.pem"
        self.witness_ports = free_ports(witnesses)
        self.seeds = [seed(10 + n) for n in range(witnesses)]
        self.key = DirectoryKey.from_seed(VRF)
        self.root = TrustRoot(
            **{
                "number": 1,
                "previous": b"",
                "expires_ms": NOW + YEAR,
                "namespace": "test.ipls",
                "vrf_public_key": self.key.public_key,
                "witnesses": tuple(
                    Witness(f"w{n}", f"https://w{n}.example", (self._witness_key(n),)) for n in range(witnesses)
                ),
                "k": k,
                "operator_key": public_key(OPERATOR),
                "proposal_key": public_key(PROPOSER),
                "log_url": "http://log.example",
                "max_head_age_ms": 3_600_000,
                "start_epoch": 0,
                "start_root": EMPTY_ROOT,
                "development": True,
                **root,
            }
        )
        for n in range(witnesses):
            init_witness_state(folder / f"witness{n}.db", self.root)
        self.log: LogStore = FileLog(folder / "log")

    @staticmethod
    def _witness_key(number: int) -> WitnessKey:
        return WitnessKey(public_key(seed(10 + number)), NOW - YEAR, NOW + YEAR)

    def clock(self) -> int:
        return self.now_ms

    def witness_clock(self) -> int:
        return self.now_ms + self.witnesses_ahead_ms

    def fresh_head(self, store: DirectoryStore) -> StoredHead:
        """The newest, which counts for readers now."""
        head = store.head()
        assert head is not None
        verify_head(self.root, SignedHead.FromString(head.signed), now_ms=self.now_ms)
        return head

    def listener(self, port: int = 0) -> Listener:
        return Listener(f"127.0.0.1:{port}", self.folder / "server.pem", self.folder / "server.key")

    def config(self, **changes: Any) -> DirectoryConfig:
        fields = {
            "listen": "127.0.0.1:0",
            "internal_listen": "127.0.0.1:0",
            "tls": TlsFiles(certificate=self.folder / "server.pem", key=self.folder / "server.key", ca=self.ca),
            "database": self.folder / "directory.db",
            "vrf_key": self.folder / "vrf.seed",
            "proposal_key": self.folder / "proposal.seed",
            "log": self.folder / "log",
            "evidence": self.folder / "evidence",
            "witnesses": {w.name: f"127.0.0.1:{self.witness_ports[int(w.name[1:])]}" for w in self.root.witnesses},
            "epoch_max_age_s": 0,
        }
        return DirectoryConfig(**{**fields, **changes})

    @asynccontextmanager
    async def witness(
        self, number: int = 0, service: WitnessServiceServicer | None = None, *, ahead_ms: int = 0
    ) -> AsyncIterator[None]:
        """A witness on its port until the block ends: the real one, unless another servicer is given. `ahead_ms`: its
        clock, of the other witnesses'."""
        store = open_store(self.folder / f"witness{number}.db", self.root.namespace)
        server = GrpcServer([self.listener(self.witness_ports[number])], {"ipls.witness.v1.WitnessService": ANYONE})
        evidence = self.folder / f"evidence of witness {number}"
        public = reader(self.root, LogOnly(self.root, lambda name: self.log.get(name)))
        real = make_service(
            self.root,
            f"w{number}",
            self.seeds[number],
            store,
            lambda: self.witness_clock() + ahead_ms,
            evidence,
            public=public,
        )
        add_WitnessServiceServicer_to_server(service or real, server.grpc)
        await server.start()
        try:
            yield
        finally:
            await server.stop(0)
            store.close()

    @asynccontextmanager
    async def directory(self, **changes: Any) -> AsyncIterator["Client"]:
        """A directory over this world's database until the block ends."""
        async with Service("directory") as service:
            ports = await self.run(service, **changes)
            async with self.client(ports) as client:
                yield client

    async def run(self, service: Service, *, patience_s: tuple[float, float] = PATIENCE_S, **changes: Any) -> list[int]:
        """As the application's, with this world's clock."""
        timed: dict[str, Any] = {"now_ms": self.clock, "retry_s": (0.02, 0.1), "patience_s": patience_s, "grace_s": 0}
        return await app.run(self.config(**changes), self.root, service, **timed)

    @asynccontextmanager
    async def client(self, ports: list[int]) -> AsyncIterator["Client"]:
        """Whoever calls the directory on its two ports."""
        async with AsyncExitStack() as stack:
            public, internal = (f"127.0.0.1:{port}" for port in ports)
            channel = await stack.enter_async_context(open_channel(public, self.ca))
            reads = await stack.enter_async_context(self.as_client("reader", internal))
            updates = await stack.enter_async_context(self.as_client("messaging", internal))
            yield Client(ports, channel, reads, updates)

    def as_client(self, name: str, address: str) -> grpc.aio.Channel:
        """A channel with one of the authority's client certificates."""
        return open_channel(address, self.ca, certificate=self.folder / f"{name}.pem", key=self.folder / f"{name}.key")

    @asynccontextmanager
    async def publisher(
        self, database: Path | None = None, log: LogStore | None = None, *, max_age_s: float = 0
    ) -> AsyncIterator[tuple["Driven", DirectoryStore, Witnesses]]:
        """A publisher by itself, to be taken through its steps by hand; as fresh as one after a restart."""
        store = open_directory_store(database or self.folder / "directory.db", self.root.namespace, self.key.public_key)
        async with AsyncExitStack() as stack:
            stack.callback(store.close)
            channels = {
                f"w{n}": await stack.enter_async_context(open_channel(f"127.0.0.1:{port}", self.ca))
                for n, port in enumerate(self.witness_ports)
            }
            recorder = EvidenceRecorder(self.root, store, EvidenceFolder(self.folder / "evidence"))
            witnesses = Witnesses(self.root, channels, PROPOSER, self.clock, recorder.met, recorder.forked)
            stack.push_async_callback(witnesses.close)
            publisher = Driven(
                store,
                self.root,
                self.key,
                witnesses,
                log or self.log,
                Pruner(store, self.config(), self.root.max_head_age_ms, self.clock),
                max_updates=10_000,
                max_age_s=max_age_s,
                now_ms=self.clock,
            )
            yield publisher, store, witnesses


class Driven(Publisher):
    """A publisher that is taken through its steps by hand."""

    async def take_over(self) -> None:
        """Take the lease, whoever has it."""
        above = await self.ask()
        self.lead(self._store.take_lease(self._store.lease(), above))

    def prepare(self) -> EpochRow | None:
        """The next epoch's row, written and no more."""
        prepared = prepare(self._store, self._key, self._term, 10)
        return prepared and prepared[0]


class Client:
    """Calls to a running directory: reads as a service, updates as the messaging service, `public` as anyone."""

    def __init__(
        self, ports: list[int], public: grpc.aio.Channel, reader: grpc.aio.Channel, messaging: grpc.aio.Channel
    ) -> None:
        self.public_address, self.internal_address = (f"127.0.0.1:{port}" for port in ports)
        self.public = DirectoryServiceStub(public)
        self.reads = DirectoryServiceStub(reader)
        self.updates = UpdateServiceStub(messaging)

    async def history(self, label: bytes, epoch: int = 0, most_recent: int = 0) -> tuple[SignedHead, bytes]:
        """The signed head and the proof."""
        request = pb.HistoryRequest(label=label, epoch=epoch, most_recent=most_recent)
        return await read_history(self.reads, request, timeout=60)

    async def submit(self, request: int, label: bytes, value: bytes) -> bytes:
        update = pb.SubmitUpdateRequest(request_id=request.to_bytes(16, "big"), label=label, value=value)
        return (await self.updates.SubmitUpdate(update)).ticket

    async def published(self, ticket: bytes) -> int:
        """The epoch of the ticket, once it is public."""
        async for update in self.updates.WatchUpdate(pb.WatchUpdateRequest(ticket=ticket), timeout=60):
            if update.state == pb.WatchUpdateResponse.STATE_PUBLISHED:
                return update.epoch
        raise AssertionError("the watch ended early")

    async def publish(self, request: int, label: bytes, value: bytes) -> int:
        return await self.published(await self.submit(request, label, value))

    async def first_head(self) -> pb.WatchHeadsResponse:
        """The newest head, once there is one."""
        watch = self.reads.WatchHeads(pb.WatchHeadsRequest(), timeout=60)
        head = await watch.read()
        watch.cancel()
        return head
