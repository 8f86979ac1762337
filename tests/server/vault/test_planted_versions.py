"""The directory spec's "Known weakness" with the vault's real processes and the owner's real device.

The operator holds every key and signs every epoch. It plants versions of the owner's number with a thief's key.
"""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ipls._grpc import grpc
from ipls.akd import verify_append_only, verify_lookup
from ipls.client.device import Device
from ipls.client.errors import RefusedError
from ipls.client.profile import Account, Profile
from ipls.crypto.keys import public_key
from ipls.proto.directory.v1 import directory_pb2 as pb
from ipls.proto.directory.v1.directory_pb2_grpc import (
    DirectoryServiceServicer,
    add_DirectoryServiceServicer_to_server,
)
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.rpc.errors import RemoteError
from ipls.rpc.server import ANYONE, GrpcServer, Listener
from ipls.trust.heads import Head
from ipls.trust.identity import encode_record
from tests.attack import directory as attack
from tests.hsm.rig import Exchange, Owner, Rig, now_ms
from tests.server.vault.process import Vault, running_vault
from tests.trust.roots import VRF, WITNESSES, signed

PLANTED_AT = 8
NEWEST = 10
KEY = bytes(range(32))


class Operator(attack.Directory, DirectoryServiceServicer):
    """The owner registers in epoch 1, others until epoch 10; in epoch 8 the versions are planted.

    `answers`: what it shows for a history, by how many most recent versions are asked for; 0 is the complete one.
    """

    def __init__(self, owner: Owner, thief: Owner, planted: Sequence[int], retired: Sequence[int] = ()) -> None:
        super().__init__(VRF)
        self.label = owner.label.encode()
        self.publish([(self.label, encode_record(public_key(owner.seed)))])
        for epoch in range(2, NEWEST + 1):
            self.publish([(b"+1555%04d" % epoch, encode_record(public_key(owner.seed)))])
            if epoch == PLANTED_AT:
                for version in planted:
                    self.plant(self.label, version, encode_record(public_key(thief.seed)), epoch)
                for version in retired:
                    self.retire(self.label, version, epoch)
        self.answers: dict[int, bytes] = {}

    def head(self, **_: Any) -> SignedHead:
        return signed(Head(self.epoch, self.tree().root()), *WITNESSES[:2], time=now_ms())

    def shown(self, versions: Sequence[int], future: Sequence[int] | None = None) -> bytes:
        proof = self.history(self.tree(), self.label, versions, self.epoch, future=future)
        return proof.SerializeToString()

    def prove(self, label: str, epoch: int) -> bytes:
        """For the vault."""
        return self.answers[1]

    async def TrustRoots(self, request: pb.TrustRootsRequest, context: Any) -> pb.TrustRootsResponse:
        return pb.TrustRootsResponse()

    async def OpenSession(self, request: pb.OpenSessionRequest, context: Any) -> pb.OpenSessionResponse:
        return pb.OpenSessionResponse(token=b"token")

    async def History(self, request: pb.HistoryRequest, context: Any) -> AsyncIterator[pb.HistoryResponse]:
        """For the device."""
        yield pb.HistoryResponse(head=self.head(), chunk=self.answers[request.most_recent])


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


@asynccontextmanager
async def device_of(owner: Owner, rig: Rig, operator: Operator) -> AsyncIterator[Device]:
    """The owner's phone, which registered in epoch 1."""
    server = GrpcServer(
        [Listener("127.0.0.1:0", rig.folder / "server.pem", rig.folder / "server.key")],
        {"ipls.directory.v1.DirectoryService": ANYONE},
    )
    add_DirectoryServiceServicer_to_server(operator, server.grpc)
    (port,) = await server.start()
    services = {name: {"address": f"127.0.0.1:{port}"} for name in ("directory", "registration", "vault", "contacts")}
    endpoints = rig.folder / "endpoints.json"
    endpoints.write_text(json.dumps({"trust_root": "trust.toml", "ca_file": "ca.pem", "services": services}))
    profile = Profile(rig.folder / "phone")
    profile.put(Account(owner.label, owner.seed, 1, 1))
    profile.close()
    try:
        async with Device.open(rig.folder / "phone", endpoints) as device:
            yield device
    finally:
        await server.stop(0)


async def stored_under(vault: Vault, owner: Owner, exchange: Exchange) -> None:
    client = await vault.rig.open(owner, exchange, known_head=vault.rig.directory.head())
    client.on_answer(await exchange(client.store_request(0, bytes(16), KEY)))


async def test_a_lone_planted_version_opens_no_session(rig: Rig) -> None:
    """(fresh, 8) alone: a lookup answers it, audits pass, the owner's complete history ends at 1. The vault refuses."""
    owner = Owner()
    thief = Owner(owner.label)
    operator = Operator(owner, thief, [8])
    step = operator.append_only(PLANTED_AT).SerializeToString()
    verify_append_only(operator.tree(PLANTED_AT - 1).root(), operator.tree(PLANTED_AT).root(), PLANTED_AT, step)
    tree = operator.tree()
    lookup = operator.lookup(tree, operator.label, 8).SerializeToString()
    found = verify_lookup(tree.root(), NEWEST, rig.root.vrf_public_key, operator.label, lookup)
    assert found.value == encode_record(public_key(thief.seed))
    rig.directory = operator  # as far as the vault asks it
    async with running_vault(rig) as vault:
        operator.answers[1] = operator.shown([1])
        async with vault.stream() as exchange:
            await stored_under(vault, owner, exchange)
        for answer, reason in ((lookup, "IDENTITY_UNPROVEN"), (operator.shown([1]), "VAULT_IDENTITY_MISMATCH")):
            operator.answers[1] = answer
            async with vault.stream() as exchange:
                with pytest.raises(RemoteError) as refused:
                    await rig.open(thief, exchange, known_head=operator.head())
            assert (refused.value.code, refused.value.reason) == (grpc.StatusCode.PERMISSION_DENIED, reason)
    operator.answers = {0: operator.shown([1]), 1: operator.shown([1])}
    async with device_of(owner, rig, operator) as device:
        assert [version.version for version in await device.monitor()] == [1]


async def test_what_the_vault_takes_the_owner_sees(rig: Rig) -> None:
    """(fresh, 8), (stale, 7), (fresh, 4): most recent 1 holds, the thief gets the key; no history suits the owner."""
    owner = Owner()
    thief = Owner(owner.label)
    operator = Operator(owner, thief, [4, 8], [7])
    rig.directory = operator  # as far as the vault asks it
    operator.epoch = PLANTED_AT - 1
    async with running_vault(rig) as vault:
        operator.answers[1] = operator.shown([1])
        async with vault.stream() as exchange:
            await stored_under(vault, owner, exchange)
        operator.epoch = NEWEST
        operator.answers[1] = operator.shown([8])
        async with vault.stream() as exchange:
            client = await rig.open(thief, exchange, known_head=operator.head())
            assert client.on_answer(await exchange(client.retrieve_request())) == (1, KEY)
    for versions, future, reason in (
        ([1], [2], "FUTURE_MARKERS"),  # (fresh, 4) is there, and can't be shown to be absent
        ([1], [2, 2], "VRF_PROOF"),
        ([1], [2, 4], "CHILD_LEADS_ON"),
        ([8], None, "INCOMPLETE"),
    ):
        operator.answers[0] = operator.shown(versions, future)
        async with device_of(owner, rig, operator) as device:
            with pytest.raises(RefusedError) as seen:
                await device.monitor()
        assert seen.value.reason == reason
