import shutil
from pathlib import Path

import pytest

from ipls.admin import deployment


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deployment") / "ipls"
    deployment.create(folder, "test.ipls", witnesses=3, port=0)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A deployment with three witnesses, two of which make a quorum."""
    shutil.copytree(made, tmp_path / "ipls")
    return tmp_path / "ipls"
