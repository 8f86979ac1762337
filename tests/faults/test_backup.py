"""Backups are made while all is written to, and put back whole, or refused where that would be a roll-back."""

import asyncio
import hashlib
import itertools
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from ipls.admin import backup as module
from ipls.admin.backup import BackupRefused, Restore, backup
from ipls.errors import IplsError
from ipls.store.contacts import open_contacts_store
from ipls.store.contacts.sqlite import SCHEMA as CONTACTS
from ipls.store.engine import sqlite
from ipls.store.line import Quota
from tests.client.deployment import Deployment, book
from tests.e2e.running import ipls
from tests.server.contact_stores import record

NOW = 1_800_000_000_000
LABEL = "+491700000009"


class Stored(Deployment):
    phone: Path
    """Has stored four contacts since the first backup."""


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """Off, after a backup while it ran (`first`), an account's store, and another backup while it ran (`second`)."""
    world = Stored(tmp_path_factory.mktemp("deployment") / "d")

    async def use() -> None:
        await world.stored(world.label(), book(3))
        backup(world.config, world.folder / "first", NOW)
        world.phone = await world.stored(world.label(), book(4))
        backup(world.config, world.folder / "second", NOW)

    with world.running():
        asyncio.run(use())
    return world


def refused(reason: str) -> object:
    return pytest.raises(IplsError, check=lambda error: error.reason == reason)


def digests(folder: Path) -> dict[str, str]:
    """Of the databases in it, by what is in them."""
    found = {}
    for file in sorted(folder.glob("*.db")):
        with closing(sqlite3.connect(file)) as db:
            found[file.name] = hashlib.sha256("\n".join(db.iterdump()).encode()).hexdigest()
    return found


def test_a_copy_is_one_moment_of_a_database_that_is_written_to(tmp_path: Path) -> None:
    written, over = threading.Event(), threading.Event()

    def write() -> None:
        with closing(open_contacts_store(tmp_path / "contacts.db")) as store:
            number = 0
            while not over.is_set():
                pair = [record(number)[1], record(number + 1)[1]]  # in one transaction: both or none
                store.lines.put(LABEL, 1, pair, None, quota=Quota(10**6, 10**9), now_ms=1)
                number += 2
                written.set()

    writer = threading.Thread(target=write)
    writer.start()
    counts = []
    try:
        for number in range(10):
            written.wait()
            written.clear()
            copy = tmp_path / f"copy{number}.db"
            sqlite.copy(tmp_path / "contacts.db", copy)
            assert sqlite.defects(copy, CONTACTS) == []
            with closing(sqlite3.connect(copy)) as db:
                numbers = sorted(int.from_bytes(data[:4], "big") for (data,) in db.execute("SELECT data FROM sealed"))
            assert numbers == list(range(len(numbers)))
            counts.append(len(numbers))
    finally:
        over.set()
        writer.join()
    assert all(count % 2 == 0 for count in counts)
    assert counts == sorted(counts)
    assert counts[-1] > counts[0]


def test_a_lost_disk_comes_back_from_the_newest_backup(world: Stored) -> None:
    before = digests(world.folder / "data")
    for file in [*(world.folder / "data").glob("*.db")]:
        file.unlink()
    shutil.rmtree(world.folder / "data/log/2")
    ended = ipls("restore", world.folder / "second", "--config", world.folder / "ipls.toml", "--yes")
    assert ended.returncode == 0, ended.stderr
    assert "roll-back" in ended.stdout  # said before it is done
    came_back = digests(world.folder / "data")
    assert came_back == before | {"directory.db": came_back["directory.db"]}  # its lease was given back since
    assert (world.folder / "data/log/2").is_dir()

    async def use() -> None:
        async with world.device(world.phone) as device:
            device.address_book.import_cards(book(2, "More"))
            assert (await device.store()).contacts == 6

    with world.running():
        asyncio.run(use())


@pytest.mark.parametrize(("part", "reason"), [("vault", "VAULT_DATABASE_BEHIND"), ("witness", "WITNESS_RESTORED")])
def test_a_roll_back_is_refused_before_anything_changes(world: Deployment, part: str, reason: str) -> None:
    before = digests(world.folder / "data")
    for parts in ([part], ["contacts", part]):
        with refused(reason):
            Restore(world.config, world.folder / "first", parts).run(replace=True)
    assert digests(world.folder / "data") == before
    assert [file.name for file in (world.folder / "data").glob(".*")] == []


def test_the_others_are_put_back_to_what_they_were(world: Deployment) -> None:
    before = digests(world.folder / "data")
    with refused("BACKUP_WOULD_REPLACE"):
        Restore(world.config, world.folder / "first", ["contacts"]).run(replace=False)
    assert digests(world.folder / "data") == before
    assert Restore(world.config, world.folder / "first", ["contacts"]).run(replace=True) == ["contacts"]
    after = digests(world.folder / "data")
    assert after["contacts.db"] == digests(world.folder / "first")["contacts.db"]
    assert after == {**before, "contacts.db": after["contacts.db"]}
    assert Restore(world.config, world.folder / "first", ["contacts"]).run(replace=True) == [
        "contacts"
    ]  # it was killed
    (world.folder / "data/contacts.db.replaced").rename(world.folder / "data/contacts.db")
    assert digests(world.folder / "data") == before


