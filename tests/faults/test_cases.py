"""The cases in `cases/`: each does to a deployment what happened to somebody else's, and must find it unharmed.

They are what `../shared/cases/faults` has. They know the command, its files and the protos, and nothing else of ours.
One deployment is made, and copied.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.running import IPLS, ipls

ROOT = Path(__file__).parent.parent.parent
CASES = Path(__file__).parent / "cases"
SHARED = ROOT.parent / "shared/cases/faults"
ON_ONE_THAT_RUNS = ("closed-stdio", "export-full-disk", "reimport")
"""These do no harm to it: they follow one another on the same."""
ON_A_COPY = ("asleep-70-min", "directory-lost", "moved-folder", "older-contacts")


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the cases' `rig.py` would make: the folder `demo/d` with a deployment that is off, and word that it is."""
    made = tmp_path_factory.mktemp("templates") / "demo"
    made.mkdir()
    book = made / "book.vcf"
    book.write_text("".join(f"BEGIN:VCARD\r\nVERSION:3.0\r\nFN:Person {n}\r\nEND:VCARD\r\n" for n in range(20)))
    demo = ipls("demo", "--keep", made / "d", "--contacts", book)
    assert demo.returncode == 0, demo.stderr
    assert ipls("demo", "--stop", made / "d").returncode == 0
    (made / "ready.json").write_text("null")
    return made.parent


@contextmanager
def serving(folder: Path) -> Iterator[None]:
    command = [*IPLS, "serve", "all", "--config", str(folder / "ipls.toml"), "--stop-at-eof"]
    with (
        (folder / "logs/all.log").open("wb") as log,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log) as server,
    ):
        assert server.stdout is not None
        assert server.stdin is not None
        try:
            assert server.stdout.readline(), (folder / "logs/all.log").read_text()
            yield
        finally:
            server.stdin.close()


def run(case: str, templates: Path, *arguments: object) -> str:
    """What the case says if it found harm, or nothing to look at; else nothing."""
    command = [sys.executable, CASES / f"{case}.py", *arguments]
    environment = os.environ | {"ATTACKS_TEMPLATES": str(templates), "IPLS_ROOT": str(ROOT)}
    ended = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, cwd=ROOT)
    return "" if ended.returncode == 0 else f"{case}: {ended.stdout}{ended.stderr}"


def test_in_a_deployment_that_runs(templates: Path) -> None:
    with serving(templates / "demo/d"):
        assert [
            said for case in ON_ONE_THAT_RUNS if (said := run(case, templates, "--dir", templates / "demo/d"))
        ] == []


@pytest.mark.parametrize("case", ON_A_COPY)
def test_in_a_copy(templates: Path, case: str) -> None:
    assert run(case, templates) == ""


@pytest.mark.skipif(not SHARED.is_dir(), reason="only where the specification lies beside")
def test_the_cases_are_those_of_the_specification() -> None:
    def contents(folder: Path) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}

    assert contents(CASES) == contents(SHARED)
