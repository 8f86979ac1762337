"""The check of a directory's database: finds every damage and names it, finds none where there is none."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipls.akd import DirectoryKey
from ipls.akd.publish import make_leaves
from ipls.store.directory.fsck import Difference, Fsck
from ipls.store.errors import StoreError
from tests.store.directory.published import KEY, NAMESPACE, Published, label


@pytest.fixture
def published(tmp_path: Path) -> Iterator[Published]:
    """20 labels, then 2 of them change in each of the epochs 2 to 7; epochs below 4 are gone, but for 2."""
    published = make(tmp_path)
    published.store.pin(2)
    published.store.raise_floor(published.term, 4)
    published.prune()
    yield published
    published.store.close()


def make(folder: Path) -> Published:
    published = Published(folder / "directory.db")
    published.publish(*range(20))
    for epoch in range(2, 8):
        published.publish(epoch, epoch + 1)
    return published


def test_an_undamaged_database_is_as_it_must_be(published: Published) -> None:
    before = published.path.read_bytes()
    whole, parts = published.fsck(), published.fsck(leaves_at_once=1)
    assert whole == parts == (7, 4, (2,), 32, len(published.rows()), [])
    assert published.path.read_bytes() == before
    assert not published.path.with_name("directory.db.fsck").exists()


@pytest.mark.parametrize("leaves_at_once", [1, 5000])
def test_any_flipped_byte_of_any_tile_is_found(published: Published, leaves_at_once: int) -> None:
    rows = published.rows()
    for n, row in enumerate(rows):
        at = n * 37 % len(row.body)
        body = row.body[:at] + bytes((row.body[at] ^ 1 << n % 8,)) + row.body[at + 1 :]
        published.change("UPDATE tile SET body = ? WHERE prefix = ? AND epoch = ?", body, row.prefix, row.epoch)
    found = published.fsck(leaves_at_once).differences
    assert sorted(found) == [Difference("tile differs", row.prefix, row.epoch) for row in rows]


@pytest.mark.parametrize("leaves_at_once", [1, 5000])
def test_any_missing_tile_is_found(published: Published, leaves_at_once: int) -> None:
    rows = published.rows()[::3]
    for row in rows:
        published.change("DELETE FROM tile WHERE prefix = ? AND epoch = ?", row.prefix, row.epoch)
    found = published.fsck(leaves_at_once).differences
    assert sorted(found) == [Difference("tile is missing", row.prefix, row.epoch) for row in rows]


@pytest.mark.parametrize("leaves_at_once", [1, 5000])
def test_extra_rows_are_found_wherever_their_keys_sort(published: Published, leaves_at_once: int) -> None:
    extra = [
        (b"\0", 3),  # pruned, and come back
        (b"\0", 8),  # above the head
        (b"\x04\x10", 4),
        (b"\x04\xf0", 6),
        (b"\x08\xff", 7),
        (b"", 1),  # none of these is a prefix
        (b"\0\0", 1),
        (b"\x03\0", 1),
        (b"\x04\xff", 1),
        (b"\xfb" + b"\xff" * 40, 1),
        (b"\xff" * 34, 1),
    ]
    present = {(row.prefix, row.epoch) for row in published.rows()}
    extra = [key for key in extra if key not in present]
    body = published.rows()[0].body
    for prefix, epoch in extra:
        published.change("INSERT INTO tile VALUES (?, ?, ?)", prefix, epoch, body)
    found = published.fsck(leaves_at_once).differences
    assert sorted(found) == sorted(Difference("tile is extra", *key) for key in extra)


@pytest.mark.parametrize(
    ("edit", "first_wrong"),
    [
        ("UPDATE version SET value = x'00' WHERE label LIKE '%0005' AND version = 2", 4),
        ("UPDATE version SET epoch = 6 WHERE label LIKE '%0005' AND version = 3", 5),
        ("DELETE FROM version WHERE label LIKE '%0005' AND version = 3", 5),
        ("UPDATE version SET label = x'2b31' WHERE label LIKE '%0005' AND version = 3", 5),
        ("INSERT INTO version SELECT x'2b32', 1, 6, value FROM version WHERE label LIKE '%0005' AND version = 1", 6),
    ],
)
def test_an_edited_user_version_is_found(published: Published, edit: str, first_wrong: int) -> None:
    edit = edit.replace("label LIKE '%0005'", "label = x'2b343931373030303030303035'")
    published.change(edit)
    found = published.fsck().differences
    assert {d.epoch for d in found if d.what == "root differs"} == set(range(first_wrong, 8))
    assert {d.what for d in found} <= {
        "root differs",
        "tile differs",
        "tile is extra",
        "tile is missing",
        "depth differs",
    }
    assert any(d.prefix and d.epoch >= first_wrong for d in found)


@pytest.mark.parametrize(
    ("edit", "found"),
    [
        ("UPDATE head SET root_hash = x'00' WHERE epoch = 5", Difference("root differs", b"", 5)),
        ("DELETE FROM head WHERE epoch = 2", Difference("root differs", b"", 2)),
        ("UPDATE head SET depth = depth + 4 WHERE epoch = 7", Difference("depth differs", b"", 7)),
        ("INSERT INTO version VALUES (x'2b33', 1, 8, x'00')", Difference("user version above the head", b"", 8)),
        ("INSERT INTO version VALUES (x'2b33', -1, 7, x'00')", Difference("user version impossible", b"", 7)),
        ("INSERT INTO version VALUES (x'2b33', 1, -7, x'00')", Difference("user version impossible", b"", -7)),
    ],
)
def test_what_is_wrong_beside_the_tiles_is_found(published: Published, edit: str, found: Difference) -> None:
    published.change(edit)
    assert published.fsck().differences == [found]


class Stop(Exception):
    pass


def test_killed_anywhere_it_goes_on_and_finds_the_same(published: Published) -> None:
    row = published.rows()[5]
    published.change("UPDATE tile SET body = x'00' WHERE prefix = ? AND epoch = ?", row.prefix, row.epoch)
    code = f"""
