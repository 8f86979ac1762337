"""What the library needs is what it depends on: the extras' packages are not there, and it works."""

import subprocess
import sys


def test_the_library_works_without_the_extras() -> None:
    command = [sys.executable, "-m", "tests.api.base"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "PROFILE_ABSENT\n", "")
