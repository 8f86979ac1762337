"""The fleet's bundle: the first one, its successors, a witness's signature on one, and its publication."""

import hashlib
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

from google.protobuf.message import DecodeError

from ipls.admin.witness import signer_for
from ipls.config import Config, ConfigError, WitnessConfig, load_trust_chain, load_trust_root, read_secret
from ipls.crypto import keys
from ipls.crypto.errors import SignatureRefused
from ipls.hsm.token.pkcs11 import TokenKeys
from ipls.hsm.token.signing import witness_signers
from ipls.proto.vault.v1.fleet_pb2 import Report
from ipls.proto.vault.v1.vault_pb2 import Bundle, Hsm, SignedBundle
from ipls.proto.witness.v1.head_pb2 import Cosignature
from ipls.store.files import PUBLIC, read_bounded, replace
from ipls.store.log import LogStore, bundle_name
from ipls.store.log.opening import open_log
from ipls.store.witness import open_witness_store
from ipls.trust.bundle import (
    MAX_SIGNED_BUNDLE,
    bundle_head,
    check_bundle,
    check_follows,
    check_operator,
    countersign,
    countersigners,
    fleet_namespace,
    parse_bundle,
    shard_count,
    sign_bundle,
    verify_bundle,
)
from ipls.trust.ceremony import check_descriptor
from ipls.trust.errors import BundleRefused
from ipls.trust.root import TrustRoot, parse_trust_root
from ipls.units import DAY_MS

BUNDLE_LIFETIME_MS = 30 * DAY_MS


def first_bundle(
    root: TrustRoot, hsm: TokenKeys, operator_seed: bytes, *, now_ms: int, lifetime_ms: int, shards: int = 1
) -> SignedBundle:
    """Bundle 1, naming one HSM that owns every account, in so many shards, by the operator alone."""
    bundle = Bundle(
        number=1,
        expires_ms=now_ms + lifetime_ms,
        namespace=root.namespace,
        development=root.development,
        hsms=[_alone(root, hsm, shards, now_ms)],
    )
    return sign_bundle(operator_seed, bundle)


def _alone(root: TrustRoot, hsm: TokenKeys, shards: int, now_ms: int) -> Hsm:
    return Hsm(
        public_key=hsm.public_point,
        profile=hsm.profile,
        policy_digest=root.policy_digest,
        shards=range(shards),
        not_before_ms=now_ms,
        not_after_ms=root.expires_ms,
        transport_key=hsm.transport_point,
    )


class Fleet(NamedTuple):
    """The HSMs of a ceremony, and the shards of those that are to have some, by name."""

    report: Report  # which m officers signed
    report_hash: bytes
    shards: dict[str, list[int]]


def next_bundle(
    config: Config, operator_key: Path, *, now_ms: int, fleet: Fleet | None = None, alone: TokenKeys | None = None
) -> SignedBundle:
    """The successor of the bundle in use, by the operator alone: the next number, 30 days from now.

    The same HSMs, good as long as the trust root, or those of a fleet, or one alone with all shards; of these two there
    may be a first bundle too. The old one must be the operator's own, by the key of any version of the trust root,
    expired or not. Raises ConfigError, VerificationError.
    """
    root = load_trust_root(config.trust_root)
    seed = read_secret(operator_key)
    if keys.public_key(seed) != root.operator_key:
        raise ConfigError(f"{operator_key} is not the operator key that the trust root pins", "OPERATOR_KEY_WRONG")
    if (fleet or alone) and not config.vault.bundle.exists():
        bundle = Bundle(namespace=root.namespace, development=root.development)
    else:
        old = read_bundle(config.vault.bundle)
        _check_own(config.trust_root, old)
        bundle = parse_bundle(old.bundle)
        bundle.previous = hashlib.sha256(old.bundle).digest()
    bundle.number += 1
    bundle.expires_ms = now_ms + BUNDLE_LIFETIME_MS
    if fleet is not None:
        _put_fleet(bundle, fleet, root, now_ms)
    elif alone is not None:
        shards = shard_count(bundle) or 1
        del bundle.hsms[:]
        bundle.hsms.append(_alone(root, alone, shards, now_ms))
    for hsm in bundle.hsms:
        hsm.policy_digest = root.policy_digest
        hsm.not_after_ms = max(hsm.not_after_ms, root.expires_ms)
    return sign_bundle(seed, bundle)