import os, signal, sys
from pathlib import Path
from ipls.store.directory import fsck
from tests.store.directory.published import KEY
fsck.VERSIONS_AT_ONCE = 8
def progress(what, done, total):
    if (what, done) == (sys.argv[1], int(sys.argv[2])):
        os.kill(os.getpid(), signal.SIGKILL)
fsck.Fsck(Path({str(published.path)!r}), {NAMESPACE!r}, KEY, leaves_at_once=1).run(progress)
"""
    for what, done in (("user versions", 16), ("parts of the tree", 7), ("parts of the tree", 258)):
        child = subprocess.run([sys.executable, "-c", code, what, str(done)], capture_output=True, timeout=60)
        assert child.returncode == -signal.SIGKILL, child.stderr
    heard: list[tuple[str, int, int]] = []
    check = Fsck(published.path, NAMESPACE, KEY, leaves_at_once=1)
    assert check.state.stat().st_mode & 0o777 == 0o600
    report = check.run(lambda *step: heard.append(step))
    parts = heard[-1][2]
    assert heard[0] == ("user versions", 32, 32)
    assert heard[1] == ("parts of the tree", 258, parts)
    assert report == (7, 4, (2,), 32, len(published.rows()), [Difference("tile differs", row.prefix, row.epoch)])
    assert not check.state.exists()


def test_progress_of_a_database_that_was_replaced_is_not_gone_on_with(published: Published, tmp_path: Path) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if what != "user versions":
            raise Stop

    check = Fsck(published.path, NAMESPACE, KEY)
    with pytest.raises(Stop):
        check.run(stop)
    check.close()
    published.store.close()
    for file in tmp_path.glob("directory.db*"):
        if ".fsck" not in file.name:
            file.unlink()
    other = Published(published.path)
    other.publish(1, 2, 3)
    assert other.fsck() == (1, 0, (), 3, len(other.rows()), [])
    other.store.close()


def test_only_the_database_of_this_namespace_and_key_is_checked(published: Published, tmp_path: Path) -> None:
    for path, namespace, key, reason in (
        (tmp_path / "absent.db", NAMESPACE, KEY, "DATABASE_MISSING"),
        (published.path, "other", KEY, "DATABASE_FOREIGN"),
        (published.path, NAMESPACE, DirectoryKey.from_seed(bytes(32)), "DATABASE_FOREIGN"),
    ):
        with pytest.raises(StoreError) as caught:
            Fsck(path, namespace, key)
        assert caught.value.reason == reason


@settings(max_examples=12, deadline=None)
@given(st.integers(2, 9), st.lists(st.integers(0, 30), min_size=1, max_size=8), st.integers(0, 12), st.data())
def test_what_publishing_and_pruning_do_meanwhile_is_no_damage(
    tmp_path_factory: pytest.TempPathFactory, first: int, later: list[int], floor: int, data: st.DataObject
) -> None:
    """Trees that begin as one bucket, so that splits after the head write tiles with epochs before it."""
    published = Published(tmp_path_factory.mktemp("fsck") / "directory.db")
    for number in range(first):
        published.publish(number, 40 + number)
    published.store.raise_floor(published.term, data.draw(st.integers(0, first)))
    if data.draw(st.booleans()):
        published.store.pin(first - 1 if published.store.floor() < first else first)
    damaged = data.draw(st.booleans())
    waiting = [*later, None]

    def meanwhile(what: str, done: int, total: int) -> None:
        if waiting and what != "user versions":
            number = waiting.pop(0)
            if number is not None:
                published.publish(number, number + 1, number + 60)
                return
            published.store.raise_floor(published.term, floor)
            published.prune()
            if damaged:
                published.change("DELETE FROM tile WHERE rowid = (SELECT max(rowid) FROM tile)")

    head = len(published.made)
    report = Fsck(published.path, NAMESPACE, KEY, leaves_at_once=2).run(meanwhile)
    assert report.head == head
    if not damaged:
        assert report.differences == []
    assert (published.fsck().differences != []) == damaged
    published.store.close()


def test_erased_values_are_no_damage_but_their_leaves_still_count(tmp_path: Path) -> None:
    published = make(tmp_path)
    assert published.store.erase_values(label(3), 2) == 2
    assert published.store.erase_values(label(8), 1) == 1
    for leaves_at_once in (1, 5000):
        assert published.fsck(leaves_at_once).differences == []
    published.change("UPDATE version SET value = x'' WHERE label = ? AND version = 3", label(3))
    assert published.fsck().differences
    published.store.close()


def test_a_changed_leaf_of_an_erased_value_is_found(tmp_path: Path) -> None:
    published = make(tmp_path)
    erased = published.models[-1][label(3)][-1]
    (leaf,) = make_leaves(KEY, [(label(3), erased)])
    published.store.erase_values(label(3), 2)
    rows = [row for row in published.rows() if leaf.stored in row.body]
    assert rows
    for row in rows:
        body = row.body.replace(leaf.stored, bytes(32))
        published.change("UPDATE tile SET body = ? WHERE prefix = ? AND epoch = ?", body, row.prefix, row.epoch)
    assert published.fsck().differences
    published.store.close()
