"""The contracts of pyproject.toml about imports: each is broken by one import that is planted in a copy of the tree.

And what no import shows: pure packages open no file, and use of `os` what is harmless.
"""

import ast
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CONTRACTS = {
    contract["id"]: contract["name"]
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
}
PLANTED = [
    ("layers", "contacts/version1.py", "import ipls.vault.limits"),
    ("layers", "utils.py", ""),  # a package without a layer
    ("services", "server/log/service.py", "import ipls.server.router.service"),
    ("cycles", "trust/limits.py", "import ipls.trust.heads"),
    ("pure", "trust/calls.py", "import socket"),
    ("pure", "units.py", "import time"),  # which pure packages import
    ("pure", "vault/limits.py", "import threading"),
    ("client", "client/events.py", "import pydantic"),
    ("client", "client/events.py", "import ipls.config.secrets"),
    ("client", "client/events.py", "import ipls.store.vault"),
    ("grpc", "client/events.py", "import grpc"),
    ("grpc-extras", "admin/health.py", "import grpc_health.v1.health"),
    ("sqlite3", "server/log/service.py", "import sqlite3"),
    ("psycopg", "store/log/files.py", "import psycopg"),
    ("boto3", "store/log/files.py", "import botocore.session"),
    ("redis", "http/server.py", "import redis"),
    ("pkcs11", "admin/health.py", "import pkcs11"),
    ("uvicorn", "server/log/service.py", "import uvicorn"),
    ("keyring", "cli/client.py", "import keyring"),
    ("typer", "demo/story.py", "import typer"),
]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages, and of the contracts."""
    folder = tmp_path_factory.mktemp("tree")
    shutil.copytree(ROOT / "ipls", folder / "ipls", ignore=shutil.ignore_patterns("__pycache__", "*.pyi"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


@pytest.fixture
def planted(tree: Path, file: str, line: str) -> Iterator[Path]:
    module = tree / "ipls" / file
    before = module.read_bytes() if module.exists() else None
    with module.open("a") as opened:
        opened.write(f"\n{line}\n")
    yield tree
    if before is None:
        module.unlink()
    else:
        module.write_bytes(before)


def broken(tree: Path) -> set[str]:
    """The ids of the contracts that do not hold there."""
    command = ["lint-imports", "--no-cache"]
    environment = os.environ | {"COLUMNS": "200"}  # each contract on one line
    lint = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    states = {
        id: state for id, name in CONTRACTS.items() for state in ("KEPT", "BROKEN") if f"{name} {state}" in lint.stdout
    }
    assert states.keys() == CONTRACTS.keys(), lint.stdout + lint.stderr
    return {id for id, state in states.items() if state == "BROKEN"}


def test_the_tree_keeps_them_all(tree: Path) -> None:
    assert broken(tree) == set()


@pytest.mark.parametrize(("contract", "file", "line"), PLANTED)
def test_an_import_breaks_its_contract_alone(planted: Path, contract: str) -> None:
    assert broken(planted) == {contract}


def test_each_contract_is_broken_here() -> None:
    assert {contract for contract, *_ in PLANTED} == CONTRACTS.keys()


@pytest.mark.parametrize("package", ["crypto", "akd", "trust", "auditlog", "contacts", "vault"])
def test_a_pure_package_opens_no_file(package: str) -> None:
    for file in (ROOT / "ipls" / package).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            match node:
                case ast.Call(func=ast.Name(id=("open" | "exec" | "eval" | "__import__"))):
                    pytest.fail(f"{file}:{node.lineno}")
                case ast.Attribute(value=ast.Name(id="os"), attr=name):
                    assert name in ("urandom", "sched_getaffinity"), f"{file}:{node.lineno}"
                case ast.ImportFrom(module="os"):
                    pytest.fail(f"{file}:{node.lineno}")


def test_the_command_is_imported_by_its_own_tests_alone() -> None:
    def imports_it(file: Path) -> bool:
        return re.search(r"^\s*(from|import) ipls\.cli\b", file.read_text(), re.M) is not None

    files = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "bench").rglob("*.py")]
    found = {file.relative_to(ROOT).parts[:2] for file in files if imports_it(file)}
    assert found <= {("tests", "cli"), ("tests", "e2e"), ("tests", "surface")}
