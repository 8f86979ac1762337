"""The next version of the trust root: draft, the witnesses' signatures, chain."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ipls.admin.trust_roots import Draft, append_version, sign_version
from ipls.admin.witness import write_signature
from ipls.clock import system_now_ms
from ipls.config import ConfigError, load_trust_root, load_trust_version, load_witnesses
from ipls.crypto.errors import VerificationError
from ipls.crypto.keys import public_key
from ipls.proto.trust.v1.trust_pb2 import TrustChain
from ipls.store.errors import StoreError
from ipls.trust.chain import successor
from ipls.trust.root import encode_trust_root, parse_trust_root
from ipls.units import DAY_MS
from tests.trust.roots import seed

NEW_SEED = seed(90)
KEY = public_key(NEW_SEED)


def nothing(draft: Draft) -> None:
    """No witness changes."""


def draft(
    folder: Path, change: Callable[[Draft], None] = nothing, *, days: int = 365, name: str = "next.toml", **keys: Any
) -> Path:
    version = Draft(load_trust_version(folder / "trust.toml"), days=days, now_ms=system_now_ms())
    change(version)
    (folder / name).write_bytes(encode_trust_root(version.made(**keys)))
    return folder / name


def sign(folder: Path, file: Path, *names: str) -> list[Path]:
    """The files of these witnesses' signatures, and of those before."""
    for name in names:
        witness, old = load_witnesses(folder / "ipls.toml").named(name), load_trust_version(folder / "trust.toml")
        signature = sign_version(witness, old, successor(old, file.read_bytes()), system_now_ms())
        write_signature(file, name, signature)
    return sorted(folder.glob(f"{file.name}.*.sig"))


def publish(folder: Path, file: Path, *signatures: Path) -> int:
    return append_version(folder / "trust.toml", file, signatures, system_now_ms()).root.number


def refused(work: Callable[[], object]) -> str:
    """The reason why."""
    with pytest.raises((VerificationError, ConfigError, StoreError)) as refused:
        work()
    return refused.value.reason


def test_a_key_is_rotated_with_an_overlap(folder: Path) -> None:
    old = load_trust_root(folder / "trust.toml")
    file = draft(folder, lambda version: version.change_key("witness-2", KEY, overlap_days=7))
    signatures = sign(folder, file, "witness", "witness-3")
    assert load_trust_root(folder / "trust.toml") == old
    assert publish(folder, file, *signatures) == 2
    new = load_trust_root(folder / "trust.toml")
    assert (new.number, new.k, new.vrf_public_key) == (2, 2, old.vrf_public_key)
    before, after = new.witnesses[1].keys
    assert (before.public_key, after.public_key) == (old.witnesses[1].keys[0].public_key, KEY)
    assert before.not_after_ms == after.not_before_ms + 7 * DAY_MS
    assert after.not_after_ms == new.expires_ms > old.expires_ms
    assert new.witnesses[0].keys[0].not_after_ms == new.expires_ms  # as long as the trust root, as before
    assert publish(folder, file, folder / "not there.sig") == 2  # once more does no harm
    assert len(TrustChain.FromString((folder / "trust.chain").read_bytes()).versions) == 1


def test_a_witness_is_replaced_by_signatures_of_old_and_new(folder: Path) -> None:
    def replaced(version: Draft) -> None:
        version.remove("witness-3")
        version.add("newcomer", KEY, "https://witness.example")

    file = draft(folder, replaced, days=30)
    signatures = sign(folder, file, "witness", "witness-3")
    assert refused(lambda: publish(folder, file, *signatures)) == "TRUST_ROOT_NEW_QUORUM"
    assert not (folder / "trust.chain").exists()
    publish(folder, file, *sign(folder, file, "witness-2"))
    names = [witness.name for witness in load_trust_root(folder / "trust.toml").witnesses]
    assert names == ["witness", "witness-2", "newcomer"]


def test_too_few_signatures_publish_nothing(folder: Path) -> None:
    file = draft(folder)
    (one,) = sign(folder, file, "witness")
    assert refused(lambda: publish(folder, file, one, one, one)) == "TRUST_ROOT_OLD_QUORUM"
    assert not (folder / "trust.chain").exists()


