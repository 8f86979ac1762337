"""What the library needs is what it depends on: the extras' packages are not there, and it works."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ipls.client


def test_the_library_works_without_the_extras() -> None:
    command = [sys.executable, "-m", "tests.api.base"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "PROFILE_ABSENT\n", "")


@pytest.mark.parametrize("package", ["ipls.akd", "ipls.trust", "ipls.auditlog", "ipls.contacts", "ipls.vault"])
def test_who_verifies_loads_no_grpc(package: str) -> None:
    command = [sys.executable, "-c", f"import sys, {package}; sys.exit('grpc' in sys.modules)"]
    assert subprocess.run(command).returncode == 0


OF_THE_PROCESS = {"print", "input", "stdin", "stdout", "stderr", "environ", "chdir", "umask", "basicConfig"}


@pytest.mark.parametrize("file", sorted(Path(ipls.client.__file__).parent.rglob("*.py")), ids=lambda file: file.stem)
def test_the_library_says_nothing_by_itself_and_sets_nothing_for_the_whole_process(file: Path) -> None:
    nodes = list(ast.walk(ast.parse(file.read_text())))
    assert not [node for node in nodes if isinstance(node, ast.Global)]
    used = {getattr(node, kind, None) for node in nodes for kind in ("id", "attr")}
    assert not used & OF_THE_PROCESS
