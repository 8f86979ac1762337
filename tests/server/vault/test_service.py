"""The vault over gRPC: front, core and worker as processes, with a directory in the test."""

import os
import random
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from ipls._grpc import grpc
from ipls.proto.vault.v1.vault_pb2 import GetBundleRequest, SessionRequest, SessionResponse, VaultHello
from ipls.proto.vault.v1.vault_pb2_grpc import VaultServiceStub
from ipls.rpc.errors import RemoteError, remote_error
from ipls.store.evidence import EvidenceFolder
from ipls.trust.bundle import verify_bundle
from ipls.trust.evidence import judge_evidence
from ipls.vault.session.client import ClientSession
from tests.hsm.rig import Directory, Exchange, Owner, Rig, ended, now_ms
from tests.hsm.tokens import MODULES
from tests.server.vault import process
from tests.server.vault.process import Vault, running_vault

pytestmark = pytest.mark.asyncio(loop_scope="module")

STRANGE_CORE = """
import asyncio, sys
start = asyncio.create_subprocess_exec
async def strange(*command, **options):
    asyncio.create_subprocess_exec = start
    said = "import os, sys; os.write(0, bytes(12) + bytes([255])); sys.stdin.read()"
    return await start(sys.executable, "-c", said, **options)
asyncio.create_subprocess_exec = strange
"""

