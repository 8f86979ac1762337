"""The contract that every backend of the log passes, then what is the folder's own."""

import os
import resource
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ipls.store.errors import StoreError
from ipls.store.log import FileLog, LogStore, object_name
from tests.store.logs import NAME, NEW, OLD, OTHER, RACERS, Backend, make, names, refused


@pytest.fixture(params=["folder", "s3"])
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backend:
    return make(request.param, request, tmp_path_factory)


@pytest.fixture
def store(backend: Backend) -> LogStore:
    return backend.open()


EPOCHS = (*range(1, 13), 100, 101, 110, 119, 120, 1000, 10**18)


@pytest.fixture(scope="module", params=["folder", "s3"])
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LogStore:
    """A log with objects of these epochs, written in another order than that of their names."""
    store = make(request.param, request, tmp_path_factory).open()
    for epoch in EPOCHS:
        store.put(object_name(epoch, OLD, NEW), b"%d" % epoch)
    return store


# The contract.


def test_what_is_put_is_there_for_every_reader(backend: Backend, store: LogStore) -> None:
    assert (store.get(NAME), store.stat(NAME), store.read(NAME, 0, 1)) == (None, None, None)
    store.put(NAME, b"blob")
    for reader in (store, backend.open()):
        assert reader.get(NAME) == b"blob"
        (entry,) = reader.list()
        assert (entry.name, entry.size) == (NAME, 4)
        assert reader.stat(NAME) == entry
        assert datetime.now(UTC).timestamp() - entry.modified_ms / 1000 < 600
    assert backend.everything() == [NAME]


def test_the_very_object_again_is_success(store: LogStore) -> None:
    store.put(NAME, b"blob")
    store.put(NAME, b"blob")


def test_an_object_is_never_replaced(store: LogStore) -> None:
    store.put(NAME, b"blob")
    before = store.stat(NAME)
    assert refused(lambda: store.put(NAME, b"other")) == "LOG_OBJECT_EXISTS"
    assert store.get(NAME) == b"blob"
    assert store.stat(NAME) == before


@pytest.mark.parametrize("fork", [object_name(1, OLD, OTHER), object_name(1, OTHER, NEW)])
def test_an_epoch_never_has_two_objects(store: LogStore, fork: str) -> None:
    store.put(NAME, b"blob")
    assert refused(lambda: store.put(fork, b"blob")) == "LOG_EPOCH_TAKEN"
    assert names(store) == [NAME]
    assert store.get(fork) is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "..",
        f"../{NAME}",
        f"/{NAME}",
        f"{NAME}/",
        f"{NAME}\n",
        NAME.replace("1/", "0/", 1),
        NAME.replace("1/", "01/", 1),
        NAME.replace("1/", "-1/", 1),
        NAME.replace("1/", "1/../1/", 1),
        NAME.replace("1/", "٣/", 1),
        NAME.upper().replace("0", "A"),
        NAME[:-1],
        f"1/{OLD.hex()}",
        f"1/{OLD.hex()}/..",
        NAME.replace("/", "//"),
        NAME.replace("/", "\\"),
        NAME + "\0",
    ],
)
def test_only_names_are_names(filled: LogStore, name: str) -> None:
    before = names(filled)
    for call in (filled.get, filled.stat, lambda n: filled.put(n, b"x"), lambda n: filled.read(n, 0, 1)):
        assert refused(lambda call=call: call(name)) == "LOG_NAME_INVALID"
    assert names(filled) == before


@given(st.text(max_size=140))
def test_no_text_reaches_another_file(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    store = FileLog(tmp_path_factory.getbasetemp() / "junk")
    assert refused(lambda: store.get(name)) == "LOG_NAME_INVALID"


def test_an_object_is_read_in_pieces(store: LogStore) -> None:
    blob = bytes(range(256)) * 16
    store.put(NAME, blob)
    for offset, length in ((0, 1), (0, 4096), (0, 5000), (100, 200), (4095, 1), (4000, 1000), (4096, 1), (9999, 9)):
        assert store.read(NAME, offset, length) == blob[offset : offset + length], (offset, length)


def test_an_empty_object_has_no_piece(store: LogStore) -> None:
    store.put(NAME, b"")
    assert store.get(NAME) == b""
    assert store.read(NAME, 0, 1) == b""


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    prefix=st.sampled_from(["", "1", "1/", "10/", "1/0", "12/~", f"1/{OLD.hex()}/", NAME, NAME + "x", "2", "z"]),
    after=st.sampled_from(["", "0", "1", "1/", "10", "10/", "1/z", NAME, NAME[:-1], NAME + "x", "101/", "9", "z"]),
    limit=st.integers(0, 20),
)
def test_a_listing_is_in_the_order_of_bytes_not_numbers(filled: LogStore, prefix: str, after: str, limit: int) -> None:
    every = sorted(object_name(epoch, OLD, NEW) for epoch in EPOCHS)
    expected = [name for name in every if name.startswith(prefix) and name > after][:limit]
    assert names(filled, prefix=prefix, start_after=after, limit=limit) == expected


def race(backend: Backend, write: Callable[[LogStore, int], str]) -> list[str]:
    """What became of each racer: `write` gives the name it put; a refusal counts as its reason."""
    barrier = threading.Barrier(RACERS)

    def run(number: int) -> str:
        store = backend.open()
        barrier.wait()
        try:
            return write(store, number)
        except StoreError as e:
            return e.reason

    with ThreadPoolExecutor(RACERS) as pool:
        return sorted(pool.map(run, range(RACERS)))


