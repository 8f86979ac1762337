"""Files are whole or not there, and for their owner alone."""

import errno
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ipls.store.files import PUBLIC, append, put_in_place, read_bounded, replace, write_new
from tests.faults.disks import nothing_is_written

WRITERS = pytest.mark.parametrize("write", [write_new, replace], ids=lambda write: write.__name__)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1234")
    assert read_bounded(tmp_path / "file", 4) == b"1234"
    with pytest.raises(OSError, match="over 3 bytes") as refused:
        read_bounded(tmp_path / "file", 3)
    assert refused.value.errno == errno.EFBIG


@WRITERS
def test_a_file_is_its_owners_alone_unless_it_is_public(tmp_path: Path, write: Callable[..., None]) -> None:
    write(tmp_path / "key", b"secret")
    write(tmp_path / "certificate", b"open", mode=PUBLIC)
    assert [(path.name, path.read_bytes(), mode(path)) for path in sorted(tmp_path.iterdir())] == [
        ("certificate", b"open", 0o644),
        ("key", b"secret", 0o600),
    ]


def test_what_takes_an_open_files_place_is_not_open(tmp_path: Path) -> None:
    path = tmp_path / "book"
    path.write_bytes(b"old")
    path.chmod(0o644)
    replace(path, b"new")
    assert (path.read_bytes(), mode(path)) == (b"new", 0o600)


@pytest.mark.parametrize("old", [0o644, 0o640, 0o600])
def test_what_takes_a_files_place_is_as_open_as_that_under_any_umask(tmp_path: Path, old: int) -> None:
    """Who could read it goes on reading."""
    paths = [tmp_path / "certificate", tmp_path / "database"]
    for path in paths:
        path.write_bytes(b"old")
        path.chmod(old)
    before = os.umask(0o077)
    try:
        replace(paths[0], b"new", mode=PUBLIC)
        (tmp_path / "draft").write_bytes(b"new")
        put_in_place(tmp_path / "draft", paths[1])
    finally:
        os.umask(before)
    assert [(path.read_bytes(), mode(path)) for path in paths] == [(b"new", old)] * 2


@pytest.mark.parametrize("there", ["a file", "a link to nothing"])
def test_a_new_file_takes_nobodys_place(tmp_path: Path, there: str) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"old") if there == "a file" else path.symlink_to("nowhere")
    with pytest.raises(FileExistsError, check=lambda error: error.filename == str(path)):
        write_new(path, b"new")
    assert list(tmp_path.iterdir()) == [path]
    assert path.is_symlink() or path.read_bytes() == b"old"


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/book").write_bytes(b"old")
    (tmp_path / "link").symlink_to("elsewhere/book")
    replace(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "elsewhere/book").read_bytes() == b"new"


@WRITERS
def test_a_folder_that_is_not_there_is_told_of_by_the_files_name(tmp_path: Path, write: Callable[..., None]) -> None:
    path = tmp_path / "none/key"
    with pytest.raises(FileNotFoundError, check=lambda error: error.filename == str(path)):
        write(path, b"secret")


@WRITERS
def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, write: Callable[..., None]) -> None:
    """No file of the child may have more than 1,000 bytes."""
    code = f"""
import resource, signal
from pathlib import Path
from ipls.store.files import {write.__name__}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    {write.__name__}(Path("file"), bytes(5000))
except OSError as error:
    print(error.filename)
"""
    if write is replace:
        (tmp_path / "file").write_bytes(b"old")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    child = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (child.stdout, child.stderr) == ("file\n", "")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@WRITERS
def test_what_is_killed_before_the_disk_has_all_leaves_what_was_there(
    tmp_path: Path, write: Callable[..., None]
) -> None:
    code = f"""
import os, signal
from pathlib import Path
from ipls.store.files import {write.__name__}
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
{write.__name__}(Path("file"), b"new")
"""
    path = tmp_path / "file"
    if write is replace:
        path.write_bytes(b"old")
    child = subprocess.run([sys.executable, "-c", code], cwd=tmp_path)
    assert child.returncode == -signal.SIGKILL
    assert (path.read_bytes() == b"old") if write is replace else not path.exists()


@WRITERS
def test_file_and_folder_are_on_the_disk_in_that_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[..., None]
) -> None:
    """By what is seen at each sync: the bytes before they have their name, the folder when it has the name."""
    seen: list[tuple[bool, bool]] = []

    def note(descriptor: int) -> None:
        opened = Path(f"/proc/self/fd/{descriptor}").readlink()
        seen.append((opened == tmp_path, (tmp_path / "file").exists()))

    monkeypatch.setattr("os.fsync", note)
    write(tmp_path / "file", b"bytes")
    assert seen == [(False, False), (True, True)]


def test_a_line_is_added_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "outbox"
    append(path, b"first\n")
    assert mode(path) == 0o600
    for room in (0, 3):
        with nothing_is_written(beyond=6 + room), pytest.raises(OSError, match=r"large|space"):
            append(path, b"second\n")
    append(path, b"third\n")
    assert path.read_bytes() == b"first\nthird\n"
