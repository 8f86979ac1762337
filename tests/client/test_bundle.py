"""The device takes no bundle from the vault that its pinned trust root does not bear, and says not a word under one."""

from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from ipls.client.directory import DirectoryReader
from ipls.client.errors import RefusedError
from ipls.client.profile import Account, Profile
from ipls.client.vault import Vault
from ipls.proto.vault.v1 import vault_pb2 as pb
from ipls.proto.vault.v1.vault_pb2_grpc import (
    VaultServiceServicer,
    VaultServiceStub,
    add_VaultServiceServicer_to_server,
)
from ipls.rpc.errors import ServiceError
from ipls.trust.bundle import sign_bundle
from ipls.trust.root import TrustRoot
from tests.server.loopback import loopback
from tests.trust.roots import HOUR, NOW, OPERATOR, THIEF, make_root, seed
from tests.trust.test_bundle import bundle

RENEWED = bundle(number=2, previous=bytes(32))


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
            raise ServiceError(grpc.StatusCode.ABORTED, "MET", "far enough")
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


async def outcome(stub: Any, profile: Profile, root: TrustRoot | None = None) -> str:
    """Why this device's session with the vault came to nothing; MET if it had spoken."""
    root = root or make_root()
    directory = DirectoryReader(stub, root, profile, now_ms=lambda: NOW, report=lambda event: None)
    device = Vault(stub, root, profile, directory, now_ms=lambda: NOW, report=lambda event: None)
    with pytest.raises(RefusedError) as refused:
        await device.run(lambda session: session.list())
    return refused.value.reason


@pytest.mark.parametrize(
    ("shown", "reason"),
    [
        (pb.SignedBundle(), "SIGNATURE_LENGTH"),
        (sign_bundle(THIEF, bundle()), "SIGNATURE_INVALID"),
        (sign_bundle(OPERATOR, bundle(expires_ms=NOW)), "BUNDLE_EXPIRED"),
        (sign_bundle(OPERATOR, bundle(expires_ms=NOW + 31 * 24 * HOUR)), "BUNDLE_EXPIRED"),
        (sign_bundle(OPERATOR, bundle(namespace="other")), "BUNDLE_OTHER_NAMESPACE"),
        (sign_bundle(OPERATOR, bundle(development=False)), "HEAD_NO_QUORUM"),
    ],
    ids=["unsigned", "another operator's", "expired", "for too long", "another namespace's", "not for development"],
)
async def test_a_bundle_that_does_not_hold_is_refused(
    stub: Any, vault: FalseVault, profile: Profile, shown: pb.SignedBundle, reason: str
) -> None:
    vault.bundle = shown
    assert await outcome(stub, profile) == reason
    assert vault.frames == []
    vault.bundle = sign_bundle(OPERATOR, bundle())
    assert await outcome(stub, profile) == "MET"
    assert len(vault.frames) == 1


async def test_a_development_bundle_is_refused_by_a_device_that_is_not_for_development(
    stub: Any, vault: FalseVault, profile: Profile
) -> None:
    vault.bundle = sign_bundle(OPERATOR, bundle())
    assert await outcome(stub, profile, make_root(development=False)) == "BUNDLE_DEVELOPMENT"
    assert vault.frames == []


async def test_a_bundle_below_the_highest_seen_is_refused_also_later(
    stub: Any, vault: FalseVault, tmp_path: Path
) -> None:
    vault.bundle = sign_bundle(OPERATOR, RENEWED)
    with opened(tmp_path) as profile:
        assert await outcome(stub, profile) == "MET"
    vault.bundle = sign_bundle(OPERATOR, bundle())
    with opened(tmp_path) as profile:
        assert await outcome(stub, profile) == "BUNDLE_BELOW_HIGHEST"
    assert len(vault.frames) == 1
