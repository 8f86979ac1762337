"""The fleet bundle that the vault goes by: its own file's, never one below what it went by before."""

import hashlib
from pathlib import Path

from ipls.hsm.ledger import Ledger
from ipls.hsm.messages import Opened
from ipls.proto.vault.v1.vault_pb2 import Bundle, SignedBundle
from ipls.session.errors import SessionRefused
from ipls.session.journal import other_key
from ipls.trust.bundle import bundle_head, hsm_for, verify_bundle
from ipls.trust.heads import Head
from ipls.trust.root import TrustRoot

_KEY = other_key("bundle")
_NUMBER_BYTES = 8


class BundleKeeper:
    """Reads the file at each check, and judges what is new in it. For works of the ledger."""

    def __init__(self, root: TrustRoot, ledger: Ledger, path: Path) -> None:
        self._root = root
        self._ledger = ledger
        self._path = path
        self._file = b""
        self._bundle = Bundle()

    def check(self, label: str, token: Opened, number: int | None, now_ms: int) -> None:
        """That the bundle gives the label's shard to this token, by its own profile, and is the one that the client
        goes by, if it is asked.

        Raises TrustError as `verify_bundle`; SessionRefused VAULT_BUNDLE_OLD, VAULT_BUNDLE_BEHIND, VAULT_WRONG_SHARD,
        VAULT_PROFILE_MISMATCH; OSError, DecodeError.
        """
        bundle = self._current(now_ms)
        if number is not None and number < bundle.number:
            raise SessionRefused("VAULT_BUNDLE_OLD", f"the fleet's bundle is number {bundle.number} by now")
        if number is not None and number > bundle.number:
            raise SessionRefused("VAULT_BUNDLE_BEHIND", f"the vault has bundle {bundle.number} yet; try again")
        hsm = hsm_for(bundle, label, now_ms=now_ms)
        if hashlib.sha256(hsm.public_key).digest() != token.hsm_key_id:
            raise SessionRefused("VAULT_WRONG_SHARD", "the fleet's bundle gives this account to another HSM")
        if hsm.profile != token.profile:
            raise SessionRefused("VAULT_PROFILE_MISMATCH", "the fleet's bundle names another profile than this HSM's")

    def _current(self, now_ms: int) -> Bundle:
        file = self._path.read_bytes()
        if file == self._file and now_ms < min(self._bundle.expires_ms, self._root.expires_ms):
            return self._bundle
        signed, record = SignedBundle.FromString(file), self._ledger.get(_KEY)
        seen = Head(int.from_bytes(record[:_NUMBER_BYTES], "big"), record[_NUMBER_BYTES:]) if record else None
        # One that is further on than the next is taken: a quorum never signs what does not continue.
        bundle = verify_bundle(self._root, signed, now_ms=now_ms, seen=seen)
        if (head := bundle_head(signed)) != seen:
            self._ledger.put(_KEY, head.epoch.to_bytes(_NUMBER_BYTES, "big") + head.root_hash)
        self._ledger.then(lambda: self._go_by(file, bundle))
        return bundle

    def _go_by(self, file: bytes, bundle: Bundle) -> None:
        self._file, self._bundle = file, bundle