def test_a_service_that_starts_meanwhile_writes_nothing_that_is_lost(
    world: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried, real, database = [], module.put_in_place, world.folder / "data/contacts.db"

    def put_in_place(draft: Path, path: Path) -> None:
        with (
            closing(sqlite3.connect(database, timeout=0)) as db,
            pytest.raises(sqlite3.OperationalError, match="locked"),
        ):
            db.execute("DELETE FROM record")
        tried.append(path)
        real(draft, path)

    monkeypatch.setattr(module, "put_in_place", put_in_place)
    Restore(world.config, world.folder / "first", ["contacts"]).run(replace=True)
    assert tried == [database]


def test_a_service_that_runs_is_not_replaced(world: Deployment) -> None:
    with closing(open_contacts_store(world.config.contacts.database)), refused("BACKUP_PART_RUNS"):
        Restore(world.config, world.folder / "first", ["contacts"]).run(replace=True)


def test_what_is_no_whole_backup_of_this_deployment_is_refused(world: Deployment, tmp_path: Path) -> None:
    with refused("BACKUP_EXISTS"):
        backup(world.config, world.folder / "first", NOW)
    with refused("BACKUP_INVALID"):
        Restore(world.config, world.folder / "data")
    with refused("BACKUP_PART_UNKNOWN"):
        Restore(world.config, world.folder / "first", ["nothing"])
    copy = tmp_path / "copy"
    shutil.copytree(world.folder / "first", copy)
    data = bytearray((copy / "contacts.db").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "contacts.db").write_bytes(data)
    with refused("BACKUP_INVALID"):
        Restore(world.config, copy, ["contacts"]).run(replace=True)
    shutil.copy(copy / "registration.db", copy / "contacts.db")  # another role's
    listed = (copy / "backup.json").read_text()
    theirs, ours = (
        hashlib.sha256((world.folder / "first" / f"{n}.db").read_bytes()) for n in ("registration", "contacts")
    )
    (copy / "backup.json").write_text(listed.replace(ours.hexdigest(), theirs.hexdigest()))
    with refused("DATABASE_OTHER_ROLE"):
        Restore(world.config, copy, ["contacts"]).run(replace=True)


def test_a_database_that_is_a_link_is_put_back_where_it_lies(world: Deployment, tmp_path: Path) -> None:
    link = world.folder / "data/contacts.db"
    link.replace(tmp_path / "contacts.db")
    link.symlink_to(tmp_path / "contacts.db")
    Restore(world.config, world.folder / "first", ["contacts"]).run(replace=True)
    assert link.is_symlink()
    assert digests(tmp_path)["contacts.db"] == digests(world.folder / "first")["contacts.db"]


def test_the_logs_objects_come_back_one_by_one_and_as_they_were(world: Deployment, tmp_path: Path) -> None:
    copy, objects = tmp_path / "copy", world.folder / "data/log"
    shutil.copytree(world.folder / "first", copy)
    [lost] = [path for path in (objects / "1").rglob("*") if path.is_file()]
    before = lost.read_bytes()
    lost.unlink()  # its folder stays
    damaged = copy / "log" / lost.relative_to(objects)
    damaged.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    with refused("BACKUP_INVALID"):
        Restore(world.config, copy, ["log"]).run(replace=False)
    assert not lost.exists()
    assert Restore(world.config, world.folder / "first", ["log"]).run(replace=False) == ["log"]
    assert lost.read_bytes() == before
    listed = (copy / "backup.json").read_text()
    (copy / "backup.json").write_text(listed.replace(str(lost.relative_to(objects)), "../out"))
    with refused("BACKUP_INVALID"):
        Restore(world.config, copy, ["log"])


def test_a_restore_that_was_killed_is_run_again(world: Stored) -> None:
    """By SIGKILL, before each step that makes something durable or gives it its name."""
    data = world.folder / "data"
    old, new = digests(data), digests(world.folder / "second")
    [lost] = [path for path in (data / "log/1").rglob("*") if path.is_file()]
    whole = lost.read_bytes()
    lost.unlink()
    arguments = ["restore", world.folder / "second", "--config", world.folder / "ipls.toml", "--replace", "--yes"]
    command = [sys.executable, "-m", "tests.faults.killed"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as runs:
        assert runs.stdin
        assert runs.stdout
        for fatal in itertools.count():
            runs.stdin.write(json.dumps([fatal, [*map(str, arguments)]]) + "\n")
            runs.stdin.flush()
            ended = json.loads(runs.stdout.readline())
            found = digests(data)
            assert all(found[name] in (old[name], new.get(name)) for name in old)
            assert not lost.exists() or lost.read_bytes() == whole
            if ended["status"] != -signal.SIGKILL:
                break
    assert ended["status"] == 0, ended["err"]
    assert fatal > 3 * len(new)
    assert {name: found[name] for name in new} == new
    assert lost.read_bytes() == whole
    assert [*data.rglob(".*")] == []


def test_a_backup_that_does_not_come_to_its_end_is_none(world: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_new", fail)
    with pytest.raises(OSError, match="space"):
        backup(world.config, world.folder / "third", NOW)
    assert [path for path in world.folder.iterdir() if "third" in path.name] == []


def test_the_namespace_is_compared(world: Deployment, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(world.folder / "first", copy)
    (copy / "backup.json").write_text((copy / "backup.json").read_text().replace("test.ipls", "other.ipls"))
    with pytest.raises(BackupRefused, match="not a backup of"):
        Restore(world.config, copy)
