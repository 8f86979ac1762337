"""A deployment that is off, to be damaged by one test after the other."""

import shutil
from collections.abc import Iterator

import pytest

from tests.client.deployment import Deployment


@pytest.fixture
def world(stopped: Deployment) -> Iterator[Deployment]:
    """The deployment that the file's `stopped` has made; its data is put back as it was."""
    data, whole = stopped.folder / "data", stopped.folder / "whole"
    shutil.copytree(data, whole)
    yield stopped
    shutil.rmtree(data)
    whole.rename(data)
