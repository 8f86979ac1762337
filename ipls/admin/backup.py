"""Copies of a deployment's databases while it runs, and putting them back.

A backup is a folder: a file of SQLite a part, the log's objects, and `backup.json`, which says what they are. It
appears whole, by a rename. Keys, certificates and tokens are not in it: who has those is the deployment.

Tested by tests/faults/test_backup.py.
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ipls.config import Config, WitnessConfig, load_trust_root
from ipls.errors import IplsError
from ipls.hsm.anchor_service import open_anchor_service
from ipls.hsm.state import anchor, replay
from ipls.store.contacts import open_contacts_store
from ipls.store.contacts.sqlite import SCHEMA as CONTACTS
from ipls.store.directory import open_directory_store
from ipls.store.directory.sqlite import SCHEMA as DIRECTORY
from ipls.store.engine import sqlite
from ipls.store.errors import StoreUnavailable
from ipls.store.files import put_in_place, sync, write_new
from ipls.store.registration import open_registration_store
from ipls.store.registration.sqlite import SCHEMA as REGISTRATION
from ipls.store.vault import open_vault_store
from ipls.store.vault.sqlite import SCHEMA as VAULT
from ipls.store.witness import open_witness_store
from ipls.store.witness.sqlite import SCHEMA as WITNESS
from ipls.trust.root import TrustRoot

_LIST = "backup.json"


class BackupRefused(IplsError):
    """BACKUP_EXISTS, BACKUP_INVALID, BACKUP_PART_UNKNOWN, BACKUP_WOULD_REPLACE, BACKUP_PART_RUNS."""


class _Part(NamedTuple):
    name: str
    database: Path
    schema: sqlite.Schema
    check: Callable[[Path], None]
    """Of a copy: that it is this part's database, and one that the part would go on with. Raises IplsError."""
    means: str
    """What putting back an older one means."""


def backup(config: Config, folder: Path, now_ms: int) -> list[str]:
    """Copy every part into a new folder, also while it is written to: each as it is at one moment. What was copied.

    Killed, it leaves a folder beside it under a name that begins with a dot. Raises BackupRefused BACKUP_EXISTS,
    StoreError, OSError.
    """
    if folder.exists():
        raise BackupRefused("BACKUP_EXISTS", f"{folder} is there already; name a new folder")
    draft = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
    draft.mkdir(mode=0o700, parents=True)
    try:
        files, objects = {}, {}
        for part in _parts(config):
            if part.database.exists():
                copy = draft / f"{part.name}.db"
                _copy(part.database, copy)
                files[part.name] = _digest(copy)
        if isinstance(config.log.objects, Path):  # after the directory: the log may lead its head, not lag
            shutil.copytree(config.log.objects, draft / "log", ignore=shutil.ignore_patterns(".*"))
            objects = {str(file.relative_to(draft / "log")): _digest(file) for file in _files_in(draft / "log")}
        namespace = load_trust_root(config.trust_root).namespace
        listed = {"namespace": namespace, "made_ms": now_ms, "files": files, "log": objects}
        write_new(draft / _LIST, json.dumps(listed).encode() + b"\n")
        _sync_all(draft)
        draft.rename(folder)
        sync(folder.parent)
    except BaseException:  # Ctrl-C too
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return sorted(files)


def _copy(source: Path, target: Path) -> None:
    target.touch(mode=0o600)
    sqlite.copy(source, target)
    sqlite.settle(target)


