"""What the operator tries with the real servers, and what each of them answers.

The operator owns the directory's database and every one of its keys, the network and the contact store; not the
witnesses' keys and not the inside of the token.

Tested by tests/e2e/test_demo.py.
"""

import asyncio
import json
import secrets
import shutil
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tomli_w

from ipls.admin.deployment import free_ports
from ipls.akd import DirectoryKey
from ipls.client.calls import retrying
from ipls.client.errors import RefusedError, TryLaterError
from ipls.client.vault import FrameStream
from ipls.clock import system_now_ms
from ipls.config import DirectoryConfig, load, load_trust_root, read_secret
from ipls.crypto.keys import public_key
from ipls.demo.servers import endpoints
from ipls.proto.vault.v1 import vault_pb2
from ipls.proto.vault.v1.vault_pb2_grpc import VaultServiceStub
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.rpc.channel import open_channel
from ipls.server.directory.epochs import prepare
from ipls.store.directory import open_directory_store
from ipls.store.engine.sqlite import copy
from ipls.store.files import write_new
from ipls.trust.bundle import verify_bundle
from ipls.trust.identity import encode_record
from ipls.trust.root import TrustRoot
from ipls.vault.session.client import ClientSession

if TYPE_CHECKING:
    from ipls.proto.vault.v1.vault_pb2_grpc import VaultServiceAsyncStub

WAIT_S = 60.0
"""For a server to answer: this machine may be busy."""
POLL_S = 0.05


@dataclass(frozen=True)
class Refusal:
    """Who refused, with which reason, in which words."""

    where: str
    reason: str
    message: str


