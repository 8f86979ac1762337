"""The contract of accounts' lines, which every backend is held to."""

import os
import pickle
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ipls.contacts.admission import admit, admit_first
from ipls.contacts.commits import Link
from ipls.contacts.sealing import name_of
from ipls.store.contacts import ContactsStore, Manifest, RecordKey, open_contacts_store
from ipls.store.errors import StoreRefused
from ipls.store.line import LineStore, Quota
from ipls.store.line import Place as Spot
from tests.contacts.writers import Made, Writer
from tests.store.contacts.before import store_before
from tests.store.contacts.test_contract import BACKENDS
from tests.store.line.lines import DAY, NAMESPACE, NOW, QUOTA, Line
from tests.store.places import Place, new_place


@pytest.fixture(params=BACKENDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return new_place(request.param, request, tmp_path)


@pytest.fixture
def contacts(place: Place) -> ContactsStore:
    return open_contacts_store(place.location)


@pytest.fixture
def store(contacts: ContactsStore) -> LineStore:
    return contacts.lines


@pytest.fixture
def line(store: LineStore) -> Line:
    return Line(store)


def refused(reason: str) -> Any:
    return pytest.raises(StoreRefused, check=lambda error: error.reason == reason)


def spot(line: Line, made: Made) -> Spot:
    standing = line.store.standing(line.label)
    assert standing is not None
    return Spot(standing.line, made.n, made.before, name_of(made.signed.commit))


def test_a_line_grows_by_commits(line: Line) -> None:
    assert line.store.standing(line.label) is None
    assert line.store.view(line.label, b"", 0) is None
    made = [line.begin(), line.edit(), line.edit(), line.edit()]
    standing = line.store.standing(line.label)
    assert standing is not None
    assert (standing.n, standing.chain, standing.base_n) == (4, made[-1].chain, 1)
    view = line.store.view(line.label, b"", 0)
    assert view is not None
    assert view[1:] == (standing.line, line.seed, 4, standing.chain, 1)
    links = [each.link for each in made]
    assert line.store.links(view, 0, 9) == links
    assert line.store.links(view, 1, 2) == links[1:3]
    signed = [(each.n, each.signed) for each in made]
    assert line.store.commits(view, 0, 1 << 20) == signed
    assert line.store.commits(view, 2, 1) == signed[2:3]  # one at least
    assert all(line.store.stands(line.label, spot(line, each)) for each in made)
    assert not line.store.stands(line.label, spot(line, made[1])._replace(n=3))
    assert not line.store.stands(line.label, spot(line, made[1])._replace(before=bytes(32)))


def test_a_line_is_seen_as_it_was(line: Line) -> None:
    made = [line.begin(), line.edit(), line.base(), line.edit()]
    view = line.store.view(line.label, b"", 2)
    assert view is not None
    assert view[3:] == (2, made[1].chain, 1)
    assert [n for n, _ in line.store.commits(view, 0, 1 << 20)] == [1, 2]
    assert line.store.view(line.label, b"", 5) is None


def test_of_two_commits_that_saw_one_head_one_is_taken(line: Line, place: Place) -> None:
    line.begin()
    standing = line.store.standing(line.label)
    assert standing is not None
    rivals = [line.writer.edit(2, line.chain, line.writer.record(str(n))) for n in range(6)]
    admitted = [
        admit(NAMESPACE, line.label, standing, line.writer.caller, 2, line.chain, made.signed) for made in rivals
    ]
    won: list[int] = []
    lost: list[str] = []

    def race(n: int) -> None:
        store = open_contacts_store(place.location).lines
        try:
            store.append(line.label, standing, admitted[n], rivals[n].records, None, quota=QUOTA, now_ms=NOW)
            won.append(n)
        except StoreRefused as error:
            lost.append(error.reason)

    threads = [threading.Thread(target=race, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), lost) == (1, ["LINE_CONFLICT"] * 5)
    assert line.stays(*[made.records[0] for made in rivals]) == [n in won for n in range(6)]


def test_the_same_commit_is_taken_again_however_far_the_line_has_gone(line: Line) -> None:
    line.begin()
    standing = line.store.standing(line.label)
    made = line.edit(line.writer.record("a"))
    line.edit(drops=made.records)
    assert standing is not None
    admitted = admit(NAMESPACE, line.label, standing, line.writer.caller, 2, made.before, made.signed)
    line.store.append(line.label, standing, admitted, made.records, None, quota=QUOTA, now_ms=NOW)
    assert line.stays(*made.records) == [False]  # it was dropped since
    other = line.writer.edit(2, made.before)
    admitted = admit(NAMESPACE, line.label, standing, line.writer.caller, 2, made.before, other.signed)
    with refused("LINE_CONFLICT"):
        line.store.append(line.label, standing, admitted, [], None, quota=QUOTA, now_ms=NOW)


def test_a_line_begins_once(line: Line) -> None:
    made = line.begin()
    line.edit()
    admitted = admit_first(NAMESPACE, line.label, line.writer.caller, line.seed, made.signed)
    line.store.begin(line.label, admitted, made.snapshot, quota=QUOTA, now_ms=NOW)
    standing = line.store.standing(line.label)
    assert standing is not None
    assert standing.n == 2
    other = line.writer.base(1, standing.line)
    admitted = admit_first(NAMESPACE, line.label, line.writer.caller, line.seed, other.signed)
    with refused("LINE_CONFLICT"):
        line.store.begin(line.label, admitted, other.snapshot, quota=QUOTA, now_ms=NOW)


def test_what_a_commit_brings_is_there_with_it(line: Line) -> None:
    line.begin()
    made = line.edit(*(line.writer.record(str(n)) for n in range(4)))
    assert line.read(*made.records) == line.stays(*made.records) == [True] * 4
    names = [name_of(record) for record in made.records]
    assert line.store.get(line.label, [*reversed(names), bytes(32)]) == [*reversed(made.records), None]


def test_another_account_sees_nothing_of_it(line: Line) -> None:
    made = line.begin(line.writer.record("a"))
    other = Line(line.store, Writer(label="+491700000002"))
    assert other.read(line.writer.record("a")) == [False]
    assert line.store.view(other.label, line.store.standing(line.label).line, 0) is None  # type: ignore[union-attr]
    other.begin()
    assert line.store.standing(line.label).chain == made.chain  # type: ignore[union-attr]


# Staged


def test_what_is_staged_is_read_and_waits_for_a_base(line: Line) -> None:
    record = line.writer.record("a")
    line.stage(record)  # before there is a line, too
    assert line.read(record) == [True]
    assert (line.stays(record), line.stays(record, staged=True)) == ([False], [True])
    line.begin()
    assert line.stays(record) == [True]
    more = line.writer.record("b")
    line.stage(more)
    line.edit()
    assert line.stays(more) == [False]
    line.base()
    assert line.stays(record, more) == [True, True]


def test_what_no_base_takes_goes(line: Line) -> None:
    line.begin()
    record, later = line.writer.record("a"), line.writer.record("b")
    line.stage(record)
    line.pass_days(5)
    line.stage(later)
    line.pass_days(5)
    assert line.read(record, later) == [True, True]  # from the last of it
    line.pass_days(3)
    assert line.read(record, later) == [False, False]
    line.base()
    assert line.stays(record) == [False]


def test_a_base_takes_what_its_own_version_staged(line: Line) -> None:
    """What a thief of the number staged is nobody's list; what the owner stages again is hers."""
    line.begin()
    thief, owner = line.writer.renewed(), line.writer.renewed().renewed()
    junk, good = thief.record("junk"), thief.record("good")
    line.stage(junk, good, version=thief.version)
    line.stage(good, version=owner.version)
    line.base(writer=owner)
    assert line.stays(junk, good) == [False, True]


def test_a_snapshot_comes_with_its_base_or_before_it(line: Line) -> None:
    line.begin()
    made = line.writer.base(2, line.chain)
    with refused("SNAPSHOT_ABSENT"):
        line.take(line.writer, made._replace(snapshot=None))
    assert made.snapshot is not None
    line.stage(snapshot=made.snapshot)
    line.take(line.writer, made._replace(snapshot=None))
    assert line.read(made.snapshot) == [True]
    assert line.store.missing(line.label, [name_of(made.snapshot)], staged=True) == [0]  # which is of records


# Hidden


def test_what_the_same_version_drops_is_kept_for_30_days(line: Line) -> None:
    line.begin()
    made = line.edit(line.writer.record("a"))
    line.edit(drops=made.records)
    assert (line.read(*made.records), line.stays(*made.records)) == ([True], [False])
    line.pass_days(29.9)
    assert line.read(*made.records) == [True]
    line.pass_days(0.2)
    assert line.read(*made.records) == [False]


def test_what_a_later_version_drops_is_kept_for_90_days(line: Line) -> None:
    line.begin()
    made = line.edit(line.writer.record("a"))
    thief = line.writer.renewed()
    own = line.edit(thief.record("b"), drops=made.records, writer=thief)
    line.edit(drops=own.records, writer=thief)
    line.pass_days(30.1)
    assert line.read(*made.records, *own.records) == [True, False]
    line.pass_days(59.8)
    assert line.read(*made.records) == [True]
    line.pass_days(0.2)
    assert line.read(*made.records) == [False]


def test_a_drop_of_what_is_not_there_is_passed_over(line: Line) -> None:
    line.begin()
    staged = line.writer.record("a")
    line.stage(staged)
    line.edit(drops=[staged, line.writer.record("b")])
    line.base()
    assert line.stays(staged) == [True]


def test_what_is_put_again_stays_again(line: Line) -> None:
    """By a device that has it, after a false drop; and by a commit that goes back to earlier contents."""
    line.begin()
    records = [line.writer.record(text) for text in "abc"]
    line.edit(*records)
    thief = line.writer.renewed()
    line.edit(drops=records, writer=thief)
    line.stage(records[0], version=3)
    line.edit(records[1], writer=thief)
    assert line.stays(*records) == [True, True, False]
    line.pass_days(91)
    assert line.read(*records) == [True, True, False]


def test_a_rotation_hides_all_that_it_does_not_take(line: Line) -> None:
    old = line.writer.record("a")
    line.begin(old)
    rotated = line.writer.rotated()
    new = rotated.record("a")
    line.stage(new)
    line.base(new, writer=rotated)
    assert (line.stays(old, new), line.read(old)) == ([False, True], [True])
    line.pass_days(30.1)
    assert line.read(old, new) == [False, True]
    line.stage(old)
    assert line.stays(old) == [False]


def test_what_a_rotation_hid_stays_again_where_it_is_put_again(line: Line) -> None:
    old = line.writer.record("a")
    line.begin(old)
    line.base(writer=line.writer.rotated())
    line.stage(old)
    line.pass_days(100)
    assert line.stays(old) == [True]


def test_a_compaction_leaves_the_records_and_hides_commits_and_snapshot(line: Line) -> None:
    record = line.writer.record("a")
    first = line.begin(record)
    line.edit()
    line.base(record)
    view = line.store.view(line.label, b"", 2)
    assert view is not None
    assert line.stays(record) == [True]
    assert first.snapshot is not None
    assert line.read(first.snapshot) == [True]
    assert len(line.store.commits(view, 0, 1 << 20)) == 2
    line.pass_days(30.1)
    assert line.read(first.snapshot, record) == [False, True]
    assert line.store.commits(view, 0, 1 << 20) == []
    assert len(line.store.links(view, 0, 9)) == 2  # a device that was away still finds its way to the base
    later = line.store.view(line.label, b"", 2)
    assert later is not None
    assert later.base_n == 0


def test_a_thief_with_the_key_hides_at_most(line: Line) -> None:
    """Drops, changes, rotates, begins anew: what the owner had can be had back for 90 days."""
    kept = [line.writer.record(str(n)) for n in range(5)]
    first = line.begin(*kept[:3])
    line.edit(*kept[3:])
    thief = line.writer.renewed()
    line.edit(thief.record("x"), drops=kept[:2], writer=thief)
    line.base(writer=thief.rotated())
    line.base(writer=line.writer.rotated())
    line.begin(writer=line.writer.rotated())
    line.pass_days(89.9)
    assert first.snapshot is not None
    assert line.read(first.snapshot, *kept) == [True] * 6
    owners = line.store.view(line.label, first.before, 2)
    assert owners is not None
    assert owners.base_n == 1
    assert [n for n, _ in line.store.commits(owners, 0, 1 << 20)] == [1, 2]
    line.pass_days(0.2)
    assert line.read(first.snapshot, *kept) == [False] * 6


def test_a_line_that_was_left_keeps_its_links_for_400_days(line: Line) -> None:
    old = line.begin()
    edit = line.edit()
    line.begin()
    line.pass_days(399.9)
    view = line.store.view(line.label, old.before, 0)
    assert view is not None
    assert line.store.links(view, 0, 9) == [old.link, edit.link]
    line.pass_days(0.2)
    assert line.store.view(line.label, old.before, 0) is None
    assert line.store.standing(line.label) is not None


def test_what_is_hidden_is_listed(line: Line) -> None:
    records = [line.writer.record(str(n)) for n in range(5)]
    first = line.begin(*records[:3])
    line.edit(*records[3:], drops=records[:1])
    staged = line.writer.record("staged")
    line.stage(staged)
    thief = line.writer.renewed()
    line.edit(drops=records[1:2], writer=thief)
    second = line.base(writer=thief.rotated())
    line.edit()
    third = line.begin(writer=line.writer.rotated())
    own, foreign = NOW + 30 * DAY, NOW + 90 * DAY
    assert first.snapshot is not None
    assert second.snapshot is not None
    expected = {
        name_of(records[0]): (False, (1, 1, own)),
        **{name_of(record): (False, (1, 2, foreign)) for record in records[1:]},
        name_of(first.snapshot): (True, (1, 2, foreign)),
        name_of(second.snapshot): (True, (2, 2, own)),
    }
    listed, place = line.store.kept_blobs(line.label, b"", 3)
    while place:
        page, place = line.store.kept_blobs(line.label, place, 3)
        listed += page
    assert {each.name: (each.is_snapshot, each.hidden) for each in listed} == expected
    assert len(listed) == len(expected)
    assert all([len(data or b"") for data in line.store.get(line.label, [each.name])] == [each.size] for each in listed)
    lines = line.store.kept_lines(line.label)
    assert [(each.line, each.base_n, each.n, each.hidden) for each in lines] == [
        (first.before, 1, 3, (1, 2, foreign)),
        (first.before, 4, 5, (2, 2, own)),
    ]
    view = line.store.view(line.label, lines[0].id, lines[0].n)
    assert view is not None
    assert [n for n, _ in line.store.commits(view, 0, 1 << 20)] == [1, 2, 3]
    assert line.store.view("+491700000002", lines[0].id, 0) is None
    line.pass_days(91)
    assert (line.store.kept_blobs(line.label, b"", 9)[0], line.store.kept_lines(line.label)) == ([], [])
    assert line.read(third.snapshot or b"") == [True]


# Deletion


def test_an_account_that_is_deleted_is_gone(contacts: ContactsStore, line: Line, place: Place) -> None:
    store_before(place.location, line.label, [(RecordKey(1, bytes(16), bytes(32)), b"x" * 284)])
    record, other = line.writer.record("a"), Line(line.store, Writer(label="+491700000002"))
    other.begin(other.writer.record("a"))
    line.begin(record)
    line.edit(drops=[record])
    line.stage(line.writer.record("b"))
    line.store.delete(line.label, 1, line.now_ms)
    assert line.store.standing(line.label) is None
    line.pass_days(0)
    tables = ("line", "line_commit", "blob", "lot", "usage", "record")
    assert [place.rows(f"SELECT count(*) FROM {table} WHERE label = ?", line.label) for table in tables] == [[(0,)]] * 6
    assert place.rows("SELECT count(*) FROM link") == [(1,)]
    assert other.stays(other.writer.record("a")) == [True]
    line.begin(record)
    assert line.stays(record) == [True]


def test_a_thief_who_deletes_the_account_deletes_their_own(contacts: ContactsStore, line: Line, place: Place) -> None:
    store_before(place.location, line.label, [(RecordKey(1, bytes(16), bytes(32)), b"x" * 284)])
    record = line.writer.record("a")
    first = line.begin(record)
    thief = line.writer.renewed()
    made = line.edit(thief.record("b"), drops=[record], writer=thief)
    line.store.delete(line.label, thief.version, line.now_ms)
    line.pass_days(29)
    assert first.snapshot is not None
    assert line.read(record, first.snapshot, *made.records) == [True, True, False]
    line.pass_days(60)
    assert line.read(record, first.snapshot) == [True, True]
    [kept] = line.store.kept_lines(line.label)
    assert (kept.base_n, kept.n, kept.hidden.version) == (1, 2, 1)
    view = line.store.view(line.label, kept.id, 1)
    assert view is not None
    assert line.store.commits(view, 0, 1 << 20) == [(1, first.signed)]
    line.pass_days(1.1)
    assert line.read(record, first.snapshot) == [False, False]
    assert contacts.page(line.label, after=None, limit=9) == []


# Damage


def test_a_damaged_record_costs_itself_until_it_is_put_again(line: Line, place: Place) -> None:
    records = [line.writer.record(str(n)) for n in range(3)]
    line.begin(*records)
    [(blob,)] = place.rows("SELECT id FROM blob WHERE name = ?", name_of(records[1]))
    place.change(f"UPDATE sealed SET data = x'00' WHERE blob = {blob}")
    names = [name_of(record) for record in records]
    assert line.store.get(line.label, names) == [records[0], None, records[2]]
    assert list(line.store.damaged()) == [names[1]]
    line.store.mark_damaged(line.label, names)
    assert line.stays(*records) == [True, False, True]
    line.stage(records[1])
    assert line.stays(*records) == line.read(*records) == [True] * 3
    assert list(line.store.damaged()) == []


# Quotas


def test_an_account_has_a_quota_and_what_it_refuses_changes_nothing(line: Line) -> None:
    line.quota = Quota(5, 1 << 20)
    line.begin(line.writer.record("a"))  # with base and snapshot
    line.stage(line.writer.record("b"), line.writer.record("a"))
    with refused("ACCOUNT_QUOTA"):
        line.stage(line.writer.record("c"), line.writer.record("d"))
    with refused("ACCOUNT_QUOTA"):
        line.edit(line.writer.record("c"))
    assert line.read(line.writer.record("c")) == [False]
    line.edit()
    line.pass_days(8)  # what was staged is let go, and is not counted any more
    line.edit()
    line.quota = Quota(100, 1000)
    with refused("ACCOUNT_QUOTA"):
        line.edit(line.writer.record("c"))


def test_later_versions_share_a_quota_and_none_is_kept_out(line: Line) -> None:
    """A thief who fills what there is takes nothing of the owner's, and leaves the next identity as much again."""
    line.quota = Quota(16, 1 << 20)
    own = [line.writer.record(str(n)) for n in range(14)]
    line.begin(*own)  # all of the first one's quota, with base and snapshot
    thief, owner, again = line.writer.renewed(), line.writer.renewed().renewed(), line.writer
    line.stage(*(thief.record(f"t{n}") for n in range(8)), version=2)
    with refused("ACCOUNT_QUOTA"):
        line.stage(thief.record("more"), version=2)
    line.stage(*(owner.record(f"o{n}") for n in range(4)), version=3)
    with refused("ACCOUNT_QUOTA"):
        line.stage(owner.record("more"), version=3)
    line.stage(*(owner.record(f"p{n}") for n in range(2)), version=4)
    assert line.stays(*own) == [True] * 14
    line.stage(*own, version=2)  # nothing new
    with refused("ACCOUNT_QUOTA"):
        line.stage(again.record("more"), version=1)


def test_counters_say_what_is_there(line: Line, place: Place) -> None:
    line.begin(*(line.writer.record(str(n)) for n in range(5)))
    line.edit(line.writer.record("x"), drops=[line.writer.record("1")])
    line.stage(line.writer.record("y"), version=2)
    line.stage(line.writer.record("y"), version=3)
    line.base(writer=line.writer.renewed().rotated())
    line.begin(writer=line.writer.renewed().rotated())
    for days in (0, 8, 25, 60, 400):
        line.pass_days(days)
        held = place.rows(
            """SELECT version, count(*), sum(size) FROM (
                 SELECT lot.version, blob.size FROM blob JOIN lot ON lot.id = blob.lot
                 UNION ALL SELECT version, length(data) FROM line_commit) GROUP BY version ORDER BY version"""
        )
        assert place.rows("SELECT version, things, size FROM usage ORDER BY version") == held
    assert place.rows("SELECT count(*) FROM sealed") == place.rows("SELECT count(*) FROM blob")
    assert place.rows("SELECT count(*) FROM line") == [(1,)]


# Version 1


def test_where_a_line_stands_version_1_is_read(contacts: ContactsStore, line: Line, place: Place) -> None:
    key, data = RecordKey(1, bytes(16), bytes(32)), b"x" * 284
    store_before(place.location, line.label, [(key, data)], Manifest(1, 1, bytes(32), b"one"))
    line.begin()
    assert contacts.sizes(line.label, [key]) == [284]
    assert contacts.manifest(line.label) == Manifest(1, 1, bytes(32), b"one")


@pytest.mark.parametrize(("version", "days"), [(1, 30), (2, 90)])
def test_what_version_1_has_goes_some_time_after_the_first_line(
    contacts: ContactsStore, line: Line, place: Place, version: int, days: int
) -> None:
    """As long as a thief's line may stand before its owner sees it, where it may be a thief's."""
    records = [(RecordKey(1, bytes([n]) * 16, bytes(32)), b"x" * 284) for n in range(7)]
    for label in (line.label, "+491700000002"):
        store_before(place.location, label, records, Manifest(1, 1, bytes(32), b"one"))
    line.begin(writer=replace(line.writer, version=version))
    line.pass_days(20)
    line.begin()
    line.pass_days(days - 20.1)
    assert len(contacts.page(line.label, after=None, limit=9)) == 7
    line.pass_days(0.2)
    assert contacts.page(line.label, after=None, limit=9) == []
    assert contacts.manifest(line.label) is None
    assert len(contacts.page("+491700000002", after=None, limit=9)) == 7
    assert contacts.manifest("+491700000002")


# Crashes


def test_what_was_acknowledged_survives_kill_9_and_each_commit_is_whole(place: Place) -> None:
    script = """
import pickle, sys
from ipls.store.contacts import open_contacts_store
from tests.store.line.lines import Line, Quota
from tests.contacts.writers import Writer
line = Line(open_contacts_store(pickle.loads(bytes.fromhex(sys.argv[1]))).lines, Writer(seed=bytes(32)))
line.quota = Quota(10**9, 10**12)
line.begin()
last = []
while True:
    made = line.edit(*(line.writer.record(f"{line.n} {n}") for n in range(3)), drops=last)
    last = made.records
    print(made.n, *(record.hex() for record in last), flush=True)
"""
    command = [sys.executable, "-c", script, pickle.dumps(place.location).hex()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(25)]
    os.kill(process.pid, signal.SIGKILL)
    said += process.stdout.read().splitlines(keepends=True)
    process.wait()
    n, *records = next(line for line in reversed(said) if line.endswith("\n")).split()
    writer = Writer(seed=bytes(32))
    store = open_contacts_store(place.location).lines
    standing, view = store.standing(writer.label), store.view(writer.label, b"", 0)
    assert standing is not None
    assert view is not None
    assert standing.n >= int(n)
    assert len(store.links(view, 0, 10**6)) == len(store.commits(view, 0, 10**9)) == standing.n
    names = [name_of(bytes.fromhex(record)) for record in records]
    assert store.missing(writer.label, names, staged=False) == ([] if standing.n == int(n) else [0, 1, 2])
    assert None not in store.get(writer.label, names)
    assert place.rows("SELECT count(*) FROM blob") == [(1 + 3 * (standing.n - 1),)]
    assert isinstance(store.links(view, 0, 1)[0], Link)
