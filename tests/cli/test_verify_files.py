"""`ipls verify` of files that anybody may hand over: what it says, what it refuses, how it exits."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ipls.akd import EMPTY_ROOT
from ipls.cli import verify
from ipls.clock import system_now_ms
from ipls.proto.trust.v1.proof_pb2 import LabelProof
from ipls.proto.witness.v1.head_pb2 import Cosignature, SignedHead
from ipls.trust.bundle import sign_bundle
from ipls.trust.evidence import encode as encode_evidence
from ipls.trust.evidence import two_heads
from ipls.trust.heads import Head
from ipls.trust.root import TrustRoot, encode_trust_root
from ipls.units import DAY_MS
from tests.attack.directory import Directory
from tests.attack.log import LATER, name
from tests.e2e.running import ipls
from tests.trust.bundles import after, countersigned, hsm
from tests.trust.bundles import bundle as make_bundle
from tests.trust.roots import OPERATOR, THIEF, WITNESSES, seed, signed, three_of, witness

LABEL = b"+15555550100"
Verify = Callable[..., tuple[int, str, str]]


def of_five_epochs() -> Directory:
    """The account's versions 1 and 2 come in epochs 1 and 3."""
    server = Directory(seed(1))
    for epoch in range(1, 6):
        server.publish([(b"+49%d" % epoch, b"key"), *([(LABEL, b"key %d" % epoch)] if epoch in (1, 3) else [])])
    return server


SERVER = of_five_epochs()
TREE = SERVER.tree()
ROOT: TrustRoot = three_of(
    vrf_public_key=SERVER.public_key,
    start_root=EMPTY_ROOT,
    expires_ms=LATER,
    witnesses=tuple(witness(f"w{i}", s, start=0, end=LATER) for i, s in enumerate(WITNESSES)),
)


def head(*by: bytes, age_ms: int = 1000) -> SignedHead:
    return signed(Head(5, TREE.root()), *(by or WITNESSES[:2]), time=system_now_ms() - age_ms)


def history(*versions: int, most_recent: int = 0, **fields: Any) -> LabelProof:
    proof = fields.pop("history", None) or SERVER.history(TREE, LABEL, versions, 5).SerializeToString()
    return LabelProof(**{"label": LABEL, "head": head(), "history": proof, "most_recent": most_recent, **fields})


def lookup(version: int, **fields: Any) -> LabelProof:
    proof = SERVER.lookup(TREE, LABEL, version).SerializeToString()
    return LabelProof(**{"label": LABEL, "head": head(), "lookup": proof, **fields})


@pytest.fixture
def run(tmp_path: Path) -> Verify:
    """The command over a file with these bytes: (exit status, standard output, standard error)."""
    trust = tmp_path / "trust.toml"
    trust.write_bytes(encode_trust_root(ROOT))

    def run(kind: str, content: bytes, *options: object, file: str = "file") -> tuple[int, str, str]:
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        ended = CliRunner().invoke(verify.app, [kind, str(path), "--trust", str(trust), *map(str, options)])
        return ended.exit_code, ended.stdout, ended.stderr

    return run


def refused(run: Verify, kind: str, content: bytes, reason: str, *options: object, **where: Any) -> None:
    status, out, error = run(kind, content, *options, **where)
    assert (status, out) == (1, "")
    assert error.endswith(f"[{reason}]\n"), error
    assert error.count("\n") == 1


# Lookup and history


def test_a_lookup_says_what_it_proves_and_what_not(run: Verify) -> None:
    status, out, _ = run("lookup", lookup(2).SerializeToString())
    assert status == 0
    assert f"epoch 5, root {TREE.root().hex()}, signed by w0, w1\n" in out
    assert "+15555550100: version 2, published in epoch 3, 6b65792033\n" in out
    assert "not proved: that it is the newest" in out
    status, out, _ = run("lookup", lookup(2).SerializeToString(), "--json")
    assert json.loads(out)["versions"] == [{"version": 2, "epoch": 3, "value": b"key 3".hex()}]


