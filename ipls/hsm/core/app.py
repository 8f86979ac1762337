"""The core's process. It opens nothing on the network but, where its database is a PostgreSQL server's, the connection
to that.

It reads its own configuration and speaks with the front, which it does not trust, on the socket that its stdin is
(protos/ipls/vault/v1/core.proto). It ends when that does. A session runs in one worker (`ipls.hsm.worker`); what it
asks for is done here, where all that is durable has its one writer.

Tested by tests/hsm/core/test_core.py and tests/hsm/core/test_workers.py.
"""

import asyncio
import os
import socket
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import BinaryIO

import structlog

from ipls.config import ConfigError, CoreConfig, check_private, load_core, load_trust_root
from ipls.crypto.errors import VerificationError
from ipls.hsm import pipe
from ipls.hsm.anchor_service import AnchorServiceProcess
from ipls.hsm.core.accounts import Accounts
from ipls.hsm.core.bundles import BundleKeeper
from ipls.hsm.core.commit import GroupCommit
from ipls.hsm.core.front import Front
from ipls.hsm.core.heads import HeadKeeper
from ipls.hsm.core.rotation import Rotation, keep_rotated
from ipls.hsm.core.sessions import Kept, Sessions
from ipls.hsm.core.workers import Workers
from ipls.hsm.state.store import StateStore
from ipls.proto.trust.v1.evidence_pb2 import Evidence
from ipls.proto.vault.v1.core_pb2 import CoreRequest, CoreResponse
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.runtime import clock
from ipls.runtime.privileges import die_with_parent
from ipls.runtime.service import Service
from ipls.store.errors import StoreError
from ipls.store.vault import open_vault_store
from ipls.trust.root import TrustRoot
from ipls.vault.errors import SessionRefused
from ipls.vault.limits import Limits

log = structlog.get_logger()


class Core:
    """The front's requests in, the core's responses out; all that it does is in `process`."""

    def __init__(
        self,
        config_path: Path,
        config: CoreConfig,
        root: TrustRoot,
        state_store: StateStore,
        rotation: Rotation,
        front: Front,
        process: Service,
    ) -> None:
        loop = asyncio.get_running_loop()

        def tell(evidence: Evidence) -> None:  # from the state store's thread
            loop.call_soon_threadsafe(self._tell, evidence)

        vault = config.vault
        self._front = front
        self._process = process
        self._pin = vault.pin
        self._rotation = rotation
        self._heads = HeadKeeper(root, state_store, tell=tell)
        limits = Limits(vault.daily_uses, vault.hourly_releases)
        accounts = Accounts(state_store, self._heads.times, limits)
        kept = Kept(self._heads, BundleKeeper(root, state_store, vault.bundle), accounts)
        self._commit = GroupCommit(state_store, process)
        self._workers = Workers(
            config_path, vault, process, lambda: front.send(0, CoreResponse.READY_FIELD_NUMBER, b"")
        )
        self._sessions = Sessions(vault, kept, self._commit, self._workers, front, process)

    async def run(self) -> None:
        """Serves until the front closes its pipe. Raises PipeError if what it sends is none of the pipe's frames.

        Serves nothing, and tells the front why, if anchor and database do not bear each other out, or others can read
        the token's PIN.
        """
        durably = self._commit.durably
        try:
            check_private(self._pin)
            for evidence in await durably(self._heads.evidence):
                self._tell(evidence)
        except (ConfigError, SessionRefused) as refused:
            log.error("vault does not start", reason=refused.reason, error=refused.message)
            self._front.refuse(0, refused.reason, refused.message)
            return
        self._workers.start()
        self._process.start("check the database", self._commit.keep_checking())
        self._process.spawn("rotate", partial(keep_rotated, self._rotation, durably, self._workers.renew))
        while (frame := await self._front.receive()) is not None:
            await self._handle(frame)
            await self._front.drain()  # a front that does not read is not listened to

    def close(self) -> None:
        """Returns when the work that is being done is done."""
        self._commit.close()

    def _tell(self, evidence: Evidence) -> None:
        self._front.send(0, CoreResponse.EVIDENCE_FIELD_NUMBER, evidence.SerializeToString())

    async def _handle(self, frame: pipe.Frame) -> None:
        match frame.kind:
            case CoreRequest.FRAME_FIELD_NUMBER | CoreRequest.HISTORY_FIELD_NUMBER:
                self._sessions.hand(frame)
            case CoreRequest.CLOSED_FIELD_NUMBER:
                await self._sessions.close(frame.session)
            case CoreRequest.HEAD_FIELD_NUMBER:
                await self._offer(frame.body)
                self._front.send(0, CoreResponse.HEAD_JUDGED_FIELD_NUMBER, b"")
            case _:
                raise pipe.PipeError(f"a frame of kind {frame.kind}, which no request is")

    async def _offer(self, head: bytes) -> None:
        try:
            signed = pipe.parse(SignedHead, head)
            await self._commit.durably(lambda: self._heads.offer(signed))
        except (VerificationError, SessionRefused, pipe.PipeError) as refused:
            log.warning("head refused", reason=refused.reason)


async def serve(config_path: Path, front_end: BinaryIO) -> None:
    """Runs the core until the socket `front_end` ends. Raises ConfigError and StoreError, of which it tells the front
    why; as `Core.run`; what ends one of the core's own tasks."""
    front = Front(*await pipe.connect(socket.socket(fileno=os.dup(front_end.fileno()))))
    try:
        await _serve(config_path, front)
    except (ConfigError, StoreError) as error:
        front.refuse(0, error.reason, error.message)
        await front.drain()
        raise


async def _serve(config_path: Path, front: Front) -> None:
    config = load_core(config_path)
    root = load_trust_root(config.trust_root)
    with (
        closing(open_vault_store(config.vault.database)) as store,
        closing(AnchorServiceProcess(config_path, config.vault.shard, store.lock)) as anchor_service,
    ):
        state_store = StateStore(store, anchor_service)
        async with Service("core") as process:
            core = Core(config_path, config, root, state_store, Rotation(state_store, anchor_service), front, process)
            process.release(core.close)
            process.spawn("watch the clock", clock.watch)
            await core.run()


def run(config_path: Path, stdin: BinaryIO, _stdout: BinaryIO) -> None:
    """`serve`, in a loop of its own; stdin is the socket. It dies with the process that started it: no other one ends
    it if it hangs."""
    die_with_parent()
    asyncio.run(serve(config_path, stdin))
