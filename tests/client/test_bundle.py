"""The device takes no bundle from the vault that its pinned trust root does not bear, and says not a word under one."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ipls._grpc import grpc
from ipls.client.directory import DirectoryReader
from ipls.client.errors import RefusedError, TryLaterError
from ipls.client.profile import Account, Profile
from ipls.client.vault import Vault
from ipls.http.client import TIMEOUT_S
from ipls.http.server import serve
from ipls.proto.vault.v1 import vault_pb2 as pb
from ipls.proto.vault.v1.vault_pb2_grpc import (
    VaultServiceServicer,
    VaultServiceStub,
    add_VaultServiceServicer_to_server,
)
from ipls.rpc.errors import ServiceError
from ipls.runtime.service import Service
from ipls.server.log.service import log_app
from ipls.store.log import FileLog
from ipls.trust.bundle import sign_bundle
from ipls.trust.root import TrustRoot
from tests.server.loopback import loopback
from tests.trust.bundles import after, bundle, countersigned, hsm, signed_bundle
from tests.trust.roots import HOUR, NOW, OPERATOR, THIEF, WITNESSES, make_root, seed, three_of
from tests.trust.test_bundle import operator_signs

FIRST = signed_bundle(bundle())
SECOND = signed_bundle(after(FIRST))
THIRD = signed_bundle(after(SECOND))
FOURTH = signed_bundle(after(THIRD))


class FalseVault(VaultServiceServicer):
    """Shows whatever bundle it is given, and ends a session at its first frame."""

    def __init__(self) -> None:
        self.bundle = pb.SignedBundle()
        self.frames: list[pb.SessionRequest] = []

    async def GetBundle(self, request: pb.GetBundleRequest, context: Any) -> pb.GetBundleResponse:
        return pb.GetBundleResponse(bundle=self.bundle)

    async def Session(
        self, requests: AsyncIterator[pb.SessionRequest], context: Any
    ) -> AsyncIterator[pb.SessionResponse]:
        async for frame in requests:
            self.frames.append(frame)
            raise ServiceError("MET", "far enough", code=grpc.StatusCode.ABORTED)
        yield pb.SessionResponse()


@contextmanager
def opened(folder: Path) -> Iterator[Profile]:
    with closing(Profile(folder / "phone")) as profile:
        profile.put(Account("+491700000001", seed(5), 1, 1))
        yield profile


@pytest.fixture
def profile(tmp_path: Path) -> Iterator[Profile]:
    with opened(tmp_path) as profile:
        yield profile


@pytest.fixture
def vault() -> FalseVault:
    return FalseVault()


@pytest.fixture
async def stub(tmp_path: Path, vault: FalseVault) -> AsyncIterator[Any]:
    async with loopback(tmp_path, partial(add_VaultServiceServicer_to_server, vault)) as channel:
        yield VaultServiceStub(channel)


async def outcome(stub: Any, profile: Profile, root: TrustRoot | None = None, **patience: float) -> str:
    """Why this device's session with the vault came to nothing; MET if it had spoken."""
    root = root or make_root()
    directory = DirectoryReader(stub, root, profile, now_ms=lambda: NOW, report=lambda event: None)
    device = Vault(stub, root, profile, directory, now_ms=lambda: NOW, report=lambda event: None, **patience)
    with pytest.raises(RefusedError) as refused:
        await device.run(lambda session: session.list())
    return refused.value.reason


@pytest.mark.parametrize(
    ("shown", "reason"),
    [
        (pb.SignedBundle(), "SIGNATURE_LENGTH"),
        (countersigned(sign_bundle(THIEF, bundle())), "SIGNATURE_INVALID"),
        (signed_bundle(bundle(expires_ms=NOW)), "BUNDLE_EXPIRED"),
        (signed_bundle(bundle(expires_ms=NOW + 31 * 24 * HOUR)), "BUNDLE_EXPIRED"),
        (signed_bundle(bundle(namespace="other")), "BUNDLE_OTHER_NAMESPACE"),
        (sign_bundle(OPERATOR, bundle()), "HEAD_NO_QUORUM"),
        (signed_bundle(bundle(), THIEF), "HEAD_KEY_UNPINNED"),
        (operator_signs(bundle(hsm(1, 0), hsm(2, 0)).SerializeToString()), "BUNDLE_INVALID"),
    ],
    ids=[
        "unsigned",
        "another operator's",
        "expired",
        "for too long",
        "another namespace's",
        "no witness's",
        "another witness's",
        "a shard twice",
    ],
)
async def test_a_bundle_that_does_not_hold_is_refused(
    stub: Any, vault: FalseVault, profile: Profile, shown: pb.SignedBundle, reason: str
) -> None:
    vault.bundle = shown
    assert await outcome(stub, profile) == reason
    assert vault.frames == []
    vault.bundle = FIRST
    assert await outcome(stub, profile) == "MET"
    assert len(vault.frames) == 1


