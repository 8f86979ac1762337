"""Several vaults behind one address: each account at the vault of its shard, whatever becomes of the others."""

import asyncio
import secrets
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import tomli_w

from ipls._grpc import grpc
from ipls.admin.deployment import free_ports
from ipls.proto.vault.v1.vault_pb2 import (
    ClientHello,
    GetBundleRequest,
    GetBundleResponse,
    SessionRequest,
    SessionResponse,
)
from ipls.proto.vault.v1.vault_pb2_grpc import VaultServiceServicer, add_VaultServiceServicer_to_server
from ipls.rpc.channel import open_channel
from ipls.rpc.errors import Ending, RemoteError, remote_error
from ipls.rpc.health import until_serving
from ipls.rpc.limits import Limits
from ipls.rpc.peer import CALLER_METADATA, network_of
from ipls.rpc.server import Access, GrpcServer, Listener
from ipls.trust.bundle import shard_of, verify_bundle
from tests.environment import DIES_WITH_US
from tests.hsm.fleet import another_host, write_bundle
from tests.hsm.rig import Owner, Rig, now_ms
from tests.rpc.strangers import message, stranger
from tests.server.vault.process import Vault, running_vault

pytestmark = pytest.mark.asyncio(loop_scope="module")

PLACES = 4
FLOOD = 150
CLIENT = {"certificate": "router.pem", "key": "router.key", "ca": "ca.pem"}


class Router(Vault):
    """To talk to as to a vault."""

    port: int


class Fleet:
    """Two vaults and their router."""

    def __init__(self, vaults: list[Vault], router: Router) -> None:
        self.vaults = vaults
        self.router = router

    def owner(self, shard: int) -> Owner:
        """A new account of that shard, published."""
        while True:
            owner = Owner()
            if shard_of(owner.label, len(self.vaults)) == shard:
                self.router.rig.directory.publish(owner)
                return owner


@asynccontextmanager
async def routed(folder: Path, vaults: list[Vault], addresses: list[str]) -> AsyncIterator[Router]:
    """A router's process, which knows the vaults by these addresses, by shard."""
    rig = vaults[0].rig
    [port] = free_ports(1)
    address = f"127.0.0.1:{port}"
    tls = {name: str(rig.folder / f"{file}.pem") for name, file in (("certificate", "server"), ("ca", "ca"))}
    table = {
        "listen": address,
        "tls": tls | {"key": str(rig.folder / "server.key")},
        "vaults": addresses,
        "client": {name: str(rig.folder / file) for name, file in CLIENT.items()},
        "max_half_open": PLACES,
    }
    folder.mkdir()
    config = folder / "router.toml"
    config.write_text(tomli_w.dumps({"trust_root": str(rig.folder / "trust.toml"), "router": table}))
    process = await asyncio.create_subprocess_exec(
        *(*DIES_WITH_US, sys.executable, "-m", "ipls.cli.main", "serve", "router", "--config", str(config))
    )
    await until_serving(address, rig.folder / "ca.pem")
    async with open_channel(address, rig.folder / "ca.pem") as channel:
        try:
            router = Router(rig, vaults[0].directory, channel)
            router.port = port
            yield router
        finally:
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    (folder / "0").mkdir()
    first = Rig(folder / "0")
    second = another_host(first, folder / "1", shard=1)
    second.genesis()
    write_bundle([(first, [0]), (second, [1])])
    async with AsyncExitStack() as stack:
        internal = [f"127.0.0.1:{port}" for port in free_ports(2)]
        vaults = [
            await stack.enter_async_context(running_vault(rig, config={"internal_listen": at}))
            for rig, at in zip((first, second), internal, strict=True)
        ]
        router = await stack.enter_async_context(routed(folder / "router", vaults, internal))
        yield Fleet(vaults, router)


async def use(vault: Vault, owner: Owner) -> None:
    """Stores a key and has it back, as a device does."""
    key = secrets.token_bytes(32)

    async def work(client: Any, exchange: Any) -> None:
        listed = client.on_answer(await exchange(client.list_request()))
        answer = client.on_answer(await exchange(client.store_request(listed.last_generation, bytes(16), key)))
        assert client.on_answer(await exchange(client.retrieve_request())) == (answer.generation, key)

    await vault.patiently(owner, work)


