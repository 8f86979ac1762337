"""`ipls verify`: files checked offline, against the trust root alone; conformance files carry their own keys.

Heads of any age are taken: how old they are is said, and it is for the reader to judge.
"""

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from google.protobuf.message import DecodeError

from ipls.akd import AkdError, ProofRefused, Version, verify_history, verify_lookup
from ipls.akd.messages import check_parts
from ipls.auditlog.chain import beginning, check_proof
from ipls.auditlog.errors import AuditError, AuditFault
from ipls.auditlog.listing import parse_name
from ipls.auditor.walker import MAX_OBJECT
from ipls.cli.bundle import described
from ipls.cli.console import emit, fail, printable
from ipls.cli.status import REFUSED
from ipls.clock import system_now_ms
from ipls.config import load_trust_root
from ipls.conformance.replay import ConformanceError, check_proofs, replay_vectors
from ipls.crypto.errors import VerificationError
from ipls.proto.trust.v1.proof_pb2 import LabelProof
from ipls.proto.vault.v1.vault_pb2 import SignedBundle
from ipls.store.files import read_bounded
from ipls.trust.bundle import MAX_SIGNED_BUNDLE, countersigners, predecessor, verify_bundle
from ipls.trust.evidence import MAX_EVIDENCE, judge_evidence
from ipls.trust.heads import signers, verify_head
from ipls.trust.root import TrustRoot

MAX_PROOF = 65 * 1024 * 1024
"""Bytes of a file with a label's proof: a history of 10,000 versions has less than 64 MiB."""

app = typer.Typer(no_args_is_help=True, help="Check files offline.")

File = Annotated[Path, typer.Argument(help="One JSON object a line, the first of kind `key`.")]
Proof = Annotated[Path, typer.Argument(help="The file.")]
Trust = Annotated[Path, typer.Option(help="The trust root: all that is believed.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, last, on one line.")]


@app.command()
def lookup(file: Proof, trust: Trust, as_json: Json = False) -> None:
    """A lookup (`ipls client lookup --save`): a version of an account under a head of the witnesses."""
    root, proof = load_trust_root(trust), _label_proof(file, "lookup")
    with _judging(file):
        head = _head(root, proof)
        versions = [verify_lookup(head.root_hash, head.epoch, root.vrf_public_key, proof.label, proof.lookup)]
    _tell(
        head,
        proof.label,
        versions,
        proved=f"this version stands in the directory at epoch {head.epoch}, and no next one in the usual way",
        unproved="that it is the newest: a later one may be planted that a lookup passes over; see the history",
        as_json=as_json,
    )


@app.command()
def history(file: Proof, trust: Trust, as_json: Json = False) -> None:
    """A history (`ipls client history --save`): an account's versions under a head of the witnesses."""
    root, proof = load_trust_root(trust), _label_proof(file, "history")
    with _judging(file):
        head = _head(root, proof)
        versions = verify_history(
            head.root_hash,
            head.epoch,
            root.vrf_public_key,
            proof.label,
            proof.history,
            most_recent=proof.most_recent,
            allow_missing=True,
        )
    if proof.most_recent:
        proved = f"this is the newest version at epoch {head.epoch}, as vaults and contacts judge by"
        unproved = "what the earlier versions were; that its owner wished for it"
    else:
        proved = f"these are the account's versions up to epoch {head.epoch}, each retired by the next"
        unproved = "that nothing was planted between the markers (see most recent 1); that its owner wished for each"
    _tell(head, proof.label, versions, proved=proved, unproved=unproved, as_json=as_json)


@app.command()
def append_only(
    file: Proof,
    trust: Trust,
    name: Annotated[
        str | None, typer.Option(help="The object's name, E/OLD/NEW. Default: the last three parts of its path.")
    ] = None,
    as_json: Json = False,
) -> None:
    """An object of the audit log: that the step between the two roots of its name only appends."""
    root, blob = load_trust_root(trust), _read(file, MAX_OBJECT)
    with _judging(file):
        step = parse_name(name or "/".join(file.absolute().parts[-3:]), len(blob))
        if step.epoch <= root.start_epoch:
            raise AuditFault("AUDIT_CHAIN_BROKEN", "it is from before the trust root's start", step.epoch)
        if step.epoch == root.start_epoch + 1:
            beginning(root).after(step)
        check_proof(step, blob)
    proved = (
        f"epoch {step.epoch} only appended to epoch {step.epoch - 1}: {step.old_root.hex()} -> {step.new_root.hex()}"
    )
    unproved = "that the witnesses signed these roots: `ipls audit` asks them"
    if as_json:
        roots = {"old_root": step.old_root.hex(), "new_root": step.new_root.hex()}
        emit({"epoch": step.epoch, **roots, "proved": proved, "not_proved": unproved})
    else:
        print(f"proved: {proved}\nnot proved: {unproved}")


@app.command()
def evidence(file: Proof, trust: Trust, as_json: Json = False) -> None:
    """Evidence against the directory or a witness: what it proves, in one sentence; exit 1 if nothing."""
    root, data = load_trust_root(trust), _read(file, MAX_EVIDENCE)
    with _judging(file):
        finding = judge_evidence(root, data)
    if as_json:
        emit(finding._asdict())
    else:
        print(f"proved: {finding.text}")


