"""Every module has its test: `ipls/a/b.py` is tested by `tests/a/test_b.py`, or its docstring names where."""

import ast
import re
from pathlib import Path

import pytest

from tests.conftest import LONGEST

ROOT = Path(__file__).parent.parent
WITHOUT = {"__init__.py", "__main__.py"}  # they hand names on, or make one call
TESTED_BY = re.compile(r"Tested by (tests/[\w/]+\.py)(?: and (tests/[\w/]+\.py))?\.")


def modules() -> list[str]:
    """All of ours but what is generated."""
    paths = (path.relative_to(ROOT) for path in (ROOT / "ipls").rglob("*.py"))
    return sorted(str(path) for path in paths if path.name not in WITHOUT and path.parts[1] != "proto")


def named(module: str) -> list[Path]:
    """The files that its docstring's last line names, or else the one of its name."""
    path = Path(module)
    lines = (ast.get_docstring(ast.parse((ROOT / path).read_text())) or "").splitlines()
    if match := TESTED_BY.fullmatch(lines[-1] if lines else ""):
        return [Path(name) for name in match.groups() if name]
    return [Path("tests", *path.parts[1:-1], f"test_{path.name}")]


@pytest.mark.parametrize("module", modules())
def test_a_module_has_its_test_or_names_it(module: str) -> None:
    missing = [str(path) for path in named(module) if not path.name.startswith("test_") or not (ROOT / path).is_file()]
    assert missing == []


def test_the_files_that_begin_first_are_there() -> None:
    assert [name for name in LONGEST if not (ROOT / "tests" / name).is_file()] == []
