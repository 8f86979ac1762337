"""`ipls keys fleet`: what it prints; what it does: tests/hsm/ceremony."""

import hashlib
from pathlib import Path

from typer.testing import CliRunner

from ipls.cli.commands import app
from tests.hsm.fleets import Fleet


def run(command: str, *arguments: object) -> str:
    result = CliRunner().invoke(app, ["keys", "fleet", command, *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_ceremony_from_card_to_join(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, 1)
    (host,), report = fleet.hosts, fleet.report
    where = ("--config", host.config)
    assert run("prepare", fleet.card(host), *where).startswith("HSM h0: ")
    made = run("genesis", report, *fleet.cards, *where, "--officers", fleet.officers)
    assert made.startswith(f"report {hashlib.sha256(report.read_bytes()).hexdigest()} of test.ipls, a fleet, ")
    assert "  continues nothing\n" in made
    assert "  2 of these officers have to sign:\n    Anna " in made
    signatures = []
    for name in ("Anna", "Carla"):
        signed = run("sign", report, "--officer", tmp_path / f"{name}.key", "--yes")
        assert signed.startswith(made)
        assert signed.endswith(".sig: give this to the operator\n")
        signatures.append(signed.splitlines()[-1].removesuffix(": give this to the operator"))
    assert run("check", report, *signatures, *where, "--officers", fleet.officers) == made
    joined = run("join", report, fleet.parcel(host), *signatures, *where, "--officers", fleet.officers)
    assert joined.startswith("the HSM has the fleet's keys, ")
    rotated = run(
        *("rotate", tmp_path / "report-2.pb", *fleet.cards, *where),
        *("--officers", fleet.officers, "--previous", report),
    )
    assert f"  continues {hashlib.sha256(report.read_bytes()).hexdigest()}\n" in rotated


def test_a_profile_that_there_is_not_is_a_usage_error(tmp_path: Path) -> None:
    (host,) = Fleet(tmp_path, 1).hosts
    arguments = ["keys", "fleet", "prepare", str(tmp_path / "card"), "--config", str(host.config), "--profile", "none"]
    assert CliRunner().invoke(app, arguments).exit_code == 2
