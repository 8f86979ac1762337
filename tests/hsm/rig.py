"""A vault to test against: a real token, real proofs of a small directory, three witnesses of whom two suffice."""

import asyncio
import dataclasses
import itertools
import os
import secrets
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import tomli_w

from ipls.admin.bundles import first_bundle
from ipls.admin.certificates import Authority
from ipls.admin.deployment import free_ports
from ipls.akd import (
    EMPTY_ROOT,
    DirectoryKey,
    MemoryTiles,
    Update,
    Version,
    make_absence,
    make_history,
    make_lookup,
    publish,
)
from ipls.akd.keys import Place
from ipls.akd.tiles import Subtree
from ipls.akd.tree import insert
from ipls.config import VaultPostgresConfig, load_core
from ipls.crypto.keys import public_key
from ipls.hsm import pipe
from ipls.hsm.anchor_service import TokenAnchorService, open_anchor_service
from ipls.hsm.state import replay
from ipls.hsm.state.anchor import genesis, read_anchor
from ipls.proto.trust.v1.evidence_pb2 import Evidence
from ipls.proto.vault.v1.core_pb2 import CoreRequest, CoreResponse, HistoryHandIn
from ipls.proto.vault.v1.vault_pb2 import Bundle, SessionRequest, SessionResponse, SignedBundle
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.store.files import write_new
from ipls.store.vault import open_vault_store
from ipls.trust import root as trust_root
from ipls.trust.bundle import bundle_head, sign_bundle, verify_bundle
from ipls.trust.heads import Head
from ipls.trust.identity import encode_record
from ipls.units import DAY_MS
from ipls.vault.errors import SessionRefused
from ipls.vault.session.client import ClientSession
from tests.hsm.tokens import PIN, as_configured, vault_token
from tests.trust.bundles import countersigned
from tests.trust.roots import OPERATOR, VRF, WITNESSES, signed, three_of, witness

_numbers = itertools.count(4930123456)
Exchange = Callable[[SessionRequest], Awaitable[SessionResponse]]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclasses.dataclass(frozen=True)
class Owner:
    """An account, of a number of its own unless told otherwise, and the key that its device holds."""

    label: str = dataclasses.field(default_factory=lambda: f"+{next(_numbers)}")
    seed: bytes = dataclasses.field(default_factory=lambda: secrets.token_bytes(32))


class Directory:
    """Every epoch that a test published, provable."""

    def __init__(self) -> None:
        self._key = DirectoryKey.from_seed(VRF)
        self._tiles = MemoryTiles()
        self.epochs: list[tuple[bytes, int]] = [(EMPTY_ROOT, 0)]
        self._versions: dict[bytes, list[Version]] = {}
        self.now_ms: Callable[[], int] = now_ms
        """The witnesses' clock."""

    @property
    def epoch(self) -> int:
        return len(self.epochs) - 1

    def publish(self, owner: Owner) -> SignedHead:
        label = owner.label.encode()
        versions = self._versions.setdefault(label, [])
        update = Update(label, encode_record(public_key(owner.seed)), versions[0] if versions else None)
        published = publish(self._tiles, self._key, self.epoch, *self.epochs[-1], [update])
        assert published is not None
        self._tiles.write(published.rows)
        versions.insert(0, dict(published.versions)[label])
        self.epochs.append((published.new_root, published.depth))
        return self.head()

    def plant(self, owner: Owner, version: int) -> tuple[SignedHead, bytes]:
        """What an operator can do who holds keys and tree: an epoch with that version of the label alone, its key the
        owner's. Its owner's history passes over it. Returns the head and an encoded LookupProof that holds there."""
        label, value = owner.label.encode(), encode_record(public_key(owner.seed))
        [leaf] = self._key.locate([Place(label, True, version)])
        [commitment] = self._key.commit([(leaf, version, value)])
        insertion = insert(self._tiles, self.epoch, [Subtree(leaf, self.epoch + 1, commitment)])
        self._tiles.write(insertion.rows)
        self.epochs.append((insertion.new_root, max(self.epochs[-1][1], insertion.depth)))
        planted = Version(version, self.epoch, value)
        return self.head(), make_lookup(self._tiles, self._key, self.epoch, self.epochs[-1][1], label, planted)

    def head(self, *, epoch: int | None = None, time: int | None = None) -> SignedHead:
        epoch = self.epoch if epoch is None else epoch
        return signed(Head(epoch, self.epochs[epoch][0]), *WITNESSES[:2], time=time or self.now_ms())

    def prove(self, label: str, epoch: int) -> bytes:
        versions = [v for v in self._versions.get(label.encode(), []) if v.epoch <= epoch][:1]
        if not versions:
            return b""
        return make_history(self._tiles, self._key, epoch, self.epochs[epoch][1], label.encode(), versions)

    def erase(self, owner: Owner, version: int) -> None:
        """The value of an old version is served as empty from here on; its leaf stays."""
        label = owner.label.encode()
        self._versions[label] = [v._replace(value=b"") if v.version == version else v for v in self._versions[label]]

    def prove_absent(self, label: str, epoch: int) -> bytes:
        return make_absence(self._tiles, self._key, epoch, self.epochs[epoch][1], label.encode())


