"""Witnesses and directories that say two things: whoever meets both keeps a file, and a third party is convinced by it
with `ipls verify evidence` and the trust root."""

import json
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ipls.akd import EMPTY_ROOT
from ipls.client.directory import DirectoryReader
from ipls.client.errors import RefusedError
from ipls.client.profile import Profile, ProvedHistory
from ipls.crypto.keys import public_key
from ipls.proto.directory.v1.directory_pb2 import HistoryRequest, HistoryResponse, OpenSessionResponse
from ipls.proto.directory.v1.directory_pb2_grpc import (
    DirectoryServiceServicer,
    DirectoryServiceStub,
    add_DirectoryServiceServicer_to_server,
)
from ipls.proto.witness.v1.witness_pb2 import GetStateResponse, ProposeResponse, WitnessState
from ipls.proto.witness.v1.witness_pb2_grpc import WitnessServiceServicer
from ipls.rpc.channel import open_channel
from ipls.server.directory.evidence import EvidenceRecorder
from ipls.server.directory.witnesses import Witnesses
from ipls.store.evidence import EvidenceFolder
from ipls.trust.heads import Head
from ipls.trust.identity import encode_record
from ipls.trust.root import TrustRoot, encode_trust_root
from tests.attack.directory import Directory
from tests.e2e.running import ipls
from tests.server.directories import ALICE, PROPOSER, World, record
from tests.server.loopback import loopback
from tests.trust.roots import NOW, WITNESSES, cosign, seed, signed, three_of

OWN, ANOTHER = encode_record(public_key(seed(100))), encode_record(public_key(seed(101)))


def convinced(folder: Path, root: TrustRoot, file: Path) -> dict[str, Any]:
    """What the command says of the file to somebody who has it and the trust root."""
    trust = folder / "third party's trust.toml"
    trust.write_bytes(encode_trust_root(root))
    ended = ipls("verify", "evidence", file, "--trust", trust, "--json")
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


# A witness, before the directory


class TwoFaced(WitnessServiceServicer):
    """Signed the directory's first epoch, and shows that it has signed another root for an epoch."""

    def __init__(self, world: World, head: Head, by: bytes) -> None:
        made = cosign(by, world.root.namespace, *head, world.now_ms)
        self.state = WitnessState(epoch=head.epoch, root_hash=head.root_hash, cosignature=made)

    async def GetState(self, request: Any, context: Any) -> GetStateResponse:
        return GetStateResponse(state=self.state)


async def meets(world: World, witness: TwoFaced) -> list[Path]:
    """The files that the directory has once it has asked that witness for its state."""
    folder = EvidenceFolder(world.folder / "evidence")
    address = f"127.0.0.1:{world.witness_ports[0]}"
    async with (
        world.publisher() as (_, store, _),
        world.witness(0, witness),
        open_channel(address, world.ca) as channel,
    ):
        met = EvidenceRecorder(world.root, store, folder).met
        witnesses = Witnesses(world.root, {"w0": channel}, PROPOSER, world.clock, met)
        await witnesses.states()
        await witnesses.close()
    return folder.files()


@pytest.fixture
async def world(tmp_path: Path) -> World:
    """One witness, and one epoch that it signed."""
    world = World(tmp_path)
    async with world.witness(), world.directory() as client:
        assert await client.publish(1, ALICE, record(1)) == 1
    return world


async def test_a_witness_that_shows_the_directory_another_root_than_it_signed(world: World) -> None:
    [file] = await meets(world, TwoFaced(world, Head(1, b"x" * 32), world.seeds[0]))
    finding = convinced(world.folder, world.root, file)
    # Of one witness, k = 1, its signature is a quorum.
    assert (finding["kind"], finding["witnesses"], finding["epoch"]) == ("two_heads", ["w0"], 1)


async def test_a_running_directory_keeps_it_too(world: World) -> None:
    two_faced = TwoFaced(world, Head(1, b"x" * 32), world.seeds[0])
    async with world.witness(0, two_faced), world.directory() as client:
        folder = EvidenceFolder(world.config().evidence)
        while not folder.files():
            await client.first_head()  # the old one is served all the while
    assert len(folder.files()) == 1


