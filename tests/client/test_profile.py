"""The profile's file: sealed, whole after any death, read while another process writes; and what earlier versions
left is sealed at its first opening."""

import itertools
import shutil
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from ipls.client import profile as module
from ipls.client.errors import ProfileError
from ipls.client.line.kept import KEYS, KeyRow
from ipls.client.profile import (
    Account,
    Contact,
    KnownVersion,
    Pinned,
    Profile,
    Registration,
    Synced,
)
from ipls.client.profile_key import IN_FILE, make_key
from ipls.client.rows import Rows, Table, schema, single
from ipls.contacts.envelope import Envelope
from ipls.proto.vault.v1.vault_pb2 import HistoryEntry
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.store.engine.sqlite import Schema, open_database
from ipls.vault.history import Seen
from tests.client.changes import CONTACTS, LABEL, SEED, opened, rewritten
from tests.faults.deaths import killed
from tests.faults.disks import nothing_is_written

KEY = KeyRow(1, bytes(range(200, 232)))
SECRETS = [LABEL.encode(), SEED, KEY.secret, b"Zsofia", b"4477009", b"directory.example"]


def fill(profile: Profile) -> None:
    with profile.transaction():
        profile.put(Pinned(b"root", b"ca", '{"directory": "directory.example:7400"}'))
        profile.put(Account(LABEL, SEED, 1, 2))
        profile.line.rows.put(KEYS, KEY)
        profile.put_contacts(CONTACTS)


def refused(reason: str) -> "pytest.RaisesExc[ProfileError]":
    return pytest.raises(ProfileError, check=lambda error: error.reason == reason)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_nothing_in_clear(folder: Path) -> None:
    for name, data in files(folder).items():
        for secret in SECRETS:
            assert secret not in data, name
            assert secret.hex().encode() not in data, name


def contents(folder: Path) -> tuple[object, ...]:
    with closing(Profile(folder)) as profile:
        return profile.get(Pinned), profile.get(Account), profile.line.rows.all(KEYS), profile.contacts()


def test_nothing_of_a_profile_is_in_clear_while_it_is_open_or_after(tmp_path: Path) -> None:
    with closing(Profile(tmp_path)) as profile:
        fill(profile)
        assert_nothing_in_clear(tmp_path)
    assert_nothing_in_clear(tmp_path)
    assert {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in files(tmp_path)} == {
        "key.json": 0o600,
        "lock": 0o600,
        "profile.db": 0o600,
    }


def test_what_was_removed_leaves_nothing(tmp_path: Path) -> None:
    with closing(Profile(tmp_path)) as profile:
        fill(profile)
    sealed = [row[0] for row in stored(tmp_path, "SELECT sealed FROM line_key")]
    assert sealed[0] in (tmp_path / "profile.db").read_bytes()
    with closing(Profile(tmp_path)) as profile:
        profile.line.rows.delete(KEYS, [1])
    assert sealed[0] not in (tmp_path / "profile.db").read_bytes()


def stored(folder: Path, sql: str) -> list[tuple[bytes, ...]]:
    with closing(sqlite3.connect(folder / "profile.db")) as db:
        return db.execute(sql).fetchall()


# One writes, any number read