@app.command()
def bundle(
    file: Proof,
    trust: Trust,
    previous: Annotated[Path | None, typer.Option(help="The bundle before: that this one continues it.")] = None,
    as_json: Json = False,
) -> None:
    """The fleet's bundle (`bundle.pb`, or the log's `fleet/N`): that it is the operator's, the witnesses', and good
    now."""
    root, data, now_ms = load_trust_root(trust), _read(file, MAX_SIGNED_BUNDLE), system_now_ms()
    with _judging(file):
        signed = SignedBundle.FromString(data)
        found = verify_bundle(root, signed, now_ms=now_ms)
        names = sorted(countersigners(root, signed, now_ms=now_ms))
        if previous is not None:
            predecessor(found, SignedBundle.FromString(_read(previous, MAX_SIGNED_BUNDLE)))
    unproved = "that the HSM keys are in hardware: witnesses vouch that everybody sees one list"
    if as_json:
        hsms = [
            {
                "public_key": hsm.public_key.hex(),
                "profile": hsm.profile,
                "policy_digest": hsm.policy_digest.hex(),
                "shards": list(hsm.shards),
                "not_before_ms": hsm.not_before_ms,
                "not_after_ms": hsm.not_after_ms,
                "transport_key": hsm.transport_key.hex(),
                "report_hash": hsm.report_hash.hex(),
            }
            for hsm in found.hsms
        ]
        told = {"development": found.development, "expires_ms": found.expires_ms, "hsms": hsms, "not_proved": unproved}
        emit({"namespace": found.namespace, "number": found.number, "signed": names, **told})
        return
    print(f"proved: bundle {found.number} of {found.namespace} is signed by the operator and by {', '.join(names)}")
    print(f"it expires in {_duration(found.expires_ms - now_ms)}")
    if previous is not None:
        print(f"it continues bundle {found.number - 1}")
    print("\n".join(described(found)))
    print(f"not proved: {unproved}")


@app.command()
def vectors(file: File, as_json: Json = False) -> None:
    """Replay a vector file into a fresh directory: every root, proof and field must come out the same."""
    try:
        counts = replay_vectors(file)._asdict()
    except ConformanceError as error:
        fail(f"{file}: {error}", error.reason, REFUSED)
    if as_json:
        emit(counts)
    else:
        print(", ".join(f"{count} {what.replace('_', ' ')}" for what, count in counts.items()) + ": all agree")


@app.command()
def proofs(file: File, as_json: Json = False) -> None:
    """Check each line's proof by itself; goes on after a refusal, exit 1 if there was any."""
    report = check_proofs(file)
    for line, reason in report.refused:
        if not as_json:
            print(f"line {line}: refused, {reason}")
    if as_json:
        refused = [{"line": line, "reason": reason} for line, reason in report.refused]
        emit({"accepted": len(report.accepted), "refused": refused})
    else:
        accepted = ", ".join(map(str, report.accepted)) or "none"
        print(f"{len(report.accepted)} accepted (lines {accepted}), {len(report.refused)} refused")
    if report.refused:
        raise typer.Exit(REFUSED)


class _Head(NamedTuple):
    """A head that a quorum signed: `signed` has each witness's newest time (ms); k of them are `age_ms` old at most."""

    epoch: int
    root_hash: bytes
    signed: dict[str, int]
    age_ms: int
    old: bool
    """Nobody judges by it now."""


def _head(root: TrustRoot, proof: LabelProof) -> _Head:
    now_ms = system_now_ms()
    head = verify_head(root, proof.head, now_ms=now_ms, check_age=False)
    signed = signers(root, proof.head, now_ms=now_ms, check_age=False)
    age_ms = now_ms - sorted(signed.values())[-root.k]
    return _Head(*head, signed, age_ms, age_ms > root.max_head_age_ms)


def _tell(head: _Head, label: bytes, versions: Sequence[Version], *, proved: str, unproved: str, as_json: bool) -> None:
    name = printable(label.decode(errors="replace"))
    if as_json:
        rows = [{"version": v.version, "epoch": v.epoch, "value": v.value.hex()} for v in versions]
        shown = {"epoch": head.epoch, "root": head.root_hash.hex(), "signed": head.signed, "old": head.old}
        age = {"age_s": head.age_ms // 1000}
        emit({**shown, **age, "label": name, "versions": rows, "proved": proved, "not_proved": unproved})
        return
    old = ", longer than anybody judges by a head: so it was then" if head.old else ""
    print(f"epoch {head.epoch}, root {head.root_hash.hex()}, signed by {', '.join(sorted(head.signed))}")
    print(f"signed {_duration(head.age_ms)} ago{old}")
    for version in versions:
        value = version.value.hex() or "erased"
        print(f"{name}: version {version.version}, published in epoch {version.epoch}, {value}")
    print(f"proved: {proved}\nnot proved: {unproved}")


def _duration(ms: int) -> str:
    return str(timedelta(seconds=max(ms, 0) // 1000))


def _read(file: Path, limit: int) -> bytes:
    try:
        return read_bounded(file, limit)
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        fail(f"{file}: {error.strerror}", "PROOF_FILE_INVALID", REFUSED)


def _label_proof(file: Path, kind: str) -> LabelProof:
    try:
        data = _read(file, MAX_PROOF)
        check_parts(LabelProof, data)
        proof = LabelProof.FromString(data)
    except (ProofRefused, DecodeError):
        proof = LabelProof()
    if proof.WhichOneof("proof") != kind:
        fail(f"{file}: not a file with a {kind}", "PROOF_FILE_INVALID", REFUSED)
    return proof


@contextmanager
def _judging(file: Path) -> Iterator[None]:
    """A refusal is one line with the file's name."""
    try:
        yield
    except (VerificationError, AkdError, AuditError) as error:
        fail(f"{file}: {error.message}", error.reason, REFUSED)
    except DecodeError:
        fail(f"{file}: it can't be read as what it should be", "PROOF_FILE_INVALID", REFUSED)
