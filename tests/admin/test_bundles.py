"""The fleet bundle's renewal by the operator and the witnesses; with the HSMs of a ceremony too."""

import hashlib
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from ipls.admin.bundles import Fleet, countersign_as, next_bundle, put_in_use, read_bundle
from ipls.clock import system_now_ms
from ipls.config import ConfigError, load, load_trust_root, load_witnesses, read_secret
from ipls.crypto.errors import VerificationError
from ipls.proto.vault.v1.fleet_pb2 import Report
from ipls.proto.vault.v1.vault_pb2 import Bundle, SignedBundle
from ipls.proto.witness.v1.head_pb2 import Cosignature
from ipls.store.errors import StoreError
from ipls.store.log import FileLog, bundle_name
from ipls.trust.bundle import (
    bundle_head,
    check_follows,
    countersigners,
    predecessor,
    sign_bundle,
    verify_bundle,
)
from ipls.trust.ceremony import encode
from ipls.trust.root import TrustRoot
from ipls.units import DAY_MS
from tests.trust.bundles import point
from tests.trust.ceremonies import report, signed_card


def draft(folder: Path, fleet: Fleet | None = None) -> SignedBundle:
    key = folder / "keys/operator.key"
    return next_bundle(load(folder / "ipls.toml"), key, now_ms=system_now_ms(), fleet=fleet)


def sign(folder: Path, signed: SignedBundle, name: str, previous: SignedBundle | None = None) -> Cosignature:
    witness = load_witnesses(folder / "ipls.toml").named(name)
    return countersign_as(witness, root(folder), signed, previous, system_now_ms())


def publish(folder: Path, signed: SignedBundle, *signatures: Cosignature) -> Bundle:
    whole = SignedBundle.FromString(signed.SerializeToString())
    whole.cosignatures.extend(signatures)
    return put_in_use(load(folder / "ipls.toml"), whole, now_ms=system_now_ms())


def refused(work: Callable[[], object]) -> str:
    """The reason why."""
    with pytest.raises((VerificationError, ConfigError, StoreError)) as refused:
        work()
    return refused.value.reason


def operator_signed(folder: Path, bundle: Bundle) -> SignedBundle:
    """Whatever it is, by the operator's own key."""
    return sign_bundle(read_secret(folder / "keys/operator.key"), bundle)


def content(signed: SignedBundle) -> Bundle:
    return Bundle.FromString(signed.bundle)


def in_use(folder: Path) -> SignedBundle:
    return read_bundle(folder / "bundle.pb")


def in_log(folder: Path, number: int) -> bytes | None:
    return FileLog(folder / "data/log").get(bundle_name(number))


def root(folder: Path) -> TrustRoot:
    return load_trust_root(folder / "trust.toml")


def test_a_new_deployment_has_a_bundle_that_every_witness_signed_and_the_log_has(folder: Path) -> None:
    signed = in_use(folder)
    assert verify_bundle(root(folder), signed, now_ms=system_now_ms()).number == 1
    assert len(countersigners(root(folder), signed, now_ms=system_now_ms())) == 3
    assert in_log(folder, 1) == signed.SerializeToString()
    assert FileLog(folder / "data/log").list() == []


def test_a_renewed_bundle_continues_the_old_one(folder: Path) -> None:
    old, signed = in_use(folder), draft(folder)
    signatures = [sign(folder, signed, name) for name in ("witness", "witness-3")]
    assert in_use(folder) == old
    for _ in range(2):  # once more does no harm
        assert publish(folder, signed, *signatures).number == 2
    new = in_use(folder)
    renewed = verify_bundle(root(folder), new, now_ms=system_now_ms())
    assert (renewed.number, renewed.previous) == (2, hashlib.sha256(old.bundle).digest())
    assert renewed.hsms == content(old).hsms
    assert renewed.expires_ms - system_now_ms() < 30 * DAY_MS
    assert in_log(folder, 2) == new.SerializeToString()