def holding(folder: Path) -> "subprocess.Popen[str]":
    """Another process that is in the middle of a change."""
    script = """
import sys
from pathlib import Path
from typing import NamedTuple
from ipls.client.profile import Contact, Profile
from ipls.contacts.envelope import Envelope
profile = Profile(Path(sys.argv[1]))
profile.put_contacts([Contact(b"first", Envelope(b"card"))])
with profile.transaction():
    profile.put_contacts([Contact(b"second", Envelope(b"card"))])
    print(flush=True)
    sys.stdin.readline()
print(flush=True)
sys.stdin.readline()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    process.stdout.readline()
    return process


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT_S", 0)


@pytest.mark.usefixtures("soon")
def test_a_profile_is_read_while_another_process_writes_and_not_written(tmp_path: Path) -> None:
    with closing(Profile(tmp_path)) as profile:
        fill(profile)
    with holding(tmp_path) as writer, closing(Profile(tmp_path, reading=True)) as reader:
        assert writer.stdin
        assert writer.stdout
        assert [contact.id for contact in reader.contacts()][len(CONTACTS) :] == [b"first"]
        assert reader.account.label == LABEL
        with refused("PROFILE_BUSY"):
            Profile(tmp_path)
        writer.stdin.write("\n")
        writer.stdin.flush()
        writer.stdout.readline()
        assert [contact.id for contact in reader.contacts()][len(CONTACTS) :] == [b"first", b"second"]
        with pytest.raises(module.StorageError):
            reader.put(Account(LABEL, SEED, 9, 9))
        writer.stdin.close()
    assert contents(tmp_path)[1] == Account(LABEL, SEED, 1, 2)


def test_two_processes_that_change_a_profile_at_once_lose_nothing_of_each_other(tmp_path: Path) -> None:
    """Each change is of two contacts: whoever reads meanwhile never sees one without the other."""
    script = """
import sys
from contextlib import closing
from pathlib import Path
from typing import NamedTuple
from ipls.client import profile
from ipls.contacts.envelope import Envelope
profile.WAIT_S = 600
folder, name = Path(sys.argv[1]), sys.argv[2].encode()
for n in range(20):
    with closing(profile.Profile(folder)) as opened:
        there = len(opened.contacts())
        opened.put_contacts(profile.Contact(name + b"%d %d" % (n, half), Envelope(b"%d" % there)) for half in (0, 1))
