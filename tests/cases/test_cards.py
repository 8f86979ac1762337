"""The address-book cases in `cards/`: each after a report of what some address book made of somebody's contacts.

They are what `../shared/cases/cards` has, its checker too; that knows the command alone.
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.client.deployment import Deployment

ROOT = Path(__file__).parents[2]
CASES = Path(__file__).parent / "cards"
SHARED = ROOT.parent / "shared/cases/cards"


@pytest.fixture(scope="module")
def checker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_cases", CASES / "check_cases.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def command(checker: ModuleType, work: Path) -> Iterator[Any]:
    """The checker's: a process that has all modules, from which each command forks."""
    command = checker.Ipls(ROOT, work, plain=False)
    code, _, errors = command("init", work / "deployment", "--port", 0)
    assert code == 0, errors
    yield command
    command.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """For the cases that store and restore."""
    with Deployment(tmp_path_factory.mktemp("running")).running() as deployment:
        (deployment.folder / "data/registration.outbox").touch(0o600)  # the checker looks for it
        yield deployment.folder


@pytest.mark.parametrize("case", sorted(CASES.glob("*.json")), ids=lambda case: case.stem)
def test_a_case(case: Path, checker: ModuleType, command: Any, work: Path, request: pytest.FixtureRequest) -> None:
    faults = checker.run_case(
        case, command, work / "deployment/endpoints.json", work, lambda: request.getfixturevalue("running")
    )
    assert faults == []


@pytest.mark.skipif(not SHARED.is_dir(), reason="only where the specification lies beside")
def test_the_cases_are_those_of_the_specification() -> None:
    def contents(folder: Path) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}

    assert contents(CASES) == contents(SHARED)