def _put_fleet(bundle: Bundle, fleet: Fleet, root: TrustRoot, now_ms: int) -> None:
    """All HSMs of the report in the place of those in use; who has no shard is there to be handed one."""
    cards = [check_descriptor(member.card) for member in fleet.report.members]
    if unknown := set(fleet.shards) - {card.name for card in cards}:
        raise ConfigError(f"the report has no HSM {min(unknown)}", "HSM_UNKNOWN")
    since, shards = {hsm.public_key: hsm.not_before_ms for hsm in bundle.hsms}, shard_count(bundle)
    del bundle.hsms[:]
    for card in cards:
        bundle.hsms.add(
            public_key=card.public_key,
            profile=card.profile,
            shards=fleet.shards.get(card.name, []),
            not_before_ms=since.get(card.public_key, now_ms),
            not_after_ms=root.expires_ms,
            transport_key=card.transport_key,
            report_hash=fleet.report_hash,
            policy_digest=root.policy_digest,
        )
    if bundle.number > 1 and shard_count(bundle) != shards:
        raise ConfigError(
            f"there are {shards} shards, and stay as many: nothing moves accounts between them", "SHARDS_CHANGED"
        )
    bundle.development = fleet.report.development


def countersign_as(
    witness: WitnessConfig, root: TrustRoot, signed: SignedBundle, previous: SignedBundle | None, now_ms: int
) -> Cosignature:
    """The witness's signature on a bundle that continues the one before, durable in its state.

    Its time may have run out: if others signed it, the number can have no other, and the next is to follow. Where this
    witness did not sign the one before, `previous` shows it with a quorum's signatures. Raises VerificationError: as
    `check_bundle`, BUNDLE_GAP without `previous`, BUNDLE_FORK, as `countersigners`; ConfigError WITNESS_KEY_UNPINNED;
    StoreRefused WITNESS_DOCUMENT_FORK, WITNESS_NO_GENESIS, WITNESS_RESTORED.
    """
    bundle, namespace = check_bundle(root, signed, now_ms=now_ms, check_expiry=False), fleet_namespace(root)
    with witness_signers(witness) as signers:
        signer = signer_for(witness.name, signers, [root], now_ms)
        with closing(open_witness_store(witness.database, root.namespace, witness.watermark)) as store:
            if bundle.number > 1 and not store.has_signed(namespace, bundle.number - 1):
                _check_previous(root, bundle, previous, now_ms)
            encoded = store.sign_document(
                namespace,
                bundle_head(signed),
                bundle.previous,
                lambda: countersign(signer, root, signed, now_ms).SerializeToString(deterministic=True),
            )
    return Cosignature.FromString(encoded)


def _check_previous(root: TrustRoot, bundle: Bundle, previous: SignedBundle | None, now_ms: int) -> None:
    if previous is None:
        raise BundleRefused(
            "BUNDLE_GAP", f"this witness did not sign bundle {bundle.number - 1}: name it by --previous"
        )
    head = bundle_head(previous)
    countersigners(root, previous, now_ms=now_ms)
    check_follows(bundle, head)


def put_in_use(config: Config, signed: SignedBundle, *, now_ms: int) -> Bundle:
    """Into the log, then in the place of the bundle in use, also if its time has run out, as a witness signs it; once
    more does no harm.

    Raises VerificationError, StoreError.
    """
    seen = bundle_head(read_bundle(config.vault.bundle)) if config.vault.bundle.exists() else None
    log, name = open_log(config.directory.log), bundle_name(bundle_head(signed).epoch)
    signed = _as_in_log(log, name, signed)
    root = load_trust_root(config.trust_root)
    bundle = verify_bundle(root, signed, now_ms=now_ms, seen=seen, check_expiry=False)
    if seen is not None and bundle.number > seen.epoch + 1:
        raise BundleRefused("BUNDLE_GAP", f"bundle {seen.epoch} is in use: {bundle.number} is not the next one")
    if seen is None or bundle.number > seen.epoch or log.get(name) is None:
        log.put(name, signed.SerializeToString())
        replace(config.vault.bundle, signed.SerializeToString(), mode=PUBLIC)
    return bundle


def _as_in_log(log: LogStore, name: str, signed: SignedBundle) -> SignedBundle:
    """The same bundle with the signatures that it has in the log, which keeps those: fewer or more may be here now."""
    with suppress(DecodeError):
        kept = SignedBundle.FromString((log.get(name) or b"")[:MAX_SIGNED_BUNDLE])
        if kept.bundle == signed.bundle:
            return kept
    return signed


def read_bundle(path: Path) -> SignedBundle:
    """Raises ConfigError, OSError."""
    try:
        return SignedBundle.FromString(read_bounded(path, MAX_SIGNED_BUNDLE))
    except DecodeError as error:
        raise ConfigError(f"{path}: not a fleet bundle") from error


def _check_own(trust_root: Path, signed: SignedBundle) -> None:
    """Raises SignatureRefused unless the operator of some version signed it."""
    files = [trust_root.read_bytes(), *(version.file for version in load_trust_chain(trust_root))]
    *earlier, newest = [parse_trust_root(file) for file in files]
    for root in earlier:
        with suppress(SignatureRefused):
            return check_operator(root, signed)
    return check_operator(newest, signed)
