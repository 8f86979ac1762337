from collections.abc import Iterator

import pytest

from ipls.hsm.token import SoftToken
from ipls.session.client import ClientSession
from tests.hsm.rig import Owner, Rig
from tests.session.rig import Core, Stream, handshake

PIN = "1234567890"


@pytest.fixture(scope="session")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Rig:
    return Rig(tmp_path_factory.mktemp("deployment"))


@pytest.fixture(scope="module")
def token(rig: Rig) -> Iterator[SoftToken]:
    """A module's, not the whole run's: opening a token closes any other of the process."""
    token = SoftToken.open(rig.folder / "token", PIN)
    yield token
    token.close()


@pytest.fixture(scope="session")
def owner(rig: Rig) -> Owner:
    owner = Owner()
    rig.directory.publish(owner)
    return owner


@pytest.fixture
def core(rig: Rig, token: SoftToken, owner: Owner) -> Iterator[Core]:
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
