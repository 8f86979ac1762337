"""gRPC as `ipls._grpc` imports it, and what becomes of a process in which it came before."""

import subprocess
import sys
from pathlib import Path

import pytest

from ipls.admin.certificates import Authority
from tests.environment import BARE

OPEN = """
import asyncio, os, sys
from pathlib import Path
from ipls.errors import IplsError
from ipls.rpc.channel import open_channel
from ipls.rpc.server import GrpcServer, Listener

ca, key = Path(sys.argv[1]) / "ca.pem", Path(sys.argv[1]) / "server.key"

async def serve():
    server = GrpcServer([Listener("127.0.0.1:0", ca.with_name("server.pem"), key)], {})
    await server.start()
    await server.stop(0)

async def ask():
    await open_channel("127.0.0.1:1", ca).close()

for attempt in (serve, ask):
    try:
        asyncio.run(attempt())
        print("opened")
    except IplsError as error:
        print(error.reason)
print([f"{name}={value}" for name, value in os.environ.items() if name.startswith("GRPC_")])
"""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    Authority(folder, "test").issue_server("server")
    return folder


def opened(folder: Path, first: str, **environment: str) -> list[str]:
    """What becomes of a port and of a channel in a new process that runs `first` before, and its GRPC_ variables."""
    command = [sys.executable, "-c", first + OPEN, str(folder)]
    return subprocess.run(command, env=BARE | environment, capture_output=True, text=True).stdout.splitlines()


def test_a_process_opens_both_and_has_its_environment_back(certificates: Path) -> None:
    assert opened(certificates, "") == ["opened", "opened", "[]"]
    kept = ["opened", "opened", "['GRPC_SSL_CIPHER_SUITES=HIGH']"]
    assert opened(certificates, "", GRPC_SSL_CIPHER_SUITES="HIGH") == kept


@pytest.mark.parametrize("first", ["import grpc", "import grpc_health.v1.health_pb2_grpc"])
def test_where_grpc_came_first_no_port_and_no_channel_opens(certificates: Path, first: str) -> None:
    assert opened(certificates, first)[:2] == ["TLS_UNGUARDED", "TLS_UNGUARDED"]
    assert opened(certificates, first, GRPC_SSL_CIPHER_SUITES="HIGH")[:2] == ["TLS_UNGUARDED", "TLS_UNGUARDED"]


def test_what_is_set_after_grpc_came_helps_nothing(certificates: Path) -> None:
    late = "import grpc, os; os.environ['GRPC_SSL_CIPHER_SUITES'] = 'PSK-AES128-CBC-SHA'"
    assert opened(certificates, late)[:2] == ["TLS_UNGUARDED", "TLS_UNGUARDED"]


def test_a_process_that_was_started_with_the_setting_may_import_it_first(certificates: Path) -> None:
    suites = "PSK-AES128-CBC-SHA"
    assert opened(certificates, "import grpc", GRPC_SSL_CIPHER_SUITES=suites)[:2] == ["opened", "opened"]


@pytest.mark.parametrize("package", ["ipls", "ipls.akd", "ipls.trust", "ipls.auditlog", "ipls.contacts", "ipls.vault"])
def test_a_pure_package_imports_no_grpc(package: str) -> None:
    program = f"import sys, {package}; sys.exit('grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], env=BARE).returncode == 0
