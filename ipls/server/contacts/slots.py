"""Where two devices meet of which one is being linked (contacts.md, Linking): in memory, for minutes."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

from ipls.contacts.linking import MAX_HELLO, MAX_PACKAGE
from ipls.rpc.errors import ServiceError
from ipls.runtime.places import Busy

SLOT_BYTES, TOKEN_BYTES = 32, 16
SLOT_S = 600.0
WAIT_S = 20.0
"""For which who collects is kept waiting."""
MAX_BYTES = 64 << 20
"""Of all that is said, in all slots."""
MAX_SLOTS = 10_000

Said = Literal["hello", "answer", "opening", "package"]
ORDER: tuple[Said, ...] = ("hello", "answer", "opening", "package")
_OF_OLD = ("answer", "package")
"""What the device says that has the contacts, and calls for its account."""
_MOST = {"hello": MAX_HELLO, "answer": 1024, "opening": 1024, "package": MAX_PACKAGE}


class Slot:
    """One account's, for one device; what was said in it comes in ORDER."""

    def __init__(self, label: str, ends_s: float) -> None:
        self.label = label
        self.ends_s = ends_s
        self.token = b""
        self.said: dict[Said, bytes] = {}
        self.more = asyncio.Event()


class LinkSlots:
    """All that are open. A restart ends them: then somebody shows another link code."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._open: dict[bytes, Slot] = {}
        self._own: dict[str, bytes] = {}
        self._bytes = 0

    def open(self, label: str, name: bytes) -> None:
        """A slot for the account, in the place of its last; the same once more is the same slot.

        Raises ServiceError LINK_SLOT_TAKEN for another account's, BODY_INVALID; Busy SERVICE_BUSY.
        """
        if len(name) != SLOT_BYTES:
            raise ServiceError("BODY_INVALID", f"a slot has {SLOT_BYTES} bytes")
        self._let_go()
        there = self._open.get(name)
        if there is not None and there.label != label:
            raise _taken()
        if there is not None:
            return
        if label in self._own:
            self._close(self._own[label])
        if len(self._open) >= MAX_SLOTS:
            raise Busy("too many devices are being linked")
        self._open[name] = Slot(label, self._now_s() + SLOT_S)
        self._own[label] = name

    def say(self, name: bytes, kind: Said, message: bytes, *, label: str = "", token: bytes = b"") -> None:
        """Each once, in ORDER; the same again is taken again. `label`: the account's that has the slot; or `token`,
        which is the new device's own.

        Raises ServiceError LINK_SLOT_ABSENT, LINK_SLOT_TAKEN, BODY_INVALID; Busy SERVICE_BUSY.
        """
        slot = self._find(name)
        if not 1 <= len(message) <= _MOST[kind]:
            raise ServiceError("BODY_INVALID", f"this message has 1 to {_MOST[kind]} bytes")
        if kind in _OF_OLD:
            if label != slot.label:
                raise _absent()
        elif len(token) != TOKEN_BYTES:
            raise ServiceError("BODY_INVALID", f"a token has {TOKEN_BYTES} bytes")
        elif slot.token not in (b"", token):
            raise _taken()
        if kind in slot.said:
            if slot.said[kind] != message:
                raise _taken()
            return
        if kind != ORDER[len(slot.said)]:
            raise ServiceError("BODY_INVALID", "what comes before this message was not said yet")
        if self._bytes + len(message) > MAX_BYTES:
            raise Busy("too many devices are being linked")
        self._bytes += len(message)
        slot.token = token or slot.token
        slot.said[kind] = message
        slot.more.set()
        slot.more = asyncio.Event()

    async def collect(self, name: bytes, have: int) -> dict[Said, bytes]:
        """What was said, once there are more than `have`, or after WAIT_S. Raises ServiceError LINK_SLOT_ABSENT."""
        slot = self._find(name)
        with suppress(TimeoutError):
            async with asyncio.timeout(WAIT_S):
                while len(slot.said) <= have and self._open.get(name) is slot:
                    await slot.more.wait()
        return self._find(name).said

    def _find(self, name: bytes) -> Slot:
        self._let_go()
        slot = self._open.get(name)
        if slot is None:
            raise _absent()
        return slot

    def _let_go(self) -> None:
        """Those whose time is over: they are in the order in which they were opened."""
        while self._open:
            name, slot = next(iter(self._open.items()))
            if slot.ends_s > self._now_s():
                return
            self._close(name)

    def _close(self, name: bytes) -> None:
        slot = self._open.pop(name)
        self._own.pop(slot.label)
        self._bytes -= sum(map(len, slot.said.values()))
        slot.more.set()


def _absent() -> ServiceError:
    return ServiceError("LINK_SLOT_ABSENT", "nobody is linking a device by this link code now, or not any more")


def _taken() -> ServiceError:
    return ServiceError("LINK_SLOT_TAKEN", "another device had used this link code before")
