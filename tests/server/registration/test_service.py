"""Registration: nobody without the code and the key they register, and no guess for nothing."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from ipls._grpc import grpc
from ipls.config import PostgresConfig, RegistrationConfig, TlsFiles
from ipls.crypto.encoding import tagged_hash
from ipls.crypto.keys import public_key, sign
from ipls.proto.registration.v1 import registration_pb2 as pb
from ipls.proto.registration.v1.registration_pb2_grpc import RegistrationServiceStub
from ipls.rpc.channel import open_channel
from ipls.rpc.errors import RemoteError, remote_error
from ipls.rpc.health import why_not_serving
from ipls.runtime.service import Service
from ipls.server.registration import app
from ipls.server.registration.service import CODE_DIGITS, FileCodeSender
from ipls.store.contacts import open_contacts_store
from ipls.store.registration import CODE_LIFE_MS
from ipls.trust.identity import encode_record
from ipls.trust.root import encode_trust_root
from tests.environment import DIES_WITH_US
from tests.server.directories import Client, World, seed
from tests.store.postgres import PostgresServer, postgres_server

LABEL, OTHER = "+491700000001", "+491700000002"
KEY = seed(101)


class Registrar:
    """A device's calls to a running registration service."""

    def __init__(self, world: World, address: str, channel: grpc.aio.Channel, outbox: Path) -> None:
        self.world = world
        self.address = address
        self.stub = RegistrationServiceStub(channel)
        self.outbox = outbox

    async def code(self, request: int = 1, label: str = LABEL) -> str:
        """Ask for a code and read it where its number's holder would."""
        request_id = request.to_bytes(16, "big")
        await self.stub.RequestCode(pb.RequestCodeRequest(label=label, request_id=request_id))
        named, code = self.outbox.read_text().splitlines()[-1].split()
        assert named == request_id.hex()
        return code

    def request(self, code: str, request: int = 1, label: str = LABEL, key: bytes = KEY) -> pb.RegisterRequest:
        request_id, record = request.to_bytes(16, "big"), encode_record(public_key(key))
        digest = tagged_hash("ipls/registration/v1 request", self.world.root.namespace, label, record, request_id)
        return pb.RegisterRequest(
            label=label, request_id=request_id, code=code, identity_record=record, signature=sign(key, digest)
        )

    async def refusal(self, request: pb.RegisterRequest) -> RemoteError:
        return await failure(self.stub.Register(request))


def another(code: str) -> str:
    """One that is not it."""
    return f"{(int(code) + 1) % 10**CODE_DIGITS:0{CODE_DIGITS}}"


async def failure(call: Any) -> RemoteError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (call.read() if hasattr(call, "read") else call)
    return remote_error(caught.value)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@asynccontextmanager
async def registrar(
    world: World, directory: str, *, client: str = "messaging", limit: int = 3, database: PostgresConfig | None = None
) -> AsyncIterator[Registrar]:
    server = {"certificate": world.folder / "server.pem", "key": world.folder / "server.key", "ca": world.ca}
    certificate = {"certificate": world.folder / f"{client}.pem", "key": world.folder / f"{client}.key"}
    config = RegistrationConfig(
        listen="127.0.0.1:0",
        tls=TlsFiles(**server),
        directory=directory,
        client=TlsFiles(**certificate, ca=world.ca),
        database=database or world.folder / "registration.db",
        outbox=world.folder / "outbox",
        codes_per_hour=limit,
    )
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(Service("registration"))
        [port] = await app.run(config, world.root, service, now_ms=world.clock, grace_s=0)
        address = f"127.0.0.1:{port}"
        channel = await stack.enter_async_context(open_channel(address, world.ca))
        yield Registrar(world, address, channel, config.outbox)


@asynccontextmanager
async def both(world: World) -> AsyncIterator[tuple[Registrar, Client]]:
    async with (
        world.witness(),
        world.directory() as client,
        registrar(world, client.internal_address) as device,
    ):
        yield device, client


