"""From waiting updates to an epoch's row, and from the row back to the epoch. Blocking; no witness is asked here.

Tested by tests/server/directory/test_recovery.py and tests/store/directory/test_machine.py.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import structlog

from ipls.akd import AkdError, DirectoryKey, publish, republish, verify_append_only
from ipls.akd.prove import is_free
from ipls.auditlog.names import split_name
from ipls.server.directory.adoption import ResolvedUpdate, find, position, positions
from ipls.server.directory.errors import EpochDamaged, LogRefused
from ipls.store.directory import DirectoryStore, EpochRow, Leaf, PendingUpdate, PreparedEpoch, StoredHead
from ipls.store.errors import StoreRefused
from ipls.store.log import LogStore, object_name
from ipls.trust.limits import MAX_BLOB

log = structlog.get_logger()


def prepare(
    store: DirectoryStore, key: DirectoryKey, term: int, max_updates: int
) -> tuple[EpochRow, PreparedEpoch] | None:
    """Write the row of the epoch after the newest head, from at most `max_updates` waiting updates, one a label.

    Updates that change nothing are settled at the present epoch, those that bring an adopted leaf's value at the
    leaf's. Those that can't be made are left out. None if no other waits. The row is durable and final when this
    returns: from here on the epoch is this one or none. Raises EpochDamaged; StoreRefused LEASE_LOST.
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
            try:
                made = _make(store, key, head, found)
                assert made is not None, "every update of the batch changes its label"
                new = made.publication
                step = EpochRow(new.epoch, new.old_root, new.new_root, tuple(batch), new.blob)
                _check(step)
            except EpochDamaged:
                if not _leave_out(store, key, term, head, batch, found):
                    raise
            else:
                store.insert_step(term, step)
                return step, made
    return None


def _leave_out(
    store: DirectoryStore,
    key: DirectoryKey,
    term: int,
    head: StoredHead,
    batch: Sequence[PendingUpdate],
    found: Sequence[ResolvedUpdate],
) -> bool:
    """Take from the queue what keeps a batch from becoming an epoch; False if there is nothing of the kind.

    Refused is what no tree after this one can have: a leaf stands in its place, as an object of the log brought it that
    was adopted. Held is what goes over damage, which can be mended.
    """
    refused, held = list[PendingUpdate](), list[PendingUpdate]()
    for queued, each in zip(batch, found, strict=True):
        try:
            tree = store, key, head.epoch, head.root_hash, head.depth
            if not is_free(*tree, queued.label, each.update.current):
                refused.append(queued)
        except AkdError:
            held.append(queued)
    if refused:
        store.refuse(term, refused, head.epoch)
        log.error("updates refused", reason="LEAF_EXISTS", updates=len(refused))
    if held:
        store.hold(term, held)
    return bool(refused or held)


def adopt(store: DirectoryStore, log: LogStore, term: int, head: StoredHead) -> EpochRow | None:
    """Write the row of the epoch after `head` from the log's object, signed or not; None if the log has none.

    Any other object would be refused for ever. Raises OSError; LogRefused LOG_EPOCH_TAKEN if what is there is no step
    from `head`; StoreRefused LEASE_LOST.
    """
    epoch = head.epoch + 1
    with _refusals():
        names = [entry.name for entry in log.list(prefix=f"{epoch}/", limit=2)]
        if not names:
            return None
        blob = log.get(names[0])
    parts = split_name(names[0])
    assert parts is not None, "the log's store lists names"
    step = EpochRow(epoch, head.root_hash, bytes.fromhex(parts[2]), (), blob or b"")
    try:
        if names != [object_name(epoch, head.root_hash, step.new_root)] or len(step.blob) > MAX_BLOB:
            raise LogRefused("LOG_EPOCH_TAKEN", f"the log has another object for epoch {epoch} than one after our head")
        verify_append_only(step.old_root, step.new_root, step.epoch, step.blob)
    except AkdError as e:
        raise LogRefused("LOG_EPOCH_TAKEN", f"the log's object for epoch {epoch} proves no step: {e.reason}") from e
    store.insert_step(term, step)
    return step


def recompute(store: DirectoryStore, key: DirectoryKey, step: EpochRow) -> PreparedEpoch:
    """The epoch of a row written before, e.g. by a process that died.

    Raises EpochDamaged; STEP_DIFFERS if it comes out otherwise: proposing that would be a fork.
    """
    head = store.head()
    assert head is not None, "a row follows a head"
    if step.batch:
        made = _make(store, key, head, find(store, key, step.batch, head.epoch))
    else:
        made = _remake(store, head, step)
    row = (step.epoch, step.old_root, step.new_root, step.blob)
    if made is None or made.publication[:4] != row:
        message = f"the row of epoch {step.epoch} can't be made again from this database and VRF key"
        raise EpochDamaged("STEP_DIFFERS", message)
    _check(step)
    return made


def _check(step: EpochRow) -> None:
    """As an outsider does, not by the code that made it. Raises EpochDamaged STEP_UNPROVEN."""
    try:
        verify_append_only(step.old_root, step.new_root, step.epoch, step.blob)
    except AkdError as e:
        message = f"epoch {step.epoch} as it was made here does not prove that it only appends: {e.reason}"
        raise EpochDamaged("STEP_UNPROVEN", message) from e


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


def _corrupt(head: StoredHead, error: AkdError) -> EpochDamaged:
    return EpochDamaged("TREE_CORRUPT", f"the stored tree of epoch {head.epoch} is damaged: {error}")


def write_object(log: LogStore, step: EpochRow) -> bytes:
    """Claim the epoch and put the step into the log, durably; the object's bytes, which may be others that were there
    and prove the same step.

    Raises OSError; LogRefused if the epoch's object is another, or there can be none. Both are tried again: that there
    is another is the log's word alone.
    """
    name = object_name(step.epoch, step.old_root, step.new_root)
    with _refusals():
        try:
            log.put(name, step.blob)
            return step.blob
        except StoreRefused as e:
            there = log.get(name) if e.reason == "LOG_OBJECT_EXISTS" else None
            if there is None or len(there) > MAX_BLOB:
                raise
            try:
                verify_append_only(step.old_root, step.new_root, step.epoch, there)
            except AkdError as refused:
                raise LogRefused(e.reason, f"{e}, which don't prove the step: {refused.reason}") from refused
            return there


@contextmanager
def _refusals() -> Iterator[None]:
    """What the log's store refuses."""
    try:
        yield
    except StoreRefused as e:
        raise LogRefused(e.reason, str(e)) from e
