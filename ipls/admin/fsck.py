"""`ipls fsck`: every part of a deployment by its own check, and what of it can be made good again.

Tested by tests/faults/test_fsck.py.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ipls.admin import vault
from ipls.admin.directory import checking, opened
from ipls.akd import AkdError, verify_append_only
from ipls.auditlog import object_name
from ipls.config import Config, WitnessConfig, load_trust_root
from ipls.crypto.errors import VerificationError
from ipls.errors import IplsError
from ipls.proto.witness.v1.head_pb2 import Cosignature, SignedHead
from ipls.store.contacts import open_contacts_store
from ipls.store.contacts.sqlite import SCHEMA as CONTACTS
from ipls.store.directory import DirectoryStore
from ipls.store.directory.sqlite import SCHEMA as DIRECTORY
from ipls.store.engine import sqlite
from ipls.store.errors import StoreDamaged
from ipls.store.log import FileLog, LogStore
from ipls.store.log.opening import open_log
from ipls.store.readers.sqlite import SCHEMA as READERS
from ipls.store.registration.sqlite import SCHEMA as REGISTRATION
from ipls.store.witness import open_witness_store
from ipls.store.witness.sqlite import SCHEMA as WITNESS
from ipls.trust.heads import signers
from ipls.trust.root import TrustRoot
from ipls.vault.errors import SessionRefused

Progress = Callable[[str, int, int], None]


class Finding(NamedTuple):
    """What is wrong with a part; `do` is what is to be done about it, "" if it is `mended`."""

    part: str
    what: str
    do: str = ""
    mended: bool = False


def parts(config: Config) -> list[str]:
    """In their order."""
    witnesses = [f"witness {witness.name}" for witness in config.witnesses]
    return ["directory", "readers", "log", *witnesses, "vault", "contacts", "registration"]


def examine(config: Config, now_ms: int, *, repair: bool, progress: Progress) -> Iterator[Finding]:
    """What is wrong, part by part. `repair`: and make good what can be.

    Only reads otherwise, but for the progress of the directory's check; all but the vault may run. A part that can't
    be looked at is a finding.
    """
    root = load_trust_root(config.trust_root)
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("directory", lambda: _directory(config, repair, progress)),
        ("readers", lambda: _readers(config)),
        ("log", lambda: _log(config, repair)),
        *((f"witness {w.name}", lambda w=w: _witness(w, root, now_ms)) for w in config.witnesses),
        ("vault", lambda: _vault(config, repair)),
        ("contacts", lambda: _contacts(config)),
        ("registration", lambda: _registration(config)),
    ]
    for part, check in checks:
        try:
            yield from check()
        except (IplsError, OSError) as error:
            yield Finding(part, str(error), "see the text, then run this again")


def _pages(part: str, file: Path, schema: sqlite.Schema, do: str, *, repair: bool = False) -> Iterator[Finding]:
    """What SQLite finds."""
    found = sqlite.defects(file, schema)
    if repair and found:
        sqlite.reindex(file, schema)
        left = sqlite.defects(file, schema)
        yield from (Finding(part, f"{file}: {line}", mended=True) for line in found if line not in left)
        found = left
    yield from (Finding(part, f"{file}: {line}", do) for line in found)


def _directory(config: Config, repair: bool, progress: Progress) -> Iterator[Finding]:
    restore = "put a backup back (`ipls restore`); what it lacks comes from the log and the witnesses"
    broken = list(_pages("directory", config.directory.database, DIRECTORY, restore, repair=repair))
    yield from broken
    if any(not finding.mended for finding in broken):
        return
    mended = []

    def mend(tiles: Iterable[tuple[bytes, int, bytes | None]]) -> None:
        with opened(config) as store:
            store.mend_tiles(tiles)
        mended.append(True)

    with checking(config) as check:
        report = check.run(progress, mend if repair else None)
    by_itself = all(difference.prefix for difference in report.differences)
    do = "run this with --repair: the tree is made again from the versions" if by_itself else restore
    for what, prefix, epoch in report.differences:
        place = f"{what}: prefix {prefix.hex()}, epoch {epoch}" if prefix else f"{what}: epoch {epoch}"
        yield Finding("directory", place, "" if mended else do, bool(mended))


def _readers(config: Config) -> Iterator[Finding]:
    file = config.directory.database.with_name(config.directory.database.name + ".readers")
    if file.exists():
        yield from _pages(
            "readers", file, READERS, f"end the directory and remove {file}: sessions and quotas begin anew"
        )


def _log(config: Config, repair: bool) -> Iterator[Finding]:
    """Each epoch's object proves its step; one that does not is put back from the directory's row of the epoch."""
    log = open_log(config.log.objects)
    with opened(config) as store:
        head = store.head()
        for epoch in range(1, head.epoch + 1 if head else 1):
            if not _proves(log, store, epoch):
                yield _mended_object(log, store, epoch, repair)
        if step := store.unfinished_step():  # whose object may be there already, and keeps it from being signed
            blob = log.get(object_name(*step[:3]))
            if blob is not None and not _is_proof(blob, step.old_root, step.new_root, step.epoch):
                yield _mended_object(log, store, step.epoch, repair)


def _proves(log: LogStore, store: DirectoryStore, epoch: int) -> bool:
    before, after = store.head(epoch - 1), store.head(epoch)
    if before is None or after is None:
        return True  # of an epoch before this database's first
    blob = log.get(object_name(epoch, before.root_hash, after.root_hash))
    return blob is not None and _is_proof(blob, before.root_hash, after.root_hash, epoch)


def _is_proof(blob: bytes, old_root: bytes, new_root: bytes, epoch: int) -> bool:
    try:
        verify_append_only(old_root, new_root, epoch, blob)
    except AkdError:
        return False
    return True


def _mended_object(log: LogStore, store: DirectoryStore, epoch: int, repair: bool) -> Finding:
    what, step = f"epoch {epoch}: the object is missing or does not prove the step", store.step(epoch)
    if step is None or not _is_proof(step.blob, step.old_root, step.new_root, epoch):
        return Finding("log", what, "put it back from a copy of the log, or from a witness's database")
    if not isinstance(log, FileLog):
        return Finding("log", what, "show the earlier version of the object: an endpoint with Object Lock keeps it")
    if not repair:
        return Finding("log", what, "run this with --repair: the directory has the proof")
    log.mend(object_name(epoch, step.old_root, step.new_root), step.blob)
    return Finding("log", what, mended=True)


def _witness(witness: WitnessConfig, root: TrustRoot, now_ms: int) -> Iterator[Finding]:
    """A witness's signatures hold. Nothing of its state is made up: what it signed is known by its state alone."""
    part = f"witness {witness.name}"
    new_key = "give it a new key by a new trust root, as a witness that was restored (docs/operations.md)"
    broken = list(_pages(part, witness.database, WITNESS, new_key))
    yield from broken
    pinned = [each for each in root.witnesses if each.name == witness.name]
    if broken or not pinned:  # a witness that the trust root does not have signs for nobody here
        return
    alone = replace(root, witnesses=tuple(pinned), k=1)
    with closing(open_witness_store(witness.database, root.namespace, witness.watermark)) as store:
        newest = store.check_restored() or store.state().epoch
        for epoch in range(root.start_epoch, newest + 1):
            signed = store.shown(epoch)
            if signed is None or signed.cosignature is None:
                continue
            cosignature = Cosignature.FromString(signed.cosignature)
            head = SignedHead(epoch=epoch, root_hash=signed.root_hash, cosignatures=[cosignature])
            try:
                signers(alone, head, now_ms=now_ms, check_age=False)
            except VerificationError as refused:
                do = new_key if epoch == newest else "nothing: it can't show its signature, others can show theirs"
                yield Finding(part, f"epoch {epoch}: its signature does not hold: {refused.message}", do)