def test_only_the_operators_key_renews_the_bundle(folder: Path) -> None:
    config, key = load(folder / "ipls.toml"), folder / "keys/witness.key"
    assert refused(lambda: next_bundle(config, key, now_ms=system_now_ms())) == "OPERATOR_KEY_WRONG"


def test_too_few_signatures_publish_nothing(folder: Path) -> None:
    signed, before = draft(folder), in_use(folder)
    one = sign(folder, signed, "witness")
    assert refused(lambda: publish(folder, signed, one, one, one)) == "HEAD_NO_QUORUM"
    assert (in_use(folder), in_log(folder, 2)) == (before, None)


def test_a_witness_signs_one_bundle_a_number(folder: Path) -> None:
    one = draft(folder)
    other = content(one)
    other.expires_ms -= DAY_MS
    forked = operator_signed(folder, other)
    sign(folder, one, "witness")
    assert refused(lambda: sign(folder, forked, "witness")) == "WITNESS_DOCUMENT_FORK"
    sign(folder, one, "witness")
    sign(folder, forked, "witness-2")


def test_a_witness_signs_only_what_continues_what_it_signed(folder: Path) -> None:
    def refusal(bundle: Bundle) -> str:
        return refused(lambda: sign(folder, operator_signed(folder, bundle), "witness"))

    next_one = content(draft(folder))
    next_one.previous = bytes(32)
    assert refusal(next_one) == "WITNESS_DOCUMENT_FORK"
    next_one.number = 3
    assert refusal(next_one) == "BUNDLE_GAP"
    again = content(in_use(folder))
    again.expires_ms -= 1
    assert refusal(again) == "WITNESS_DOCUMENT_FORK"


def test_a_witness_that_missed_a_bundle_is_shown_it_with_its_quorum(folder: Path) -> None:
    first, second = in_use(folder), draft(folder)
    publish(folder, second, *(sign(folder, second, name) for name in ("witness", "witness-2")))
    third = draft(folder)
    assert refused(lambda: sign(folder, third, "witness-3")) == "BUNDLE_GAP"
    assert refused(lambda: sign(folder, third, "witness-3", second)) == "HEAD_NO_QUORUM"  # the bare draft
    assert refused(lambda: sign(folder, third, "witness-3", first)) == "BUNDLE_FORK"
    sign(folder, third, "witness-3", in_use(folder))
    assert refused(lambda: sign(folder, second, "witness-3")) == "WITNESS_DOCUMENT_FORK"  # too late


def test_a_witness_signs_nothing_that_clients_would_not_take(folder: Path) -> None:
    proper = content(draft(folder))
    for changes, reason in (
        ({"namespace": "other"}, "BUNDLE_OTHER_NAMESPACE"),
        ({"expires_ms": system_now_ms() + 32 * DAY_MS}, "BUNDLE_EXPIRED"),
    ):
        bent = Bundle.FromString(proper.SerializeToString())
        for name, value in changes.items():
            setattr(bent, name, value)
        signed = operator_signed(folder, bent)
        assert refused(lambda signed=signed: sign(folder, signed, "witness")) == reason
    stranger = sign_bundle(bytes([66]) * 32, proper)
    assert refused(lambda: sign(folder, stranger, "witness")) == "SIGNATURE_INVALID"
    with closing(sqlite3.connect(folder / "data/witness.db")) as db:
        assert db.execute("SELECT max(number) FROM document").fetchone() == (1,)


def test_a_draft_that_some_signed_and_whose_time_ran_out_is_finished_and_devices_follow_past_it(folder: Path) -> None:
    first, config, key = in_use(folder), load(folder / "ipls.toml"), folder / "keys/operator.key"
    dead = next_bundle(config, key, now_ms=system_now_ms() - 31 * DAY_MS)
    signatures = [sign(folder, dead, "witness")]
    with pytest.raises(StoreError, match="finish that one, expired or not"):
        sign(folder, draft(folder), "witness")
    publish(folder, dead, *signatures, sign(folder, dead, "witness-2"))
    assert refused(lambda: verify_bundle(root(folder), in_use(folder), now_ms=system_now_ms())) == "BUNDLE_EXPIRED"
    second, third = in_use(folder), draft(folder)
    signatures = [sign(folder, third, "witness"), sign(folder, third, "witness-3", second)]
    publish(folder, third, *signatures)
    bundle = verify_bundle(root(folder), in_use(folder), now_ms=system_now_ms(), seen=bundle_head(first))
    logged = SignedBundle.FromString(in_log(folder, 2) or b"")
    check_follows(predecessor(bundle, logged), bundle_head(first))