def test_the_operator_and_the_proposals_get_other_keys(folder: Path) -> None:
    made = {"operator_key": KEY, "proposal_key": public_key(seed(91))}
    file = draft(folder, **made)
    publish(folder, file, *sign(folder, file, "witness", "witness-2"))
    new = load_trust_root(folder / "trust.toml")
    assert {"operator_key": new.operator_key, "proposal_key": new.proposal_key} == made


def test_a_witness_signs_one_file_a_number(folder: Path) -> None:
    one, other = draft(folder), draft(folder, days=30, name="other.toml")
    sign(folder, one, "witness")
    assert refused(lambda: sign(folder, other, "witness")) == "WITNESS_DOCUMENT_FORK"
    assert not list(folder.glob("other.toml.*"))
    sign(folder, one, "witness")
    sign(folder, other, "witness-2")


def test_a_witness_signs_only_what_continues_its_version(folder: Path) -> None:
    file = draft(folder)
    proper = parse_trust_root(file.read_bytes())
    later = draft(folder, name="later.toml")
    for text, reason in (
        (file.read_text().replace("number = 2", "number = 3"), "TRUST_ROOT_GAP"),
        (file.read_text().replace(proper.previous.hex(), "00" * 32), "TRUST_ROOT_PREVIOUS"),
        (file.read_text().replace('"test.ipls"', '"x.ipls"'), "TRUST_ROOT_OTHER_NAMESPACE"),
        (file.read_text().replace('"test.ipls"', '"test.ipls/fleet"'), "TRUST_ROOT_INVALID"),
        (file.read_text().replace("start_epoch = 0", "start_epoch = 1"), "TRUST_ROOT_START"),
        (file.read_text().replace("k = 2", "k = 1"), "TRUST_ROOT_INVALID"),
    ):
        assert text != file.read_text()
        later.write_text(text)
        assert refused(lambda: sign(folder, later, "witness")) == reason
    assert not list(folder.glob("*.sig"))
    with closing(sqlite3.connect(folder / "data/witness.db")) as db:
        assert db.execute("SELECT count(*) FROM document WHERE namespace LIKE '%/trust'").fetchone() == (0,)


def test_a_key_ends_at_once_and_is_not_taken_out(folder: Path) -> None:
    old = load_trust_root(folder / "trust.toml").witnesses[0].keys[0].public_key.hex()
    taken_out = draft(folder, name="taken-out.toml")
    taken_out.write_text(taken_out.read_text().replace(old, KEY.hex()))
    for name in ("witness", "witness-2"):
        assert refused(lambda name=name: sign(folder, taken_out, name)) == "TRUST_ROOT_KEY_DROPPED"
    file = draft(folder, lambda version: version.change_key("witness", KEY, overlap_days=0))
    signatures = sign(folder, file, "witness", "witness-2")
    assert refused(lambda: publish(folder, file, *signatures)) == "TRUST_ROOT_NEW_QUORUM"
    (folder / "keys/witness.key").write_text(NEW_SEED.hex() + "\n")
    publish(folder, file, *sign(folder, file, "witness"))


def test_a_key_that_is_no_witness_signs_nothing(folder: Path) -> None:
    file = draft(folder)
    shutil.copy(folder / "keys/operator.key", folder / "keys/witness.key")
    assert refused(lambda: sign(folder, file, "witness")) == "WITNESS_KEY_UNPINNED"


def test_the_operators_edits_are_what_is_signed(folder: Path) -> None:
    """A comment too: it is the file's bytes that count."""
    file = draft(folder)
    file.write_bytes(b"# agreed on 1 April\n" + file.read_bytes())
    publish(folder, file, *sign(folder, file, "witness", "witness-2"))
    version = load_trust_version(folder / "trust.toml")
    assert version.file == file.read_bytes() != encode_trust_root(version.root)


@pytest.mark.parametrize(
    "change",
    [
        lambda version: version.remove("nobody"),
        lambda version: version.change_key("nobody", KEY, overlap_days=0),
        lambda version: version.add("witness", KEY, "https://w.example"),
    ],
)
def test_a_change_that_makes_no_sense(folder: Path, change: Callable[[Draft], None]) -> None:
    with pytest.raises(ValueError, match=r"there is .* witness"):
        draft(folder, change)
