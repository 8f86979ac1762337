"""The next version of the trust root: its draft, a witness's signature on it, and the chain."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from ipls.admin.witness import read_signature, signer_for
from ipls.config import WitnessConfig, chain_file, load_trust_chain, load_trust_version
from ipls.hsm.token.signing import witness_signers
from ipls.proto.trust.v1.trust_pb2 import SignedTrustRoot, TrustChain
from ipls.proto.witness.v1.head_pb2 import Cosignature
from ipls.store.files import PUBLIC
from ipls.store.files import replace as replace_file
from ipls.store.witness import WitnessStore, open_witness_store
from ipls.trust.chain import TrustRootVersion, cosign_version, follow
from ipls.trust.errors import TrustRootRefused
from ipls.trust.root import TrustRoot, Witness, WitnessKey
from ipls.units import DAY_MS


class Draft:
    """The version after `old`, good for `days` from now: the same but for what is changed before it is `made`.

    A key that was good until the old version expired is good until the new one does.
    """

    def __init__(self, old: TrustRootVersion, *, days: int, now_ms: int) -> None:
        self._old = old
        self._now_ms = now_ms
        self._expires_ms = now_ms + days * DAY_MS
        self._witnesses = {
            witness.name: _prolonged(witness, old.root.expires_ms, self._expires_ms) for witness in old.root.witnesses
        }

    def remove(self, name: str) -> None:
        """One witness less. Raises ValueError if there is none of this name."""
        self._known(name)
        del self._witnesses[name]

    def change_key(self, name: str, key: bytes, *, overlap_days: int) -> None:
        """Another key for a witness, whose old ones end after the overlap. Raises ValueError as `remove`."""
        old_end_ms = self._now_ms + overlap_days * DAY_MS
        self._witnesses[name] = _with_key(self._known(name), key, self._now_ms, old_end_ms, self._expires_ms)

    def add(self, name: str, key: bytes, url: str) -> None:
        """Another witness. Raises ValueError if there is one of this name."""
        if name in self._witnesses:
            raise ValueError(f"there is a witness {name}")
        self._witnesses[name] = Witness(name, url, (WitnessKey(key, self._now_ms, self._expires_ms),))

    def made(
        self, *, k: int | None = None, operator_key: bytes | None = None, proposal_key: bytes | None = None
    ) -> TrustRoot:
        """What is None stays as it was."""
        root = self._old.root
        return replace(
            root,
            number=root.number + 1,
            previous=self._old.head.root_hash,
            expires_ms=self._expires_ms,
            witnesses=tuple(self._witnesses.values()),
            k=root.k if k is None else k,
            operator_key=operator_key or root.operator_key,
            proposal_key=proposal_key or root.proposal_key,
        )

    def _known(self, name: str) -> Witness:
        if name not in self._witnesses:
            raise ValueError(f"there is no witness {name}")
        return self._witnesses[name]


def sign_version(witness: WitnessConfig, old: TrustRootVersion, new: TrustRootVersion, now_ms: int) -> Cosignature:
    """The witness's signature on the successor of the version that it has, durable in its state.

    Raises ConfigError WITNESS_KEY_UNPINNED where neither version gives it the key; TrustRootRefused
    TRUST_ROOT_KEY_DROPPED, and TRUST_ROOT_START for a start raised to what it did not sign; StoreError
    WITNESS_DOCUMENT_FORK, WITNESS_NO_GENESIS.
    """
    with witness_signers(witness) as signers:
        signer = signer_for(witness.name, signers, (old.root, new.root), now_ms)
        _check_keys(old.root, new.root)
        with closing(open_witness_store(witness.database, new.root.namespace, witness.watermark)) as store:
            _check_start(store, old.root, new.root)
            encoded = store.sign_document(
                new.namespace,
                new.head,
                new.root.previous,
                lambda: cosign_version(signer, new, now_ms).SerializeToString(deterministic=True),
            )
    return Cosignature.FromString(encoded)


def append_version(trust_root: Path, file: Path, signatures: Sequence[Path], now_ms: int) -> TrustRootVersion:
    """The version in the file to the chain beside the trust root; the newest one, once more, changes nothing.

    Raises VerificationError unless quorums of the old witnesses and of the new signed it; ConfigError.
    """
    old = load_trust_version(trust_root)
    data = file.read_bytes()
    if data != old.file:  # else it was published before
        signed = SignedTrustRoot(file=data, cosignatures=[read_signature(path) for path in signatures])
        follow(old, signed, now_ms)
        chain = TrustChain(versions=[*load_trust_chain(trust_root), signed])
        replace_file(chain_file(trust_root), chain.SerializeToString(), mode=PUBLIC)
    return TrustRootVersion.parse(data)


def _check_keys(old: TrustRoot, new: TrustRoot) -> None:
    """A witness that stays keeps its keys: by them its past signatures count, and its state by its last one."""
    kept = {(witness.name, key.public_key) for witness in new.witnesses for key in witness.keys}
    names = {name for name, _ in kept}
    for witness in old.witnesses:
        if witness.name in names and not all((witness.name, key.public_key) in kept for key in witness.keys):
            message = f"it takes out a key of {witness.name}: let the key's time end instead"
            raise TrustRootRefused("TRUST_ROOT_KEY_DROPPED", message)


def _check_start(store: WitnessStore, old: TrustRoot, new: TrustRoot) -> None:
    if new.start_epoch == old.start_epoch:
        return
    signed = store.signed(new.start_epoch)
    if signed is None or signed.root_hash != new.start_root:
        raise TrustRootRefused("TRUST_ROOT_START", "this witness did not sign the root at which the version starts")


def _prolonged(witness: Witness, old_end_ms: int, new_end_ms: int) -> Witness:
    """Keys that were good until the trust root's end are so again."""
    keys = (replace(k, not_after_ms=new_end_ms) if k.not_after_ms == old_end_ms else k for k in witness.keys)
    return replace(witness, keys=tuple(keys))


def _with_key(witness: Witness, key: bytes, from_ms: int, old_end_ms: int, end_ms: int) -> Witness:
    """Keys that end sooner stay as they are, for what they signed; the others end at `old_end_ms`."""
    old = (replace(k, not_after_ms=min(k.not_after_ms, max(old_end_ms, k.not_before_ms + 1))) for k in witness.keys)
    return replace(witness, keys=(*old, WitnessKey(key, from_ms, end_ms)))