class SignsAnother(TwoFaced):
    """Shows the root that it signed; asked to sign it again, it signs another."""

    def __init__(self, world: World, head: Head, by: bytes) -> None:
        super().__init__(world, head, by)
        self.answer = cosign(by, world.root.namespace, head.epoch, b"x" * 32, world.now_ms)

    async def Propose(self, request: Any, context: Any) -> ProposeResponse:
        return ProposeResponse(cosignature=self.answer)


async def test_a_witness_that_answers_a_proposal_with_a_signature_on_another_root(world: World) -> None:
    async with world.publisher() as (_, store, _):
        head = store.head()
    assert head is not None
    world.now_ms += world.root.max_head_age_ms // 4  # so that the head is signed anew
    liar = SignsAnother(world, Head(1, head.root_hash), world.seeds[0])
    async with world.witness(0, liar), world.directory() as client:
        folder = EvidenceFolder(world.config().evidence)
        while not folder.files():
            assert (await client.first_head()).head.root_hash == head.root_hash
    [file] = folder.files()
    finding = convinced(world.folder, world.root, file)
    assert (finding["kind"], finding["witnesses"], finding["epoch"]) == ("two_heads", ["w0"], 1)


async def test_what_a_witness_shows_of_other_epochs_is_no_evidence(world: World) -> None:
    for epoch in (2, 2**63 - 1, 2**64 - 1):
        assert await meets(world, TwoFaced(world, Head(epoch, b"x" * 32), world.seeds[0])) == []


# A directory with its witnesses, before a device


class Forked(DirectoryServiceServicer):
    """Shows whichever directory it is at, under heads that a quorum of the witnesses signed."""

    def __init__(self, at: Directory, versions: list[int]) -> None:
        self.show(at, versions)

    def show(self, at: Directory, versions: list[int]) -> None:
        self.at, self.versions = at, versions

    async def OpenSession(self, request: Any, context: Any) -> OpenSessionResponse:
        return OpenSessionResponse(token=b"token")

    async def History(self, request: HistoryRequest, context: Any) -> AsyncIterator[HistoryResponse]:
        tree = self.at.tree()
        versions = self.versions[: request.most_recent or None]
        head = signed(Head(self.at.epoch, tree.root()), *WITNESSES[:2])
        proof = self.at.history(tree, request.label, versions, self.at.epoch)
        yield HistoryResponse(head=head, chunk=proof.SerializeToString())


def grown(*alice: bytes, to: int) -> Directory:
    """Alice's keys in the first epochs, then others'."""
    server = Directory(seed(1))
    for value in alice:
        server.publish([(ALICE, value), (b"+49%d" % server.epoch, OWN)])
    while server.epoch < to:
        server.publish([(b"+49%d" % server.epoch, OWN)])
    return server


@pytest.mark.parametrize(
    ("lie", "versions", "reason", "kind", "guilty"),
    [
        (grown(ANOTHER, ANOTHER, to=4), [2, 1], "HEAD_FORK", "two_heads", ["w0", "w1"]),
        (grown(OWN, OWN, to=5), [2, 1], "LEAF_CHANGED", "rewrite", []),
    ],
    ids=["a fork", "a rewritten history"],
)
async def test_a_device_that_meets_the_lie_can_convince_anyone(
    tmp_path: Path, lie: Directory, versions: list[int], reason: str, kind: str, guilty: list[str]
) -> None:
    honest = grown(OWN, ANOTHER, to=4)
    root = three_of(vrf_public_key=honest.public_key, start_root=EMPTY_ROOT)
    shown = Forked(honest, [2, 1])
    with closing(Profile(tmp_path / "phone")) as profile:
        async with loopback(tmp_path, lambda s: add_DirectoryServiceServicer_to_server(shown, s)) as channel:
            stub = DirectoryServiceStub(channel)
            reader = DirectoryReader(stub, root, profile, now_ms=lambda: NOW, report=lambda event: None, retry_for_s=0)
            history = await reader.own_history(ALICE.decode(), seed(100))
            profile.add_leaves(history.leaves)
            profile.put(ProvedHistory(history.proof))
            shown.show(lie, versions)
            with pytest.raises(RefusedError, check=lambda error: error.reason == reason):
                await reader.own_history(ALICE.decode(), seed(100))
        [file] = profile.evidence.files()
    finding = convinced(tmp_path, root, file)
    assert (finding["kind"], finding["witnesses"]) == (kind, guilty)
