"""From waiting updates to an epoch's row, and from the row back to the epoch. Blocking; no witness is asked here."""

from collections.abc import Sequence

from ipls.akd import AkdError, DirectoryKey, Publication, Update, Version, publish, verify_append_only
from ipls.server.directory.errors import PublisherStopped
from ipls.store.directory import DirectoryStore, Queued, Step, StoredHead
from ipls.store.errors import StoreError
from ipls.store.log import LogStore, object_name


def prepare(store: DirectoryStore, key: DirectoryKey, max_updates: int) -> tuple[Step, Publication] | None:
    """Write the row of the epoch after the newest head, from at most `max_updates` waiting updates, one a label.

    Updates that change nothing are settled at the present epoch. None if no other waits. The row is durable and final
    when this returns: from here on the epoch is this one or none. Raises PublisherStopped TREE_CORRUPT.
    """
    head = store.head()
    assert head is not None, "an epoch follows a head"
    while batch := store.next_batch(max_updates):
        updates = _updates(store, batch, head)
        same = [q for q, u in zip(batch, updates, strict=True) if u.current and u.current.value == u.value]
        if same:
            store.settle(same, head.epoch)
            continue
        publication = _publish(store, key, head, updates)
        assert publication is not None, "every update of the batch changes its label"
        step = Step(publication.epoch, publication.old_root, publication.new_root, tuple(batch), publication.blob)
        store.insert_step(step)
        return step, publication
    return None


def recompute(store: DirectoryStore, key: DirectoryKey, step: Step) -> Publication:
    """The publication of a row written before, e.g. by a process that died.

    Raises PublisherStopped TREE_CORRUPT, and STEP_DIFFERS if it comes out otherwise: proposing that would be a fork.
    """
    head = store.head()
    assert head is not None, "a row follows a head"
    made = _publish(store, key, head, _updates(store, step.batch, head))
    row = (step.epoch, step.old_root, step.new_root, step.blob)
    if made is None or (made.epoch, made.old_root, made.new_root, made.blob) != row:
        raise PublisherStopped(
            "STEP_DIFFERS",
            f"the row of epoch {step.epoch} can't be made again from this database and VRF key: restore the database",
        )
    return made


def _publish(
    store: DirectoryStore, key: DirectoryKey, head: StoredHead, updates: Sequence[Update]
) -> Publication | None:
    try:
        return publish(store, key, head.epoch, head.root_hash, head.depth, updates)
    except AkdError as e:
        raise PublisherStopped("TREE_CORRUPT", f"the stored tree of epoch {head.epoch} is damaged: {e}") from e


def write_object(log: LogStore, step: Step) -> None:
    """Put the signed step into the log, durably; one there already will do if it proves the same step.

    Raises OSError (tried again later) and PublisherStopped if the epoch's object is another.
    """
    name = object_name(step.epoch, step.old_root, step.new_root)
    try:
        log.put(name, step.blob)
    except StoreError as e:
        there = log.get(name)
        if e.reason != "LOG_OBJECT_EXISTS" or there is None:
            raise PublisherStopped(e.reason, str(e)) from e
        try:
            verify_append_only(step.old_root, step.new_root, step.epoch, there)
        except AkdError as refused:
            raise PublisherStopped(e.reason, f"{e}, which don't prove the step: {refused.reason}") from refused


def _updates(store: DirectoryStore, batch: Sequence[Queued], head: StoredHead) -> list[Update]:
    def current(label: bytes) -> Version | None:
        return next(iter(store.versions(label, head.epoch, 1)), None)

    return [Update(q.label, q.value, current(q.label)) for q in batch]
