"""Storage-root rotation: what lies under an older root is wrapped anew under the newest, inside the token.

All that there is to know of how far it has come are the root ids in the accounts themselves: killed anywhere, it goes
on by another walk. docs/protocol/ceremony.md.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple

import structlog

from ipls.hsm.rewrapping import Rewrap, Rewrapper
from ipls.hsm.state.store import StateStore
from ipls.hsm.token.pkcs11 import Record
from ipls.vault.account import Account, Generation
from ipls.vault.errors import SessionRefused
from ipls.vault.session.transcript import record_digest

log = structlog.get_logger()

PAGE = 32
"""Records looked at in a step, and keys after which it ends: some 50 ms, in which no session is answered. An account
that thieves filled takes longer, by itself."""
PAUSE_S = 0.1
"""Between two steps: service goes first."""
LOOK_EVERY_S = 60.0
"""How often the token is looked at for a newer storage root."""


class RotationProgress(NamedTuple):
    """What a step came to."""

    last: bytes | None  # the last record's key; None: there are no more
    wrapped: int  # so many keys lie under the newest root now
    left: int  # and so many could not be wrapped anew


class Rotation:
    """For works of the state store."""

    def __init__(self, state_store: StateStore, wrapper: Rewrapper) -> None:
        self._state_store = state_store
        self._wrapper = wrapper

    def storage_key_ids(self) -> list[bytes]:
        """See `Rewrapper`."""
        return self._wrapper.storage_key_ids()

    def step(self, storage_key_id: bytes, after: bytes) -> RotationProgress:
        """Wraps anew under `storage_key_id` what some accounts after that record have under others.

        Raises as `StateStore.keys`.
        """
        keys, wrapped, left = self._state_store.keys(after, PAGE), 0, 0
        for key in keys:
            try:
                account = account_of(self._state_store.get(key))
            except SessionRefused:  # an edited row is its own account's loss
                left += 1
                continue
            old = [g for g in account.generations if g.storage_key_id != storage_key_id] if account else []
            if account is None or not old:
                continue
            new = dict(zip(old, self._wrapper.rewrap([_rewrap(key, g, storage_key_id) for g in old]), strict=True))
            done = {
                g: g._replace(storage_key_id=storage_key_id, wrapped=blob)
                for g, blob in new.items()
                if blob is not None
            }
            if done:
                generations = tuple(done.get(g, g) for g in account.generations)
                self._state_store.put(key, account._replace(generations=generations).encode())
            wrapped, left = wrapped + len(done), left + len(old) - len(done)
            if wrapped + left >= PAGE:
                return RotationProgress(key, wrapped, left)
        return RotationProgress(keys[-1] if keys else None, wrapped, left)


async def keep_rotated(
    rotation: Rotation,
    durably: Callable[[Callable[[], Any]], Awaitable[Any]],
    renew_workers: Callable[[bytes], Awaitable[None]],
) -> None:
    """Walks through all accounts whenever the token has a newer storage root than before, and at the start.

    `durably` performs a work of the state store. `renew_workers` returns when none stores under another root than this
    one.
    """
    done = b""
    while True:
        try:
            newest, *older = await durably(rotation.storage_key_ids)
            if newest != done and older:
                await renew_workers(newest)
                await _rotate(rotation, durably, newest)
            done = newest
        except SessionRefused as refused:
            log.error("storage root rotation interrupted", reason=refused.reason, error=refused.message)
        await asyncio.sleep(LOOK_EVERY_S)


async def _rotate(
    rotation: Rotation, durably: Callable[[Callable[[], Any]], Awaitable[Any]], storage_key_id: bytes
) -> None:
    after, wrapped, left = b"", 0, 0
    while True:
        step: RotationProgress = await durably(partial(rotation.step, storage_key_id, after))
        wrapped, left = wrapped + step.wrapped, left + step.left
        if step.last is None:
            break
        after = step.last
        await asyncio.sleep(PAUSE_S)
    log.info("storage root rotated", root_id=storage_key_id.hex(), wrapped=wrapped, left=left)


def account_of(record: bytes | None) -> Account | None:
    """The account that a record is; None for one of another kind, whose form no account has."""
    try:
        return Account.decode(record or b"")
    except SessionRefused:
        return None


def _rewrap(key: bytes, g: Generation, storage_key_id: bytes) -> Rewrap:
    old, new = (
        Record(each, record_digest(each, key, g.number, g.store_id)) for each in (g.storage_key_id, storage_key_id)
    )
    return Rewrap(g.wrapped, old, new)
