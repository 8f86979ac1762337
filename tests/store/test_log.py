import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipls.store.errors import StoreError
from ipls.store.log import FileLog, LogStore, object_name

OLD, NEW, OTHER = b"\x01" * 32, b"\x02" * 32, b"\x03" * 32
NAME = object_name(1, OLD, NEW)


@pytest.fixture
def store(tmp_path: Path) -> LogStore:
    return FileLog(tmp_path / "log")


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(StoreError) as e:
        call()
    return e.value.reason


def names(store: LogStore, **query: str | int) -> list[str]:
    return [entry.name for entry in store.list(**query)]  # type: ignore[arg-type]


def test_what_is_put_is_there_for_every_reader(tmp_path: Path, store: LogStore) -> None:
    assert store.get(NAME) is None
    store.put(NAME, b"blob")
    assert store.get(NAME) == FileLog(tmp_path / "log").get(NAME) == b"blob"
    assert (tmp_path / "log" / NAME).read_bytes() == b"blob"
    assert [(e.name, e.size) for e in store.list()] == [(NAME, 4)]


def test_the_very_object_again_is_success(store: LogStore) -> None:
    store.put(NAME, b"blob")
    store.put(NAME, b"blob")


def test_an_object_is_never_replaced(store: LogStore) -> None:
    store.put(NAME, b"blob")
    assert refused(lambda: store.put(NAME, b"other")) == "LOG_OBJECT_EXISTS"
    assert store.get(NAME) == b"blob"


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
def test_only_names_are_names(tmp_path: Path, store: LogStore, name: str) -> None:
    assert refused(lambda: store.put(name, b"x")) == "LOG_NAME_INVALID"
    assert refused(lambda: store.get(name)) == "LOG_NAME_INVALID"
    assert os.listdir(tmp_path / "log") == []


@given(st.text(max_size=140))
def test_no_text_reaches_another_file(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    store = FileLog(tmp_path_factory.getbasetemp() / "junk")
    assert refused(lambda: store.get(name)) == "LOG_NAME_INVALID"


def test_a_listing_is_in_the_order_of_bytes_not_numbers(store: LogStore) -> None:
    for epoch in (1, 2, 9, 10, 11, 100):
        store.put(object_name(epoch, OLD, NEW), b"")
    assert [name.split("/")[0] for name in names(store)] == ["1", "10", "100", "11", "2", "9"]


@given(
    epochs=st.sets(st.integers(1, 120), max_size=12),
    prefix=st.sampled_from(["", "1", "1/", "10/", "1/0", f"1/{OLD.hex()}/", NAME, NAME + "x", "z"]),
    after=st.sampled_from(["", "0", "1", "1/", "10", "10/", "1/z", NAME, NAME[:-1], NAME + "x", "9", "z"]),
    limit=st.integers(0, 5),
)
def test_a_listing_is_what_s3_would_list(
    tmp_path_factory: pytest.TempPathFactory, epochs: set[int], prefix: str, after: str, limit: int
) -> None:
    folder = tmp_path_factory.mktemp("log")
    all_names = [object_name(epoch, OLD, NEW) for epoch in epochs]
    for name in all_names:
        (folder / name).parent.mkdir(parents=True)  # as put does: its fsyncs would take most of the test's time
        (folder / name).touch()
    expected = sorted(n for n in all_names if n.startswith(prefix) and n > after)[:limit]
    assert names(FileLog(folder), prefix=prefix, start_after=after, limit=limit) == expected


def test_of_racing_writers_one_wins_and_nobody_else_is_told_so(tmp_path: Path) -> None:
    outcomes: list[tuple[str, str]] = []
    barrier = threading.Barrier(8)

    def write(i: int) -> None:
        name = object_name(1, OLD, bytes([i]) * 32)
        barrier.wait()
        try:
            FileLog(tmp_path).put(name, b"blob")
            outcomes.append((name, "won"))
        except StoreError as e:
            outcomes.append((name, e.reason))

    threads = [threading.Thread(target=write, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [name for name, outcome in outcomes if outcome == "won"]
    assert names(FileLog(tmp_path)) == winners
    assert sorted(outcome for _, outcome in outcomes) == ["LOG_EPOCH_TAKEN"] * 7 + ["won"]
    assert os.listdir(tmp_path) == ["1"]


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