"""
    Profile(tmp_path).close()
    writers = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path), name]) for name in ("a", "b")]
    with closing(Profile(tmp_path, reading=True)) as reader:
        while any(writer.poll() is None for writer in writers):
            assert len(reader.contacts()) % 2 == 0
    assert [writer.returncode for writer in writers] == [0, 0]
    # Each saw all that the other one had put before its turn.
    with closing(Profile(tmp_path)) as profile:
        assert [int(contact.card) for contact in profile.contacts()] == [n - n % 2 for n in range(80)]


def test_a_writer_waits_for_another_ones_turn_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT_S", 600)
    first = Profile(tmp_path)
    monkeypatch.setattr(module.time, "sleep", lambda _: first.close())
    with closing(Profile(tmp_path)) as second:
        fill(second)


def test_readers_see_one_moment_in_a_snapshot(tmp_path: Path) -> None:
    with closing(Profile(tmp_path)) as writer, closing(Profile(tmp_path, reading=True)) as reader:
        fill(writer)
        with reader.snapshot():
            assert len(reader.contacts()) == len(CONTACTS)
            writer.put_contacts([Contact(b"more", Envelope(b"card"))])
            assert len(reader.contacts()) == len(CONTACTS)
        assert len(reader.contacts()) == len(CONTACTS) + 1


def test_a_killed_writer_leaves_all_of_a_change_or_none(tmp_path: Path) -> None:
    folder = tmp_path / "phone"
    with closing(Profile(folder)) as profile:
        fill(profile)
    before = contents(folder)

    after = (
        before[0],
        Account(LABEL, SEED, 3, 4),
        [],
        [contact._replace(envelope=Envelope(b"changed")) for contact in CONTACTS],
    )
    left = []
    for at in itertools.count():
        copy = shutil.copytree(folder, tmp_path / str(at))
        if not killed(rewritten, copy, at):
            break
        left.append(contents(copy))
        assert left[-1] in (before, after)
    assert left[0] == before
    assert left[-1] == after


def test_two_accounts_in_a_profile_change_places_and_one_is_forgotten(tmp_path: Path) -> None:
    other = Account("+4915112345679", bytes(32), 3, 4)
    with closing(Profile(tmp_path / "phone")) as profile:
        fill(profile)
        profile.aside().put(other)
        profile.aside().put_contacts(CONTACTS[:1])
        for label, count in ((LABEL, 40), (other.label, 1), (LABEL, 40)):
            assert (profile.account.label, len(profile.contacts())) == (label, count)
            profile.swap()
        assert profile.account == other
        assert profile.aside().line.rows.all(KEYS) == [KEY]
        profile.aside().forget()
        assert profile.aside().get(Account) is None
        assert profile.aside().contacts() == []
        assert (profile.account, len(profile.contacts())) == (other, 1)
        assert profile.get(Pinned) is not None
    assert_nothing_in_clear(tmp_path / "phone")


# What a profile can't be opened by


def test_a_profile_whose_key_is_gone_or_anothers_is_refused_and_stays(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    for folder in (mine, other):
        with closing(Profile(folder)) as profile:
            fill(profile)
    kept = (mine / "key.json").read_bytes()
    for wrong in (None, (other / "key.json").read_bytes(), b"", b"{}", kept[:-40], kept.replace(b"file", b"app")):
        (mine / "key.json").unlink()
        if wrong is not None:
            (mine / "key.json").write_bytes(wrong)
        before = files(mine)
        for reading in (True, False):
            with refused("PROFILE_KEY_LOST"):
                Profile(mine, reading=reading)
        assert files(mine) == before
        (mine / "key.json").write_bytes(kept)
    assert contents(mine) == contents(other)


def test_a_bit_that_flips_anywhere_costs_what_it_hits_and_is_never_taken_for_anything(tmp_path: Path) -> None:
    """Every 29th byte beside which anything is, and every 1009th of the whole file: what comes back is right, or known
    to be missing, or the file is refused."""
    folder = tmp_path / "phone"
    with closing(Profile(folder)) as profile:
        fill(profile)
    whole = (folder / "profile.db").read_bytes()
    beside = {at for at in range(0, len(whole), 29) if any(whole[max(0, at - 8) : at + 8])}
    outcomes = set()
    for at in beside | {*range(0, len(whole), 1009)}:
        (folder / "profile.db").write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        outcomes.add(outcome(folder))
        for left in folder.glob("profile.db-*"):
            left.unlink()
    assert outcomes == {"all", "some", "refused"}


def outcome(folder: Path) -> str:
    try:
        with closing(Profile(folder, reading=True)) as profile:
            found = profile.contacts()
            assert all(contact in CONTACTS for contact in found)
            assert profile.account == Account(LABEL, SEED, 1, 2)
            assert profile.line.rows.all(KEYS) == [KEY]
            return "all" if len(found) == len(CONTACTS) else "some"
    except module.StorageError:
        return "refused"
    except ProfileError as error:
        return "refused" if error.reason in ("PROFILE_STORAGE", "PROFILE_DAMAGED", "PROFILE_KEY_LOST") else error.reason


# What earlier versions left


class ContactOf2(NamedTuple):
    id: bytes
    card: bytes
    generation: int
    digest: bytes


class HeadOf2(NamedTuple):
    head: bytes
    rotate: bool
    tidy: bool


class KeyOf2(NamedTuple):
    generation: int
    contact_key: bytes
    store_id: bytes
    confirmed: bool


class ManifestOf2(NamedTuple):
    generation: int
    version: int
    contents: bytes


@pytest.mark.parametrize("reading", [False, True])
def test_a_profile_of_version_2_is_read_and_goes_on(tmp_path: Path, reading: bool) -> None:
    head = SignedHead(epoch=7)
    kept = (Account(LABEL, SEED, 1, 2), HeadOf2(head.SerializeToString(), True, False), ManifestOf2(1, 2, b"contents"))
    singles = [single(type(row), name) for row, name in zip(kept, ("account", "progress", "manifest"), strict=True)]
    keys, listed = Table("contact_key", KeyOf2, "generation"), Table("contact", ContactOf2, "id")
    names = "trust_root version leaf key_use imported step apart contact_identity verified shadow side"
    names += " dav_resource dav_uid dav_client"
    tables = [*singles, keys, listed, *(Table(name, ContactOf2, "id") for name in names.split())]
    marks = frozenset({"single", "contact_key", "contact"})
    with closing(open_database(tmp_path / "profile.db", Schema("a client's profile", schema(tables), marks, 2))) as db:
        rows = Rows(db, make_key(tmp_path, IN_FILE), tables)
        for table, row in zip(singles, kept, strict=True):
            rows.put(table, row)
        rows.put(keys, KeyOf2(1, KEY.secret, bytes(16), True))
        rows.put_many(listed, [ContactOf2(contact.id, contact.card, 1, bytes(32)) for contact in CONTACTS])
    with closing(Profile(tmp_path, reading=reading)) as profile:
        assert profile.account == kept[0]
        assert profile.head == head
        assert profile.get(Synced) is None
        assert [contact.card for contact in profile.contacts()] == [contact.card for contact in CONTACTS]


CLEAR = (Path(__file__).parent / "profile_in_clear.sql").read_text()


def in_clear(folder: Path) -> None:
    """A profile of an earlier version, its last command killed: part of it is in the log."""
    folder.mkdir()
    script = f"""
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA journal_mode=WAL")
db.executescript({CLEAR!r})
for n in range(40):
    card = b"BEGIN:VCARD\\r\\nFN:Zsofia %d\\r\\nTEL:+44770090%04d\\r\\nEND:VCARD" % (n, n)
    db.execute("INSERT INTO contact (id, card, generation, digest) VALUES (?, ?, ?, x'')", (bytes([n]) * 16, card, n))
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", script, str(folder / "profile.db")], check=True)
    (folder / "ca.pem").write_bytes(b"ca")
    assert (folder / "profile.db-wal").stat().st_size > 0


