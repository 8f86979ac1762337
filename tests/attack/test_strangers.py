"""A stranger with keys of his own, who calls in the name of any number: what he can learn, fill and have done.

The same number may be registered, or not, or have values that were erased: status, reason, work are the same.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from ipls._grpc import grpc
from ipls.admin.certificates import Authority
from ipls.config import TlsFiles, load_core
from ipls.crypto.keys import public_key
from ipls.proto.contacts.v1 import contacts_pb2 as pb
from ipls.proto.directory.v1 import directory_pb2
from ipls.proto.directory.v1.directory_pb2_grpc import DirectoryServiceStub, add_DirectoryServiceServicer_to_server
from ipls.proto.registration.v1 import registration_pb2
from ipls.proto.vault.v1.vault_pb2_grpc import VaultServiceStub, add_VaultServiceServicer_to_server
from ipls.rpc.channel import open_channel
from ipls.rpc.errors import RemoteError, ServiceError
from ipls.rpc.peer import CALLER_METADATA
from ipls.rpc.server import ANYONE, GrpcServer, Listener
from ipls.rpc.tls import mtls_channel
from ipls.runtime.tasks import TaskScope
from ipls.server.contacts.calls import Limits
from ipls.server.contacts.identities import IN_VAIN
from ipls.server.vault import service as vault_front
from ipls.server.vault.service import CoreProcess, VaultGateway
from ipls.store.engine.sqlite import Database
from ipls.store.evidence import EvidenceFolder
from tests.hsm.rig import Exchange, Owner, Rig
from tests.server import contact_stores, directories
from tests.server.contact_stores import ALICE, BOB, answered
from tests.server.loopback import loopback
from tests.server.registration.test_service import both, failure
from tests.server.sessions import key, opening, refusal
from tests.server.vault.process import DirectoryServicer, Vault

CAROL = "+491700000003"


class Seen(NamedTuple):
    """What a refusal shows, and what it took."""

    code: grpc.StatusCode
    reason: str
    message: str
    retry_after_s: float | None
    asked: list[str]
    """Of the directory."""
    uses: int
    """Of databases."""


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch, *threads: str) -> Iterator[list[str]]:
    """Every use of a database, inner ones too, by the threads whose names begin so."""
    uses = list[str]()

    def count(name: str) -> Callable[..., Any]:
        original = getattr(Database, name)

        def used(self: Database) -> Any:
            if threading.current_thread().name.startswith(threads):
                uses.append(name)
            return original(self)

        return used

    with monkeypatch.context() as patch:
        for name in ("read", "write"):
            patch.setattr(Database, name, count(name))
        yield uses


@pytest.fixture
def world(tmp_path: Path) -> contact_stores.World:
    return contact_stores.World(tmp_path)


@pytest.fixture
async def stub(world: contact_stores.World) -> AsyncIterator[Any]:
    """Alice has had a key before, which is erased, and called; Carol has her first; Bob is not there."""
    async with world.running() as stub:
        first, alice = Owner(ALICE), Owner(ALICE)
        for owner in (Owner(CAROL), first, alice):
            await world.publish(owner)
        world.directory.erase(first, 1)
        await world.device(stub, alice).list()
        yield stub


def listing(world: contact_stores.World, stub: Any, owner: Owner) -> Any:
    return answered(
        stub.ListRecords(pb.ListRecordsRequest(call=world.call(owner, "ListRecords", pb.ListRecordsBody())))
    )


async def test_at_the_contact_store_every_number_looks_and_costs_the_same(
    world: contact_stores.World, stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    dave = Owner("+491700000004")
    await world.publish(dave)
    with counted(monkeypatch, "the database") as uses:
        await listing(world, stub, dave)
    assert uses  # else nothing is counted below
    seen = list[Seen]()
    for label in (ALICE, CAROL, BOB):
        stranger = Owner(label)
        for asked in (2, 0):  # and once more, with the key that is known to be none of them by then
            world.directory.asked.clear()
            with counted(monkeypatch, "the database") as uses, pytest.raises(RemoteError) as caught:
                await listing(world, stub, stranger)
            assert len(world.directory.asked) == asked
            error = caught.value
            seen.append(Seen(error.code, error.reason, error.message, error.retry_after_s, [], len(uses)))
    assert set(map(str, seen)) == {str(seen[0])}
    assert (seen[0].reason, seen[0].uses) == ("IDENTITY_UNKNOWN", 0)  # so no nonce of a stranger's is kept either


async def test_a_stranger_has_the_directory_asked_so_often_and_no_more(world: contact_stores.World, stub: Any) -> None:
    world.directory.asked.clear()
    reasons = list[str]()
    for _ in range(IN_VAIN + 20):
        with pytest.raises(RemoteError) as caught:
            await listing(world, stub, Owner(BOB))
        reasons.append(caught.value.reason)
    assert reasons == ["IDENTITY_UNKNOWN"] * IN_VAIN + ["SERVICE_BUSY"] * 20
    assert caught.value.retry_after_s == 60 / IN_VAIN
    assert len(world.directory.asked) == 2 * IN_VAIN
    world.now_s += caught.value.retry_after_s
    with pytest.raises(RemoteError) as caught:
        await listing(world, stub, Owner(BOB))
    assert caught.value.reason == "IDENTITY_UNKNOWN"


async def test_who_hangs_up_has_asked_all_the_same(world: contact_stores.World, stub: Any) -> None:
    world.directory.answers.clear()
    for number in range(IN_VAIN):
        check = asyncio.create_task(world.identities.check(BOB, bytes([number] * 32), "a network"))
        await world.directory.waiting.acquire()
        check.cancel()
        await asyncio.wait([check])
    with pytest.raises(ServiceError) as caught:
        await world.identities.check(BOB, bytes([IN_VAIN] * 32), "a network")
    assert caught.value.reason == "SERVICE_BUSY"


async def test_a_known_key_is_looked_up_once_an_epoch_however_many_ask(world: contact_stores.World, stub: Any) -> None:
    alice = Owner(ALICE)
    await world.publish(alice)
    await world.device(stub, alice).list()
    await world.publish(Owner(CAROL))  # another epoch
    world.directory.asked.clear()
    world.directory.answers.clear()
    key = public_key(alice.seed)
    async with asyncio.TaskGroup() as checks:
        for _ in range(10):
            checks.create_task(world.identities.check(ALICE, key, "a network"))
        await world.directory.waiting.acquire()
        world.directory.answers.set()
    assert world.directory.asked == ["History"]


async def test_a_known_key_that_is_looked_up_in_vain_without_end_costs_itself(
    world: contact_stores.World, stub: Any
) -> None:
    alice, dave = Owner(ALICE), Owner("+491700000004")
    for owner in (alice, dave):
        await world.publish(owner)
        await world.device(stub, owner).list()
    await world.publish(Owner(CAROL))  # another epoch: all are looked up anew
    world.directory.away = True

    async def reason(owner: Owner) -> str:
        with pytest.raises(RemoteError) as caught:
            await listing(world, stub, owner)
        return caught.value.reason

    reasons = [await reason(alice) for _ in range(IN_VAIN + 1)]
    assert reasons == ["DIRECTORY_UNAVAILABLE"] * IN_VAIN + ["SERVICE_BUSY"]
    assert await reason(dave) == "DIRECTORY_UNAVAILABLE"
    world.directory.away = False
    await listing(world, stub, dave)


async def test_an_account_that_is_known_is_let_in_whatever_its_neighbour_asks_for(
    world: contact_stores.World, stub: Any
) -> None:
    alice = Owner(ALICE)
    await world.publish(alice)
    await world.device(stub, alice).list()
    for _ in range(IN_VAIN + 1):
        with pytest.raises(RemoteError):
            await listing(world, stub, Owner(BOB))
    await world.publish(Owner(CAROL))  # another epoch: everybody is proved anew
    assert await world.device(stub, alice).list() == set()


async def test_a_table_of_nonces_that_is_full_is_full_for_one_account(world: contact_stores.World) -> None:
    world.limits = Limits(calls=3)
    async with world.running() as stub:
        alice, carol = Owner(ALICE), Owner(CAROL)
        for owner in (alice, carol):
            await world.publish(owner)
        for _ in range(3):
            await listing(world, stub, alice)
        with pytest.raises(RemoteError) as caught:
            await listing(world, stub, alice)
        assert caught.value.reason == "CALL_QUOTA"
        await listing(world, stub, carol)


async def test_a_call_of_another_time_costs_no_signature_check(
    world: contact_stores.World, stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ipls.server.contacts.calls.verify", lambda *call: pytest.fail("checked"))
    stale = world.call(Owner(ALICE), "ListRecords", pb.ListRecordsBody(), world.now_ms - 120_001)
    with pytest.raises(RemoteError) as caught:
        await answered(stub.ListRecords(pb.ListRecordsRequest(call=stale)))
    assert caught.value.reason == "CALL_STALE"


@asynccontextmanager
async def running_gateway(rig: Rig) -> AsyncIterator[tuple[Vault, Any]]:
    """A vault whose front is in this process, and sees no time pass; and what its router calls."""
    servicer = DirectoryServicer(rig)
    async with AsyncExitStack() as stack:
        directory = await stack.enter_async_context(
            loopback(rig.folder, lambda server: add_DirectoryServiceServicer_to_server(servicer, server))
        )
        core = CoreProcess(rig.config_path, EvidenceFolder(rig.folder / "evidence"))
        stack.push_async_callback(core.close)
        scope = await stack.enter_async_context(TaskScope())
        scope.start("core", core.run())
        await core.ready.wait()
        gateway = VaultGateway(
            core, DirectoryServiceStub(directory), load_core(rig.config_path).vault, now_s=lambda: 0.0
        )
        folder = rig.folder / "front"
        folder.mkdir()
        authority, ca = Authority(folder, rig.root.namespace), folder / "ca.pem"
        authority.issue_server("server")
        authority.issue_client("router", "router")
        shown = folder / "server.pem", folder / "server.key"
        listeners = [Listener("127.0.0.1:0", *shown, client_ca) for client_ca in (None, ca)]
        server = GrpcServer(listeners, {"ipls.vault.v1.VaultService": ANYONE})
        add_VaultServiceServicer_to_server(gateway, server.grpc)
        address, internal = [f"127.0.0.1:{port}" for port in await server.start()]
        stack.push_async_callback(server.stop, 0)
        tls = TlsFiles(certificate=folder / "router.pem", key=folder / "router.key", ca=ca)
        vault = Vault(rig, servicer, await stack.enter_async_context(open_channel(address, ca)))
        yield vault, VaultServiceStub(await stack.enter_async_context(mtls_channel(internal, tls)))


async def refused_session(vault: Vault, owner: Owner) -> RemoteError:
    async with vault.stream() as exchange:
        with pytest.raises(RemoteError) as caught:
            await vault.rig.open(owner, exchange, known_head=vault.rig.directory.head())
    return caught.value


async def test_a_vault_answers_a_stranger_alike_for_every_number_and_so_often(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    first, alice = Owner(ALICE), Owner(ALICE)
    for owner in (Owner(CAROL), first, alice):
        rig.directory.publish(owner)
    rig.directory.erase(first, 1)

    async def listed(client: Any, exchange: Exchange) -> None:
        client.on_answer(await exchange(client.list_request()))

    async with running_gateway(rig) as (vault, router):
        await vault.patiently(alice, listed)
        seen = list[Seen]()
        for label in (ALICE, CAROL, BOB):
            vault.directory.asked.clear()
            error = await refused_session(vault, Owner(label))
            seen.append(Seen(error.code, error.reason, error.message, error.retry_after_s, vault.directory.asked[:], 0))
        assert set(map(str, seen)) == {str(seen[0])}
        assert (seen[0].reason, seen[0].asked) == ("VAULT_IDENTITY_MISMATCH", ["History", "Absence"])
        reasons = [(await refused_session(vault, Owner(BOB))).reason for _ in range(vault_front.IN_VAIN - len(seen))]
        assert set(reasons) == {"VAULT_IDENTITY_MISMATCH"}
        vault.directory.asked.clear()
        error = await refused_session(vault, Owner(BOB))
        assert (error.reason, error.retry_after_s, vault.directory.asked) == ("SERVICE_BUSY", 1, [])

        # Whose key is known is let in, whatever the neighbour asks for; when it was replaced it is a stranger's.
        await vault.patiently(alice, listed)
        assert vault.directory.asked == ["History"]
        rig.directory.publish(Owner(ALICE))
        assert (await refused_session(vault, alice)).reason == "VAULT_IDENTITY_MISMATCH"
        assert (await refused_session(vault, alice)).reason == "SERVICE_BUSY"

        # Behind a router each caller's network is one.
        for caller, reason in (("127.0.0.1", "SERVICE_BUSY"), ("198.51.100.1", "VAULT_IDENTITY_MISMATCH")):
            vault.stub = SimpleNamespace(Session=partial(router.Session, metadata=((CALLER_METADATA, caller),)))
            assert (await refused_session(vault, Owner(BOB))).reason == reason


async def test_a_session_is_refused_to_a_stranger_alike_for_every_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = directories.World(tmp_path)
    async with world.witness(), world.directory() as client:
        for number, label in enumerate((ALICE, ALICE, CAROL), 1):
            await client.publish(number, label.encode(), directories.record(number))
        erase = directory_pb2.EraseValuesRequest(label=ALICE.encode(), through_version=1)
        await client.updates.EraseValues(erase)
        seen = list[Seen]()
        for label in (ALICE, CAROL, BOB):
            call = opening(label.encode(), key(66))
            with counted(monkeypatch, "openings") as uses:
                error = await refusal(client.public.OpenSession(call))
            seen.append(Seen(error.code, error.reason, error.message, error.retry_after_s, [], len(uses)))
    assert set(map(str, seen)) == {str(seen[0])}
    assert seen[0].reason == "READER_UNKNOWN"
    assert seen[0].uses


async def test_registration_says_nothing_of_a_number_to_who_has_no_code_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with both(directories.World(tmp_path)) as (device, client):
        ticket = (await device.stub.Register(device.request(await device.code(1, ALICE), 1, ALICE))).ticket
        assert await client.published(ticket)
        seen = list[list[Seen]]()
        for request, label in ((2, ALICE), (3, BOB)):
            guess = device.request("no code", request, label, key=directories.seed(66))
            answers = list[Seen]()
            for asks in (False, True, False, False):
                if asks:
                    await device.code(request, label)
                with counted(monkeypatch, "codes", "registrations", "updates", "looks") as uses:
                    error = await device.refusal(guess)
                answers.append(Seen(error.code, error.reason, error.message, error.retry_after_s, [], len(uses)))
            seen.append(answers)
        assert str(seen[0]) == str(seen[1])
        assert [answer.reason for answer in seen[0]] == ["CODE_NOT_REQUESTED"] + ["CODE_WRONG"] * 3
        assert all(answer.uses for answer in seen[0])
        for other in (bytes(16), ticket[:-1] + bytes([ticket[-1] ^ 1])):
            watch = device.stub.WatchRegistration(registration_pb2.WatchRegistrationRequest(ticket=other))
            assert (await failure(watch)).reason == "TICKET_UNKNOWN"


async def test_a_session_of_another_time_costs_no_signature_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = directories.World(tmp_path)
    async with world.directory() as client:
        monkeypatch.setattr("ipls.server.directory.authorizer.verify", lambda *call: pytest.fail("checked"))
        error = await refusal(client.public.OpenSession(opening(ALICE.encode(), key(66), world.now_ms - 120_001)))
    assert error.reason == "CALL_STALE"