def test_a_file_that_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "bundle.pb").write_bytes(b"\xff")
    assert refused(lambda: read_bundle(tmp_path / "bundle.pb")) == "CONFIG_INVALID"


def test_a_bundle_is_put_in_use_in_its_order(folder: Path) -> None:
    first, second = in_use(folder), draft(folder)
    signatures = [sign(folder, second, name) for name in ("witness", "witness-2")]
    publish(folder, second, *signatures)
    assert refused(lambda: publish(folder, first, signatures[0])) == "BUNDLE_BELOW_HIGHEST"
    assert content(in_use(folder)).number == 2


def test_another_bundle_in_the_log_stops_the_publication(folder: Path) -> None:
    signed, before = draft(folder), in_use(folder)
    signatures = [sign(folder, signed, name) for name in ("witness", "witness-2")]
    FileLog(load(folder / "ipls.toml").log.objects).put("fleet/2", b"another")
    assert refused(lambda: publish(folder, signed, *signatures)) == "LOG_OBJECT_EXISTS"
    assert in_use(folder) == before


# The HSMs of a ceremony


def fleet(*shards: tuple[str, list[int]], held: Report | None = None) -> Fleet:
    held = held or report()
    return Fleet(held, hashlib.sha256(encode(held)).digest(), dict(shards))


def test_a_ceremonys_hsms_take_the_place_of_those_in_use(folder: Path) -> None:
    old, moved = in_use(folder), fleet(("hsm-2", [0]))
    signed = draft(folder, moved)
    publish(folder, signed, *(sign(folder, signed, name) for name in ("witness", "witness-3")))
    new = verify_bundle(root(folder), in_use(folder), now_ms=system_now_ms())
    assert (new.number, new.previous, new.development) == (2, hashlib.sha256(old.bundle).digest(), False)
    assert [(hsm.public_key, hsm.transport_key, list(hsm.shards)) for hsm in new.hsms] == [
        (point(1), point(101), []),
        (point(2), point(102), [0]),
    ]
    assert {hsm.report_hash for hsm in new.hsms} == {moved.report_hash}
    later = content(draft(folder, fleet(("hsm-1", [0]))))
    assert [hsm.not_before_ms for hsm in later.hsms] == [hsm.not_before_ms for hsm in new.hsms]
    assert [list(hsm.shards) for hsm in later.hsms] == [[0], []]


def test_a_fleets_first_bundle_has_as_many_shards_as_it_says(folder: Path) -> None:
    (folder / "bundle.pb").unlink()
    first = content(draft(folder, fleet(("hsm-1", [0, 2]), ("hsm-2", [1]))))
    assert (first.number, first.previous) == (1, b"")
    assert [list(hsm.shards) for hsm in first.hsms] == [[0, 2], [1]]


@pytest.mark.parametrize(
    ("shards", "refusal"),
    [
        ([("hsm-3", [0])], "HSM_UNKNOWN"),
        ([("hsm-1", [0, 1])], "SHARDS_CHANGED"),
        ([], "SHARDS_CHANGED"),
        ([("hsm-1", [1])], "BUNDLE_INVALID"),
    ],
)
def test_shards_of_which_nobody_would_make_a_bundle(
    folder: Path, shards: list[tuple[str, list[int]]], refusal: str
) -> None:
    assert refused(lambda: draft(folder, fleet(*shards))) == refusal


def test_a_report_with_a_card_that_is_not_its_hsms_is_in_no_bundle(folder: Path) -> None:
    forged = report(signed_card(1), signed_card(2, signer=3))
    assert refused(lambda: draft(folder, fleet(("hsm-1", [0]), held=forged)))