def _vault(config: Config, repair: bool) -> Iterator[Finding]:
    found: Sequence[IplsError]
    try:
        _, found = vault.check(config.vault)
    except (SessionRefused, StoreDamaged) as refused:  # it would not start
        found = [refused]
    if found and repair and isinstance(config.vault.database, Path):
        state = vault.recover_in_place(config.vault, config.vault.database)
        yield from (Finding("vault", f"{each.message} (of {state.sequence} entries)", mended=True) for each in found)
        return
    by_itself = (
        "run this with --repair" if isinstance(config.vault.database, Path) else "start it: it mends what it can"
    )
    do = f"{by_itself}, or `ipls vault recover` from a copy of the database (docs/operations.md)"
    yield from (Finding("vault", f"{each.reason}: {each.message}", do) for each in found)


def _contacts(config: Config) -> Iterator[Finding]:
    yield from _pages("contacts", config.contacts.database, CONTACTS, "put a backup back (`ipls restore`)")
    with closing(open_contacts_store(config.contacts.database)) as store:
        for key in store.damaged():
            yield Finding(
                "contacts",
                f"the record {key.id.hex()} of generation {key.generation} is not the one that was stored",
                "it is lost here; only its owner's phone has it: `ipls client vault delete`, then `ipls client store`",
            )
        for name in store.lines.damaged():
            yield Finding(
                "contacts",
                f"the record {name.hex()} is not the one that was stored",
                "it is lost here; a phone that has it puts it again by itself",
            )


def _registration(config: Config) -> Iterator[Finding]:
    file = config.registration.database
    if isinstance(file, Path) and file.exists():
        do = f"end the service and move {file} aside: who is registering just now asks for another code"
        yield from _pages("registration", file, REGISTRATION, do)
