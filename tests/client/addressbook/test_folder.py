"""A folder of vCards as a side (addressbooks.md, Folder)."""

import os
import time
from pathlib import Path

import pytest

from ipls.client.addressbook import folder as module
from ipls.client.addressbook.folder import MARKER, Folder
from ipls.client.addressbook.side import ChangedMeanwhile
from ipls.client.addressbook.sync import SyncCounts
from ipls.client.errors import SideError
from ipls.contacts.cards.lines import is_endless
from ipls.contacts.cards.reading import read_card
from ipls.contacts.sealing import id_of_uid
from ipls.contacts.whole import MAX_WHOLE
from tests.client.addressbook.rig import LABEL, Profile, card, number

HOUR_NS = 3600 * 10**9
NONE = SyncCounts(0, 0, 0)


@pytest.fixture
def profile() -> Profile:
    return Profile()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "book").mkdir()
    return tmp_path / "book"


@pytest.fixture
def side(path: Path) -> Folder:
    return Folder(path)


def later() -> int:
    """When it is long ago that the files were changed."""
    return time.time_ns() + HOUR_NS


def names(path: Path) -> list[str]:
    return sorted(each.name for each in path.iterdir())


def test_cards_go_both_ways_byte_for_byte_and_new_files_are_whole_and_private(profile, path, side):
    theirs = b"\xef\xbb\xbf\n" + card("a", "Ada", "X-ODD;P=1:  kept", "PHOTO:data:image/png;base64,iVBO") + b"\n\n"
    (path / "any name.VCF").write_bytes(theirs)
    (path / "no-ending").write_bytes(card("b", "Bo"))
    profile.put(number(1), card("c/d", "Cy"))
    report = profile.sync(side)
    assert (report.here, report.there, report.bad) == (SyncCounts(added=2), SyncCounts(added=1), [])
    assert names(path) == sorted([MARKER, "any name.VCF", "no-ending", "c_d.vcf"])
    assert (path / "any name.VCF").read_bytes() == theirs
    assert (path / "c_d.vcf").read_bytes() == card("c/d", "Cy") + b"\r\n"
    assert (path / "c_d.vcf").stat().st_mode & 0o777 == 0o600
    assert profile.list.entries()[id_of_uid(LABEL, "a")].card == theirs[4:-2]


def test_what_is_hidden_or_under_way_or_no_card_is_passed_over(profile, path, side):
    for name in (".hidden.vcf", "a.vcf.tmp", "B.TMP"):
        (path / name).write_bytes(card(name, "Nobody"))
    (path / "folder.vcf").mkdir()
    (path / "folder.vcf/in.vcf").write_bytes(card("in", "Nobody"))
    (path / "README").write_text("my cards")
    os.mkfifo(path / "pipe.vcf")
    report = profile.sync(side)
    assert (report.here, report.bad, profile.cards()) == (NONE, [], [])


def test_of_several_cards_in_a_file_only_ours_changes(profile, path, side):
    cards = [card("a", "Ada"), card(None, "Bo"), card("c", "Cy")]
    (path / "all.vcf").write_bytes(b"between\n" + b"\n\n".join(cards) + b"\r\nafter")
    profile.sync(side)
    id = id_of_uid(LABEL, "c")
    profile.put(id, card("c", "Cyrus"))
    profile.sync(side)
    changed = (path / "all.vcf").read_bytes()
    assert changed.startswith(b"between\n" + cards[0] + b"\n\n" + cards[1] + b"\n\n")
    assert changed.endswith(b"FN:Cyrus\r\nN:Cyrus;;;;\r\nEND:VCARD\r\nafter")
    profile.put(id_of_uid(LABEL, "a"), None)
    profile.sync(side)
    left = b"between\n" + changed[changed.index(cards[1]) :]
    assert (path / "all.vcf").read_bytes() == left
    (path / "all.vcf").write_bytes(left.replace(cards[1] + b"\n\n", b""))  # one card is left: its name is another
    profile.sync(side)
    assert [read_card(each).name for each in profile.cards()] == ["Cyrus"]
    assert profile.sync(side).bad == []


def test_two_files_of_one_uid_both_stay(profile, path, side):
    (path / "a.vcf").write_bytes(card("u", "Ada"))
    (path / "copy.vcf").write_bytes(card("u", "Copy"))
    for _ in range(2):
        report = profile.sync(side)
        assert [bad.href for bad in report.bad] == ["copy.vcf"]
    assert names(path) == [MARKER, "a.vcf", "copy.vcf"]
    assert [read_card(each).name for each in profile.cards()] == ["Ada"]


def test_a_bad_card_costs_itself_and_is_tried_again_when_its_bytes_change(profile, path, side):
    (path / "a.vcf").write_bytes(card("a", "Ada"))
    (path / "two.vcf").write_bytes(card("b", "Bo") + b"\n" + card("c", "Cy"))
    profile.sync(side)
    (path / "a.vcf").write_bytes(b"BEGIN:VCARD\nFN:cut off")
    (path / "two.vcf").write_bytes(card("b", "Bob") + b"\n" + card("c", "Cy")[:-4])
    (path / "new.vcf").write_bytes(b"\x00\x01")
    (path / "bad\udcff.vcf").write_bytes(card("x", "X"))
    report = profile.sync(side)
    assert [(bad.href, bad.line) for bad in report.bad] == [
        ("a.vcf", 1),
        ("bad\\xff.vcf", 0),
        ("new.vcf", 0),
        ("two.vcf", 7),
    ]
    assert sorted(read_card(each).name for each in profile.cards()) == ["Ada", "Bob", "Cy"]
    (path / "a.vcf").write_bytes(card("a", "Mended"))
    profile.sync(side)
    assert sorted(read_card(each).name for each in profile.cards()) == ["Bob", "Cy", "Mended"]


