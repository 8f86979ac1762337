"""A directory that lies about the trust root's versions, and what a device that follows it takes."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ipls.client.errors import RefusedError
from ipls.client.events import Event, TrustRootFollowed
from ipls.client.profile import Pinned, Profile
from ipls.client.trust import TrustRoots
from ipls.crypto.keys import public_key
from ipls.proto.directory.v1.directory_pb2 import TrustRootsRequest, TrustRootsResponse
from ipls.proto.directory.v1.directory_pb2_grpc import (
    DirectoryServiceServicer,
    DirectoryServiceStub,
    add_DirectoryServiceServicer_to_server,
)
from ipls.proto.trust.v1.trust_pb2 import SignedTrustRoot
from ipls.server.directory.service import DirectoryService
from ipls.trust.chain import MAX_ANSWER
from ipls.trust.root import WitnessKey
from tests.server.loopback import loopback
from tests.trust.chains import after, first, signed
from tests.trust.roots import HOUR, NAMESPACE, NOW, THIEF, WITNESSES, YEAR, cosign, seed, three_of, witness

A, B, C = WITNESSES
D, E, A2 = seed(14), seed(15), seed(21)
PINNED = first(three_of(expires_ms=NOW - YEAR))
SECOND = after(PINNED, witnesses=(three_of().witnesses[0], witness("d", D), witness("e", E)))
THIRD = after(SECOND, expires_ms=NOW + YEAR)
CHAIN = [signed(SECOND, A, B, D), signed(THIRD, D, E)]


class Liar(DirectoryServiceServicer):
    """Shows the versions that it is given once, whatever it is asked; then it has no more."""

    def __init__(self) -> None:
        self.versions: Sequence[SignedTrustRoot] = []

    async def TrustRoots(self, request: TrustRootsRequest, context: Any) -> TrustRootsResponse:
        shown, self.versions = self.versions, []
        return TrustRootsResponse(versions=shown)


@pytest.fixture
def liar() -> Liar:
    return Liar()


@pytest.fixture
async def stub(tmp_path: Path, liar: Liar) -> AsyncIterator[Any]:
    async with loopback(tmp_path, partial(add_DirectoryServiceServicer_to_server, liar)) as channel:
        yield DirectoryServiceStub(channel)


@contextmanager
def opened(folder: Path) -> Iterator[Profile]:
    with closing(Profile(folder / "phone")) as profile:
        profile.put(Pinned(PINNED.file, b"", "{}"))
        yield profile


@pytest.fixture
def profile(tmp_path: Path) -> Iterator[Profile]:
    with opened(tmp_path) as profile:
        yield profile


def device(stub: Any, profile: Profile, events: list[Event] | None = None) -> TrustRoots:
    return TrustRoots(stub, profile, now_ms=lambda: NOW, report=[].append if events is None else events.append)


async def refused(stub: Any, profile: Profile) -> str:
    """Why the device took nothing."""
    before = profile.trust_roots()
    with pytest.raises(RefusedError) as e:
        await device(stub, profile).follow()
    assert profile.trust_roots() == before
    return e.value.reason


async def test_a_device_that_was_long_away_walks_to_the_newest_and_keeps_it(
    stub: Any, liar: Liar, tmp_path: Path
) -> None:
    events: list[Event] = []
    liar.versions = CHAIN
    with opened(tmp_path) as profile:
        assert await device(stub, profile, events).follow() == THIRD.root
    with opened(tmp_path) as profile:
        assert profile.trust_root == THIRD
        assert await device(stub, profile, events).follow() == THIRD.root
    assert events == [TrustRootFollowed(3)]


@pytest.mark.parametrize(
    ("versions", "reason"),
    [
        (CHAIN[1:], "TRUST_ROOT_GAP"),
        ([signed(SECOND, A, B, C)], "TRUST_ROOT_NEW_QUORUM"),
        ([signed(SECOND, A, D, E)], "TRUST_ROOT_OLD_QUORUM"),
        ([signed(SECOND, A, A, A, D)], "TRUST_ROOT_OLD_QUORUM"),
        ([signed(after(PINNED, witnesses=(witness("t", THIEF),), k=1), THIEF)], "TRUST_ROOT_OLD_QUORUM"),
        ([signed(after(PINNED, vrf_public_key=public_key(THIEF)), A, B)], "TRUST_ROOT_VRF_KEY"),
        ([signed(after(PINNED, namespace="other"), A, B)], "TRUST_ROOT_OTHER_NAMESPACE"),
        ([signed(after(PINNED, previous=THIRD.head.root_hash), A, B)], "TRUST_ROOT_PREVIOUS"),
        ([signed(PINNED, A, B)], "TRUST_ROOT_FORK"),
        ([signed(after(PINNED), A, B)], "TRUST_ROOT_EXPIRED"),
        ([signed(SECOND, A, B, D), signed(after(SECOND, expires_ms=NOW), D, E)], "TRUST_ROOT_EXPIRED"),
        ([SignedTrustRoot(file=b"\xff", cosignatures=CHAIN[0].cosignatures)], "TRUST_ROOT_INVALID"),
        ([CHAIN[0], *[CHAIN[1]] * 2], "TRUST_ROOT_FORK"),
    ],
    ids=[
        "a gap",
        "the old quorum alone",
        "the new quorum alone",
        "one witness k times",
        "the thief's own witnesses",
        "a new VRF key",
        "another namespace",
        "another predecessor",
        "the first again",
        "the last expired",
        "the last of two expired",
        "junk",
        "one twice",
    ],
)
async def test_a_lie_is_refused_and_nothing_of_it_kept(
    stub: Any, liar: Liar, profile: Profile, versions: list[SignedTrustRoot], reason: str
) -> None:
    liar.versions = versions
    assert await refused(stub, profile) == reason


@pytest.mark.parametrize("namespace", [NAMESPACE, f"{NAMESPACE}/fleet"])
async def test_what_witnesses_signed_as_a_head_or_a_bundle_is_no_version(
    stub: Any, liar: Liar, profile: Profile, namespace: str
) -> None:
    """The directory may propose a head whose epoch and root are a version's number and hash."""
    signatures = [cosign(s, namespace, *SECOND.head, NOW) for s in (A, B, D)]
    liar.versions = [SignedTrustRoot(file=SECOND.file, cosignatures=signatures)]
    assert await refused(stub, profile) == "TRUST_ROOT_OLD_QUORUM"


