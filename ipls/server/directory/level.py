"""When a directory may be read: once its database is level with the log.

One that was lost, or put back, is below it until the log's epochs are adopted. Read before, it would show heads below
those that phones have seen, and know nobody's later keys. Each process over the database finds out by itself.

Tested by tests/faults/test_directory_level.py.
"""

import asyncio
from asyncio import to_thread
from contextlib import suppress

import structlog

from ipls.runtime.tasks import race
from ipls.server.directory.errors import NoQuorum
from ipls.server.directory.publisher import HeadNotifier
from ipls.server.directory.witnesses import Witnesses
from ipls.store.directory import DirectoryStore
from ipls.store.errors import StoreError
from ipls.store.log import LogStore

log = structlog.get_logger()

PATIENCE_S = (20.0, 300.0)
"""How long reads are held back without a newer epoch, and in all."""
ASK_AGAIN_S = 0.5
"""Between two questions to witnesses of which too few answer."""


async def until_level(
    store: DirectoryStore,
    audit_log: LogStore,
    witnesses: Witnesses,
    heads: HeadNotifier,
    patience_s: tuple[float, float] = PATIENCE_S,
) -> None:
    """Return once the database is level with the log, or can't become so now. Somebody has to adopt meanwhile.

    Log or witnesses alone are enough to say that it is level, so that neither holds back what is: the log has no
    object beyond the newest head, or no witness has signed further. Any k witnesses that answer have an honest one
    among them that signed the newest head there is (2k > n + f); f that lie, or a log to which somebody adds for ever,
    are believed until patience is over, by the monotonic clock.
    """
    stall_s, all_s = patience_s
    try:
        async with asyncio.timeout(all_s):
            why = await race(
                _by_log(store, audit_log, heads),
                _by_witnesses(store, witnesses, heads),
                _stalled(store, heads, stall_s),
            )
    except TimeoutError:
        why = f"it took over {all_s:g} s"
    except StoreError as e:  # each read says so for itself
        why = e.message
    if why:
        log.warning("served below the log", why=why)
    else:
        log.info("level with the log")


async def _by_log(store: DirectoryStore, audit_log: LogStore, heads: HeadNotifier) -> str:
    """Nothing, once it has no object beyond the newest head; why that can't be found out."""
    epoch = await _above(store, heads, -1)
    try:
        while await to_thread(audit_log.list, prefix=f"{epoch + 1}/", limit=1):
            epoch = await _above(store, heads, epoch)
    except OSError as e:
        return f"the log can't be read: {e}"
    return ""


async def _by_witnesses(store: DirectoryStore, witnesses: Witnesses, heads: HeadNotifier) -> str:
    """Nothing, once no witness has signed beyond the newest head."""
    newest = await _newest_signed(witnesses)
    epoch = await _above(store, heads, -1)
    while epoch < newest:
        log.info("catching up with the log", epoch=epoch, of=newest)
        epoch = await _above(store, heads, epoch)
    return ""


async def _newest_signed(witnesses: Witnesses) -> int:
    """By any of them, once k answer: they may just be starting too."""
    while True:
        with suppress(NoQuorum):
            return max(state.epoch for state in (await witnesses.states()).values())
        await asyncio.sleep(ASK_AGAIN_S)


async def _stalled(store: DirectoryStore, heads: HeadNotifier, stall_s: float) -> str:
    """Why it is waited for no longer, once no newer epoch has come for so long."""
    epoch = -1
    try:
        while True:
            async with asyncio.timeout(stall_s):
                epoch = await _above(store, heads, epoch)
    except TimeoutError:
        return f"epoch {epoch + 1} did not come within {stall_s:g} s"


async def _above(store: DirectoryStore, heads: HeadNotifier, epoch: int) -> int:
    """The newest head's epoch, once it is above this one; without a head it is the start's."""
    while True:
        announced = heads.next
        head = await to_thread(store.head)
        newest = head.epoch if head else 0
        if newest > epoch:
            return newest
        await announced.wait()