async def test_a_development_bundle_is_refused_by_a_device_that_is_not_for_development(
    stub: Any, vault: FalseVault, profile: Profile
) -> None:
    vault.bundle = FIRST
    assert await outcome(stub, profile, make_root(development=False)) == "BUNDLE_DEVELOPMENT"
    assert vault.frames == []


async def test_a_bundle_that_too_few_witnesses_signed_is_refused(
    stub: Any, vault: FalseVault, profile: Profile
) -> None:
    vault.bundle = signed_bundle(bundle(), WITNESSES[0], WITNESSES[0])
    assert await outcome(stub, profile, three_of(2)) == "HEAD_NO_QUORUM"
    assert vault.frames == []


async def test_a_bundle_below_the_highest_seen_is_refused_also_later(
    stub: Any, vault: FalseVault, tmp_path: Path
) -> None:
    vault.bundle = SECOND
    with opened(tmp_path) as profile:
        assert await outcome(stub, profile) == "MET"
    for shown, reason in (
        (FIRST, "BUNDLE_BELOW_HIGHEST"),
        (signed_bundle(after(FIRST, hsm(2))), "BUNDLE_FORK"),
        (signed_bundle(after(signed_bundle(after(FIRST, hsm(2))))), "BUNDLE_FORK"),
    ):
        vault.bundle = shown
        with opened(tmp_path) as profile:
            assert await outcome(stub, profile) == reason
    assert len(vault.frames) == 1


async def test_bundles_that_were_passed_over_come_from_the_log(
    stub: Any, vault: FalseVault, tmp_path: Path, profile: Profile
) -> None:
    """It has whatever the operator puts there; only what the newest continues leads to the one seen."""
    log = FileLog(tmp_path / "log")
    async with Service("log") as service:
        port = await serve(service, log_app(log), "127.0.0.1:0")
        root = make_root(log_url=f"http://127.0.0.1:{port}")
        vault.bundle = FIRST
        assert await outcome(stub, profile, root) == "MET"
        vault.bundle = FOURTH
        log.put("fleet/3", THIRD.SerializeToString())
        assert await outcome(stub, profile, root) == "BUNDLE_GAP"
        log.put("fleet/2", signed_bundle(after(FIRST, hsm(2))).SerializeToString())
        assert await outcome(stub, profile, root) == "BUNDLE_FORK"
        assert len(vault.frames) == 1
    log = FileLog(tmp_path / "honest log")
    for number, signed in ((2, SECOND), (3, THIRD)):
        log.put(f"fleet/{number}", signed.SerializeToString())
    async with Service("log") as service:
        port = await serve(service, log_app(log), "127.0.0.1:0")
        root = make_root(log_url=f"http://127.0.0.1:{port}")
        assert await outcome(stub, profile, root) == "MET"
    assert await outcome(stub, profile) == "MET"  # the log is not asked again


async def test_without_the_log_a_device_that_missed_bundles_waits(
    stub: Any, vault: FalseVault, profile: Profile
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        root = make_root(log_url=f"http://127.0.0.1:{free.getsockname()[1]}")
    vault.bundle = FIRST
    assert await outcome(stub, profile, root) == "MET"
    vault.bundle = THIRD
    with pytest.raises(TryLaterError, match="does not answer"):
        await outcome(stub, profile, root)
    assert len(vault.frames) == 1


async def test_a_log_that_takes_connections_and_never_answers_is_given_up_with_the_patience(
    stub: Any, vault: FalseVault, profile: Profile
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        root = make_root(log_url=f"http://127.0.0.1:{silent.getsockname()[1]}")
        vault.bundle = FIRST
        assert await outcome(stub, profile, root) == "MET"
        vault.bundle = THIRD
        async with asyncio.timeout(TIMEOUT_S / 2):
            with pytest.raises(TryLaterError, match="does not answer"):
                await outcome(stub, profile, root, retry_for_s=0)