def _sync_all(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        sync(path)


class Restore:
    """A backup that is to be put back. Look at `means` first: nothing has changed before `run`."""

    def __init__(self, config: Config, folder: Path, parts: Sequence[str] = ()) -> None:
        """`parts`: only these. Raises BackupRefused BACKUP_INVALID, BACKUP_PART_UNKNOWN."""
        self._config = config
        self._folder = folder
        listed = _read_list(folder)
        namespace = load_trust_root(config.trust_root).namespace
        if listed.get("namespace") != namespace:
            raise BackupRefused("BACKUP_INVALID", f"{folder} is not a backup of {namespace}")
        self._files: dict[str, str] = listed["files"]
        self._objects: dict[str, str] = listed["log"]
        self._log = not parts or "log" in parts
        if unknown := set(parts) - {*self._files, "log"}:
            raise BackupRefused("BACKUP_PART_UNKNOWN", f"{folder} has no {', '.join(sorted(unknown))}")
        self._wanted = [part for part in _parts(config) if part.name in (parts or self._files)]
        self.made_ms = int(listed["made_ms"])

    def means(self) -> list[str]:
        """What is put back, and what that means, a line a part."""
        lines = [f"{part.name}: {part.means}" for part in self._wanted if part.name in self._files]
        return [*lines, "log: objects that are missing come back; none is replaced"] if self._log else lines

    def run(self, *, replace: bool) -> list[str]:
        """Put every part back, or none: each copy is checked before any file changes. What was put back.

        `replace`: also where there is a database, which stays beside the new one as `….replaced`. Killed in the middle,
        each part has its old file or its new one; run it again. Raises BackupRefused BACKUP_INVALID (not the bytes that
        were copied, or damaged), BACKUP_WOULD_REPLACE, BACKUP_PART_RUNS; what a part refuses: SessionRefused
        VAULT_DATABASE_BEHIND, StoreRefused WITNESS_RESTORED, DATABASE_FOREIGN and others; StoreError, OSError.
        """
        log = self._config.log.objects if self._log else None
        missing = [name for name in self._objects if isinstance(log, Path) and not (log / name).exists()]
        for name in missing:
            copy = self._folder / "log" / name
            if not copy.is_file() or _digest(copy) != self._objects[name]:
                raise BackupRefused(
                    "BACKUP_INVALID", f"the log's object {name} in {self._folder} is not what was backed up"
                )
        with self._drafts(replace) as drafts:
            for part, draft in drafts:
                _put(draft, part.database)
        if isinstance(log, Path):
            for leftover in log.glob(".restored-*"):  # of one that was killed
                leftover.unlink(missing_ok=True)
            for name in missing:
                _put_object(self._folder / "log" / name, log, name)
        return [part.name for part, _ in drafts] + (["log"] if self._log else [])

    @contextmanager
    def _drafts(self, replace: bool) -> Iterator[list[tuple[_Part, Path]]]:
        """Checked copies, each beside the file whose place it is to take, which nobody else has in the block."""
        drafts: list[tuple[_Part, Path]] = []
        held = ExitStack()
        try:
            for part in self._wanted:
                _hold(held, part, replace)
                draft = part.database.with_name(f".{part.database.name}.restored")
                _remove(draft)
                shutil.copyfile(self._folder / f"{part.name}.db", draft)
                draft.chmod(0o600)
                drafts.append((part, draft))
                if _digest(draft) != self._files[part.name] or sqlite.defects(draft, part.schema):
                    raise BackupRefused("BACKUP_INVALID", f"{part.name}: the copy is not what was backed up")
                part.check(draft)
                sqlite.settle(draft)
            yield drafts
        finally:
            held.close()
            for _, draft in drafts:
                _remove(draft)


def _parts(config: Config) -> list[_Part]:
    root = load_trust_root(config.trust_root)

    def directory(copy: Path) -> None:
        open_directory_store(copy, root.namespace, root.vrf_public_key).close()

    def vault(copy: Path) -> None:
        with closing(open_vault_store(copy, wait=False)) as store, open_anchor_service(config.vault) as anchor_service:
            replay.catch_up(store, anchor_service, anchor.read_anchor(anchor_service).state)

    parts = [
        _Part(
            "directory",
            config.directory.database,
            DIRECTORY,
            directory,
            "epochs since then come back from the log and the witnesses; updates that waited since then have to be"
            " submitted again",
        ),
        *(_witness(witness, root) for witness in config.witnesses),
        _Part(
            "contacts",
            config.contacts.database,
            CONTACTS,
            lambda copy: open_contacts_store(copy).close(),
            "what was stored since then is lost here; a phone that saw a newer state refuses the old one",
        ),
    ]
    if isinstance(config.vault.database, Path):
        means = (
            "only a copy that reaches the entry that the token names is put back: an older one is a roll-back, which"
            " the vault refuses for ever"
        )
        parts.append(_Part("vault", config.vault.database, VAULT, vault, means))
    if isinstance(config.registration.database, Path):
        means = "who is registering just now asks for another code"
        parts.append(
            _Part(
                "registration",
                config.registration.database,
                REGISTRATION,
                lambda copy: open_registration_store(copy).close(),
                means,
            )
        )
    return [part._replace(database=part.database.resolve()) for part in parts]  # a link stays, what it leads to is put


def _witness(witness: WitnessConfig, root: TrustRoot) -> _Part:
    def check(copy: Path) -> None:
        with closing(open_witness_store(copy, root.namespace, witness.watermark)) as store:
            store.check_restored()

    means = (
        "only a copy with all that it has signed is put back: one that is older has forgotten what it signed, and the"
        " witness needs a new key by a new trust root"
    )
    return _Part(witness.name, witness.database, WITNESS, check, means)


def _hold(held: ExitStack, part: _Part, replace: bool) -> None:
    """Keeps its service off until all is in place: what that wrote would be replaced."""
    if not part.database.exists():
        return
    if not replace:
        raise BackupRefused(
            "BACKUP_WOULD_REPLACE", f"{part.database} is there; with --replace it is kept beside the one put back"
        )
    try:
        held.enter_context(sqlite.alone(part.database))
    except StoreUnavailable as error:
        raise BackupRefused("BACKUP_PART_RUNS", f"{part.name}: its database is in use; end it first") from error
    except IplsError:
        pass  # damaged: it is what is to be replaced


def _put(draft: Path, database: Path) -> None:
    """A log of the old file's must not lie beside the new one: SQLite would play it into that. What was replaced before
    is not replaced itself: after a restore that was killed, it is the one to be kept."""
    kept = database.with_name(f"{database.name}.replaced")
    if kept.exists():
        kept = kept.with_name(f"{kept.name}-{secrets.token_hex(8)}")
    for suffix in ("-wal", "-shm"):
        log = database.with_name(database.name + suffix)
        if log.exists():
            log.replace(kept.with_name(kept.name + suffix))
    if database.exists():
        os.link(database, kept)
    put_in_place(draft, database)


def _put_object(copy: Path, objects: Path, name: str) -> None:
    """Whole or not at all; its folder may be there without it."""
    draft, place = objects / f".restored-{secrets.token_hex(8)}", objects / name
    shutil.copy(copy, draft)
    sync(draft)
    place.parent.mkdir(parents=True, exist_ok=True)
    draft.rename(place)
    for folder in (place.parent, place.parent.parent, objects):
        sync(folder)


def _files_in(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def _remove(draft: Path) -> None:
    for path in draft.parent.glob(f"{draft.name}*"):
        path.unlink()


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _read_list(folder: Path) -> dict[str, Any]:
    try:
        listed: dict[str, Any] = json.loads((folder / _LIST).read_bytes())
        int(listed["made_ms"])
        dict(listed["files"])
        if any(".." in Path(name).parts or Path(name).is_absolute() for name in listed["log"]):
            raise ValueError("an object outside the log")
        return listed
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackupRefused("BACKUP_INVALID", f"{folder} is not a backup, or not a whole one") from error
