"""Single use of signed calls; tests/store/replay/test_contract.py holds each store that has it to it."""

from abc import ABC, abstractmethod


class ReplayGuard(ABC):
    """A nonce is admitted once for a label as long as its time can be admitted at all, across restarts, from any
    process over one database, and even if the clock is set back: no time at or below one already forgotten is admitted.
    What is forgotten are nonces, not hours: after a clock that was ahead for less than the window all is as before.
    What is refused changes nothing that a later call could see.

    Reads go on where the disk takes nothing: a call that only reads is admitted then too, once for each process until
    it ends, since its nonce is in memory alone. One that was admitted before, in either way, is refused as ever.
    """

    @abstractmethod
    def admit(
        self, label: str, nonce: bytes, timestamp_ms: int, *, now_ms: int, window_ms: int, max_calls: int, reading: bool
    ) -> None:
        """Take a signed call's nonce: its time is within `window_ms` of now, it is new, there are not too many.
        `reading`: the call changes nothing.

        Raises StoreRefused CALL_STALE, CALL_REPLAYED, CALL_QUOTA (more than `max_calls` of the label in the window;
        says when to try again); StoreUnavailable, StoreDamaged.
        """
