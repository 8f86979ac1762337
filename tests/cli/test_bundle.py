"""The fleet bundle's renewal, as the operator and the witnesses type it."""

import hashlib
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from ipls.clock import system_now_ms
from ipls.config import load, load_trust_root, read_secret
from ipls.proto.vault.v1.vault_pb2 import Bundle, SignedBundle
from ipls.store.log import FileLog, bundle_name
from ipls.trust.bundle import countersigners, sign_bundle, verify_bundle
from ipls.trust.root import TrustRoot
from ipls.units import DAY_MS
from tests.e2e.running import ipls


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


def draft(folder: Path, name: str = "next.pb") -> Path:
    bundle(folder, "next", folder / name)
    return folder / name


def sign(folder: Path, file: Path, *witnesses: str) -> list[Path]:
    for name in witnesses:
        bundle(folder, "sign", file, "--name", name, "--yes")
    return sorted(folder.glob(f"{file.name}.*.sig"))


def refused(folder: Path, file: Path, *options: object, name: str = "witness", status: int = 1) -> str:
    """The reason why a witness does not sign."""
    error = bundle(folder, "sign", file, "--name", name, "--yes", *options, status=status)
    return error.rpartition("[")[2].removesuffix("]")


def operator_signed(folder: Path, file: Path, bundle: Bundle) -> Path:
    """Whatever it is, by the operator's own key."""
    file.write_bytes(sign_bundle(read_secret(folder / "keys/operator.key"), bundle).SerializeToString())
    return file


def in_use(folder: Path) -> SignedBundle:
    return SignedBundle.FromString((folder / "bundle.pb").read_bytes())


def in_log(folder: Path, number: int) -> bytes | None:
    return FileLog(folder / "data/log").get(bundle_name(number))


def root(folder: Path) -> TrustRoot:
    return load_trust_root(folder / "trust.toml")


def test_init_makes_a_bundle_that_every_witness_signed_and_the_log_has(folder: Path) -> None:
    signed = in_use(folder)
    assert verify_bundle(root(folder), signed, now_ms=system_now_ms()).number == 1
    assert len(countersigners(root(folder), signed, now_ms=system_now_ms())) == 3
    assert in_log(folder, 1) == signed.SerializeToString()
    assert FileLog(folder / "data/log").list() == []


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


def test_too_few_signatures_publish_nothing(folder: Path) -> None:
    file, before = draft(folder), in_use(folder)
    (one,) = sign(folder, file, "witness")
    assert "HEAD_NO_QUORUM" in bundle(folder, "publish", file, one, one, one, status=1)
    assert (in_use(folder), in_log(folder, 2)) == (before, None)


def test_a_witness_signs_one_bundle_a_number(folder: Path) -> None:
    one = draft(folder)
    other = Bundle.FromString(SignedBundle.FromString(one.read_bytes()).bundle)
    other.expires_ms -= DAY_MS
    forked = operator_signed(folder, folder / "other.pb", other)
    sign(folder, one, "witness")
    assert refused(folder, forked) == "WITNESS_DOCUMENT_FORK"
    assert not list(folder.glob("other.pb.*"))
    sign(folder, one, "witness")
    sign(folder, forked, "witness-2")


def test_a_witness_signs_only_what_continues_what_it_signed(folder: Path) -> None:
    next_one = Bundle.FromString(SignedBundle.FromString(draft(folder).read_bytes()).bundle)
    file = folder / "other.pb"
    next_one.previous = bytes(32)
    assert refused(folder, operator_signed(folder, file, next_one)) == "WITNESS_DOCUMENT_FORK"
    next_one.number = 3
    assert refused(folder, operator_signed(folder, file, next_one)) == "BUNDLE_GAP"
    again = Bundle.FromString(in_use(folder).bundle)
    again.expires_ms -= 1
    assert refused(folder, operator_signed(folder, file, again)) == "WITNESS_DOCUMENT_FORK"


def test_a_witness_that_missed_a_bundle_is_shown_it_with_its_quorum(folder: Path) -> None:
    second = draft(folder)
    signatures = sign(folder, second, "witness", "witness-2")
    bundle(folder, "publish", second, *signatures)
    third = draft(folder, "third.pb")
    assert refused(folder, third, name="witness-3") == "BUNDLE_GAP"
    assert refused(folder, third, "--previous", second, name="witness-3") == "HEAD_NO_QUORUM"  # the bare draft
    first = folder / "first.pb"
    first.write_bytes(in_log(folder, 1) or b"")
    assert refused(folder, third, "--previous", first, name="witness-3") == "BUNDLE_FORK"
    bundle(folder, "sign", third, "--name", "witness-3", "--yes", "--previous", folder / "bundle.pb")
    assert refused(folder, second, name="witness-3") == "WITNESS_DOCUMENT_FORK"  # too late


def test_a_witness_signs_nothing_that_clients_would_not_take(folder: Path) -> None:
    proper = Bundle.FromString(SignedBundle.FromString(draft(folder).read_bytes()).bundle)
    file = folder / "other.pb"
    for changes, reason in (
        ({"namespace": "other"}, "BUNDLE_OTHER_NAMESPACE"),
        ({"expires_ms": system_now_ms() + 32 * DAY_MS}, "BUNDLE_EXPIRED"),
        ({"expires_ms": system_now_ms() - 1}, "BUNDLE_EXPIRED"),
    ):
        bent = Bundle.FromString(proper.SerializeToString())
        for name, value in changes.items():
            setattr(bent, name, value)
        assert refused(folder, operator_signed(folder, file, bent)) == reason
    file.write_bytes(sign_bundle(bytes([66]) * 32, proper).SerializeToString())
    assert refused(folder, file) == "SIGNATURE_INVALID"
    file.write_bytes(b"\xff")
    assert refused(folder, file, status=2) == "CONFIG_INVALID"
    with closing(sqlite3.connect(folder / "data/witness.db")) as db:
        assert db.execute("SELECT max(number) FROM document").fetchone() == (1,)


def test_nothing_is_signed_that_nobody_agreed_to(folder: Path) -> None:
    file = draft(folder)
    asked = ipls("keys", "bundle", "sign", file, "--name", "witness", "--config", folder / "ipls.toml")
    assert asked.returncode == 1
    assert "HSM 04" in asked.stdout
    assert not list(folder.glob("*.sig"))


def test_a_bundle_is_put_in_use_in_its_order(folder: Path) -> None:
    first = in_use(folder)
    second = draft(folder)
    signatures = sign(folder, second, "witness", "witness-2")
    bundle(folder, "publish", second, *signatures)
    lower = folder / "lower.pb"
    lower.write_bytes(first.SerializeToString())
    assert "BUNDLE_BELOW_HIGHEST" in bundle(folder, "publish", lower, signatures[0], status=1)
    assert Bundle.FromString(in_use(folder).bundle).number == 2


def test_another_bundle_in_the_log_stops_the_publication(folder: Path) -> None:
    file, before = draft(folder), in_use(folder)
    signatures = sign(folder, file, "witness", "witness-2")
    FileLog(load(folder / "ipls.toml").log.objects).put("fleet/2", b"another")
    assert "LOG_OBJECT_EXISTS" in bundle(folder, "publish", file, *signatures, status=1)
    assert in_use(folder) == before