@pytest.fixture
def clear(tmp_path: Path) -> Path:
    in_clear(tmp_path / "clear")
    assert any(SEED in data for data in files(tmp_path).values())
    return tmp_path / "clear"


def assert_moved(folder: Path) -> None:
    with closing(Profile(folder)) as profile:
        assert profile.get(Pinned) == Pinned(b"root", b"ca", '{"directory": "directory.example:7400"}')
        assert profile.account == Account(LABEL, SEED, 1, 2)
        assert profile.contacts() == CONTACTS
        assert profile.versions() == [KnownVersion(1, 2, b"key", "own")]
        assert profile.leaves() == {1: b"leaf"}
        assert profile.head is None
        assert (profile.uses(), profile.uses_seen) == ([HistoryEntry(number=1)], Seen(1, b"chain"))
        assert profile.get(Registration) is None


def test_a_profile_in_clear_is_sealed_at_its_first_opening_and_nothing_stays_in_clear(clear: Path) -> None:
    with closing(Profile(clear, reading=True)):
        assert_nothing_in_clear(clear)
    assert_nothing_in_clear(clear)
    assert not (clear / "ca.pem").exists()
    assert_moved(clear)


def test_a_profile_in_clear_that_is_killed_at_any_step_of_its_sealing_loses_nothing(tmp_path: Path) -> None:
    in_clear(tmp_path / "clear")
    for at in itertools.count():
        folder = shutil.copytree(tmp_path / "clear", tmp_path / str(at))
        if not killed(opened, folder, at):
            break
        assert_moved(folder)
        assert_nothing_in_clear(folder)
    assert at > 20


def test_a_profile_in_clear_is_as_it_was_where_the_disk_takes_nothing_or_a_row_can_not_be(clear: Path) -> None:
    with nothing_is_written(), refused("PROFILE_STORAGE"):
        Profile(clear)
    with closing(sqlite3.connect(clear / "profile.db")) as db, db:
        db.execute("INSERT INTO version VALUES (2, -3, NULL, 'own')")
    with refused("PROFILE_STORAGE"):
        Profile(clear)
    with closing(sqlite3.connect(clear / "profile.db")) as db, db:
        db.execute("DELETE FROM version WHERE version = 2")
    assert_moved(clear)
