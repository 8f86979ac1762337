"""`ipls fsck` names what is damaged in each part of a deployment, and makes good again what can be."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from ipls.admin.fsck import Finding, examine, parts
from ipls.akd import DirectoryKey
from ipls.clock import system_now_ms
from ipls.config import load_trust_root, read_secret
from ipls.crypto.keys import public_key
from ipls.server.directory.epochs import prepare
from ipls.store.directory import open_directory_store
from ipls.store.log import FileLog, object_name
from ipls.store.vault import LogRow
from ipls.trust.identity import encode_record
from tests.client.deployment import Deployment, book
from tests.e2e.running import ipls
from tests.faults.test_bit_flips import flipped


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    """Of two epochs, with an account that stored contacts; off now."""
    world = Deployment(tmp_path_factory.mktemp("deployment") / "d")

    async def use() -> None:
        await world.stored(world.label(), book(3))
        await world.registered(world.label())

    with world.running():
        asyncio.run(use())
    return world


def fsck(world: Deployment, *, repair: bool = False) -> list[Finding]:
    return list(examine(world.config, system_now_ms(), repair=repair, progress=lambda *_: None))


def flip(database: Path, table: str, column: str) -> None:
    """A bit of the last row."""
    with closing(sqlite3.connect(database)) as db, db:
        triggers = db.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            db.execute(f"DROP TRIGGER {name}")
        last = f"(SELECT {column} FROM {table} WHERE {column} IS NOT NULL ORDER BY 1 DESC LIMIT 1)"
        [(value,)] = db.execute(f"SELECT {last}")
        assert db.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = {last}", (flipped(value),)).rowcount
        for _, sql in triggers:
            db.execute(sql)


def test_a_whole_deployment_is_whole(world: Deployment) -> None:
    assert fsck(world) == fsck(world, repair=True) == []
    ended = ipls("fsck", "--config", world.folder / "ipls.toml")
    assert (ended.returncode, ended.stdout) == (
        0,
        "whole: directory, readers, log, witness witness, vault, contacts, registration\n",
    )


def test_tiles_are_made_again_from_the_versions(world: Deployment) -> None:
    flip(world.config.directory.database, "tile", "body")
    assert [(each.part, each.mended) for each in fsck(world)] == [("directory", False)]
    ended = ipls("fsck", "--config", world.folder / "ipls.toml")
    assert ended.returncode == 1
    assert "--repair" in ended.stdout
    assert [(each.part, each.mended) for each in fsck(world, repair=True)] == [("directory", True)]
    assert fsck(world) == []


def test_a_version_that_differs_is_not_mended_by_its_own_word(world: Deployment) -> None:
    flip(world.config.directory.database, "version", "value")
    found = fsck(world, repair=True)
    assert {each.part for each in found} == {"directory"}
    assert not any(each.mended for each in found)
    assert any("ipls restore" in each.do for each in found)


@pytest.mark.parametrize("damage", ["a bit", "gone"])
def test_the_logs_objects_come_back_from_the_directory(world: Deployment, damage: str) -> None:
    [file] = [path for path in (world.folder / "data/log/1").rglob("*") if path.is_file()]
    before = file.read_bytes()
    file.unlink()
    if damage == "a bit":
        file.write_bytes(flipped(before))
    assert [(each.part, each.mended) for each in fsck(world)] == [("log", False)]
    assert [(each.part, each.mended) for each in fsck(world, repair=True)] == [("log", True)]
    assert file.read_bytes() == before
    assert fsck(world) == []


def test_the_object_of_an_epoch_that_is_not_signed_yet_comes_back_too(world: Deployment) -> None:
    """Its witnesses refuse what is there, and nobody may write another."""
    config, log = world.config, FileLog(world.folder / "data/log")
    key = DirectoryKey.from_seed(read_secret(config.directory.vrf_key))
    root = load_trust_root(config.trust_root)
    with closing(open_directory_store(config.directory.database, root.namespace, key.public_key)) as store:
        store.submit(bytes(16), b"+49", encode_record(public_key(bytes(32))), 0, daily_quota=1, queue_max=9)
        prepared = prepare(store, key, store.take_lease(store.lease()), 9)
        assert prepared is not None
        step = prepared[0]
    name = object_name(*step[:3])
    assert fsck(world) == []  # it need not be there
    log.put(name, flipped(step.blob))  # type: ignore[arg-type]
    assert [(each.part, each.mended) for each in fsck(world)] == [("log", False)]
    assert [(each.part, each.mended) for each in fsck(world, repair=True)] == [("log", True)]
    assert log.get(name) == step.blob


def test_a_witnesses_signature_is_not_made_up(world: Deployment) -> None:
    flip(world.config.witnesses[0].database, "epoch", "root_hash")
    for repair in (False, True):
        [found] = fsck(world, repair=repair)
        assert (found.part, found.mended) == ("witness witness", False)


@pytest.mark.parametrize(
    ("table", "column"), [("records", "record"), ("nodes", "body"), *(("log", each) for each in LogRow._fields)]
)
def test_what_a_bit_took_from_the_vault_comes_back_from_its_log(world: Deployment, table: str, column: str) -> None:
    flip(world.config.vault.database, table, column)
    assert {(each.part, each.mended) for each in fsck(world)} == {("vault", False)}
    assert {(each.part, each.mended) for each in fsck(world, repair=True)} == {("vault", True)}
    assert fsck(world) == []


def test_a_contact_comes_back_from_a_phone_that_has_it_alone(world: Deployment) -> None:
    flip(world.config.contacts.database, "sealed", "data")
    for repair in (False, True):
        [found] = fsck(world, repair=repair)
        assert (found.part, found.mended) == ("contacts", False)
        assert "puts it again" in found.do


def test_damages_of_all_parts_are_named_at_once_and_mended_each_as_if_alone(world: Deployment) -> None:
    config = world.config
    flip(config.directory.database, "tile", "body")
    with closing(sqlite3.connect(config.directory.database)) as db, db:
        assert db.execute("DELETE FROM tile WHERE rowid = (SELECT min(rowid) FROM tile)").rowcount
    for file in (world.folder / "data/log").rglob("*"):
        if file.is_file():
            whole = file.read_bytes()
            file.unlink()
            file.write_bytes(whole[: len(whole) // 2])
    flip(config.witnesses[0].database, "epoch", "root_hash")
    flip(config.vault.database, "records", "record")
    flip(config.vault.database, "nodes", "body")
    flip(config.contacts.database, "sealed", "data")
    for name in ("directory.db.readers", "registration.db"):
        break_page(world.folder / "data" / name)
    assert {each.part for each in fsck(world)} == {*parts(config)}
    found = fsck(world, repair=True)
    assert {each.part for each in found if each.mended} == {"directory", "log", "vault"}
    lost = [each for each in found if not each.mended]
    assert {each.part for each in lost} == {"readers", "witness witness", "contacts", "registration"}
    assert fsck(world) == lost


def break_page(database: Path) -> None:
    """A bit of the second, in what says of which kind it is."""
    data = bytearray(database.read_bytes())
    data[4096] ^= 4
    database.write_bytes(data)