class Rig:
    """A deployment's vault in a folder, with a token of this module, and the directory beside it."""

    def __init__(self, folder: Path, token: str = "softhsm", database: VaultPostgresConfig | None = None) -> None:
        self.folder = folder
        self.shard = 0
        self._database = database
        now = now_ms()
        witnesses = [witness(f"w{i}", s, start=now - DAY_MS, end=now + DAY_MS) for i, s in enumerate(WITNESSES)]
        self.root = three_of(
            witnesses=tuple(witnesses),
            vrf_public_key=DirectoryKey.from_seed(VRF).public_key,
            start_root=EMPTY_ROOT,
            expires_ms=now + 30 * DAY_MS,
        )
        self.directory = Directory()
        self.token, self.tokens = vault_token(token, folder / "token")
        write_new(folder / "pin", f"{PIN}\n".encode())
        (folder / "trust.toml").write_bytes(trust_root.encode_trust_root(self.root))
        self.signed_bundle: SignedBundle | None = None
        self.write_bundle()
        authority = Authority(folder, self.root.namespace)
        authority.issue_server("server")
        authority.issue_client("reader", "reader")
        authority.issue_client("router", "router")
        [port] = free_ports(1)
        self.address = f"127.0.0.1:{port}"
        self.configure()
        self.genesis()

    @property
    def database(self) -> Path | VaultPostgresConfig:
        """The vault's: a file in its folder, unless the test has a server."""
        return self._database or self.folder / "vault.db"

    def genesis(self) -> None:
        """Of the vault, over an empty database."""
        with closing(open_vault_store(self.database)) as store, self.anchor_service() as anchor_service:
            genesis(store, anchor_service)

    def check(self) -> None:
        """Every row is as the anchor has it. Only while no core runs."""
        with closing(open_vault_store(self.database, wait=False)) as store, self.anchor_service() as anchor_service:
            state = replay.catch_up(store, anchor_service, read_anchor(anchor_service).state)
            for found in replay.check(store, anchor_service, state):
                for refused in found:
                    raise refused

    def anchor_service(self) -> AbstractContextManager[TokenAnchorService]:
        """In this process. Closes any other token of the module."""
        return open_anchor_service(load_core(self.config_path).vault)

    def configure(self, **changes: Any) -> None:
        vault = {
            "listen": self.address,
            "tls": {"certificate": "server.pem", "key": "server.key", "ca": "ca.pem"},
            "directory": "127.0.0.1:1",
            "client": {"certificate": "reader.pem", "key": "reader.key", "ca": "ca.pem"},
            "shard": self.shard,
            "database": self._database.model_dump(mode="json") if self._database else "vault.db",
            "token": as_configured(self.token),
            "pin": "pin",
            "bundle": "bundle.pb",
            **changes,
        }
        self.config_path.write_text(tomli_w.dumps({"trust_root": "trust.toml", "vault": vault}))

    @property
    def config_path(self) -> Path:
        return self.folder / "ipls.toml"

    def write_bundle(self, **changes: Any) -> None:
        """The fleet's next bundle; `changes` are made to the token's keys in it."""
        keys = self.tokens._replace(**changes)
        made = first_bundle(self.root, keys, OPERATOR, now_ms=now_ms() - 1000, lifetime_ms=DAY_MS)
        bundle = Bundle.FromString(made.bundle)
        if self.signed_bundle is not None:
            bundle.number, bundle.previous = self.bundle.number + 1, bundle_head(self.signed_bundle).root_hash
        self.sign_bundle(bundle)

    def sign_bundle(self, bundle: Bundle) -> None:
        """By the operator and two witnesses, in the place of the one in use."""
        self.signed_bundle = countersigned(sign_bundle(OPERATOR, bundle), *WITNESSES[:2], time=now_ms())
        self.bundle = verify_bundle(self.root, self.signed_bundle, now_ms=now_ms())
        (self.folder / "bundle.pb").write_bytes(self.signed_bundle.SerializeToString())

    def client(
        self,
        owner: Owner,
        *,
        known_head: SignedHead | None = None,
        own_epoch: int = 0,
        bundle_number: int | None = None,
    ) -> ClientSession:
        bundle = Bundle.FromString(self.bundle.SerializeToString())
        bundle.number = bundle_number or bundle.number
        return ClientSession(self.root, bundle, owner.label, owner.seed, known_head, own_epoch)

    async def open(self, owner: Owner, exchange: Exchange, **known: Any) -> ClientSession:
        """A session past its handshake."""
        client = self.client(owner, **known)
        hello = await exchange(client.hello(now_ms()))
        client.on_confirmation(await exchange(client.on_hello(hello, now_ms())))
        return client


