"""What holds for every test, and what some of them share: an S3 server, PostgreSQL, a second PKCS#11 module."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.hsm.tokens import kryoptic_module
from tests.store.gateway import Gateway, gateway
from tests.store.postgres import PostgresServer, postgres_server

LONGEST = (
    "faults/test_cases.py",
    "server/vault/test_kills.py",
    "client/test_device.py",
    "e2e/test_demo.py",
    "attack/test_vault_state.py",
    "hsm/core/test_state.py",
    "admin/test_supervisor.py",
    "attack/test_vault_users.py",
    "auditor/test_run.py",
    "cli/test_hostile_files.py",
    "server/vault/test_service.py",
    "faults/test_clock.py",
    "cli/test_start.py",
    "hsm/core/test_workers.py",
    "hsm/core/test_core.py",
    "e2e/test_client_commands.py",
    "e2e/test_kill.py",
    "attack/test_lying_database.py",
    "hsm/core/test_rotation.py",
    "admin/test_renewal.py",
)
"""Files that take a minute or so. They begin first: begun last, each would have the other workers wait for its end."""

# Where Ctrl-C is ignored here, as in the background of a shell, it would be in each process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No test touches the keyring of whoever runs it.
os.environ["PYTHON_KEYRING_BACKEND"] = "keyring.backends.fail.Keyring"

# No test depends on how fast the machine is.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A running S3 server; each log in it has buckets of its own."""
    with gateway(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A running PostgreSQL server; each vault in it has a schema of its own."""
    with postgres_server(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture(scope="session")
def kryoptic() -> Path:
    """The module's library."""
    return kryoptic_module()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    longest = {Path(__file__).parent / file for file in LONGEST}
    items.sort(key=lambda item: item.path not in longest)
    for item in items:
        values = item.callspec.params.values() if hasattr(item, "callspec") else ()
        names = {value for value in values if isinstance(value, str)}.union(getattr(item, "fixturenames", ()))
        if names & {"s3", "kryoptic", "plexi"}:
            item.add_marker(pytest.mark.timeout(1200))  # the first may have to build it
