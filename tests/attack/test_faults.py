"""README.md names tests that are there, and no fault twice."""

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
ROWS = re.findall(r"^\| ([^*|].*?) \| (\S+)::(\w+) \|$", (HERE / "README.md").read_text(), re.MULTILINE)


def test_every_row_names_a_test_that_is_there() -> None:
    lines = [line for line in (HERE / "README.md").read_text().splitlines() if "tests/" in line and line[0] == "|"]
    assert len(ROWS) == len(lines) > 50
    for _, file, name in ROWS:
        tree = ast.parse((HERE.parent.parent / file).read_text())
        found = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        found += [ast.unparse(node.targets[0]) for node in tree.body if isinstance(node, ast.Assign)]  # hypothesis's
        assert name in found, f"{file}::{name}"


def test_no_fault_is_named_twice() -> None:
    faults = [fault for fault, _, _ in ROWS]
    assert sorted({fault for fault in faults if faults.count(fault) > 1}) == []