class CoreProcess:
    """The core's process, with the test as its front."""

    def __init__(self, rig: Rig, process: asyncio.subprocess.Process, *pipe: Any) -> None:
        self.rig = rig
        self.process = process
        self.source: asyncio.StreamReader
        self.sink: asyncio.StreamWriter
        self.source, self.sink = pipe
        self.last = 0
        self.evidence: list[Evidence] = []
        """What it told of, as it comes between other responses."""

    def send(self, **request: Any) -> None:
        """A CoreRequest of these fields, as its frame."""
        message = CoreRequest(**request)
        name = message.WhichOneof("message")
        assert name
        body = getattr(message, name).SerializeToString()
        self.write(message.session, message.DESCRIPTOR.fields_by_name[name].number, body)

    def write(self, session: int, kind: int, body: bytes) -> None:
        """A frame."""
        self.sink.write(pipe.framed(session, kind, body))

    async def receive(self, *, ready: bool = False) -> CoreResponse:
        """The next response that is not `ready`, or that is; without those that say that a head was judged."""
        while (frame := await pipe.receive(self.source)) is not None:
            response = CoreResponse(session=frame.session)
            name = response.DESCRIPTOR.fields_by_number[frame.kind].name
            getattr(response, name).MergeFromString(frame.body)
            getattr(response, name).SetInParent()
            if response.HasField("evidence"):
                self.evidence.append(response.evidence)
            elif not response.HasField("head_judged") and response.HasField("ready") == ready:
                return response
        raise EOFError

    def stream(self, prove: Callable[[str, int], bytes] | None = None) -> Exchange:
        """A new session. `prove` stands for the directory that the front asks."""
        self.last = session = self.last + 1
        prove = prove or self.rig.directory.prove

        async def exchange(frame: SessionRequest) -> SessionResponse:
            self.send(session=session, frame=frame)
            while True:
                response = await self.receive()
                if response.session != session:
                    # An earlier one, on a slow machine or where the account has many.
                    assert response.refused.reason in ("VAULT_SESSION_EXPIRED", "VAULT_BUSY")
                    continue
                if response.HasField("frame"):
                    return response.frame
                if response.HasField("refused"):
                    raise SessionRefused(response.refused.reason, response.refused.message)
                needs = response.needs_history
                proof = HistoryHandIn(epoch=needs.epoch, proof=prove(needs.label, needs.epoch))
                self.send(session=session, history=proof)

        return exchange

    def close(self, session: int | None = None) -> None:
        """The stream of the last session, or of the one named, has ended."""
        self.send(session=session or self.last, closed={})


async def started_core(rig: Rig, program: str, *command: str, stderr: int | None = None) -> CoreProcess:
    """The process that this command runs, with this end of its socket."""
    mine, theirs = socket.socketpair()
    with theirs:
        process = await asyncio.create_subprocess_exec(
            program, *command, stdin=theirs, stdout=asyncio.subprocess.DEVNULL, stderr=stderr
        )
    return CoreProcess(rig, process, *await pipe.connect(mine))


@asynccontextmanager
async def running_core(
    rig: Rig, *command: str, program: str = sys.executable, stderr: int | None = None
) -> AsyncIterator[CoreProcess]:
    """`command` is what Python, or another program, runs as the core; `stderr` where its log goes, as
    `asyncio.create_subprocess_exec` has it."""
    module = ("-m", "ipls.hsm.core", str(rig.config_path))
    core = await started_core(rig, program, *(command or module), stderr=stderr)
    try:
        await core.receive(ready=True)
        core.send(session=0, head=rig.directory.head())
        yield core
    finally:
        core.sink.close()
        await core.process.wait()


def children(pid: int) -> list[int]:
    """Of a process on Linux, by every thread of it."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def running(pid: int, module: str) -> list[int]:
    """The children that run this module: of a core `ipls.hsm.worker` or `ipls.hsm.anchor_service`."""
    found = []
    for each in children(pid):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            if module in Path(f"/proc/{each}/cmdline").read_text().split("\0"):
                found.append(each)
    return found


def child(pid: int, module: str) -> int:
    """The first of those."""
    return running(pid, module)[0]


def ended(pid: int) -> "asyncio.Future[None]":
    """Done when that process, child or not, has ended. Call it before the process may end."""
    loop = asyncio.get_running_loop()
    future, descriptor = loop.create_future(), os.pidfd_open(pid)

    def on_end() -> None:
        loop.remove_reader(descriptor)
        os.close(descriptor)
        future.set_result(None)

    loop.add_reader(descriptor, on_end)
    return future
