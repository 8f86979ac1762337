from collections.abc import Iterator
from pathlib import Path

import pytest

from ipls.hsm.state.store import StateStore
from ipls.hsm.token.pkcs11 import HsmToken
from ipls.vault.session.client import ClientSession
from tests.hsm.rig import Owner, Rig
from tests.hsm.state_stores import new_ledger
from tests.hsm.tokens import MODULES, PIN
from tests.vault.rig import Core, Stream, handshake


@pytest.fixture(scope="session", params=MODULES)
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Rig:
    """One of each PKCS#11 module, and so of each profile."""
    return Rig(tmp_path_factory.mktemp("deployment"), request.param)


@pytest.fixture(scope="module")
def token(rig: Rig) -> Iterator[HsmToken]:
    """A module's, not the whole run's: opening a token closes any other of the process."""
    token = HsmToken.open(rig.token, PIN)
    yield token
    token.close()


@pytest.fixture(scope="session")
def owner(rig: Rig) -> Owner:
    owner = Owner()
    rig.directory.publish(owner)
    return owner


@pytest.fixture
def state_store(tmp_path: Path) -> Iterator[StateStore]:
    with new_ledger(tmp_path / "vault.db") as state_store:
        yield state_store


@pytest.fixture
def core(rig: Rig, token: HsmToken, owner: Owner) -> Iterator[Core]:
    core = Core(token, rig.root, rig.directory)
    yield core
    core.close()


@pytest.fixture
def stream(core: Core) -> Stream:
    return core.stream()


@pytest.fixture
def client(rig: Rig, owner: Owner) -> ClientSession:
    return rig.client(owner)


@pytest.fixture
def session(client: ClientSession, stream: Stream) -> ClientSession:
    """`client`, past its handshake on `stream`."""
    handshake(client, stream)
    return client
