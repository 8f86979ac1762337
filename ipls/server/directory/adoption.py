"""Epochs that the log has and this database lacks: whose values their leaves hold.

A database that was put back to an older state has lost rows that are in the log, where whatever witnesses have signed
is. It takes them again from there (the directory spec, "An epoch"). A blob has leaves only: which label and value is
behind one shows when the messaging service submits the update again, when it still waits here, or when the device whose
key it is comes to read.
"""

import secrets
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ipls.akd import DirectoryKey, Update, Version
from ipls.akd.hashing import STALE_COMMITMENT
from ipls.akd.keys import Place
from ipls.akd.labels import Label
from ipls.akd.publish import make_leaves
from ipls.store.directory import DirectoryStore, Leaf, PendingUpdate
from ipls.store.errors import StoreRefused


class ResolvedUpdate(NamedTuple):
    """What stands before a queued update, which says the label's newest version.

    `skipped` are adopted versions whose values the update does not bring: they count as erased. `there` is an adopted
    one, above them, that has the very value.
    """

    update: Update
    skipped: list[Version]
    there: Version | None

    @property
    def is_same(self) -> bool:
        return self.update.current is not None and self.update.current.value == self.update.value

    def shown(self) -> list[tuple[bytes, Version]]:
        """The versions that the update makes known."""
        return [(self.update.label, version) for version in (*self.skipped, *filter(None, [self.there]))]


def find(store: DirectoryStore, key: DirectoryKey, batch: Sequence[PendingUpdate], epoch: int) -> list[ResolvedUpdate]:
    """Of each update what there is at `epoch`, the newest."""
    awaits = store.awaits(epoch)
    found = []
    for queued in batch:
        current = next(iter(store.versions(queued.label, epoch, 1)), None)
        skipped, there = list[Version](), None
        while awaits and not there and (awaited := _next(store, key, queued.label, current, epoch)):
            node, number, leaf = awaited
            if key.commit([(node, number, queued.value)]) == [leaf.stored]:
                current = there = Version(number, leaf.epoch, queued.value)
            else:
                current = Version(number, leaf.epoch, b"")
                skipped.append(current)
        found.append(ResolvedUpdate(Update(queued.label, queued.value, current), skipped, there))
    return found


def submit_again(
    store: DirectoryStore,
    key: DirectoryKey,
    label: bytes,
    value: bytes,
    now_ms: int,
    *,
    daily_quota: int,
    queue_max: int,
) -> bool:
    """Queue the update whose lost value is shown here; False if no awaited leaf of the label holds it.

    Whoever knows a value can do so: it says nothing that the tree does not. Raises StoreRefused as `submit`.
    """
    head = store.head()
    [found] = find(store, key, [PendingUpdate(0, label, value)], head.epoch) if head else [None]
    if found is None or found.there is None:
        return False
    store.submit(secrets.token_bytes(16), label, value, now_ms, daily_quota=daily_quota, queue_max=queue_max)
    return True


def _next(
    store: DirectoryStore, key: DirectoryKey, label: bytes, current: Version | None, epoch: int
) -> tuple[Label, int, Leaf] | None:
    """The awaited leaf of the label's version after `current`, with its place and version.

    None if the one that retires `current` did not come with it: no history could show that version.
    """
    number = current.version + 1 if current else 1
    places = [Place(label, True, number), *([Place(label, False, current.version)] if current else [])]
    node, *retired = key.locate(places)
    leaf = store.awaited(position(node), epoch)
    if leaf is None:
        return None
    expected = [Leaf(position(old), leaf.epoch, STALE_COMMITMENT) for old in retired]
    found = [store.awaited(position(old), epoch) for old in retired]
    return (node, number, leaf) if found == expected else None


def position(node: Label) -> bytes:
    """A leaf's key among those awaited."""
    return node.bits.to_bytes(32, "big")


def positions(key: DirectoryKey, versions: Iterable[tuple[bytes, Version]]) -> list[bytes]:
    """Of the leaves that these versions put into the tree."""
    return [position(leaf.label) for leaf in make_leaves(key, list(versions))]


def known_versions(
    store: DirectoryStore, key: DirectoryKey, label: bytes, epoch: int, most_recent: int
) -> list[Version]:
    """As `store.versions`. Raises StoreRefused VALUE_AWAITED where the newest of them is not the tree's newest."""
    awaits = store.awaits(epoch)
    versions = store.versions(label, epoch, most_recent)
    if awaits:
        current = versions[0] if versions else None
        awaited = _next(store, key, label, current, epoch)
        if awaited or store.versions(label, epoch, 1) != versions[:1]:  # or it came to be known meanwhile
            message = f"the newest value at epoch {epoch} was lost with a database; its owner must register again"
            raise StoreRefused("VALUE_AWAITED", message, retry_after_s=5)
    return versions