async def refusal(vault: Vault, owner: Owner) -> tuple[grpc.StatusCode, str]:
    async with vault.stream() as exchange:
        with pytest.raises(RemoteError) as refused:
            await vault.rig.open(owner, exchange, known_head=vault.rig.directory.head())
    return refused.value.code, refused.value.reason


async def test_accounts_of_all_shards_are_served_at_one_address(fleet: Fleet) -> None:
    owners = [fleet.owner(shard) for shard in (0, 1, 0, 1)]
    await asyncio.gather(*(use(fleet.router, owner) for owner in owners))
    signed = (await fleet.router.stub.GetBundle(GetBundleRequest())).bundle
    assert verify_bundle(fleet.router.rig.root, signed, now_ms=now_ms()) == fleet.router.rig.bundle


@pytest.mark.parametrize("shard", [0, 1])
async def test_a_vault_serves_no_account_of_another_shard(fleet: Fleet, shard: int) -> None:
    """Its router is the adversary: the client holds it to the bundle, and so does the vault."""
    owner, other = fleet.owner(shard), fleet.vaults[1 - shard]
    failed = grpc.StatusCode.FAILED_PRECONDITION
    assert await refusal(other, owner) == (failed, "VAULT_HSM_KEY_MISMATCH")
    liar = Vault(other.rig, other.directory, other.channel)
    liar.rig = object.__new__(Rig)
    liar.rig.__dict__ |= other.rig.__dict__
    liar.rig.bundle = type(other.rig.bundle).FromString(other.rig.bundle.SerializeToString())
    hsms = liar.rig.bundle.hsms
    hsms[0].shards[:], hsms[1].shards[:] = [1], [0]
    assert await refusal(liar, owner) == (failed, "VAULT_WRONG_SHARD")


async def test_refusals_come_through(fleet: Fleet) -> None:
    owner = fleet.owner(1)
    denied = grpc.StatusCode.PERMISSION_DENIED
    for _ in range(10):
        assert await refusal(fleet.router, Owner(owner.label)) == (denied, "VAULT_IDENTITY_MISMATCH")
    async with fleet.router.stream() as exchange:
        with pytest.raises(RemoteError) as refused:
            await exchange(SessionRequest(m1=b"\xff"))
    assert refused.value.reason == "MESSAGE_UNREADABLE"


async def test_a_session_goes_on_at_no_other_vault(fleet: Fleet) -> None:
    """Begun at one, its next frame at the other: as that one's first frame, and in the place of its own client's."""
    owner = fleet.owner(0)
    rig, other = fleet.vaults[0].rig, fleet.owner(1)
    client, head = rig.client(owner, known_head=rig.directory.head()), rig.directory.head()
    async with fleet.vaults[0].stream() as begun, fleet.vaults[1].stream() as elsewhere:
        proof = client.on_hello(await begun(client.hello(now_ms())), now_ms())
        with pytest.raises(RemoteError) as refused:
            await elsewhere(proof)
        assert refused.value.reason == "VAULT_OUT_OF_ORDER"
        async with fleet.vaults[1].stream() as another:
            await another(fleet.vaults[1].rig.client(other, known_head=head).hello(now_ms()))
            with pytest.raises(RemoteError) as refused:
                await another(proof)
            assert refused.value.reason == "VAULT_TAG_INVALID"
        client.on_confirmation(await begun(proof))


async def test_a_dead_vault_is_away_and_the_others_serve(fleet: Fleet) -> None:
    dead, alive = fleet.owner(1), fleet.owner(0)
    vault = fleet.vaults[1]
    await use(fleet.router, dead)
    vault.front.kill()
    await vault.front.wait()
    assert await refusal(fleet.router, dead) == (grpc.StatusCode.UNAVAILABLE, "VAULT_AWAY")
    await use(fleet.router, alive)
    await fleet.router.stub.GetBundle(GetBundleRequest())
    await vault.start()
    await use(fleet.router, dead)


