"""The directory's secret: where labels stand in the tree, and what opens their values.

Tested by tests/akd/test_publish.py.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from ipls.akd.hashing import commit, commitment_nonce, digest
from ipls.akd.labels import Label, leaf_label
from ipls.akd.vrf import SecretKey
from ipls.crypto.encoding import lp, u64

PROOFS_KEPT = 60_000
"""VRF proofs kept for what is asked again, about 40 MB; three prove a lookup."""


class Place(NamedTuple):
    """What the VRF is asked: a user's label, freshness, version."""

    label: bytes
    fresh: bool
    version: int

    def alpha(self) -> bytes:
        """The VRF's input (directory spec, "VRF")."""
        return digest(lp(self.label) + (b"\x01" if self.fresh else b"\x00") + u64(self.version))


class DirectoryKey:
    """VRF key and commitment key, both from the VRF seed (32 bytes)."""

    def __init__(self, seed: bytes) -> None:
        self._vrf = SecretKey(seed)
        self._commitment_key = digest(seed)
        self.public_key: bytes = self._vrf.public_key
        # What is kept is what anyone who asks is shown; it depends on the place alone and is right for ever.
        self._proved: OrderedDict[Place, tuple[Label, bytes]] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def from_seed(cls, seed: bytes) -> "DirectoryKey":
        """Raises AkdError VRF_SEED unless the seed has 32 bytes."""
        return cls(seed)

    def locate(self, places: Sequence[Place]) -> list[Label]:
        """The node label of each place."""
        return [leaf_label(output[:32]) for output in self._vrf.outputs([place.alpha() for place in places])]

    def prove(self, places: Sequence[Place]) -> list[tuple[Label, bytes]]:
        """Each place's node label and VRF proof (80 bytes); of the last asked for they are kept. From any thread."""
        with self._lock:
            proved = {place: self._proved[place] for place in places if place in self._proved}
        missing = [place for place in dict.fromkeys(places) if place not in proved]
        made = self._vrf.prove([place.alpha() for place in missing])
        proved.update(zip(missing, [(leaf_label(output[:32]), proof) for output, proof in made], strict=True))
        with self._lock:
            for place, proof in proved.items():
                self._proved[place] = proof
                self._proved.move_to_end(place)
            while len(self._proved) > PROOFS_KEPT:
                self._proved.popitem(last=False)
        return [proved[place] for place in places]

    def nonce(self, label: Label, version: int, value: bytes) -> bytes:
        """The nonce (32 bytes) that opens the fresh leaf at `label`."""
        return commitment_nonce(self._commitment_key, label, version, value)

    def commit(self, leaves: Sequence[tuple[Label, int, bytes]]) -> list[bytes]:
        """The commitments of fresh leaves given as (node label, version, value)."""
        return commit(self._commitment_key, leaves)
