"""`ipls keys trust`, as the operator and the witnesses type it; what it does: tests/admin/test_trust_roots.py."""

import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from ipls.config import load_trust_root
from ipls.proto.trust.v1.trust_pb2 import TrustChain
from ipls.trust.chain import TrustRootVersion
from ipls.trust.root import encode_trust_root
from ipls.units import DAY_MS
from tests.attack.log import public_world
from tests.e2e.running import ipls
from tests.trust.chains import signed
from tests.trust.roots import THIEF, WITNESSES, witness


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


def trust(folder: Path, command: str, *arguments: object, status: int = 0) -> str:
    ended = ipls("keys", "trust", command, *arguments, "--config", folder / "ipls.toml")
    assert ended.returncode == status, ended.stderr
    return ended.stdout if status == 0 else ended.stderr.strip()


def draft(folder: Path, *changes: object, name: str = "next.toml") -> Path:
    trust(folder, "next", folder / name, *changes)
    return folder / name


def sign(folder: Path, file: Path, *witnesses: str) -> list[Path]:
    for name in witnesses:
        trust(folder, "sign", file, "--name", name, "--yes")
    return sorted(folder.glob(f"{file.name}.*.sig"))


def new_key(path: Path) -> str:
    made = ipls("keys", "new", path)
    assert made.returncode == 0, made.stderr
    assert path.stat().st_mode & 0o077 == 0
    return made.stdout.strip()


def test_a_key_is_rotated_with_an_overlap(folder: Path) -> None:
    old = load_trust_root(folder / "trust.toml")
    key = new_key(folder / "keys/witness-2-new.key")
    shown = trust(folder, "next", folder / "next.toml", "--new-key", f"witness-2={key}", "--overlap", 7)
    assert f"witness witness-2, key {key}: none -> " in shown
    signatures = sign(folder, folder / "next.toml", "witness", "witness-3")
    assert load_trust_root(folder / "trust.toml") == old
    trust(folder, "publish", folder / "next.toml", *signatures)
    new = load_trust_root(folder / "trust.toml")
    assert (new.number, new.k, new.vrf_public_key) == (2, 2, old.vrf_public_key)
    before, after = new.witnesses[1].keys
    assert (before.public_key, after.public_key.hex()) == (old.witnesses[1].keys[0].public_key, key)
    assert before.not_after_ms == after.not_before_ms + 7 * DAY_MS
    assert after.not_after_ms == new.expires_ms > old.expires_ms
    assert new.witnesses[0].keys[0].not_after_ms == new.expires_ms  # as long as the trust root, as before
    trust(folder, "publish", folder / "next.toml", *signatures)  # once more does no harm
    assert len(TrustChain.FromString((folder / "trust.chain").read_bytes()).versions) == 1


def test_a_witness_is_replaced_by_signatures_of_old_and_new(folder: Path) -> None:
    key = new_key(folder / "keys/newcomer.key")
    replaced = ("--remove", "witness-3", "--add", f"newcomer={key}=https://witness.example")
    file = draft(folder, *replaced, "--days", 30)
    signatures = sign(folder, file, "witness", "witness-3")
    assert "TRUST_ROOT_NEW_QUORUM" in trust(folder, "publish", file, *signatures, status=1)
    assert not (folder / "trust.chain").exists()
    trust(folder, "publish", file, *sign(folder, file, "witness-2"))
    assert [witness.name for witness in load_trust_root(folder / "trust.toml").witnesses] == [
        "witness",
        "witness-2",
        "newcomer",
    ]


def test_the_operator_and_the_proposals_get_other_keys(folder: Path) -> None:
    made = {
        name: ipls("keys", "new", folder / f"keys/{name}-new.key").stdout.strip() for name in ("operator", "proposal")
    }
    file = draft(folder, "--operator-key", made["operator"], "--proposal-key", made["proposal"])
    trust(folder, "publish", file, *sign(folder, file, "witness", "witness-2"))
    new = load_trust_root(folder / "trust.toml")
    assert {"operator": new.operator_key.hex(), "proposal": new.proposal_key.hex()} == made
    assert (folder / "keys/operator-new.key").stat().st_mode & 0o077 == 0


def test_nothing_is_signed_that_nobody_agreed_to(folder: Path) -> None:
    refused = ipls("keys", "trust", "sign", draft(folder), "--name", "witness", "--config", folder / "ipls.toml")
    assert refused.returncode == 1
    assert "expires_ms: " in refused.stdout
    assert not list(folder.glob("*.sig"))
    with closing(sqlite3.connect(folder / "data/witness.db")) as db:
        assert db.execute("SELECT count(*) FROM document WHERE namespace LIKE '%/trust'").fetchone() == (0,)


def test_a_key_that_is_no_witness_signs_nothing(folder: Path) -> None:
    file = draft(folder)
    shutil.copy(folder / "keys/operator.key", folder / "keys/witness.key")
    assert "WITNESS_KEY_UNPINNED" in trust(folder, "sign", file, "--name", "witness", "--yes", status=2)


def test_a_chain_that_does_not_hold_starts_nothing(folder: Path) -> None:
    file = draft(folder)
    trust(folder, "publish", file, *sign(folder, file, "witness", "witness-2"))
    chain = TrustChain.FromString((folder / "trust.chain").read_bytes())
    del chain.versions[0].cosignatures[1]
    for broken, reason in ((chain.SerializeToString(), "TRUST_ROOT_OLD_QUORUM"), (b"\xff", "TRUST_ROOT_INVALID")):
        (folder / "trust.chain").write_bytes(broken)
        served = ipls("serve", "directory", "--config", folder / "ipls.toml")
        assert served.returncode == 2
        assert served.stderr.endswith(f"[{reason}]\n")


@pytest.mark.parametrize(
    "changes",
    [
        ("--remove", "nobody"),
        ("--new-key", "nobody=" + "00" * 32),
        ("--new-key", "witness=zz"),
        ("--add", "witness=" + "00" * 32 + "=https://w.example"),
        ("--add", "other=" + "00" * 31),
        ("--proposal-key", "00"),
    ],
)
def test_a_change_that_makes_no_sense_is_a_usage_error(folder: Path, changes: tuple[str, ...]) -> None:
    trust(folder, "next", folder / "next.toml", *changes, status=2)
    assert not (folder / "next.toml").exists()


def test_an_audit_goes_by_the_newest_version(tmp_path: Path) -> None:
    """The first version's witness is gone; the second, which it signed, names those that answer."""
    gone = witness("gone", THIEF)
    with public_world(2) as world:
        pinned = TrustRootVersion.parse(encode_trust_root(replace(world.root, witnesses=(gone,), k=1)))
        second = TrustRootVersion.parse(
            encode_trust_root(replace(world.root, number=2, previous=pinned.head.root_hash))
        )
        (tmp_path / "trust.toml").write_bytes(pinned.file)
        arguments = ("audit", "--trust", tmp_path / "trust.toml", "--state", tmp_path / "state", "--json")
        chain = TrustChain(versions=[signed(second, THIEF, *WITNESSES[:2])])
        (tmp_path / "trust.chain").write_bytes(chain.SerializeToString())
        audited = ipls(*arguments)
        assert audited.returncode == 0, audited.stderr
        chain.versions[0].CopyFrom(signed(second, *WITNESSES))
        (tmp_path / "trust.chain").write_bytes(chain.SerializeToString())
        refused = ipls(*arguments)
        assert refused.returncode == 2
        assert refused.stderr.endswith("[TRUST_ROOT_OLD_QUORUM]\n")
