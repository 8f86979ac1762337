from collections.abc import Iterator

import pytest

from tests.e2e.running import Deployment, running


@pytest.fixture(scope="session")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """One running deployment, its logs at DEBUG."""
    with running(tmp_path_factory.mktemp("deployment") / "ipls", "--log-level", "debug") as deployment:
        yield deployment