def test_a_history_says_what_it_proves(run: Verify) -> None:
    status, out, _ = run("history", history(2, 1).SerializeToString())
    assert status == 0
    assert "version 2, published in epoch 3" in out
    assert "version 1, published in epoch 1" in out
    assert "proved: these are the account's versions up to epoch 5" in out
    status, out, _ = run("history", history(2, most_recent=1).SerializeToString(), "--json")
    report = json.loads(out)
    assert (status, report["epoch"], report["label"], report["old"]) == (0, 5, LABEL.decode(), False)
    assert set(report["signed"]) == {"w0", "w1"}
    assert report["proved"].startswith("this is the newest version at epoch 5")


def test_an_old_head_is_taken_and_its_age_is_said(run: Verify) -> None:
    old = history(2, 1, head=head(age_ms=3 * DAY_MS)).SerializeToString()
    status, out, _ = run("history", old)
    assert status == 0
    assert "signed 3 days, 0:00:" in out
    assert "ago, longer than anybody judges by a head: so it was then" in out
    assert json.loads(run("history", old, "--json")[1])["old"] is True


def test_proofs_that_do_not_hold(run: Verify) -> None:
    for proof, reason in (
        (history(2, 1, head=head(WITNESSES[0])), "HEAD_NO_QUORUM"),
        (history(2, 1, head=head(WITNESSES[0], THIEF)), "HEAD_KEY_UNPINNED"),
        (history(2, 1, head=head(age_ms=-DAY_MS)), "HEAD_FROM_FUTURE"),
        (history(2, 1, label=b"+15555550101"), "VRF_PROOF"),
        (history(2), "INCOMPLETE"),
        (history(2, 1, most_recent=1), "TOO_MANY_VERSIONS"),
        (history(1, history=SERVER.history(TREE, LABEL, [1], 5, future=[]).SerializeToString()), "FUTURE_MARKERS"),
    ):
        refused(run, "history", proof.SerializeToString(), reason)
    wrong = lookup(2, label=b"+15555550101")
    refused(run, "lookup", wrong.SerializeToString(), "VRF_PROOF")
    wrong = lookup(2)
    wrong.head.epoch = 6
    refused(run, "lookup", wrong.SerializeToString(), "HEAD_OTHER_ROOT")


def test_files_of_another_kind(run: Verify) -> None:
    for kind, content in (
        ("lookup", history(2, 1).SerializeToString()),
        ("history", lookup(2).SerializeToString()),
        ("history", b""),
        ("history", b"\xff" * 100),
        ("bundle", b"\xff"),
        ("lookup", LabelProof(head=SignedHead(cosignatures=[Cosignature()] * 2**16), lookup=b"x").SerializeToString()),
    ):
        refused(run, kind, content, "PROOF_FILE_INVALID")


def test_a_file_is_not_read_past_its_bound(run: Verify, monkeypatch: pytest.MonkeyPatch) -> None:
    content = history(2, 1).SerializeToString()
    monkeypatch.setattr(verify, "MAX_PROOF", len(content))
    assert run("history", content)[0] == 0
    monkeypatch.setattr(verify, "MAX_PROOF", len(content) - 1)
    refused(run, "history", content, "PROOF_FILE_INVALID")


def test_a_label_can_not_write_to_the_terminal(run: Verify) -> None:
    server = Directory(seed(1))
    server.publish([(b"\x1b[2J", b"key")])
    top = server.tree()
    signed_head = signed(Head(1, top.root()), *WITNESSES[:2], time=system_now_ms())
    proof = server.history(top, b"\x1b[2J", [1], 1).SerializeToString()
    status, out, _ = run("history", LabelProof(label=b"\x1b[2J", head=signed_head, history=proof).SerializeToString())
    assert (status, "\x1b" in out) == (0, False)


# Append-only


def test_an_object_of_the_log(run: Verify) -> None:
    blob = SERVER.append_only(3).SerializeToString()
    found = name(3, SERVER.tree(2).root(), SERVER.tree(3).root())
    status, out, _ = run("append-only", blob, file=found)
    assert status == 0
    assert out.startswith("proved: epoch 3 only appended to epoch 2: ")
    assert "not proved: that the witnesses signed these roots" in out
    status, out, _ = run("append-only", blob, "--name", found, "--json")
    assert (status, json.loads(out)["epoch"]) == (0, 3)
    refused(run, "append-only", blob, "AUDIT_NAME_INVALID")
    refused(run, "append-only", blob[:-1], "AUDIT_PROOF_REFUSED", file=found)
    refused(run, "append-only", blob, "AUDIT_PROOF_REFUSED", "--name", found.replace("3/", "4/", 1))
    first = SERVER.append_only(1).SerializeToString()
    assert run("append-only", first, "--name", name(1, EMPTY_ROOT, SERVER.tree(1).root()))[0] == 0
    refused(run, "append-only", first, "AUDIT_CHAIN_BROKEN", "--name", name(1, bytes(32), SERVER.tree(1).root()))


