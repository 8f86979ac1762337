"""What is signed and pinned."""

import hashlib
from typing import Any

from google.protobuf.message import DecodeError

from ipls.crypto.encoding import tagged_hash
from ipls.crypto.errors import VerificationError
from ipls.crypto.keys import public_key, sign
from ipls.proto.trust.v1.trust_pb2 import SignedTrustRoot
from ipls.proto.vault.v1.vault_pb2 import Bundle, SignedBundle
from ipls.proto.witness.v1.head_pb2 import Cosignature, SignedHead
from ipls.proto.witness.v1.witness_pb2 import SignedProposal
from ipls.trust import evidence
from ipls.trust.bundle import verify_bundle
from ipls.trust.chain import TrustRootVersion, follow
from ipls.trust.heads import Head, verify_head
from ipls.trust.identity import check_label, decode_record, encode_record
from ipls.trust.proposals import verify_proposal
from ipls.trust.root import encode_trust_root, parse_trust_root
from tests.fuzz.target import HEAD, ROOT, Target, serialized, target
from tests.server.chains import Chain, proposal
from tests.trust import chains
from tests.trust.bundles import bundle as valid_bundle
from tests.trust.bundles import countersigned, signed_bundle
from tests.trust.roots import NAMESPACE, NOW, OPERATOR, PROPOSER, VRF, WITNESSES, cosign, make_root, signed


@target("trust root")
def _() -> Target:
    def run(data: bytes) -> None:
        root = parse_trust_root(data)
        assert parse_trust_root(encode_trust_root(root)) == root

    return Target(run, (VerificationError,), (encode_trust_root(make_root()), encode_trust_root(ROOT)))


@target("trust root's successor")
def _() -> Target:
    old = chains.first(ROOT)
    seed = chains.signed(chains.after(old), *WITNESSES)

    def run(data: bytes) -> None:
        assert follow(old, SignedTrustRoot.FromString(data), NOW) == TrustRootVersion.parse(seed.file)

    return Target(run, (VerificationError, DecodeError), serialized(seed))


@target("trust root's successor, signed")
def _() -> Target:
    """By the old quorum, whatever it says."""
    old = chains.first(ROOT)
    seed = chains.after(old)

    def run(data: bytes) -> None:
        head = Head(2, hashlib.sha256(data).digest())
        votes = [cosign(by, f"{NAMESPACE}/trust", *head, NOW) for by in WITNESSES]
        new = follow(old, SignedTrustRoot(file=data, cosignatures=votes), NOW)
        assert (new.root.number, new.root.namespace) == (2, NAMESPACE)

    return Target(run, (VerificationError,), (seed.file,))


@target("signed head")
def _() -> Target:
    seed = signed(HEAD, *WITNESSES)

    def run(data: bytes) -> None:
        assert verify_head(ROOT, SignedHead.FromString(data), now_ms=NOW) == HEAD

    return Target(run, (VerificationError, DecodeError), serialized(seed))


@target("witness's message")
def _() -> Target:
    """Signed by the witness, whatever it says."""
    seed = cosign(WITNESSES[0], NAMESPACE, *HEAD, NOW)
    root = make_root()

    def run(data: bytes) -> None:
        bent = Cosignature(message=data, public_key=seed.public_key, signature=sign(WITNESSES[0], data))
        verify_head(root, SignedHead(epoch=7, root_hash=HEAD.root_hash, cosignatures=[bent]), now_ms=NOW)

    return Target(run, (VerificationError,), (seed.message,))


@target("fleet bundle")
def _() -> Target:
    seed = signed_bundle(valid_bundle())

    def run(data: bytes) -> None:
        made = verify_bundle(make_root(), SignedBundle.FromString(data), now_ms=NOW)
        assert made == valid_bundle()

    return Target(run, (VerificationError, DecodeError), serialized(seed))


@target("fleet bundle, signed")
def _() -> Target:
    def run(data: bytes) -> None:
        signature = sign(OPERATOR, tagged_hash("ipls/fleet/v1 bundle", data))
        bent = countersigned(SignedBundle(bundle=data, operator_signature=signature))
        assert isinstance(verify_bundle(make_root(), bent, now_ms=NOW), Bundle)

    return Target(run, (VerificationError, DecodeError), serialized(valid_bundle()))


@target("proposal")
def _() -> Target:
    seed = proposal(Chain().step())

    def run(data: bytes) -> None:
        made = verify_proposal(public_key(PROPOSER), SignedProposal.FromString(data))
        assert made == seed.proposal

    return Target(run, (VerificationError, DecodeError), serialized(seed))


@target("label")
def _() -> Target:
    def run(data: bytes) -> None:
        check_label(data.decode("utf-8", "surrogatepass"))

    return Target(run, (VerificationError, UnicodeDecodeError), (b"+15555550100", b"+1"))


@target("identity record")
def _() -> Target:
    def run(data: bytes) -> None:
        assert encode_record(decode_record(data)) == data

    return Target(run, (VerificationError,), (encode_record(public_key(VRF)),))


@target("evidence")
def _() -> Target:
    forged = Head(7, b"\x08" * 32)
    one, other = [evidence.encode(e) for e in (_two_signatures(forged), _two_heads(forged))]

    def run(data: bytes) -> None:
        found = evidence.judge_evidence(ROOT, data)
        assert (found.namespace, found.epoch) == (NAMESPACE, 7)

    return Target(run, (VerificationError,), (one, other))


def _two_signatures(forged: Head) -> Any:
    return evidence.two_signatures(*(cosign(WITNESSES[0], NAMESPACE, *head, NOW) for head in (HEAD, forged)))


def _two_heads(forged: Head) -> Any:
    return evidence.two_heads(signed(HEAD, *WITNESSES), signed(forged, *WITNESSES))
