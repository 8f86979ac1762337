"""Store, restore and rotation (the design's Journeys): in an order in which a crash loses nothing, resumed by running
them again. Each fact is in the profile before anything that depends on it is sent.

Tested by tests/client/test_device.py and tests/client/test_two_phones.py.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from ipls.client.contact_store import BATCH_KEYS, ContactStore, RecordKey, StoredManifest
from ipls.client.errors import ProfileError, RefusedError
from ipls.client.events import JourneyStep, Progress, Report
from ipls.client.line_store import MAX_RECORDS, batches
from ipls.client.profile import Contact, ContactKey, ManifestSeen, Profile, Swap
from ipls.client.vault import Vault, VaultSession
from ipls.contacts import records
from ipls.contacts.cards.large import without_largest
from ipls.proto.vault.v1.vault_pb2 import ListAnswer


class Stored(NamedTuple):
    """What `store` came to: `written` records were sent of `contacts`, the manifest is this version."""

    contacts: int
    written: int
    generation: int
    version: int


class Restored(NamedTuple):
    """What `restore` came to: of `contacts` in the manifest, `fetched` were missing here; a new key if `rotated`."""

    contacts: int
    fetched: int
    generation: int
    version: int
    rotated: bool


class _Held(NamedTuple):
    """What vault and store hold: the verified manifest, its key, whether another identity or generation is current."""

    key: ContactKey
    manifest: records.Manifest
    stale: bool


class Sync:
    """The journeys of one registered device. Raises ClientError's kinds, CardError; what raised can be run again."""

    def __init__(self, profile: Profile, vault: Vault, store: ContactStore, *, report: Report) -> None:
        self._profile = profile
        self._account = profile.account
        self._vault = vault
        self._store = store
        self._report = report

    async def push(self) -> Stored:
        """Key to the vault, read back, then records, then the manifest; then what they replaced is dropped.

        Raises ProfileError RESTORE_FIRST where the account has contacts stored that this device never held.
        """
        await self._finish_swap()
        await self._check_remote()
        await self._bring_back_damaged()
        key = await self._current_key()
        written = await self._push_records(key)
        await self._push_manifest(key)
        if self._profile.progress.tidy:
            await self._tidy(key)
        seen = self._profile.manifest
        return Stored(len(self._profile.contacts()), written, seen.generation, seen.version)

    async def restore(self) -> Restored:
        """Key from the vault, manifest, records, all checked; then a new key where another identity stored the old one.

        Raises RefusedError NOTHING_STORED.
        """
        await self._finish_swap()
        held = await self._pull_key()
        fetched = await self._pull_records(held)
        manifest = held.manifest
        progress = self._profile.progress
        rotate = progress.rotate or held.stale
        with self._profile.transaction():
            self._profile.put(ManifestSeen(manifest.generation, manifest.version, _contents(manifest.records)))
            self._profile.put(progress._replace(rotate=rotate))
        self._report(JourneyStep("records restored", manifest.generation, len(manifest.records)))
        if self._profile.unfinished:
            await self.push()
        seen = self._profile.manifest
        rotated = seen.generation > manifest.generation
        return Restored(len(manifest.records), fetched, seen.generation, seen.version, rotated)

    # Keys

    async def _current_key(self) -> ContactKey:
        """The newest key, in the vault and read back; a new one where there is none or one is due."""
        keys = self._profile.contact_keys()
        if keys and not self._profile.progress.rotate:
            key = keys[-1]
        else:
            listing = await self._vault.run(VaultSession.list)
            key = ContactKey(listing.last_generation + 1, os.urandom(records.KEY_SIZE), os.urandom(16), False)
            with self._profile.transaction():
                self._profile.put_key(key)
                self._profile.put(self._profile.progress._replace(rotate=False))
            self._report(JourneyStep("key made", key.generation))
        return key if key.confirmed else await self._confirm(key)

    async def _confirm(self, key: ContactKey) -> ContactKey:
        async def store(session: VaultSession) -> None:
            await session.store(key.generation - 1, key.store_id, key.contact_key)
            self._report(JourneyStep("key stored", key.generation))
            if await session.retrieve(key.generation) != key.contact_key:
                raise RefusedError("KEY_READ_BACK", "the vault gave back another key than the one stored")

        try:
            await self._vault.run(store)
        except RefusedError as error:
            if error.reason == "VAULT_GENERATION_CONFLICT":  # another was stored since; nothing is sealed under this
                self._profile.drop_key(key.generation)
                self._profile.put(self._profile.progress._replace(rotate=True))
            raise
        confirmed = key._replace(confirmed=True)
        self._profile.put_key(confirmed)
        self._report(JourneyStep("key read back", key.generation))
        return confirmed

    async def _pull_key(self) -> _Held:
        """The newest manifest with its key, from this profile or from the vault."""
        stored = await self._store.manifest()
        self._check_rollback(stored)
        if stored is None:
            raise RefusedError("NOTHING_STORED", "the contact store has nothing for this account")
        own = next((k for k in self._profile.contact_keys() if k.confirmed and k.generation == stored.generation), None)

        async def fetch(session: VaultSession) -> tuple[ListAnswer, bytes]:
            listing = await session.list()
            return listing, own.contact_key if own else await session.retrieve(stored.generation)

        listing, contact_key = await self._vault.run(fetch)
        manifest = self._open_manifest(contact_key, stored)
        key = own or ContactKey(stored.generation, contact_key, b"", True)
        self._profile.put_key(key)
        if own is None:
            self._report(JourneyStep("key retrieved", key.generation))
        author = next((g.identity_version for g in listing.generations if g.generation == key.generation), 0)
        newer = any(
            k.generation > key.generation for k in self._profile.contact_keys()
        )  # a rotation of ours is under way
        stale = author != self._account.version or listing.last_generation != key.generation
        return _Held(key, manifest, stale and not newer)

    # Manifests

    async def _check_remote(self) -> None:
        """That the store's newest manifest is the one this device saw last."""
        stored, seen = await self._store.manifest(), self._profile.manifest
        self._check_rollback(stored)
        if stored is None:
            return
        keys = {key.generation: key.contact_key for key in self._profile.contact_keys()}
        if stored.version > seen.version or stored.generation not in keys:
            raise _restore_first()
        self._open_manifest(keys[stored.generation], stored)

    def _check_rollback(self, stored: StoredManifest | None) -> None:
        """A new device has seen nothing, so it can't tell an old manifest from the newest."""
        seen = self._profile.manifest
        version, generation = (stored.version, stored.generation) if stored else (0, 0)
        if version < seen.version or generation < seen.generation:
            raise RefusedError(
                "MANIFEST_ROLLED_BACK",
                f"the contact store shows manifest {version}; this device has seen {seen.version}",
            )

    def _open_manifest(self, contact_key: bytes, stored: StoredManifest) -> records.Manifest:
        manifest = records.open_manifest(
            contact_key,
            self._account.label,
            stored.generation,
            stored.version,
            stored.check_value,
            stored.ciphertext,
        )
        seen = self._profile.manifest
        if manifest.version == seen.version and _contents(manifest.records) != seen.contents:
            raise RefusedError("MANIFEST_FORK", "the contact store shows two manifests of one version")
        return manifest

    async def _push_manifest(self, key: ContactKey) -> None:
        seen = self._profile.manifest
        entries = {contact.id: contact.digest for contact in self._profile.contacts()}
        contents = _contents(entries)
        if (seen.generation, seen.contents) == (key.generation, contents):
            return
        manifest = records.Manifest(key.generation, seen.version + 1, entries)
        sealed = records.seal_manifest(key.contact_key, self._account.label, manifest)
        check = records.check_value(key.contact_key)
        self._profile.put(Swap(manifest.generation, manifest.version, check, sealed, contents))
        self._report(JourneyStep("manifest made", key.generation, len(entries)))
        await self._finish_swap()
        if self._profile.manifest.version != manifest.version:
            raise _restore_first()

    async def _finish_swap(self) -> None:
        """Send the manifest that is on its way, if one is; the store takes the same bytes twice.

        It is dropped where another device was first: what that one stored is to be looked at.
        """
        swap = self._profile.get(Swap)
        if swap is None:
            return
        try:
            await self._store.swap(StoredManifest(*swap[:4]))
        except RefusedError as error:
            if error.reason != "MANIFEST_CONFLICT":
                raise
            self._profile.remove(Swap)
            return
        with self._profile.transaction():
            self._profile.put(ManifestSeen(swap.generation, swap.version, swap.contents))
            self._profile.put(self._profile.progress._replace(tidy=True))
            self._profile.remove(Swap)
        self._report(JourneyStep("manifest swapped", swap.generation))

    # Records

    async def _bring_back_damaged(self) -> None:
        """What can't be read here any more, but is stored: the manifest that is made next would be without it."""
        if self._profile.count_contacts() > len(self._profile.contacts()) and self._profile.manifest.version:
            await self._pull_records(await self._pull_key())

    async def _push_records(self, key: ContactKey) -> int:
        """Seal and send every card that the store does not have under this key; how many there were."""
        missing = [contact for contact in self._profile.contacts() if contact.generation != key.generation]
        done = 0
        for batch in batches(self._sealed(key, missing), lambda record: len(record[1])):
            await self._store.put(batch)
            stored = missing[done : done + len(batch)]
            with self._profile.transaction():
                self._profile.put_contacts(
                    contact._replace(generation=key.generation, digest=record.digest)
                    for contact, (record, _) in zip(stored, batch, strict=True)
                )
            done += len(batch)
            self._report(Progress("storing", done, len(missing)))
        self._report(JourneyStep("records stored", key.generation, done))
        return done

    def _sealed(self, key: ContactKey, contacts: Iterable[Contact]) -> Iterator[tuple[RecordKey, bytes]]:
        for contact in contacts:
            # What the store can't take of a card stays in this profile alone; the import said so.
            card = without_largest(contact.card, records.MAX_CARD)
            data = records.seal_record(key.contact_key, self._account.label, key.generation, contact.id, card)
            yield RecordKey(key.generation, contact.id, records.digest(data)), data

    async def _pull_records(self, held: _Held) -> int:
        """Fetch and open what the manifest names and this profile lacks; what was not yet stored from here stays."""
        generation, label = held.key.generation, self._account.label
        newer = held.manifest.version > self._profile.manifest.version
        local = {contact.id: contact.digest for contact in self._profile.contacts()}
        missing = [
            RecordKey(generation, id, digest)
            for id, digest in held.manifest.records.items()
            if id not in local or (newer and local[id] not in (digest, b""))
        ]
        done = 0
        while done < len(missing):
            batch = missing[done : done + MAX_RECORDS]
            ciphertexts = await self._store.get(batch)
            with self._profile.transaction():
                self._profile.put_contacts(
                    Contact(
                        key.id,
                        records.open_record(held.key.contact_key, label, generation, key.id, ciphertext),
                        generation,
                        key.digest,
                    )
                    for key, ciphertext in zip(batch, ciphertexts, strict=False)
                )
            done += len(ciphertexts)
            self._report(Progress("restoring", done, len(missing)))
        return len(missing)

    async def _tidy(self, key: ContactKey) -> None:
        """Drop what the newest manifest replaced: keys in the vault and here, records in the store."""
        if any(k.generation < key.generation for k in self._profile.contact_keys()):
            await self._vault.run(lambda session: session.finish_rotation(key.generation))
            self._report(JourneyStep("rotation finished", key.generation))
        named = {RecordKey(key.generation, contact.id, contact.digest) for contact in self._profile.contacts()}
        orphans = sorted(await self._store.list() - named)
        for at in range(0, len(orphans), BATCH_KEYS):
            await self._store.drop(orphans[at : at + BATCH_KEYS])
        with self._profile.transaction():
            self._profile.drop_keys_below(key.generation)
            self._profile.put(self._profile.progress._replace(tidy=False))
        self._report(JourneyStep("old records dropped", key.generation, len(orphans)))


def _restore_first() -> ProfileError:
    return ProfileError("RESTORE_FIRST", "contacts were stored by another device; restore them here first")


def _contents(entries: Mapping[bytes, bytes]) -> bytes:
    """One hash of a manifest's list."""
    return hashlib.sha256(b"".join(id + digest for id, digest in sorted(entries.items()))).digest()