FAILING_STREAM = """
from ipls.server.vault import app
stub = app.DirectoryServiceStub
class FailingOnce:
    def __init__(self, channel):
        self.__dict__.update(vars(stub(channel)))
        watch = self.WatchHeads
        def fail(request):
            self.WatchHeads = watch
            raise ZeroDivisionError
        self.WatchHeads = fail
app.DirectoryServiceStub = FailingOnce
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=MODULES)
async def vault(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Vault]:
    async with running_vault(Rig(tmp_path_factory.mktemp("vault"), request.param)) as vault:
        yield vault


async def test_a_whole_session(vault: Vault) -> None:
    rig = vault.rig
    owner, key = Owner(), secrets.token_bytes(32)
    head = rig.directory.publish(owner)
    await vault.directory.announce()
    signed = (await vault.stub.GetBundle(GetBundleRequest())).bundle
    assert verify_bundle(rig.root, signed, now_ms=now_ms()) == rig.bundle
    async with vault.stream() as exchange:
        client = await rig.open(owner, exchange, own_epoch=head.epoch, known_head=head)
        assert client.on_answer(await exchange(client.store_request(0, bytes(16), key))).generation == 1
        assert client.on_answer(await exchange(client.retrieve_request())) == (1, key)
        client.on_answer(await exchange(client.finish_rotation_request(1)))
        assert len(client.on_answer(await exchange(client.list_request())).generations) == 1
        client.on_answer(await exchange(client.delete_request()))


async def test_a_head_reaches_the_core_through_the_directorys_stream(vault: Vault) -> None:
    head = vault.rig.directory.publish(Owner())
    await vault.directory.announce()
    while True:
        async with vault.stream() as exchange:
            # This client knows no head: the vault's own is all there is to judge by.
            hello = await exchange(vault.rig.client(Owner()).hello(now_ms()))
        if VaultHello.FromString(hello.hello.m2).head.epoch == head.epoch:
            break


async def refusal(vault: Vault, owner: Owner, **known: Any) -> tuple[grpc.StatusCode, str]:
    async with vault.stream() as exchange:
        with pytest.raises(RemoteError) as refused:
            await vault.rig.open(owner, exchange, **known)
    return refused.value.code, refused.value.reason


async def test_refusals_have_a_code_and_a_reason(vault: Vault) -> None:
    rig = vault.rig
    owner = Owner()
    head = rig.directory.publish(owner)
    denied = grpc.StatusCode.PERMISSION_DENIED
    assert await refusal(vault, Owner(owner.label), known_head=head) == (denied, "VAULT_IDENTITY_MISMATCH")
    assert await refusal(vault, Owner(), known_head=head) == (denied, "VAULT_IDENTITY_MISMATCH")
    other = rig.directory.head()
    other.epoch += 1
    failed = grpc.StatusCode.FAILED_PRECONDITION
    assert await refusal(vault, owner, known_head=other) == (failed, "HEAD_OTHER_ROOT")
    vault.directory.away = True
    try:
        unavailable = grpc.StatusCode.UNAVAILABLE
        assert await refusal(vault, owner, known_head=head) == (unavailable, "VAULT_DIRECTORY_UNAVAILABLE")
    finally:
        vault.directory.away = False


@pytest.mark.parametrize("cut", [0, 1, 40, -1])
async def test_a_bundle_file_that_is_cut_off_is_none(vault: Vault, cut: int) -> None:
    path = vault.rig.folder / "bundle.pb"
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    try:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await vault.stub.GetBundle(GetBundleRequest())
        refused = remote_error(failed.value)
        assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "VAULT_BUNDLE_MISSING")
    finally:
        path.write_bytes(whole)


async def test_the_old_identity_is_refused_once_another_is_published(vault: Vault) -> None:
    """At the door, and in the session that it had open."""
    rig = vault.rig
    old = Owner()
    head = rig.directory.publish(old)
    denied = grpc.StatusCode.PERMISSION_DENIED
    async with vault.stream() as exchange:
        client = await rig.open(old, exchange, known_head=head)
        client.on_answer(await exchange(client.store_request(0, bytes(16), secrets.token_bytes(32))))
        head = rig.directory.publish(Owner(old.label))
        assert await refusal(vault, old, known_head=head) == (denied, "VAULT_IDENTITY_MISMATCH")
        with pytest.raises(RemoteError) as refused:
            await exchange(client.retrieve_request())
    assert (refused.value.code, refused.value.reason) == (denied, "VAULT_IDENTITY_MISMATCH")


async def test_replayed_frames_are_refused(vault: Vault) -> None:
    rig = vault.rig
    owner = Owner()
    head = rig.directory.publish(owner)
    frames: list[SessionRequest] = []
    async with vault.stream() as exchange:

        async def recorded(frame: SessionRequest) -> SessionResponse:
            frames.append(frame)
            return await exchange(frame)

        client = await rig.open(owner, recorded, known_head=head)
        client.on_answer(await recorded(client.store_request(0, bytes(16), secrets.token_bytes(32))))
    async with vault.stream() as exchange:
        await exchange(frames[0])
        with pytest.raises(RemoteError) as refused:
            await exchange(frames[1])
    assert (refused.value.code, refused.value.reason) == (grpc.StatusCode.UNAUTHENTICATED, "VAULT_TAG_INVALID")


async def test_a_frame_over_the_limit_is_refused(vault: Vault) -> None:
    async with vault.stream() as exchange:
        with pytest.raises(RemoteError) as refused:
            await exchange(SessionRequest(m1=bytes(64 * 1024)))
    assert (refused.value.code, refused.value.reason) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "VAULT_FRAME_TOO_LARGE",
    )


async def test_plaintext_is_refused(vault: Vault) -> None:
    rig = vault.rig
    async with grpc.aio.insecure_channel(rig.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await VaultServiceStub(channel).GetBundle(GetBundleRequest())
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_client_that_sends_no_more_ends_its_session(vault: Vault) -> None:
    rig = vault.rig
    call = vault.stub.Session()
    await call.write(rig.client(Owner()).hello(now_ms()))
    await call.read()
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


def killing(exchange: Exchange, pid: int, step: int) -> Exchange:
    """`exchange`, but the process dies as the frame of that number goes out."""
    frames = count()

    async def exchange_or_kill(frame: SessionRequest) -> SessionResponse:
        if next(frames) == step:
            os.kill(pid, signal.SIGKILL)
        return await exchange(frame)

    return exchange_or_kill


async def store_while_dying(vault: Vault, owner: Owner, victim: str, step: int, keys: list[bytes]) -> None:
    """Stores the last of `keys` while the victim dies, again afterwards, and reads all of them."""
    request = len(keys) - 1, secrets.token_bytes(16), keys[-1]
    pid = {
        "front": lambda: vault.front.pid,
        "core": vault.core,
        "worker": vault.worker,
        "anchor service": vault.anchor_service,
    }[victim]()
    gone = ended(pid)
    async with vault.stream() as exchange:
        exchange = killing(exchange, pid, step)
        with suppress(RemoteError):
            client = await vault.rig.open(owner, exchange, known_head=vault.rig.directory.head())
            client.on_answer(await exchange(client.store_request(*request)))
            await exchange(client.list_request())
    await gone
    if victim == "front":
        await vault.front.wait()
        await vault.start()

    async def store_again_and_read(client: ClientSession, exchange: Exchange) -> None:
        client.on_answer(await exchange(client.store_request(*request)))
        for generation, key in enumerate(keys, 1):
            assert client.on_answer(await exchange(client.retrieve_request(generation))) == (generation, key)

    await vault.patiently(owner, store_again_and_read)


async def test_killed_processes_lose_nothing_acknowledged(vault: Vault) -> None:
    """Front, core, worker and anchor service each die, at another step each, as is drawn. The client tries again,
    nobody helps. At every step: the next test, and tests/hsm/core/test_workers.py; for longer: `scripts/kills`."""
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    owner = Owner()
    vault.rig.directory.publish(owner)
    keys: list[bytes] = []
    victims = dice.sample(["front", "core", "worker", "anchor service"], 4)
    for step, victim in enumerate(victims):
        keys.append(secrets.token_bytes(32))
        await store_while_dying(vault, owner, victim, step, keys)


@pytest.mark.parametrize("step", range(4))
async def test_a_front_killed_at_any_step_loses_nothing_acknowledged(step: int, vault: Vault) -> None:
    owner = Owner()
    vault.rig.directory.publish(owner)
    await store_while_dying(vault, owner, "front", step, [secrets.token_bytes(32)])


async def test_what_proves_a_fork_becomes_a_file_that_anyone_can_check(vault: Vault) -> None:
    """A client brings the head of another directory, which the witnesses signed too."""
    rig, owner = vault.rig, Owner()
    head = rig.directory.publish(owner)
    async with vault.stream() as exchange:
        await rig.open(owner, exchange, known_head=head)
    fork = Directory()
    while fork.epoch < rig.directory.epoch:
        fork.publish(Owner())
    refused = await refusal(vault, Owner(), known_head=fork.head())
    assert refused == (grpc.StatusCode.FAILED_PRECONDITION, "HEAD_FORK")
    [file] = EvidenceFolder(rig.folder / "data/evidence").files()  # written before the refusal went out
    finding = judge_evidence(rig.root, file.read_bytes())
    assert (finding.kind, finding.witnesses) == ("two_heads", ("w0", "w1"))


async def test_a_core_that_is_not_understood_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one is whose program was replaced under a running front."""
    rig, owner = Rig(tmp_path), Owner()
    rig.directory.publish(owner)
    monkeypatch.setattr(process, "FRONT", STRANGE_CORE + process.FRONT)
    async with running_vault(rig) as vault, vault.stream() as exchange:
        await rig.open(owner, exchange, known_head=rig.directory.head())


async def test_heads_are_followed_again_after_a_failure_that_nobody_foresaw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(process, "FRONT", FAILING_STREAM + process.FRONT)
    async with running_vault(Rig(tmp_path)) as vault:
        await test_a_head_reaches_the_core_through_the_directorys_stream(vault)
    said = "".join(capfd.readouterr())
    assert [line for line in said.splitlines() if "is begun again" in line and "follow heads" in line]
    assert "ZeroDivisionError" in said
