"""Certificates that are renewed while both sides run: what is under way goes on, what begins shows the new one."""

import asyncio
import re
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from ipls import clock
from ipls.admin.certificates import Authority
from ipls.clock import SettledClock
from ipls.proto.registration.v1 import registration_pb2 as pb
from ipls.proto.registration.v1.registration_pb2_grpc import (
    RegistrationServiceServicer,
    RegistrationServiceStub,
    add_RegistrationServiceServicer_to_server,
)
from ipls.rpc.channel import open_channel
from ipls.rpc.health import why_not_serving
from ipls.rpc.server import Access, GrpcServer, Listener
from ipls.units import DAY_MS

ROLE = "messaging-service"


@pytest.fixture(autouse=True)
def looked_at_for_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipls.rpc.channel.LOOK_EVERY_S", 0)


class Shown(RegistrationServiceServicer):
    """Notes the certificate that each caller shows; a call with a number waits until it may go."""

    def __init__(self) -> None:
        self.serials: list[int] = []
        self.waits, self.go = asyncio.Event(), asyncio.Event()

    async def Register(self, request: Any, context: Any) -> Any:
        (pem,) = context.auth_context()["x509_pem_cert"]
        self.serials.append(x509.load_pem_x509_certificate(pem).serial_number)
        if request.label:
            self.waits.set()
            await self.go.wait()
        return pb.RegisterResponse()


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[tuple[Shown, int]]:
    server = GrpcServer(
        [Listener("127.0.0.1:0", folder / "server.pem", folder / "server.key", client_ca=folder / "ca.pem")],
        {"ipls.registration.v1.RegistrationService": Access(ROLE)},
    )
    shown = Shown()
    add_RegistrationServiceServicer_to_server(shown, server.grpc)
    (port,) = await server.start()
    try:
        yield shown, port
    finally:
        await server.stop(0)


def serial(file: Path) -> int:
    return x509.load_pem_x509_certificate(file.read_bytes()).serial_number


async def server_serial(port: int) -> int:
    """Of the certificate that a server shows to who connects now."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return x509.load_der_x509_certificate(der).serial_number


def issue(folder: Path) -> None:
    """All of them under an authority of its own: nobody but who has read them all anew is believed."""
    for file in folder.glob("*"):
        file.unlink()
    authority = Authority(folder, "test")
    authority.issue_server("server")
    authority.issue_client("client", ROLE)


async def test_both_sides_show_what_was_renewed_and_a_call_under_way_ends_well(tmp_path: Path) -> None:
    issue(tmp_path)
    files = {"certificate": tmp_path / "client.pem", "key": tmp_path / "client.key"}
    async with (
        serving(tmp_path) as (shown, port),
        open_channel(f"127.0.0.1:{port}", tmp_path / "ca.pem", **files) as channel,
    ):
        stub = RegistrationServiceStub(channel)
        before = serial(tmp_path / "client.pem")
        standing = stub.Register(pb.RegisterRequest(label="waits"))
        await shown.waits.wait()
        issue(tmp_path)
        await stub.Register(pb.RegisterRequest(), timeout=20)
        assert shown.serials == [before, serial(tmp_path / "client.pem")]
        assert await server_serial(port) == serial(tmp_path / "server.pem")
        shown.go.set()
        assert await standing == pb.RegisterResponse()


async def test_a_certificate_without_its_key_changes_nothing_until_the_key_is_there(tmp_path: Path) -> None:
    issue(tmp_path)
    async with serving(tmp_path) as (_, port):
        before = serial(tmp_path / "server.pem")
        key = (tmp_path / "server.key").read_bytes()
        (tmp_path / "new").mkdir()
        issue(tmp_path / "new")
        (tmp_path / "server.pem").write_bytes((tmp_path / "new/server.pem").read_bytes())
        assert await server_serial(port) == before
        (tmp_path / "server.key").unlink()
        assert await server_serial(port) == before
        (tmp_path / "server.key").write_bytes((tmp_path / "new/server.key").read_bytes())
        assert await server_serial(port) == serial(tmp_path / "new/server.pem")
        assert key != (tmp_path / "server.key").read_bytes()


@pytest.mark.parametrize(
    ("ahead_ms", "words"),
    [
        (2 * DAY_MS, r"is not good yet by this machine's clock, which says 20.*: set the clock"),
        (
            -400 * DAY_MS,
            r"has run out by this machine's clock, which says 20.*: if .*, else set the clock",
        ),
    ],
)
async def test_a_clock_by_which_a_certificate_is_not_good_is_named_in_the_place_of_tls_words(
    tmp_path: Path, ahead_ms: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is the clock that is wrong, as seen from the certificate."""
    with monkeypatch.context() as patch:
        patch.setattr(clock, "machine", SettledClock(lambda: time.time_ns() + ahead_ms * 1_000_000))
        issue(tmp_path)
    async with serving(tmp_path) as (_, port):
        why = await why_not_serving(f"127.0.0.1:{port}", tmp_path / "ca.pem")
    assert re.search(words, why)
    assert "SSL" not in why


async def test_a_channel_whose_files_are_gone_goes_on_with_what_it_has(tmp_path: Path) -> None:
    issue(tmp_path)
    (tmp_path / "phone").mkdir()
    issue_phone = {name: tmp_path / "phone" / name for name in ("ca.pem", "client.pem", "client.key")}
    for name, copy in issue_phone.items():
        copy.write_bytes((tmp_path / name).read_bytes())
    async with (
        serving(tmp_path) as (shown, port),
        open_channel(
            f"127.0.0.1:{port}",
            issue_phone["ca.pem"],
            certificate=issue_phone["client.pem"],
            key=issue_phone["client.key"],
        ) as channel,
    ):
        stub = RegistrationServiceStub(channel)
        await stub.Register(pb.RegisterRequest(), timeout=20)
        for copy in issue_phone.values():
            copy.unlink()
        await stub.Register(pb.RegisterRequest(), timeout=20)
        assert len(shown.serials) == 2


def test_a_channel_needs_its_files_at_first(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_channel("127.0.0.1:1", tmp_path / "absent.pem")
