"""A folder that khard and vdirsyncer work on, too: in both directions, with few cards and with many."""

import subprocess
from pathlib import Path

import pytest

from ipls.client.addressbook.folder import MARKER, Folder
from ipls.client.addressbook.sync import SyncCounts
from ipls.contacts.cards.editing import with_uid
from ipls.contacts.cards.lines import split_cards
from ipls.contacts.cards.reading import read_card
from ipls.contacts.envelope import Envelope
from ipls.contacts.sealing import id_of_uid
from tests.client.addressbook.rig import LABEL, Profile, card
from tests.interop.peers import MANY, Khard, VdirSyncer

ROOT = Path(__file__).parents[2]
ADA = card(
    "ada",
    "Ada",
    "item1.TEL:+44 7946 000001",
    "item1.X-ABLabel:boat",
    "X-UNKNOWN;X=y:  kept ",
    "PHOTO;ENCODING=b;TYPE=PNG:" + "iVBORw0KGgoAAAAN" * 4,
    " " + "SUhEUgAAAAEAAAAB" * 4,
)


def files(folder: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in folder.iterdir() if each.name != MARKER}


def book(count: int, tmp_path: Path) -> list[bytes]:
    out = tmp_path / "book.vcf"
    subprocess.run([ROOT / "scripts/addressbook", "--count", str(count), "--out", out], check=True, timeout=60)
    return [with_uid(part.data, f"u{n}") for n, part in enumerate(split_cards(out.read_bytes()))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


def test_khard_changes_a_number_and_nothing_else_changes_here_or_there(tmp_path: Path, folder: Path) -> None:
    profile, side = Profile(), Folder(folder)
    khard = Khard(tmp_path / "khard", folder)
    id = id_of_uid(LABEL, "ada")
    profile.put(id, ADA)
    profile.sync(side)
    khard.edit("Ada", "+44 7946 000001", "+44 7946 000002")
    anew = files(folder)
    report = profile.sync(side)
    assert (report.here, report.there) == (SyncCounts(changed=1), SyncCounts())
    assert files(folder) == anew  # what was just read is not written back
    ours = profile.list.entries()[id].card
    # The number came, with the label's type and the lines that khard writes by itself; every line of ours is as it was.
    kept = ADA.replace(b"item1.TEL:+44 7946 000001\r\nitem1.X-ABLabel:boat\r\n", b"")
    assert all(line in ours for line in kept.removesuffix(b"END:VCARD").split(b"\r\n"))
    assert ours.startswith(kept.removesuffix(b"END:VCARD"))
    assert read_card(ours).numbers == ("+44 7946 000002",)
    profile.put(id, ours.replace(b"FN:Ada", b"FN:Augusta Ada").replace(b"N:Ada;;", b"N:Ada;Augusta;"))
    profile.sync(side)
    assert "Augusta" in khard.run("list")
    assert "+44 7946 000002" in khard.run("show", "Augusta")


def test_khard_adds_and_removes(tmp_path: Path, folder: Path) -> None:
    profile, side = Profile(), Folder(folder)
    khard = Khard(tmp_path / "khard", folder)
    profile.put(id_of_uid(LABEL, "ada"), ADA)
    profile.put(id_of_uid(LABEL, "zed"), card("zed", "Zedekiah"))
    profile.sync(side)
    (tmp_path / "new.yaml").write_text("First name: Cy\nLast name: Twombly\nPhone:\n  cell: '+447946000003'\n")
    khard.run("new", "-i", str(tmp_path / "new.yaml"))
    khard.run("remove", "--force", "Zedekiah")
    profile.sync(side)
    assert sorted(read_card(each).name for each in profile.cards()) == ["Ada", "Cy Twombly"]


@pytest.mark.parametrize("count", [5, MANY])
def test_vdirsyncer_between_our_folder_and_another_in_both_directions(tmp_path: Path, folder: Path, count: int) -> None:
    profile, side = Profile(), Folder(folder)
    other = tmp_path / "other"
    other.mkdir()
    vdirsyncer = VdirSyncer(
        tmp_path / "vdirsyncer",
        {"type": "filesystem", "path": str(folder), "fileext": ".vcf"},
        {"type": "filesystem", "path": str(other), "fileext": ".vcf"},
    )
    cards = book(count, tmp_path)
    profile.list.edit({id_of_uid(LABEL, f"u{n}"): Envelope(card=each) for n, each in enumerate(cards)})
    report = profile.sync(side)
    assert report.there == SyncCounts(added=count)
    vdirsyncer.sync()
    assert sorted(files(other).values()) == sorted(each + b"\r\n" for each in cards)
    (other / "u3.vcf").write_bytes(cards[3].replace(b"END:VCARD", b"NICKNAME:There\r\nEND:VCARD"))
    (other / "new.vcf").write_bytes(ADA)
    vdirsyncer.sync()
    report = profile.sync(side)
    assert (report.here, report.there, report.bad) == (SyncCounts(added=1, changed=1), SyncCounts(), [])
    assert profile.list.entries()[id_of_uid(LABEL, "ada")].card == ADA
    vdirsyncer.sync()
    assert (profile.sync(side).here, profile.sync(side).there) == (SyncCounts(), SyncCounts())
