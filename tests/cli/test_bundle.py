"""`ipls keys bundle`, as the operator and the witnesses type it; what it does: tests/admin/test_bundles.py."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import tomli_w

from ipls.clock import system_now_ms
from ipls.config import load_trust_root
from ipls.proto.vault.v1.vault_pb2 import Bundle, SignedBundle
from ipls.store.log import FileLog, bundle_name
from ipls.trust.bundle import verify_bundle
from ipls.trust.root import TrustRoot
from ipls.units import DAY_MS
from tests.e2e.running import ipls
from tests.hsm.tokens import as_configured, pin_file, softhsm_token


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deployment") / "ipls"
    assert ipls("init", folder, "--port", 0, "--namespace", "test.ipls", "--witnesses", 3).returncode == 0
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A deployment with three witnesses, two of which make a quorum."""
    shutil.copytree(made, tmp_path / "ipls")
    return tmp_path / "ipls"


def bundle(folder: Path, command: str, *arguments: object, status: int = 0) -> str:
    ended = ipls("keys", "bundle", command, *arguments, "--config", folder / "ipls.toml")
    assert ended.returncode == status, ended.stderr
    return ended.stdout if status == 0 else ended.stderr.strip()


def sign(folder: Path, file: Path, *witnesses: str) -> list[Path]:
    for name in witnesses:
        bundle(folder, "sign", file, "--name", name, "--yes")
    return sorted(folder.glob(f"{file.name}.*.sig"))


def in_use(folder: Path) -> SignedBundle:
    return SignedBundle.FromString((folder / "bundle.pb").read_bytes())


def in_log(folder: Path, number: int) -> bytes | None:
    return FileLog(folder / "data/log").get(bundle_name(number))


def root(folder: Path) -> TrustRoot:
    return load_trust_root(folder / "trust.toml")


def test_a_renewed_bundle_continues_the_old_one(folder: Path) -> None:
    old = in_use(folder)
    shown = bundle(folder, "next", folder / "next.pb")
    assert shown.startswith("bundle 2 of test.ipls, a development fleet; it expires on ")
    signatures = sign(folder, folder / "next.pb", "witness", "witness-3")
    assert in_use(folder) == old
    for _ in range(2):  # once more does no harm
        assert bundle(folder, "publish", folder / "next.pb", *signatures) == "bundle 2 is in use and in the log\n"
    new = in_use(folder)
    renewed = verify_bundle(root(folder), new, now_ms=system_now_ms())
    assert (renewed.number, renewed.previous) == (2, hashlib.sha256(old.bundle).digest())
    assert renewed.hsms == Bundle.FromString(old.bundle).hsms
    assert renewed.expires_ms - system_now_ms() < 30 * DAY_MS
    assert in_log(folder, 2) == new.SerializeToString()


def test_only_the_operators_key_renews_the_bundle(folder: Path) -> None:
    key = folder / "keys/witness.key"
    error = bundle(folder, "next", folder / "next.pb", "--operator-key", key, status=2)
    assert error.endswith("[OPERATOR_KEY_WRONG]")
    assert not (folder / "next.pb").exists()


def test_nothing_is_signed_that_nobody_agreed_to(folder: Path) -> None:
    file = folder / "next.pb"
    bundle(folder, "next", file)
    asked = ipls("keys", "bundle", "sign", file, "--name", "witness", "--config", folder / "ipls.toml")
    assert asked.returncode == 1
    assert "HSM 04" in asked.stdout
    assert not list(folder.glob("*.sig"))


def test_a_token_with_keys_of_its_own_is_the_fleet_by_its_next_bundle(folder: Path, tmp_path: Path) -> None:
    """As docs/operations.md says it, from `ipls hsm keys` to a vault's state on that token."""
    token, config = softhsm_token(tmp_path / "token"), folder / "ipls.toml"
    text = (
        config.read_text()
        .replace('"keys/token.pin"', f'"{pin_file(tmp_path)}"')
        .replace("data/vault.db", "data/own.db")
    )
    table = tomli_w.dumps({"vault": {"token": as_configured(token)}})
    config.write_text(text.replace('token = "token"\n', "") + table)
    keys = ipls("hsm", "keys", "--config", config, "--profile", "softhsm-aes-cbc")
    assert keys.returncode == 0, keys.stderr
    (tmp_path / "hsm.json").write_text(keys.stdout)
    shown = bundle(folder, "next", folder / "next.pb", "--hsm-keys", tmp_path / "hsm.json")
    key = json.loads(keys.stdout)["public_key"]
    assert f"  HSM {key}\n" in shown
    assert "    shards 0; policy " in shown
    bundle(folder, "publish", folder / "next.pb", *sign(folder, folder / "next.pb", "witness", "witness-2"))
    (hsm,) = verify_bundle(root(folder), in_use(folder), now_ms=system_now_ms()).hsms
    assert hsm.public_key.hex() == key
    for command in ("genesis", "check"):
        ended = ipls("vault", command, "--config", config)
        assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    "told", ["{}", "[", '{"public_key": "00", "transport_key": "00", "profile": "softhsm-aes-cbc"}']
)
def test_keys_that_are_none_make_no_bundle(folder: Path, tmp_path: Path, told: str) -> None:
    (tmp_path / "hsm.json").write_text(told)
    ended = ipls(
        "keys", "bundle", "next", folder / "n", "--hsm-keys", tmp_path / "hsm.json", "--config", folder / "ipls.toml"
    )
    assert ended.returncode in (1, 2)
    assert ended.stderr.count("\n") == 1
    assert not (folder / "n").exists()
