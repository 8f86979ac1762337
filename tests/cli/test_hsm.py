"""`ipls hsm`: what it prints, and its exit status."""

import json
from pathlib import Path

import pytest
import tomli_w
from typer.testing import CliRunner

from ipls.cli.hsm import app
from ipls.vault.session.profiles import HKDF_SHA256
from tests.hsm.token.test_check import _short_loops, labels  # noqa: F401  # fixtures
from tests.hsm.tokens import as_configured, kryoptic_token, pin_file


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    return result.exit_code, result.output


def test_the_command_says_plainly_whether_a_vault_can_run(
    kryoptic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, without, status, verdict in (
        ("whole", (), 0, "A vault can run on this token, with the profile hkdf-sha256."),
        ("lacking", ("CKM_AES_KEY_WRAP",), 1, "No vault can run on this token"),
    ):
        place = kryoptic_token(kryoptic, tmp_path / name, *without)
        monkeypatch.setenv(*next(iter(place.environment.items())))
        where = ("--module", kryoptic, "--token", place.label, "--pin", pin_file(tmp_path))
        code, output = run("check", *where)
        assert code == status, output
        assert verdict in output
        assert ("✗" in output) == bool(status)
        code, output = run("check", *where, "--json")
        *findings, last = [json.loads(line) for line in output.splitlines()]
        assert code == status
        assert last["profile"] == (None if status else HKDF_SHA256)
        assert ("wrap" in last["lacks"]) == bool(status)
        assert {"check", "text", "holds", "detail", "profile"} == set(findings[0])


def test_the_command_makes_a_vaults_keys_and_checks_the_vaults_own_token(kryoptic: Path, tmp_path: Path) -> None:
    place = kryoptic_token(kryoptic, tmp_path / "token")
    tls = {"certificate": "c", "key": "k", "ca": "a"}
    vault = {
        "listen": "localhost:1",
        "tls": tls,
        "directory": "localhost:2",
        "client": tls,
        "database": "d",
        "bundle": "b",
    }
    vault |= {"token": as_configured(place), "pin": str(pin_file(tmp_path))}
    config = tmp_path / "ipls.toml"
    config.write_text(tomli_w.dumps({"trust_root": "t", "vault": vault}))
    code, output = run("keys", "--config", config, "--profile", HKDF_SHA256)
    assert code == 0
    assert json.loads(output)["profile"] == HKDF_SHA256
    assert len(bytes.fromhex(json.loads(output)["public_key"])) == 65
    assert run("check", "--config", config)[0] == 0
    assert len(labels(place)) == 6


@pytest.mark.parametrize("arguments", [(), ("--module", "m"), ("--config", "c", "--token", "t")])
def test_a_token_is_named_in_one_way(arguments: tuple[str, ...]) -> None:
    assert run("check", *arguments)[0] == 2
