"""HSMs of a ceremony in the next fleet bundle, as the operator types it."""

import hashlib
from pathlib import Path

import pytest

from ipls.clock import system_now_ms
from ipls.proto.vault.v1.vault_pb2 import Bundle, SignedBundle
from ipls.trust.bundle import verify_bundle
from ipls.trust.ceremony import encode, sign_transcript
from tests.cli.test_bundle import bundle, folder, in_use, made, root, sign  # noqa: F401  # fixtures
from tests.hsm.fleets import officers_table
from tests.trust.bundles import point
from tests.trust.ceremonies import GROUP, OFFICERS, report, signed_card


@pytest.fixture
def fleet(folder: Path) -> Path:  # noqa: F811  # the fixture
    """The deployment of three witnesses, with the files of a ceremony."""
    data = encode(report())
    (folder / "report.pb").write_bytes(data)
    for number, secret in enumerate(OFFICERS):
        (folder / f"{number}.sig").write_bytes(encode(sign_transcript(secret, data)))
    names = [officer.name for officer in GROUP.officers]
    (folder / "officers.toml").write_text(officers_table(2, **dict(zip(names, OFFICERS, strict=True))))
    return folder


def draft(fleet: Path, *options: object, signatures: str = "01", status: int = 0) -> str:
    options = *options, "--report", fleet / "report.pb", "--officers", fleet / "officers.toml"
    for number in signatures:
        options = *options, "--signature", fleet / f"{number}.sig"
    return bundle(fleet, "next", fleet / "next.pb", *options, status=status)


def reason(error: str) -> str:
    return error.rpartition("[")[2].removesuffix("]")


def test_a_ceremonys_hsms_take_the_place_of_those_in_use(fleet: Path) -> None:
    old = in_use(fleet)
    shown = draft(fleet, "--hsm", "hsm-2=0")
    assert "bundle 2 of test.ipls, a fleet;" in shown
    assert "shards none" in shown
    signatures = sign(fleet, fleet / "next.pb", "witness", "witness-3")
    bundle(fleet, "publish", fleet / "next.pb", *signatures)
    new = verify_bundle(root(fleet), in_use(fleet), now_ms=system_now_ms())
    assert (new.number, new.previous, new.development) == (2, hashlib.sha256(old.bundle).digest(), False)
    assert [(hsm.public_key, hsm.transport_key, list(hsm.shards)) for hsm in new.hsms] == [
        (point(1), point(101), []),
        (point(2), point(102), [0]),
    ]
    hashes = {hashlib.sha256((fleet / "report.pb").read_bytes()).digest()}
    assert {hsm.report_hash for hsm in new.hsms} == hashes
    before = [hsm.not_before_ms for hsm in new.hsms]
    (fleet / "next.pb").unlink()
    draft(fleet, "--hsm", "hsm-1=0")
    later = Bundle.FromString(read(fleet))
    assert [hsm.not_before_ms for hsm in later.hsms] == before
    assert [list(hsm.shards) for hsm in later.hsms] == [[0], []]


def read(fleet: Path) -> bytes:
    return SignedBundle.FromString((fleet / "next.pb").read_bytes()).bundle


def test_a_report_that_too_few_officers_signed_is_in_no_bundle(fleet: Path) -> None:
    for signatures in ("", "0", "00"):
        assert reason(draft(fleet, "--hsm", "hsm-1=0", signatures=signatures, status=1)) == "REPORT_NO_QUORUM"
    data = bytearray((fleet / "report.pb").read_bytes())
    data[-1] ^= 1
    (fleet / "report.pb").write_bytes(bytes(data))
    draft(fleet, "--hsm", "hsm-1=0", status=1)
    assert not (fleet / "next.pb").exists()


def test_a_report_of_another_namespace_or_card_is_in_no_bundle(fleet: Path) -> None:
    for data in (
        encode(report(*(signed_card(n, namespace="other.ipls") for n in (1, 2)), namespace="other.ipls")),
        encode(report(signed_card(1), signed_card(2, signer=3))),
    ):
        (fleet / "report.pb").write_bytes(data)
        assert draft(fleet, "--hsm", "hsm-1=0", status=1)
    assert not (fleet / "next.pb").exists()


def test_options_of_a_fleet_come_together(folder: Path) -> None:  # noqa: F811  # the fixture
    assert "--report" in bundle(folder, "next", folder / "next.pb", "--hsm", "hsm-1=0", status=2)
