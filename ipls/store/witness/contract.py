"""What every backend of a witness's store gives; tests/store/witness/test_contract.py holds each of them to it."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

from ipls.store.errors import StoreRefused
from ipls.store.log import object_name
from ipls.trust.heads import Head
from ipls.trust.limits import MAX_INT


class ProposedEpoch(NamedTuple):
    """What a proposal asks to be signed: `new_root` as the root of `epoch`. Roots have 32 bytes.

    `proposal` is the encoded SignedProposal, kept with the epoch it is first signed for.
    """

    term: int
    epoch: int
    old_root: bytes
    new_root: bytes
    proposal: bytes = b""


class State(NamedTuple):
    """The newest epoch. `cosignature` is an encoded Cosignature, None before the start has been signed; `proposal` and
    `old_root` are empty at the start; `time_ms` is the time in the newest signature.

    Where it signed another root than the quorum, `cosignature` is None and `head` is an encoded SignedHead, at or above
    this epoch, by which the quorum's root is known.
    """

    term: int
    epoch: int
    old_root: bytes
    root_hash: bytes
    cosignature: bytes | None
    time_ms: int
    proposal: bytes = b""
    head: bytes | None = None

    def is_next(self, step: ProposedEpoch) -> bool:
        """Whether `step` is the successor, whose proof is yet to be verified; False if it is the newest epoch again.

        Raises StoreRefused, for a step that may never be signed whatever its proof: WITNESS_TERM, WITNESS_FORK,
        WITNESS_BEHIND, WITNESS_GAP, WITNESS_SIGNED_OTHER.
        """
        if step.term < self.term:
            raise StoreRefused("WITNESS_TERM", f"term {step.term} is below {self.term}, which has signed proposals")
        if (step.epoch, step.new_root) == (self.epoch, self.root_hash):
            if self.head is not None:
                raise StoreRefused("WITNESS_SIGNED_OTHER", f"this witness signed another root for epoch {step.epoch}")
            return False
        if step.epoch == self.epoch:
            raise StoreRefused("WITNESS_FORK", f"epoch {step.epoch} has another root here")
        if step.epoch < self.epoch:
            raise StoreRefused("WITNESS_BEHIND", f"epoch {step.epoch} is below {self.epoch}, the newest here")
        again = step.new_root == step.old_root  # of an epoch that is not here yet
        if step.epoch > self.epoch + 1 or again or step.term > MAX_INT:
            raise StoreRefused("WITNESS_GAP", f"epoch {step.epoch} does not follow {self.epoch}, the newest here")
        if step.old_root != self.root_hash:
            raise StoreRefused("WITNESS_FORK", f"epoch {step.epoch} does not start from the root of {self.epoch} here")
        return True


class Signed(NamedTuple):
    """An epoch: `old_root` is empty at the start, `cosignature` None before that is signed, `proposal` empty there and
    where the epoch was taken from the log."""

    epoch: int
    old_root: bytes
    root_hash: bytes
    cosignature: bytes | None
    time_ms: int
    proposal: bytes = b""

    @property
    def name(self) -> str:
        """Of the audit log's object for this step."""
        return object_name(self.epoch, self.old_root, self.root_hash)


class Fetched(NamedTuple):
    """The steps from the log that are verified and not signed yet: the epochs first..last, and the root of the last."""

    first: int
    last: int
    root_hash: bytes


CosignLate = Callable[[int, bytes, int], tuple[int, bytes]]
"""Of (epoch, root hash, time of the newest signature in ms, 0 without one): the time in a signature that must not count
as fresh, not below that one, and the encoded Cosignature."""


