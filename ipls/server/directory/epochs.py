"""From waiting updates to an epoch's row, and from the row back to the epoch. Blocking; no witness is asked here.

Tested by tests/server/directory/test_recovery.py and tests/store/directory/test_machine.py.
"""

from collections.abc import Sequence

from ipls.akd import AkdError, DirectoryKey, publish, republish, verify_append_only
from ipls.server.directory.adoption import ResolvedUpdate, find, position, positions
from ipls.server.directory.errors import PublisherStopped
from ipls.store.directory import DirectoryStore, EpochRow, Leaf, PreparedEpoch, StoredHead
from ipls.store.errors import StoreRefused
from ipls.store.log import LogStore, object_name


def prepare(
    store: DirectoryStore, key: DirectoryKey, term: int, max_updates: int
) -> tuple[EpochRow, PreparedEpoch] | None:
    """Write the row of the epoch after the newest head, from at most `max_updates` waiting updates, one a label.

    Updates that change nothing are settled at the present epoch, those that bring an adopted leaf's value at the
    leaf's. None if no other waits. The row is durable and final when this returns: from here on the epoch is this one
    or none. Raises PublisherStopped TREE_CORRUPT, StoreRefused LEASE_LOST.
    """
    head = store.head()
    assert head is not None, "an epoch follows a head"
    while batch := store.next_batch(max_updates):
        found = find(store, key, batch, head.epoch)
        there = [(q, each) for q, each in zip(batch, found, strict=True) if each.there]
        if there:
            shown = [version for _, each in there for version in each.shown()]
            settled = [(q, each.there.epoch) for q, each in there if each.there]
            store.reveal(term, settled, shown, positions(key, shown))
        elif same := [q for q, each in zip(batch, found, strict=True) if each.is_same]:
            store.settle(term, same, head.epoch)
        else:
            made = _make(store, key, head, found)
            assert made is not None, "every update of the batch changes its label"
            new = made.publication
            step = EpochRow(new.epoch, new.old_root, new.new_root, tuple(batch), new.blob)
            store.insert_step(term, step)
            return step, made
    return None


def adopt(store: DirectoryStore, term: int, head: StoredHead, new_root: bytes, blob: bytes) -> EpochRow:
    """Write the row of the epoch after `head` from a blob that witnesses signed.

    Raises AkdError if the blob doesn't prove the step, StoreRefused LEASE_LOST.
    """
    step = EpochRow(head.epoch + 1, head.root_hash, new_root, (), blob)
    verify_append_only(step.old_root, step.new_root, step.epoch, step.blob)
    store.insert_step(term, step)
    return step


def recompute(store: DirectoryStore, key: DirectoryKey, step: EpochRow) -> PreparedEpoch:
    """The epoch of a row written before, e.g. by a process that died.

    Raises PublisherStopped TREE_CORRUPT, and STEP_DIFFERS if it comes out otherwise: proposing that would be a fork.
    """
    head = store.head()
    assert head is not None, "a row follows a head"
    if step.batch:
        made = _make(store, key, head, find(store, key, step.batch, head.epoch))
    else:
        made = _remake(store, head, step)
    row = (step.epoch, step.old_root, step.new_root, step.blob)
    if made is None or made.publication[:4] != row:
        raise PublisherStopped(
            "STEP_DIFFERS",
            f"the row of epoch {step.epoch} can't be made again from this database and VRF key: restore the database",
        )
    return made


def _make(
    store: DirectoryStore, key: DirectoryKey, head: StoredHead, found: Sequence[ResolvedUpdate]
) -> PreparedEpoch | None:
    try:
        new = publish(store, key, head.epoch, head.root_hash, head.depth, [each.update for each in found])
    except AkdError as e:
        raise _corrupt(head, e) from e
    skipped = [version for each in found for version in each.shown()]
    return new and PreparedEpoch(new._replace(versions=[*skipped, *new.versions]), revealed=positions(key, skipped))


def _remake(store: DirectoryStore, head: StoredHead, step: EpochRow) -> PreparedEpoch:
    try:
        new, leaves = republish(store, head.epoch, head.root_hash, head.depth, step.blob)
    except AkdError as e:
        raise _corrupt(head, e) from e
    return PreparedEpoch(new, awaited=[Leaf(position(leaf.label), leaf.epoch, leaf.stored) for leaf in leaves])


def _corrupt(head: StoredHead, error: AkdError) -> PublisherStopped:
    return PublisherStopped("TREE_CORRUPT", f"the stored tree of epoch {head.epoch} is damaged: {error}")


def write_object(log: LogStore, step: EpochRow) -> None:
    """Put the signed step into the log, durably; one there already will do if it proves the same step.

    Raises OSError (tried again later) and PublisherStopped if the epoch's object is another, or there can be none.
    """
    name = object_name(step.epoch, step.old_root, step.new_root)
    try:
        log.put(name, step.blob)
    except StoreRefused as e:
        there = log.get(name) if e.reason == "LOG_OBJECT_EXISTS" else None
        if there is None:
            raise PublisherStopped(e.reason, str(e)) from e
        try:
            verify_append_only(step.old_root, step.new_root, step.epoch, there)
        except AkdError as refused:
            raise PublisherStopped(e.reason, f"{e}, which don't prove the step: {refused.reason}") from refused