async def test_a_registration_ends_in_a_public_epoch(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    async with both(world) as (device, client):
        code = await device.code()
        assert len(code) == CODE_DIGITS
        assert code.isdigit()
        request = device.request(code)
        ticket = (await device.stub.Register(request)).ticket
        assert (await device.stub.Register(request)).ticket == ticket
        watch = device.stub.WatchRegistration(pb.WatchRegistrationRequest(ticket=ticket), timeout=60)
        assert [response async for response in watch][-1] == pb.WatchRegistrationResponse(published=True, epoch=1)
        assert (await client.first_head()).head.epoch == 1
        assert device.outbox.stat().st_mode & 0o777 == 0o600
        shown = capsys.readouterr()
        assert f"{bytes([1]).rjust(16, bytes(1)).hex()} {code}\n" in shown.out
        assert LABEL[1:] not in shown.out + shown.err + device.outbox.read_text()


async def test_the_code_is_not_kept(world: World) -> None:
    async with registrar(world, "127.0.0.1:1") as device:
        code = await device.code()
    for file in world.folder.glob("registration.db*"):
        assert code.encode() not in file.read_bytes()


async def test_a_wrong_code_costs_an_attempt_and_five_end_it(world: World) -> None:
    async with both(world) as (device, _):
        code = await device.code()
        wrong = another(code)
        for _ in range(5):
            error = await device.refusal(device.request(wrong))
            assert (error.code, error.reason) == (grpc.StatusCode.PERMISSION_DENIED, "CODE_WRONG")
        error = await device.refusal(device.request(code))  # too late, even though it is right
        assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "CODE_ATTEMPTS")
        assert (await device.stub.Register(device.request(await device.code()))).ticket


async def test_a_code_is_for_its_request_number_and_time(world: World) -> None:
    async with both(world) as (device, _):
        error = await device.refusal(device.request("123456"))
        assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CODE_NOT_REQUESTED")
        code = await device.code()
        for stolen in (device.request(code, label=OTHER), device.request(code, request=2)):
            assert (await device.refusal(stolen)).reason == "CODE_NOT_REQUESTED"
        world.now_ms += CODE_LIFE_MS
        assert (await device.refusal(device.request(code))).reason == "CODE_EXPIRED"


async def test_codes_to_a_number_are_limited(world: World) -> None:
    async with registrar(world, "127.0.0.1:1") as device:
        for request in range(3):
            await device.code(request)
            world.now_ms += 60_000
        again = pb.RequestCodeRequest(label=LABEL, request_id=bytes(15) + b"\x09")
        error = await failure(device.stub.RequestCode(again))
        assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "CODE_RATE")
        assert error.retry_after_s == 3600 - 180
        await device.code(4, OTHER)
        world.now_ms += 3600_000 - 180_000
        await device.code(5)


async def test_the_key_that_is_registered_signs_all_of_the_request(world: World) -> None:
    async with both(world) as (device, client):
        code = await device.code()
        thief = encode_record(public_key(seed(66)))
        honest = device.request(code)
        flipped = bytes([honest.signature[0] ^ 1]) + honest.signature[1:]
        elsewhere = tagged_hash(
            "ipls/registration/v1 request", "other", LABEL, honest.identity_record, honest.request_id
        )
        for changes, reason in [
            ({"identity_record": thief}, "SIGNATURE_INVALID"),
            ({"signature": flipped}, "SIGNATURE_INVALID"),
            ({"signature": honest.signature[:-1]}, "SIGNATURE_LENGTH"),
            ({"signature": sign(KEY, elsewhere)}, "SIGNATURE_INVALID"),
            ({"request_id": bytes(16)}, "SIGNATURE_INVALID"),
            ({"label": OTHER}, "SIGNATURE_INVALID"),
            ({"identity_record": b"\x01\x01" + bytes(31)}, "IDENTITY_RECORD_INVALID"),
            ({"label": "49170"}, "LABEL_INVALID"),
            ({"request_id": b"1"}, "REQUEST_ID_INVALID"),
        ]:
            changed = pb.RegisterRequest()
            changed.CopyFrom(honest)
            for name, value in changes.items():
                setattr(changed, name, value)
            error = await device.refusal(changed)
            assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
        ticket = (await device.stub.Register(honest)).ticket  # none of these cost an attempt or bound the request
        assert await client.published(ticket) == 1