async def test_silent_streams_make_room(fleet: Fleet) -> None:
    async def reason(call: Any) -> str:
        ending = Ending(call)
        try:
            await call.read()
        except grpc.aio.AioRpcError as error:
            return remote_error(ending.why(error)).reason
        return ""

    calls = [fleet.router.stub.Session() for _ in range(3 * PLACES)]
    ends = [asyncio.create_task(reason(call)) for call in calls]
    assert {await end for end in islice(asyncio.as_completed(ends), 2 * PLACES)} == {"SERVICE_BUSY"}
    await use(fleet.router, fleet.owner(0))
    for either in (*calls, *ends):
        either.cancel()
    await asyncio.gather(*ends, return_exceptions=True)


async def test_one_network_leaves_the_routers_other_callers_places_at_the_vault(fleet: Fleet) -> None:
    """It begins as many sessions of one shard as it gets, and goes on with none."""
    owner, rig = fleet.owner(0), fleet.vaults[0].rig
    hello = rig.client(owner, known_head=rig.directory.head()).hello(now_ms()).SerializeToString()
    method = "ipls.vault.v1.VaultService/Session"
    async with stranger(fleet.router.port, rig.folder / "ca.pem") as flood:
        for _ in range(FLOOD):
            flood.call(method, message(hello))
        await flood.until(Limits().working // Limits().stranger_share)  # more than the router gives it
        async with fleet.router.stream() as exchange:
            await rig.open(owner, exchange, known_head=rig.directory.head())


@asynccontextmanager
async def pretended(fleet: Fleet, vault: VaultServiceServicer) -> AsyncIterator[str]:
    """A server in a vault's place; its address."""
    folder = fleet.vaults[0].rig.folder
    listener = Listener("127.0.0.1:0", folder / "server.pem", folder / "server.key", folder / "ca.pem")
    server = GrpcServer([listener], {"ipls.vault.v1.VaultService": Access("router")})
    add_VaultServiceServicer_to_server(vault, server.grpc)
    [port] = await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


async def test_a_vault_is_told_for_whom_its_router_calls(fleet: Fleet, tmp_path: Path) -> None:
    """So that what one network has asked in vain counts for that one."""
    networks = list[str]()

    class Told(VaultServiceServicer):
        async def Session(self, requests: Any, context: Any) -> AsyncIterator[SessionResponse]:
            networks.append(network_of(context))
            yield SessionResponse()

    hello = ClientHello(label="+15550000001").SerializeToString()
    frame = message(SessionRequest(m1=hello).SerializeToString())
    async with (
        pretended(fleet, Told()) as address,
        routed(tmp_path / "told", fleet.vaults, [address]) as router,
        stranger(router.port, fleet.vaults[0].rig.folder / "ca.pem", "127.0.0.7") as caller,
    ):
        own = {CALLER_METADATA: "198.51.100.1"}  # what a caller says itself is nothing
        await caller.ended(caller.call("ipls.vault.v1.VaultService/Session", frame, end=True, metadata=own))
    assert networks == ["127.0.0.7"]


async def test_a_vault_that_hangs_is_waited_for_once_for_the_bundle(fleet: Fleet, tmp_path: Path) -> None:
    asked = list[int]()

    class Numbered(VaultServiceServicer):
        def __init__(self, number: int) -> None:
            self.number = number

        async def GetBundle(self, request: GetBundleRequest, context: Any) -> GetBundleResponse:
            asked.append(self.number)
            if self.number == 0:
                await asyncio.Event().wait()
            return GetBundleResponse()

    async with AsyncExitStack() as stack:
        addresses = [await stack.enter_async_context(pretended(fleet, Numbered(number))) for number in (0, 1)]
        router = await stack.enter_async_context(routed(tmp_path / "hung", fleet.vaults, addresses))
        for _ in range(3):
            await router.stub.GetBundle(GetBundleRequest())
    assert asked == [0, 1, 1, 1]


async def test_the_wrong_addresses_serve_nobody(fleet: Fleet, tmp_path: Path) -> None:
    addresses = [vault.rig.address for vault in fleet.vaults]  # which ask for no certificate
    async with routed(tmp_path / "swapped", fleet.vaults, addresses[::-1]) as swapped:
        assert (await refusal(swapped, fleet.owner(0)))[1] == "VAULT_HSM_KEY_MISMATCH"
