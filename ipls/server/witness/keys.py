"""A witness's own keys: which of them signs when."""

from collections.abc import Sequence
from typing import NamedTuple

from ipls.config import ConfigError
from ipls.crypto.keys import Signer
from ipls.errors import IplsError
from ipls.trust.heads import Head, cosign
from ipls.trust.limits import MAX_AHEAD_MS, MAX_INT
from ipls.trust.root import TrustRoot, Witness, WitnessKey


class KeyExpired(IplsError):
    """None of the keys is good at the time of the signature."""

    def __init__(self) -> None:
        super().__init__("WITNESS_KEY_EXPIRED", "the witness has no key that is good at this time")


class Late(NamedTuple):
    """The time in a signature, ms, and the encoded Cosignature."""

    time_ms: int
    cosignature: bytes


class _Own(NamedTuple):
    key: WitnessKey
    signer: Signer


class WitnessKeys:
    """The keys that sign for one witness, each within its window."""

    def __init__(self, root: TrustRoot, witness: Witness, signers: Sequence[Signer]) -> None:
        """`witness` is the trust root's, or one of its own making that follows the log by itself.

        Raises ConfigError WITNESS_KEY_UNPINNED for a key that is not the witness's.
        """
        self.witness = witness
        self._namespace = root.namespace
        self._max_age_ms = root.max_head_age_ms
        windows = {key.public_key: key for key in witness.keys}
        for signer in signers:
            if signer.public_key not in windows:
                message = (
                    f"the trust root does not give the key {signer.public_key.hex()} to the witness {witness.name}"
                )
                raise ConfigError(message, "WITNESS_KEY_UNPINNED")
        own = [_Own(windows[signer.public_key], signer) for signer in signers]
        self._newest_first = sorted(own, key=lambda one: one.key.not_before_ms, reverse=True)

    @classmethod
    def pinned(cls, root: TrustRoot, name: str, signers: Sequence[Signer]) -> "WitnessKeys":
        """Those of the witness `name` of the trust root. Raises ConfigError WITNESS_KEY_UNPINNED."""
        witness = next((witness for witness in root.witnesses if witness.name == name), None)
        if witness is None:
            raise ConfigError(f"the trust root has no witness {name}", "WITNESS_KEY_UNPINNED")
        return cls(root, witness, signers)

    @classmethod
    def unpinned(cls, root: TrustRoot, name: str, signers: Sequence[Signer]) -> "WitnessKeys":
        """Those of a witness that no trust root names: good at any time, and of no weight in a quorum."""
        keys = tuple(WitnessKey(signer.public_key, 0, MAX_INT) for signer in signers)
        return cls(root, Witness(name, "", keys), signers)

    def cosign(self, head: Head, time_ms: int) -> bytes:
        """An encoded Cosignature by the newest key that is good at that time. Raises KeyExpired."""
        for key, signer in self._newest_first:
            if key.covers(time_ms):
                return self._cosign(signer, head, time_ms)
        raise KeyExpired

    def cosign_late(self, head: Head, last_ms: int, now_ms: int) -> Late:
        """What others signed, at the time of the last live signature: no check of a head's age counts it.

        Where none of the keys here was good then, or nothing was ever signed, the newest key signs at the beginning of
        its window, if that is too long ago for anyone to take it for fresh; else at `last_ms`, and no one counts it.
        """
        for key, signer in self._newest_first:
            if key.covers(last_ms):
                return Late(last_ms, self._cosign(signer, head, last_ms))
        key, signer = self._newest_first[0]
        begun = key.not_before_ms
        time_ms = begun if last_ms < begun < now_ms - self._max_age_ms - MAX_AHEAD_MS else last_ms
        return Late(time_ms, self._cosign(signer, head, time_ms))

    def is_good(self, now_ms: int) -> bool:
        """Whether one of the witness's keys, here or not, is good now."""
        return any(key.covers(now_ms) for key in self.witness.keys)

    def _cosign(self, signer: Signer, head: Head, time_ms: int) -> bytes:
        return cosign(signer, self._namespace, *head, time_ms).SerializeToString(deterministic=True)
