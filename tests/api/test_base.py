"""What the library needs is what it depends on: the extras' packages are not there, and it works."""

import subprocess
import sys

import pytest


def test_the_library_works_without_the_extras() -> None:
    command = [sys.executable, "-m", "tests.api.base"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "PROFILE_ABSENT\n", "")


@pytest.mark.parametrize("package", ["ipls.akd", "ipls.trust", "ipls.auditlog", "ipls.contacts", "ipls.vault"])
def test_who_verifies_loads_no_grpc(package: str) -> None:
    command = [sys.executable, "-c", f"import sys, {package}; sys.exit('grpc' in sys.modules)"]
    assert subprocess.run(command).returncode == 0
