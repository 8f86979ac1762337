from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.hsm.rig import CoreProcess, Rig, running_core


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


@pytest.fixture
async def core(rig: Rig) -> AsyncIterator[CoreProcess]:
    async with running_core(rig) as core:
        yield core
