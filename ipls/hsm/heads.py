"""The directory heads that the vault judges by (the vault spec, Policy), and with them its clock."""

from collections.abc import Callable

from ipls.clock import system_now_ms
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.session.errors import SessionRefused
from ipls.store.vault import VaultStore
from ipls.trust.errors import HeadRefused
from ipls.trust.heads import quorum_timestamp, verify_head
from ipls.trust.root import TrustRoot

MAX_SIGNED_HEAD = 16 * 1024
"""Bytes: room for 64 signatures. The head goes out in every m2, which must stay a frame whatever a client hands in."""


class HeadKeeper:
    """Accepts heads durably, never one below the highest, never two roots for one epoch. One thread at a time."""

    def __init__(self, root: TrustRoot, store: VaultStore, host_clock: Callable[[], int] = system_now_ms) -> None:
        self._root = root
        self._store = store
        self._host_clock = host_clock
        self._newest = store.newest_head()
        self._highest_timestamp = store.highest_timestamp()

    def now_ms(self) -> int:
        """The later of the host's clock and the highest timestamp ever accepted: a host can't turn it back."""
        return max(self._host_clock(), self._highest_timestamp)

    def offer(self, signed: SignedHead) -> None:
        """Accepts `signed` if it is newer than the newest accepted; one that is not is checked and left.

        Raises TrustError as `verify_head`; HeadRefused HEAD_FORK, after keeping the evidence, if its epoch was
        accepted with another root.
        """
        if signed.ByteSize() > MAX_SIGNED_HEAD:
            raise HeadRefused("HEAD_ENCODING", f"a signed head over {MAX_SIGNED_HEAD} bytes")
        now_ms = self.now_ms()
        # Without its age: a head of the past is no use but proves a fork as well as any.
        head = verify_head(self._root, signed, now_ms=now_ms, check_age=False)
        accepted = self._store.root_at(head.epoch)
        if accepted not in (None, head.root_hash):
            self._store.keep_evidence(signed)
            raise HeadRefused("HEAD_FORK", f"the witnesses signed two roots for epoch {head.epoch}")
        newest_epoch, newest_ms = (self._newest[0].epoch, self._newest[1]) if self._newest else (-1, 0)
        if head.epoch < newest_epoch:
            return
        try:
            timestamp_ms = quorum_timestamp(self._root, signed, now_ms=now_ms)
        except HeadRefused:
            if head.epoch == newest_epoch:
                return  # the same head as ours with signatures too old to be worth keeping
            raise
        if (head.epoch, timestamp_ms) > (newest_epoch, newest_ms):
            self._store.accept_head(signed, timestamp_ms)
            self._newest = signed, timestamp_ms
            self._highest_timestamp = max(self._highest_timestamp, timestamp_ms)

    def judge_by(self, client_head: SignedHead | None = None) -> SignedHead:
        """The head to judge by now: the higher of the vault's own and the client's, durably accepted, of accepted age.

        Raises SessionRefused VAULT_NO_HEAD before the first head, TrustError for a head that does not hold.
        """
        if client_head is not None:
            self.offer(client_head)
        if self._newest is None:
            raise SessionRefused("VAULT_NO_HEAD", "the vault has seen no head of the directory yet")
        verify_head(self._root, self._newest[0], now_ms=self.now_ms())
        return self._newest[0]
