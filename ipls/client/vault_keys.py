"""An account's contact keys between its line and the vault: made, read back, fetched, let go; and its checkpoints.

Tested by tests/client/test_device.py.
"""

import os
from collections.abc import Mapping
from functools import partial

from ipls.client.errors import RefusedError
from ipls.client.events import JourneyStep, Report
from ipls.client.line.kept import ATTEMPT, KEYS, Attempt, Kept, KeyRow
from ipls.client.line.parts import Checkpoint, KeyVault
from ipls.client.vault import Vault, VaultSession
from ipls.contacts.sealing import KEY_BYTES, ContactKey
from ipls.proto.vault.v1.vault_pb2 import ListAnswer

_TRIES = 3
"""So often may another device store a key just before this one."""


class VaultKeys(KeyVault):
    """Raises RefusedError and TryLaterError."""

    def __init__(self, kept: Kept, vault: Vault, label: str, version: int, report: Report) -> None:
        """`version`: of the identity that this device has now."""
        self._kept = kept
        self._version = version
        self._vault = vault
        self._label = label
        self._report = report

    async def make(self, above: int) -> ContactKey:
        """See `KeyVault`. Raises RefusedError KEY_READ_BACK."""
        rows = self._kept.rows.all(KEYS)
        unused = [row for row in rows if row.generation > above and row.made_by == self._version]
        if unused:
            return self._key(max(unused))
        for _ in range(_TRIES):
            attempt = self._kept.rows.only(ATTEMPT)
            if attempt is None or attempt.made_by != self._version:
                attempt = await self._begin()
            try:
                await self._vault.run(partial(self._store, attempt))
                break
            except RefusedError as error:
                if error.reason != "VAULT_GENERATION_CONFLICT":
                    raise
                self._kept.rows.remove(ATTEMPT)  # another was stored since; nothing is sealed under this
        else:
            raise RefusedError("VAULT_GENERATION_CONFLICT", "other devices of the account store keys all the while")
        row = KeyRow(attempt.generation, attempt.secret, self._version)
        with self._kept.rows.transaction():
            self._kept.rows.put(KEYS, row)
            self._kept.rows.remove(ATTEMPT)
        self._kept.keys[row.generation] = self._key(row)
        self._report(JourneyStep("key read back", row.generation))
        return self._key(row)

    async def _begin(self) -> Attempt:
        last = (await self._list()).last_generation
        attempt = Attempt(last + 1, os.urandom(KEY_BYTES), os.urandom(16), self._version)
        self._kept.rows.put(ATTEMPT, attempt)
        self._report(JourneyStep("key made", attempt.generation))
        return attempt

    async def _store(self, attempt: Attempt, session: VaultSession) -> None:
        await session.store(attempt.generation - 1, attempt.store_id, attempt.secret)
        self._report(JourneyStep("key stored", attempt.generation))
        if await session.retrieve(attempt.generation) != attempt.secret:
            raise RefusedError("KEY_READ_BACK", "the vault gave back another key than the one stored")

    async def fetch(self, generation: int) -> ContactKey:
        secret = await self._vault.run(lambda session: session.retrieve(generation))
        self._report(JourneyStep("key retrieved", generation))
        return ContactKey(secret, self._label, generation)

    async def finish(self, generation: int) -> None:
        await self._vault.run(lambda session: session.finish_rotation(generation))
        self._report(JourneyStep("rotation finished", generation))

    async def set_checkpoint(self, checkpoint: Checkpoint) -> None:
        await self._vault.run(lambda session: session.checkpoint(*checkpoint))

    async def checkpoints(self) -> Mapping[int, Checkpoint]:
        return {
            kept.identity_version: Checkpoint(kept.line, kept.n, kept.chain)
            for kept in (await self._list()).checkpoints
        }

    async def _list(self) -> ListAnswer:
        return await self._vault.run(VaultSession.list)

    def _key(self, row: KeyRow) -> ContactKey:
        return ContactKey(row.secret, self._label, row.generation)
