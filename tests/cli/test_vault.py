"""`ipls vault`: what it prints, how it exits; what it does: tests/admin/test_vault.py."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ipls.admin import deployment
from ipls.cli.commands import app
from ipls.config import load_core
from ipls.hsm.anchor_service import open_anchor_service
from tests.e2e.running import ipls


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Of a new deployment."""
    deployment.create(tmp_path / "made", "test", port=0)
    return tmp_path / "made/ipls.toml"


def run(command: str, config: Path, *arguments: object) -> Result:
    return CliRunner().invoke(app, ["vault", command, *map(str, arguments), "--config", str(config)])


def test_a_check_and_a_recovery_say_how_many_entries(config: Path) -> None:
    said = "all is as the log of 0 entries has it, and the log as the anchor has it\n"
    assert run("check", config).output == said
    database = load_core(config).vault.database
    aside = database.rename(database.with_name("aside.db"))
    assert run("recover", config, aside).output == "recovered 0 entries of the log, and what they make\n"
    assert run("check", config).output == said


def test_the_storage_roots_are_listed_and_the_newest_is_not_dropped(config: Path) -> None:
    with open_anchor_service(load_core(config).vault) as anchor_service:
        (root,) = anchor_service.storage_key_ids()
    assert run("roots", config).output == f"{root.hex()}  0 keys\n"
    for name, status, line in (
        (root.hex(), 1, "it is the newest one, under which vaults store [ROOT_IN_USE]"),
        ("zz", 2, "the token has no storage root zz [ROOT_UNKNOWN]"),
    ):
        ended = ipls("vault", "drop-root", name, "--config", config)
        assert (ended.returncode, ended.stdout, ended.stderr) == (status, "", f"ipls: {line}\n")


def test_a_file_that_is_no_database_is_one_line(config: Path) -> None:
    database = load_core(config).vault.database
    database.write_bytes(b"no database" * 1000)
    ended = ipls("vault", "check", "--config", config)
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert ended.stderr.endswith(" [DATABASE_UNREADABLE]\n")


@pytest.mark.parametrize("source", ["not-there.db", "host=db password=very-secret", "x=very-secret"])
def test_what_is_no_database_to_recover_from_is_refused(config: Path, source: str) -> None:
    result = CliRunner().invoke(app, ["vault", "recover", source, "--config", str(config)])
    assert (result.exit_code, "very-secret" in result.output) == (2, False)