class OperatorAttack:
    """The operator against the account `label` of the deployment in `folder`."""

    def __init__(self, folder: Path, label: str) -> None:
        self._folder = folder
        self._label = label
        self._config = load(folder / "ipls.toml")
        self._root: TrustRoot = load_trust_root(self._config.trust_root)
        self._seed = secrets.token_bytes(32)
        self._vault = endpoints(folder)["services"]["vault"]["address"]

    def copy_directory(self) -> None:
        """Keep the directory's database as it is now, for the fork."""
        fork = self._folder / "fork"
        fork.mkdir()
        copy(self._config.directory.database, fork / "directory.db")

    async def unpublished_key(self, head: SignedHead) -> Refusal | None:
        """(a) A vault session for the account under a key that the directory never published."""
        return await self._session(head)

    async def fork(self, honest: SignedHead) -> list[Refusal | None]:
        """(b) The copied database with the operator's key published in it, served by a second directory.

        Its epoch is the one that the witnesses signed another root for: `honest`. Returns their refusal, then the
        vault's of the forked root under the honest epoch's signature; None for what was not refused.
        """
        config = self._fork_config()
        forked_root = await asyncio.to_thread(self._publish_in, config, honest.epoch)
        async with self._second_directory() as log:
            refusal = await self._witnesses_refusal(log, honest.epoch)
        head = SignedHead(epoch=honest.epoch, root_hash=forked_root, cosignatures=honest.cosignatures)
        return [refusal, await self._session(head)]

    async def replay(self, frames: Sequence[vault_pb2.SessionRequest]) -> Refusal | None:
        """(c) The client's frames of an honest session, sent again on a new stream."""
        async with self._stub() as stub:

            async def again() -> None:
                with closing(FrameStream(stub, WAIT_S)) as stream:
                    for frame in frames:  # each once the one before is answered
                        await stream.exchange(frame)

            return await _refusal_of(again)

    async def _session(self, head: SignedHead) -> Refusal | None:
        """The refusal of a session under the operator's key that claims `head`; None if the vault let it in."""
        async with self._stub() as stub:

            async def enter() -> None:
                signed = (await stub.GetBundle(vault_pb2.GetBundleRequest(), timeout=WAIT_S)).bundle
                bundle = verify_bundle(self._root, signed, now_ms=system_now_ms())
                session = ClientSession(self._root, bundle, self._label, self._seed, head, own_epoch=0)
                with closing(FrameStream(stub, WAIT_S)) as stream:
                    hello = await stream.exchange(session.hello(system_now_ms()))
                    await stream.exchange(session.on_hello(hello, system_now_ms()))

            return await _refusal_of(enter)

    @asynccontextmanager
    async def _stub(self) -> AsyncIterator["VaultServiceAsyncStub"]:
        async with open_channel(self._vault, self._config.vault.tls.ca) as channel:
            yield VaultServiceStub(channel)

    def _fork_config(self) -> DirectoryConfig:
        """Write the second directory's ipls.toml: the first one's but for its database, its log and its ports."""
        fork = self._folder / "fork"
        ports = free_ports(2)
        changes = {
            "database": fork / "directory.db",
            "log": fork / "log",
            "listen": f"127.0.0.1:{ports[0]}",
            "internal_listen": f"127.0.0.1:{ports[1]}",
        }
        (fork / "log").mkdir()
        config = self._config.model_copy(update={"directory": self._config.directory.model_copy(update=changes)})
        write_new(fork / "ipls.toml", tomli_w.dumps(config.model_dump(mode="json", exclude_none=True)).encode())
        return config.directory

    def _publish_in(self, config: DirectoryConfig, epoch: int) -> bytes:
        """Put the operator's key into the copy as the account's next version; the root hash that `epoch` then has."""
        key = DirectoryKey.from_seed(read_secret(config.vrf_key))
        store = open_directory_store(config.database, self._root.namespace, key.public_key)
        try:
            record = encode_record(public_key(self._seed))
            label = self._label.encode()
            store.submit(secrets.token_bytes(16), label, record, system_now_ms(), daily_quota=1000, queue_max=1000)
            term = store.take_lease(store.lease())
            prepared = prepare(store, key, term, config.epoch_max_updates)
            store.release(term)
            assert prepared is not None, "a new key is a change"
            step, _ = prepared
            assert step.epoch == epoch, "the copy is from just before the honest epoch"
            return step.new_root
        finally:
            store.close()

    @asynccontextmanager
    async def _second_directory(self) -> AsyncIterator[Path]:
        """A second directory process; yields the file of its log lines."""
        fork = self._folder / "fork"
        with (fork / "directory.log").open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "ipls.cli.main", "serve", "directory", "--config", str(fork / "ipls.toml"), "--stop-at-eof"),
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            yield fork / "directory.log"
        finally:
            process.terminate()
            await process.wait()
            shutil.rmtree(fork)

    async def _witnesses_refusal(self, log: Path, epoch: int) -> Refusal | None:
        """What the second directory logs of the witnesses' answers, once so many refused that no quorum is left.

        None if it is signed. Raises TryLaterError if too few have answered within WAIT_S.
        """
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            refused: dict[str, Refusal] = {}
            for line in log.read_text().splitlines():
                entry = json.loads(line) if line.startswith("{") else {}
                if entry.get("event") == "witness did not sign" and entry.get("epoch") == epoch:
                    witness, _, message = entry["why"].partition(": ")
                    refused[witness] = Refusal("the witnesses", entry["reason"], message)
                if entry.get("event") == "epoch published":
                    return None
            if len(self._root.witnesses) - len(refused) < self._root.k:
                return next(iter(refused.values()))
            await asyncio.sleep(POLL_S)
        raise TryLaterError("UNREACHABLE", "too few witnesses answered the second directory; is the machine busy?")


async def _refusal_of(attempt: Callable[[], Awaitable[None]]) -> Refusal | None:
    """The vault's refusal of an attempt, or None if it let it be; asked again while it doesn't answer.

    Raises TryLaterError: no answer is no refusal.
    """
    try:
        await retrying(attempt, WAIT_S)
    except RefusedError as error:
        return Refusal("the vault", error.reason, error.message)
    return None
