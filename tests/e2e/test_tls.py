"""Each service and each client by itself, in a bare environment, speaks TLS 1.3 and nothing older."""

import queue
import socket
import ssl
import subprocess
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import tomli_w

from ipls._grpc import grpc
from ipls.admin.deployment import free_ports
from ipls.cli.status import UNAVAILABLE
from ipls.proto.vault.v1.vault_pb2 import GetBundleRequest
from ipls.proto.vault.v1.vault_pb2_grpc import VaultServiceStub
from ipls.rpc.channel import open_channel
from ipls.rpc.health import until_serving
from tests.e2e.running import IPLS, ipls
from tests.environment import BARE

SERVICES = ("directory", "witness", "vault", "router", "contacts", "registration")
ANSWER_S = 60
REFUSED = ("NO_SHARED_CIPHER", "UNSUPPORTED_PROTOCOL")


class OldServer:
    """A listener that speaks TLS 1.2 at most, with a certificate of the deployment's CA."""

    def __init__(self, folder: Path) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.maximum_version = ssl.TLSVersion.TLSv1_2
        self._context.load_cert_chain(folder / "tls/vault.pem", folder / "tls/vault.key")
        self._context.set_alpn_protocols(["h2"])
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._handshakes = queue.SimpleQueue[str | None]()

    def serve(self) -> None:
        """Try a handshake with whoever comes, until it is closed."""
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.settimeout(ANSWER_S)
            try:
                with self._context.wrap_socket(connection, server_side=True) as tls:
                    self._handshakes.put(tls.version())
            except OSError as error:
                self._handshakes.put(getattr(error, "reason", str(error)))

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def first(self) -> str | None:
        """What became of the first handshake: the version that is spoken, or why none is."""
        return self._handshakes.get(timeout=ANSWER_S)


class Alone:
    """The services, each started by itself. What each asks is an old server of its own."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.asked_by = {name: OldServer(folder) for name in (*SERVICES, "client")}
        threads = stack.enter_context(ThreadPoolExecutor(len(self.asked_by)))
        for server in self.asked_by.values():
            threads.submit(server.serve)
            stack.callback(server.close)
        tables = tomllib.loads((folder / "ipls.toml").read_text())
        tables["router"] = {
            "listen": f"127.0.0.1:{free_ports(1)[0]}",
            "tls": tables["vault"]["tls"],
            "vaults": [self.asked_by["router"].address],
            "client": {"certificate": "tls/router.pem", "key": "tls/router.key", "ca": "tls/ca.pem"},
        }
        tables["directory"]["witnesses"] = {"witness": self.asked_by["directory"].address}
        for name in ("vault", "contacts", "registration"):
            tables[name]["directory"] = self.asked_by[name].address
        self.config = folder / "alone.toml"
        self.config.write_text(tomli_w.dumps(tables))
        self.ports = {name: tables[name]["listen"] for name in SERVICES if name != "witness"}
        self.ports |= {"updates": tables["directory"]["internal_listen"], "witness": tables["witnesses"][0]["listen"]}

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        command = [*IPLS, "serve", name, "--config", str(self.config), "--stop-at-eof"]
        with (self.folder / f"logs/{name}.log").open("wb") as log:
            process = subprocess.Popen(command, env=BARE, stdin=subprocess.PIPE, stdout=log, stderr=log)
        try:
            yield
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()

    async def register(self, registration: str) -> int:
        """The exit status of a device that registers at this address, after it asked the directory for trust roots."""
        await until_serving(self.ports["directory"], self.folder / "tls/ca.pem")
        endpoints = self.folder / "device.json"
        text = (self.folder / "endpoints.json").read_text()
        endpoints.write_text(text.replace(self.ports["registration"], registration))
        options = ("--home", self.folder / "phones", "--profile", registration, "--patience", 0)
        outbox = self.folder / "data/registration.outbox"
        return ipls(
            "client", "register", "+15550001", "--endpoints", endpoints, "--outbox", outbox, *options
        ).returncode


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alone]:
    folder = tmp_path_factory.mktemp("deployment") / "ipls"
    assert ipls("init", folder, "--port", 0).returncode == 0
    with ExitStack() as stack:
        alone = Alone(folder, stack)
        for name in SERVICES:
            stack.enter_context(alone.running(name))
        yield alone


@pytest.mark.parametrize("port", [*SERVICES, "updates"])
async def test_a_service_speaks_tls_1_3_alone(alone: Alone, port: str) -> None:
    def spoken(version: ssl.TLSVersion) -> str | None:
        context = ssl.create_default_context(cafile=tls / "ca.pem")
        context.minimum_version = context.maximum_version = version
        context.set_alpn_protocols(["h2"])
        context.load_cert_chain(tls / "messaging-service.pem", tls / "messaging-service.key")  # `updates` asks for it
        host, number = alone.ports[port].split(":")
        with (
            socket.create_connection((host, int(number)), timeout=ANSWER_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as session,
        ):
            return session.version()

    tls = alone.folder / "tls"
    await until_serving(alone.ports["directory" if port == "updates" else port], tls / "ca.pem")
    assert spoken(ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        spoken(ssl.TLSVersion.TLSv1_2)


@pytest.mark.parametrize("client", ["directory", "vault", "contacts"])
def test_what_a_service_asks_by_itself_it_asks_by_no_tls_1_2(alone: Alone, client: str) -> None:
    assert alone.asked_by[client].first() in REFUSED


async def test_a_router_asks_by_no_tls_1_2(alone: Alone) -> None:
    ca = alone.folder / "tls/ca.pem"
    await until_serving(alone.ports["router"], ca)
    async with open_channel(alone.ports["router"], ca) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await VaultServiceStub(channel).GetBundle(GetBundleRequest())
    assert alone.asked_by["router"].first() in REFUSED


async def test_a_registration_is_submitted_by_no_tls_1_2(alone: Alone) -> None:
    await until_serving(alone.ports["registration"], alone.folder / "tls/ca.pem")
    assert await alone.register(alone.ports["registration"]) == UNAVAILABLE
    assert alone.asked_by["registration"].first() in REFUSED


async def test_a_device_asks_by_no_tls_1_2(alone: Alone) -> None:
    old = alone.asked_by["client"]
    assert await alone.register(old.address) == UNAVAILABLE
    assert old.first() in REFUSED