# Evidence and bundle


def test_evidence(run: Verify) -> None:
    other = signed(Head(5, b"\x05" * 32), *WITNESSES[1:], time=1)
    real = encode_evidence(two_heads(head(), other))
    status, out, _ = run("evidence", real)
    assert (status, out.startswith("proved: two quorums signed epoch 5 of test.ipls with two roots")) == (0, True)
    status, out, _ = run("evidence", real, "--json")
    assert (status, json.loads(out)["witnesses"]) == (0, ["w1"])
    framed = two_heads(head(), signed(Head(5, b"\x05" * 32), WITNESSES[2], time=1))
    refused(run, "evidence", encode_evidence(framed), "HEAD_NO_QUORUM")
    refused(run, "evidence", real + b"\0", "EVIDENCE_ENCODING")


def test_a_bundle(run: Verify) -> None:
    good = make_bundle(expires_ms=system_now_ms() + DAY_MS, development=True)
    signed = countersigned(sign_bundle(OPERATOR, good), *WITNESSES[:2])
    status, out, _ = run("bundle", signed.SerializeToString())
    assert status == 0, out
    assert out.startswith("proved: bundle 1 of test.ipls is signed by the operator and by w0, w1\nit expires in ")
    assert "a development fleet" in out
    status, out, _ = run("bundle", signed.SerializeToString(), "--json")
    found = json.loads(out)
    assert (status, found["number"], found["signed"], found["development"]) == (0, 1, ["w0", "w1"], True)
    assert found["hsms"][0]["shards"] == [0]
    refused(
        run, "bundle", countersigned(sign_bundle(OPERATOR, good), WITNESSES[0]).SerializeToString(), "HEAD_NO_QUORUM"
    )
    status, _, error = run("bundle", sign_bundle(OPERATOR, good).SerializeToString())
    assert (status, "of a draft, name the bundle.pb that was made of it" in error) == (1, True)
    refused(run, "bundle", countersigned(sign_bundle(THIEF, good), *WITNESSES).SerializeToString(), "SIGNATURE_INVALID")
    old = make_bundle(expires_ms=system_now_ms() - 1, development=True)
    refused(run, "bundle", sign_bundle(OPERATOR, old).SerializeToString(), "BUNDLE_EXPIRED")
    # A head of the directory is none, whoever signed it.
    refused(run, "bundle", head().SerializeToString(), "SIGNATURE_LENGTH")


def test_a_bundle_and_the_one_that_it_continues(run: Verify, tmp_path: Path) -> None:
    far = system_now_ms() + DAY_MS
    first, other = (countersigned(sign_bundle(OPERATOR, make_bundle(hsm(n)))) for n in (1, 2))
    second = countersigned(sign_bundle(OPERATOR, after(first, expires_ms=far)), *WITNESSES[:2]).SerializeToString()
    previous = tmp_path / "previous.pb"
    previous.write_bytes(first.SerializeToString())
    status, out, _ = run("bundle", second, "--previous", str(previous))
    assert (status, "it continues bundle 1" in out) == (0, True)
    previous.write_bytes(other.SerializeToString())
    refused(run, "bundle", second, "BUNDLE_FORK", "--previous", str(previous))


def test_what_is_not_there_is_misuse(tmp_path: Path) -> None:
    trust = tmp_path / "trust.toml"
    trust.write_bytes(encode_trust_root(ROOT))
    (tmp_path / "file").write_bytes(b"")
    for file, root in (("nothing", trust), ("file", tmp_path / "nothing"), ("file", tmp_path / "file")):
        ended = ipls("verify", "history", tmp_path / file, "--trust", root)
        assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