class WitnessStore(ABC):
    """What one witness of one namespace may never forget: the highest epoch it signed, with root and signature, and the
    highest term.

    Guarantees (the directory spec, What a witness does):
    - One row an epoch, each the successor of the one before; a root, once in, never changes, whichever key signed it.
    - A signature leaves only after it, its root, its term and the proposal that asked for it have been committed
      together, and after the *watermark*, a file beside the key, has been raised to it.
    - Terms and times never fall. What is refused (StoreRefused) changes nothing; after StoreUnavailable, or OSError of
      the watermark, all of it is there or nothing, and no signature has left.
    - Of a numbered document, a version of the trust root or a fleet bundle, it signs one file a number, by whichever
      key, and none that does not continue the one that it signed for the number below.
    - The first row is the genesis, written by `init_witness_state` alone: a lost database is never taken for a new one.
    - A database that is behind its watermark was restored from a backup: it signs nothing any more. Whatever signs
      raises StoreRefused WITNESS_RESTORED then.
    - Where a quorum signed another root for an epoch than this witness did, the quorum's stands beside its own, which
      stays on record; the chain goes on from the quorum's, and that epoch is not signed again.
    Every epoch's signature is kept; the blobs are in the audit log. Methods block; each may be called from any thread
    and, over one database, from any process, and may raise StoreUnavailable and StoreDamaged.
    """

    @abstractmethod
    def state(self) -> State:
        """The newest epoch."""

    @abstractmethod
    def root_of(self, epoch: int) -> bytes | None:
        """The root hash of an epoch, as this witness goes on from it; None above its newest and below its start."""

    @abstractmethod
    def signed(self, epoch: int) -> Signed | None:
        """What it signed for any epoch since the start, whatever the quorum did, with the newest signature on it."""

    @abstractmethod
    def shown(self, epoch: int) -> Signed | None:
        """The epoch as this witness goes on from it; without a cosignature where it signed another root."""

    @abstractmethod
    def sign_start(self, cosign: CosignLate) -> None:
        """See that the start has a signature, durable: it has no proposal."""

    @abstractmethod
    def sign(self, step: ProposedEpoch, now_ms: int, cosign: Callable[[int], bytes]) -> bytes:
        """The encoded Cosignature on a verified step, or on the newest epoch anew, durable.

        `cosign(time_ms)` makes it, at the later of `now_ms` and the newest signature's time; if it raises, nothing has
        changed. Of racing callers one wins. Raises StoreRefused as `State.is_next`, judged again in the transaction.
        """

    @abstractmethod
    def renew(self, root_hash: bytes, time_ms: int, cosign: Callable[[int], bytes]) -> None:
        """Sign the newest epoch, if it has this root, anew at `time_ms`; nothing happens unless that is a later time.

        For a witness that follows others' signatures without proposals.
        """

    @abstractmethod
    def fetched(self) -> Fetched | None:
        """The verified steps that wait for `sign_pulled`, None without any, or if they don't follow what is signed."""

    @abstractmethod
    def drop_fetched(self) -> None:
        """Forget the steps that wait."""

    @abstractmethod
    def keep_fetched(self, epoch: int, old_root: bytes, root_hash: bytes) -> None:
        """Keep one more verified step, durable.

        Raises StoreRefused WITNESS_GAP if it follows neither the last one that waits nor, without any, an epoch here.
        """

    @abstractmethod
    def sign_pulled(self, head: bytes, cosign: CosignLate) -> bool:
        """Sign the steps that wait, which lead to the quorum's `head` (an encoded SignedHead), some at a time: whether
        there are more.

        An epoch that it has signed with another root gets the quorum's root beside its own, and no signature.
        """

    @abstractmethod
    def sign_document(self, namespace: str, head: Head, previous: bytes, cosign: Callable[[], bytes]) -> bytes:
        """The encoded Cosignature that `cosign()` makes on a document of NS/trust or NS/fleet, durable.

        A document is (number, SHA-256); `previous` is the SHA-256 that it gives for the number below. A second
        signature on it, by another key for one, is as good. What it says is the caller's to check. Raises StoreRefused
        WITNESS_DOCUMENT_FORK where another digest was signed here for its number or the number below, or any for a
        number above.
        """

    @abstractmethod
    def has_signed(self, namespace: str, number: int) -> bool:
        """Whether a document of this number was ever signed here."""

    @abstractmethod
    def saw(self, epoch: int, root_hash: bytes, time_ms: int) -> None:
        """A valid signature of this witness's own was seen: one that is not on record here was made by a later state.

        Then this one is a restored copy: the watermark is raised, and nothing is signed any more. Raises StoreRefused
        WITNESS_RESTORED.
        """

    @abstractmethod
    def check_restored(self) -> None:
        """Raises StoreRefused WITNESS_RESTORED if nothing may be signed from this state."""

    @abstractmethod
    def close(self) -> None:
        """Close the file."""
