from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.hsm.rig import CoreProcess, Rig, running_core
from tests.hsm.tokens import MODULES


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    """For a test that starts, configures or kills its own processes."""
    return Rig(tmp_path)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=MODULES)
async def core(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[CoreProcess]:
    """One of each PKCS#11 module for all the tests of a file that leave it as it was; `core.rig` is its own."""
    async with running_core(Rig(tmp_path_factory.mktemp("vault"), request.param)) as core:
        yield core