def test_of_racing_writers_with_different_names_one_wins(backend: Backend) -> None:
    def write(store: LogStore, number: int) -> str:
        name = object_name(1, OLD, bytes([number]) * 32)
        store.put(name, b"blob")
        return name

    winner, *losers = race(backend, write)
    assert losers == ["LOG_EPOCH_TAKEN"] * (RACERS - 1)
    assert names(backend.open()) == backend.everything() == [winner]


def test_of_racing_writers_with_different_bytes_one_wins(backend: Backend) -> None:
    def write(store: LogStore, number: int) -> str:
        store.put(NAME, b"%d" % number)
        return str(number)

    winner, *losers = race(backend, write)
    assert losers == ["LOG_OBJECT_EXISTS"] * (RACERS - 1)
    assert backend.open().get(NAME) == winner.encode()


def test_racing_writers_of_one_object_all_succeed(backend: Backend) -> None:
    def write(store: LogStore, _: int) -> str:
        store.put(NAME, b"blob")
        return NAME

    assert race(backend, write) == [NAME] * RACERS
    assert backend.everything() == [NAME]


# The folder.


@given(
    epochs=st.sets(st.integers(1, 120), max_size=12),
    prefix=st.sampled_from(["", "1", "1/", "10/", "1/0", f"1/{OLD.hex()}/", NAME, NAME + "x", "z"]),
    after=st.sampled_from(["", "0", "1", "1/", "10", "10/", "1/z", NAME, NAME[:-1], NAME + "x", "9", "z"]),
    limit=st.integers(0, 5),
)
def test_a_listing_of_any_folder(
    tmp_path_factory: pytest.TempPathFactory, epochs: set[int], prefix: str, after: str, limit: int
) -> None:
    folder = tmp_path_factory.mktemp("log")
    all_names = [object_name(epoch, OLD, NEW) for epoch in epochs]
    for name in all_names:
        (folder / name).parent.mkdir(parents=True)  # as put does: its fsyncs would take most of the test's time
        (folder / name).touch()
    expected = sorted(n for n in all_names if n.startswith(prefix) and n > after)[:limit]
    assert names(FileLog(folder), prefix=prefix, start_after=after, limit=limit) == expected


def test_names_are_read_again_only_when_the_folder_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FileLog(tmp_path).put(NAME, b"blob")
    os.utime(tmp_path, (1, 1))  # long ago
    read: list[object] = []
    listdir = os.listdir

    def record(folder: Any) -> list[str]:
        read.append(folder)
        return listdir(folder)

    monkeypatch.setattr(os, "listdir", record)
    store = FileLog(tmp_path)
    for _ in range(3):
        assert names(store) == [NAME]
    assert read.count(tmp_path) == 1
    second = object_name(2, NEW, OTHER)
    FileLog(tmp_path).put(second, b"blob")
    assert names(store) == [NAME, second]
    third = object_name(3, OTHER, NEW)
    FileLog(tmp_path).put(third, b"blob")
    os.utime(tmp_path, ns=(0, os.stat(tmp_path).st_mtime_ns))
    assert names(store) == [NAME, second, third]


def test_a_change_that_the_folders_time_does_not_show_is_seen(tmp_path: Path) -> None:
    """Two changes within a step of the file system's clock."""
    store = FileLog(tmp_path)
    store.put(NAME, b"blob")
    assert names(store) == [NAME]
    moment = os.stat(tmp_path).st_mtime_ns
    second = object_name(2, NEW, OTHER)
    FileLog(tmp_path).put(second, b"blob")
    os.utime(tmp_path, ns=(moment, moment))
    assert names(store) == [NAME, second]


@pytest.mark.parametrize("call", ["os.fsync", "os.rename"])
def test_a_crash_while_writing_leaves_no_object_and_put_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The process dies inside the call: nothing after it runs, not even cleaning up."""

    class Died(BaseException):
        pass

    def die(*_: object) -> None:
        raise Died

    with monkeypatch.context() as patch:
        store = FileLog(tmp_path)
        patch.setattr(call, die)
        patch.setattr("shutil.rmtree", lambda *_, **__: None)
        with pytest.raises(Died):
            store.put(NAME, b"blob")
    store = FileLog(tmp_path)
    assert store.get(NAME) is None
    assert names(store) == []
    assert os.listdir(tmp_path) != []
    store.put(NAME, b"blob")
    assert names(store) == [NAME]
    assert os.listdir(tmp_path) == ["1"]


def test_an_object_and_its_folders_are_synced_before_put_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    store = FileLog(tmp_path)
    monkeypatch.setattr(os, "fsync", record)
    store.put(NAME, b"blob")
    file, inner, draft, folder = synced
    assert (Path(file).parent, Path(inner).parent) == (Path(inner), Path(draft))
    assert folder == str(tmp_path)
    synced.clear()
    store.put(NAME, b"blob")  # found there, perhaps by a writer that died before its own sync
    assert synced == [str(tmp_path)]


def test_a_full_disk_is_the_caller_s_to_see_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileLog(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            store.put(NAME, b"blob")
    assert os.listdir(tmp_path) == []


def test_an_object_that_the_disk_has_no_room_for_is_not_there(tmp_path: Path) -> None:
    """The kernel refuses in the middle of the object, as a full disk does."""
    store = FileLog(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            store.put(NAME, bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []
    store.put(NAME, bytes(100_000))
    assert store.get(NAME) == bytes(100_000)
