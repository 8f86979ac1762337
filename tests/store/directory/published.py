"""A directory's database with real epochs in it, made without witnesses, and the plain model of what was published."""

import sqlite3
from contextlib import closing
from pathlib import Path

from ipls.akd import (
    EMPTY_ROOT,
    DirectoryKey,
    Publication,
    Row,
    Version,
    make_history,
    make_lookup,
    verify_history,
    verify_lookup,
)
from ipls.server.directory.epochs import prepare
from ipls.store.directory import StoredHead, open_directory_store
from ipls.store.directory.fsck import Fsck, Report

NAMESPACE = "test.ipls"
KEY = DirectoryKey.from_seed(b"\x07" * 32)
NOW_MS = 1_700_000_000_000


def label(number: int) -> bytes:
    return b"+49170%07d" % number


class Published:
    """`made` are the publications, epoch by epoch from 1; `models` what each label had at each epoch, from 0."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = open_directory_store(path, NAMESPACE, KEY.public_key)
        self.term = self.store.take_lease(self.store.lease())
        self.store.commit_start(self.term, StoredHead(0, EMPTY_ROOT, 0, b"signed"))
        self.made: list[Publication] = []
        self.models: list[dict[bytes, list[Version]]] = [{}]
        self._requests = 0

    def publish(self, *numbers: int) -> None:
        """One epoch in which these labels get a value that none had before."""
        for number in numbers:
            self._requests += 1
            request = self._requests.to_bytes(16, "big")
            self.store.submit(
                request, label(number), b"value %d" % self._requests, NOW_MS, daily_quota=99, queue_max=999
            )
        prepared = prepare(self.store, KEY, self.term, 1000)
        assert prepared
        step, made = prepared
        self.store.commit(self.term, step, made, b"signed")
        self.made.append(made.publication)
        model = {name: list(versions) for name, versions in self.models[-1].items()}
        for name, version in made.publication.versions:
            model.setdefault(name, []).insert(0, version)
        self.models.append(model)

    def check_epoch(self, epoch: int) -> None:
        """Every label of the model, and no other version, is proved against the epoch's root. Raises EPOCH_PRUNED."""
        head = self.store.head(epoch)
        assert head
        for name, model in self.models[epoch].items():
            versions = self.store.versions(name, epoch)
            lookup = make_lookup(self.store, KEY, epoch, head.depth, name, versions[0])
            assert verify_lookup(head.root_hash, epoch, KEY.public_key, name, lookup) == model[0]
            history = make_history(self.store, KEY, epoch, head.depth, name, versions)
            assert list(verify_history(head.root_hash, epoch, KEY.public_key, name, history)) == model

    def prune(self, limit: int = 100) -> None:
        """All that may go."""
        after: tuple[int, int] | None = (0, 0)
        while after:
            after = self.store.prune_tiles(self.term, after, limit)

    def rows(self) -> list[Row]:
        """What is stored."""
        with closing(sqlite3.connect(self.path)) as db:
            return sorted(Row(*row) for row in db.execute("SELECT prefix, epoch, body FROM tile"))

    def change(self, statement: str, *parameters: object) -> None:
        """One row, behind the store's back."""
        with closing(sqlite3.connect(self.path)) as db, db:
            assert db.execute(statement, parameters).rowcount == 1

    def needed(self) -> list[Row]:
        """What the rule leaves of all the rows ever written."""
        floor, pins = self.store.floor(), self.store.pins()
        gone = {
            key
            for made in self.made
            for key in made.superseded
            if made.epoch <= floor and not any(key[1] <= pin < made.epoch for pin in pins)
        }
        rows = {row[:2]: row for made in self.made for row in made.rows}
        return sorted(row for key, row in rows.items() if key not in gone)

    def fsck(self, leaves_at_once: int = 5000) -> Report:
        return Fsck(self.path, NAMESPACE, KEY, leaves_at_once=leaves_at_once).run(lambda *_: None)
