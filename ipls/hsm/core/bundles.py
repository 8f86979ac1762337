"""The fleet bundle that the vault goes by: its own file's, never one below what it went by before."""

import hashlib
import struct
from pathlib import Path

from ipls.hsm.messages import Opened
from ipls.hsm.state.store import StateStore
from ipls.proto.vault.v1.vault_pb2 import Bundle, SignedBundle
from ipls.trust.bundle import bundle_head, hsm_for, shard_count, shard_of, verify_bundle
from ipls.trust.heads import Head
from ipls.trust.root import TrustRoot
from ipls.vault.errors import SessionRefused
from ipls.vault.state.journal import other_key

_KEY = other_key("bundle")
_RECORD = struct.Struct(">Q32sI")  # number, digest, the fleet's shards


class BundleKeeper:
    """Reads the file at each check, and judges what is new in it. For works of the state store."""

    def __init__(self, root: TrustRoot, state_store: StateStore, path: Path) -> None:
        self._root = root
        self._state_store = state_store
        self._path = path
        self._file = b""
        self._bundle = Bundle()

    def check(self, label: str, token: Opened, number: int | None, now_ms: int) -> None:
        """That the label is of this shard, which the bundle gives to this token, by its own profile; and that it is the
        one that the client goes by, if it is asked.

        Raises VerificationError as `verify_bundle`; SessionRefused VAULT_BUNDLE_OLD, VAULT_BUNDLE_BEHIND,
        VAULT_SHARDS_CHANGED, VAULT_WRONG_SHARD, VAULT_PROFILE_MISMATCH; OSError, DecodeError.
        """
        bundle = self._current(now_ms)
        if number is not None and number < bundle.number:
            raise SessionRefused("VAULT_BUNDLE_OLD", f"the fleet's bundle is number {bundle.number} by now")
        if number is not None and number > bundle.number:
            raise SessionRefused("VAULT_BUNDLE_BEHIND", f"the vault has bundle {bundle.number} yet; try again")
        hsm = hsm_for(bundle, label, now_ms=now_ms)
        if shard_of(label, shard_count(bundle)) != self._state_store.shard:
            raise SessionRefused("VAULT_WRONG_SHARD", "the account is of another shard than this vault's")
        if hashlib.sha256(hsm.public_key).digest() != token.hsm_key_id:
            raise SessionRefused("VAULT_WRONG_SHARD", "the fleet's bundle gives this account to another HSM")
        if hsm.profile != token.profile:
            raise SessionRefused("VAULT_PROFILE_MISMATCH", "the fleet's bundle names another profile than this HSM's")

    def _current(self, now_ms: int) -> Bundle:
        file = self._path.read_bytes()
        if file == self._file and now_ms < min(self._bundle.expires_ms, self._root.expires_ms):
            return self._bundle
        signed, record = SignedBundle.FromString(file), self._state_store.get(_KEY)
        number, digest, shards = _RECORD.unpack(record) if record else (0, b"", 0)
        seen = Head(number, digest) if record else None
        # One that is further on than the next is taken: a quorum never signs what does not continue.
        bundle = verify_bundle(self._root, signed, now_ms=now_ms, seen=seen)
        if shards not in (0, shard_count(bundle)):
            raise SessionRefused("VAULT_SHARDS_CHANGED", f"the fleet has {shards} shards, and accounts stay in theirs")
        if (newest := bundle_head(signed)) != seen:
            self._state_store.put(_KEY, _RECORD.pack(*newest, shard_count(bundle)))
        self._state_store.on_commit(lambda: self._go_by(file, bundle))
        return bundle

    def _go_by(self, file: bytes, bundle: Bundle) -> None:
        self._file, self._bundle = file, bundle