async def test_a_request_id_registers_one_key(world: World) -> None:
    async with both(world) as (device, _):
        code = await device.code()
        await device.stub.Register(device.request(code))
        error = await device.refusal(device.request(code, key=seed(66)))
        assert (error.code, error.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
        for label in (LABEL, OTHER):
            again = pb.RequestCodeRequest(label=label, request_id=(1).to_bytes(16, "big"))
            assert (await failure(device.stub.RequestCode(again))).reason == "REQUEST_ID_REUSED"


async def test_a_registration_outlives_a_restart_and_a_directory_that_is_down(world: World) -> None:
    async with registrar(world, "127.0.0.1:1") as device:
        code = await device.code()
        request = device.request(code)
        error = await device.refusal(request)
        assert error.code is grpc.StatusCode.UNAVAILABLE
    async with both(world) as (device, client):
        ticket = (await device.stub.Register(request)).ticket
        assert await client.published(ticket) == 1


async def test_a_registration_that_was_held_back_does_not_undo_a_later_one(world: World) -> None:
    async with registrar(world, "127.0.0.1:1") as thief:
        held = thief.request(await thief.code(1), 1, key=seed(102))
        assert (await thief.refusal(held)).reason == "DIRECTORY_UNAVAILABLE"
    async with both(world) as (owner, client):
        request = owner.request(await owner.code(2), 2)
        ticket = (await owner.stub.Register(request)).ticket
        assert (await owner.refusal(held)).reason == "CODE_NOT_REQUESTED"
        assert (await owner.stub.Register(request)).ticket == ticket
        assert await client.published(ticket) == (await client.first_head()).head.epoch == 1


async def test_the_service_needs_the_messaging_services_certificate(world: World) -> None:
    async with (
        world.directory() as client,
        registrar(world, client.internal_address, client="stranger") as device,
    ):
        error = await device.refusal(device.request(await device.code()))
        assert (error.code, error.reason) == (grpc.StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED")


async def test_plaintext_is_refused(world: World) -> None:
    async with registrar(world, "127.0.0.1:1") as device:
        async with grpc.aio.insecure_channel(device.address) as channel:
            request = pb.RequestCodeRequest(label=LABEL, request_id=bytes(16))
            error = await failure(RegistrationServiceStub(channel).RequestCode(request))
            assert error.code is grpc.StatusCode.UNAVAILABLE
        assert not device.outbox.exists()


async def test_a_full_disk_sends_no_code(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(FileCodeSender, "deliver", fail)
    async with registrar(world, "127.0.0.1:1") as device:
        request = pb.RequestCodeRequest(label=LABEL, request_id=bytes(16))
        error = await failure(device.stub.RequestCode(request))
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "CODE_NOT_SENT")
        for _ in range(9):  # beyond the hour's: none of them was sent
            assert (await failure(device.stub.RequestCode(request))).reason == "CODE_NOT_SENT"


def command(world: World, name: str, directory: str, database: str | dict[str, str]) -> list[str]:
    """`ipls serve registration` by a file of its own."""
    certificates = {
        kind: {"certificate": f"{kind}.pem", "key": f"{kind}.key", "ca": "ca.pem"} for kind in ("server", "messaging")
    }
    table = {
        "listen": "127.0.0.1:0",
        "tls": certificates["server"],
        "client": certificates["messaging"],
        "directory": directory,
        "database": database,
        "outbox": f"{name}.outbox",
    }
    (world.folder / "trust.toml").write_bytes(encode_trust_root(world.root))
    config = world.folder / f"{name}.toml"
    config.write_text(tomli_w.dumps({"trust_root": "trust.toml", "registration": table}))
    return [sys.executable, "-m", "ipls.cli.main", "serve", "registration", "--config", str(config)]


@asynccontextmanager
async def process(world: World, name: str, directory: str, database: dict[str, str]) -> AsyncIterator[Registrar]:
    child = await asyncio.create_subprocess_exec(
        *DIES_WITH_US,
        *command(world, name, directory, database),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert child.stderr is not None
        line = json.loads(await child.stderr.readline())
        address = f"127.0.0.1:{line['ports'][0]}"
        async with open_channel(address, world.ca) as channel:
            yield Registrar(world, address, channel, world.folder / f"{name}.outbox")
    finally:
        child.kill()
        await child.wait()


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "DATABASE_OTHER_ROLE"), (b"no database" * 500, "DATABASE_UNREADABLE")]
)
def test_a_file_that_is_not_its_own_is_refused_in_one_line(world: World, content: bytes | None, reason: str) -> None:
    path = world.folder / "contacts.db"
    if content is None:
        open_contacts_store(path).close()
    else:
        path.write_bytes(content)
    ended = subprocess.run(command(world, "alone", "127.0.0.1:1", path.name), capture_output=True, text=True)
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert ended.stderr.endswith(f"[{reason}]\n")