def test_a_card_that_is_too_large_and_too_broken_to_be_cut_costs_itself(profile, path, side):
    (path / "a.vcf").write_bytes(card("a", "Ada"))
    profile.sync(side)
    lines = [b"BEGIN:VCARD", b"NOTE;QUOTED-PRINTABLE:open=", b"TEL:" + b"1" * MAX_WHOLE, b"UNHEARD-OF:1", b"END:VCARD"]
    broken = b"\r\n".join(lines)
    (path / "b.vcf").write_bytes(broken)
    (path / "c.vcf").write_bytes(card("c", "Cy"))
    assert [(bad.href, bad.line) for bad in profile.sync(side).bad] == [("b.vcf", 1)]
    assert [read_card(each).name for each in profile.cards()] == ["Ada", "Cy"]
    assert (path / "b.vcf").read_bytes() == broken


def test_a_card_of_too_many_lines_costs_itself_and_no_picture_has_so_many(profile, path, side, monkeypatch):
    assert not is_endless(b"A" * 60 + b"\r\n " * (MAX_WHOLE // 63))
    monkeypatch.setattr("ipls.contacts.cards.lines.MOST_LINES", 1000)
    (path / "a.vcf").write_bytes(card("a", "Ada", *[" "] * 1000))
    (path / "b.vcf").write_bytes(card("b", "Bo", *["NOTE:x"] * 900))
    assert [(bad.href, bad.line) for bad in profile.sync(side).bad] == [("a.vcf", 1)]
    assert [read_card(each).name for each in profile.cards()] == ["Bo"]


@pytest.mark.parametrize("away", ["gone", "not mounted", "another", "its marker damaged"])
def test_a_folder_that_is_not_there_or_another_removes_nothing(profile, path, side, away):
    (path / "a.vcf").write_bytes(card("a", "Ada"))
    profile.sync(side)
    path.rename(path.with_name("elsewhere"))
    if away != "gone":
        path.mkdir()
    if away in ("another", "its marker damaged"):
        (path / "b.vcf").write_bytes(card("b", "Bo"))
        (path / MARKER).write_bytes(b"0" * 32 if away == "another" else b"\xff" * 1000)
    with pytest.raises(SideError) as refused:
        profile.sync(side, allow_removals=True)
    assert refused.value.reason == "SIDE_AWAY"
    assert len(profile.cards()) == 1
    assert away == "gone" or "a.vcf" not in names(path)


def test_a_folder_that_is_mounted_and_empty_removes_nothing_until_it_is_allowed(profile, path, side):
    (path / "a.vcf").write_bytes(card("a", "Ada"))
    profile.sync(side)
    (path / "a.vcf").unlink()
    with pytest.raises(SideError) as refused:
        profile.sync(side)
    assert refused.value.reason == "SIDE_SHRUNK"
    profile.sync(side, allow_removals=True)
    assert profile.cards() == []


def test_no_file_is_read_that_looks_as_it_did(profile, path, monkeypatch):
    side, read = Folder(path, later), []
    for n in range(50):
        (path / f"{n}.vcf").write_bytes(card(f"u{n}", f"Person {n}"))
    (path / "two.vcf").write_bytes(card("b", "Bo") + card("c", "Cy"))
    profile.sync(side)
    real = module.read_bounded
    monkeypatch.setattr(module, "read_bounded", lambda path, most: read.append(path.name) or real(path, most))
    profile.sync(side)
    assert read == [MARKER]
    (path / "7.vcf").write_bytes(card("u7", "Person X"))
    os.utime(path / "7.vcf", ns=(0, (path / "8.vcf").stat().st_mtime_ns))
    report = profile.sync(side)
    assert (read, report.here) == ([MARKER, MARKER, "7.vcf"], SyncCounts(changed=1))


def test_a_change_of_the_same_size_in_the_same_instant_is_noticed(profile, path, side):
    file = path / "a.vcf"
    file.write_bytes(card("a", "Ada"))
    profile.sync(side)
    before = file.stat()
    with file.open("r+b") as opened:
        opened.write(card("a", "Ava"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    profile.sync(side)
    assert read_card(profile.cards()[0]).name == "Ava"


def test_a_file_is_read_again_before_it_is_replaced_or_removed(path, side):
    file, there = path / "a.vcf", card("a", "Ada")
    file.write_bytes(card("a", "Somebody was faster"))
    for attempt in (lambda: side.write("a.vcf", card("a", "X"), there), lambda: side.remove("a.vcf", there)):
        with pytest.raises(ChangedMeanwhile):
            attempt()
    with pytest.raises(ChangedMeanwhile):
        side.write("a.vcf", card("a", "X"), None)
    assert file.read_bytes() == card("a", "Somebody was faster")
    file.unlink()
    with pytest.raises(ChangedMeanwhile):
        side.write("a.vcf", card("a", "X"), there)
    assert names(path) == []


def test_a_replaced_file_keeps_its_mode_and_a_link_leads_where_it_led(profile, path, side, tmp_path):
    (tmp_path / "real.vcf").write_bytes(card("a", "Ada"))
    (tmp_path / "real.vcf").chmod(0o664)
    (path / "a.vcf").symlink_to(tmp_path / "real.vcf")
    profile.sync(side)
    profile.put(id_of_uid(LABEL, "a"), card("a", "Edited"))
    profile.sync(side)
    assert (path / "a.vcf").is_symlink()
    assert read_card((tmp_path / "real.vcf").read_bytes()).name == "Edited"
    assert (tmp_path / "real.vcf").stat().st_mode & 0o777 == 0o664