async def test_a_restored_or_rolled_back_directory_moves_no_device_that_has_seen_more(
    stub: Any, liar: Liar, profile: Profile
) -> None:
    liar.versions = CHAIN
    await device(stub, profile).follow()
    for rolled_back in (CHAIN[:1], CHAIN):
        liar.versions = rolled_back
        assert await refused(stub, profile) == "TRUST_ROOT_ROLLED_BACK"
    assert liar.versions == []
    assert await device(stub, profile).follow() == THIRD.root


async def test_a_second_history_of_versions_moves_no_device_that_follows_the_first(
    stub: Any, liar: Liar, profile: Profile
) -> None:
    """Though witnesses signed both: 2k - n of the old ones at least are dishonest."""
    third = after(after(PINNED, k=3))
    fourth = after(third, expires_ms=NOW + YEAR)
    liar.versions = CHAIN
    await device(stub, profile).follow()
    liar.versions = [signed(third, A, B, C)]
    assert await refused(stub, profile) == "TRUST_ROOT_FORK"
    liar.versions = [signed(fourth, A, B, C, D, E)]
    assert await refused(stub, profile) == "TRUST_ROOT_PREVIOUS"


async def test_a_stolen_key_that_was_taken_out_moves_nobody(stub: Any, liar: Liar, profile: Profile) -> None:
    rotated = after(PINNED, witnesses=(witness("w0", A2), *three_of().witnesses[1:]), expires_ms=NOW + YEAR)
    liar.versions = [signed(rotated, A, A2, B)]
    assert await device(stub, profile).follow() == rotated.root
    liar.versions = [signed(after(rotated), A, B)]
    assert await refused(stub, profile) == "TRUST_ROOT_OLD_QUORUM"
    liar.versions = [signed(after(rotated), A2, B)]
    assert (await device(stub, profile).follow()).number == 3


async def test_two_live_keys_of_one_witness_are_one_vote(stub: Any, liar: Liar, profile: Profile) -> None:
    keys = (*PINNED.root.witnesses[0].keys, WitnessKey(public_key(A2), NOW - HOUR, NOW + YEAR))
    overlap = after(
        PINNED, witnesses=(replace(PINNED.root.witnesses[0], keys=keys), *PINNED.root.witnesses[1:]), expires_ms=NOW + 1
    )
    liar.versions = [signed(overlap, A, B)]
    await device(stub, profile).follow()
    liar.versions = [signed(after(overlap), A, A2)]
    assert await refused(stub, profile) == "TRUST_ROOT_OLD_QUORUM"


async def test_a_long_chain_comes_in_answers_of_a_few_versions(tmp_path: Path, profile: Profile) -> None:
    versions, newest = [], PINNED
    for _ in range(2 * MAX_ANSWER + 1):
        newest = after(newest)
        versions.append(signed(newest, A, B))
    newest = after(newest, expires_ms=NOW + 1)
    versions.append(signed(newest, B, C))
    directory: Any = DirectoryService(None, None, None, None, None, versions)  # of versions alone
    async with loopback(tmp_path, partial(add_DirectoryServiceServicer_to_server, directory)) as channel:
        stub = DirectoryServiceStub(channel)
        answer = await stub.TrustRoots(TrustRootsRequest(after_number=3))
        assert list(answer.versions) == versions[2 : 2 + MAX_ANSWER]
        assert list((await stub.TrustRoots(TrustRootsRequest(after_number=2**64 - 1))).versions) == []
        assert await device(stub, profile).follow() == newest.root
    assert len(profile.trust_roots()) == len(versions) + 1