async def test_two_processes_share_one_postgresql_database(world: World, postgres: PostgresServer) -> None:
    """A code from one, its registration at the other, its repetition at the first; the attempts are counted once."""
    database = {"postgres": postgres.new().place.postgres}
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(world.witness())
        client = await stack.enter_async_context(world.directory())
        here, there = [
            await stack.enter_async_context(process(world, name, client.internal_address, database))
            for name in ("here", "there")
        ]
        code = await here.code()
        wrong = another(code)
        for device in (here, there, here, there):
            assert (await device.refusal(device.request(wrong))).reason == "CODE_WRONG"
        ticket = (await there.stub.Register(there.request(code))).ticket
        assert (await here.stub.Register(here.request(code))).ticket == ticket
        assert (await here.refusal(here.request(code, key=seed(102)))).reason == "REQUEST_ID_REUSED"


async def test_a_server_that_goes_away_is_said_so_and_service_goes_on_when_it_is_back(
    world: World, tmp_path: Path
) -> None:
    with postgres_server(tmp_path / "postgres") as server:
        database = PostgresConfig(postgres=server.new().place.postgres)
        async with registrar(world, "127.0.0.1:1", database=database) as device:
            await device.code()
            await asyncio.to_thread(server.kill)
            for _ in range(2):
                request = pb.RequestCodeRequest(label=OTHER, request_id=bytes(16))
                error = await failure(device.stub.RequestCode(request))
                assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE")
            await asyncio.to_thread(server.start)
            await device.code()


async def test_a_server_that_answers_nothing_holds_up_no_more_than_the_calls_until_it_does(
    world: World, tmp_path: Path
) -> None:
    """As a host that hangs for ten minutes: callers give up by their deadlines, and nothing is left of it."""
    with postgres_server(tmp_path / "postgres") as server:
        database = PostgresConfig(postgres=server.new().place.postgres)
        async with registrar(world, "127.0.0.1:1", database=database, limit=9) as device:
            code = await device.code(1)
            server.stop()
            try:
                for _ in range(3):
                    request = pb.RequestCodeRequest(label=LABEL, request_id=bytes(16))
                    error = await failure(device.stub.RequestCode(request, timeout=0.5))
                    assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED
                assert await why_not_serving(device.address, world.ca) == ""
            finally:
                server.go_on()
            await device.code(2, OTHER)
            assert (await device.refusal(device.request(another(code)))).reason == "CODE_WRONG"  # it is known still
