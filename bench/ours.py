"""Our directory on the shapes of bench/directory.py, which starts this as a process of its own.

Commands on stdin, one a line; for each a line of JSON on stdout. bench/peers/akd answers the same ones:

    publish FIRST COUNT VERSION   one epoch: that version of COUNT labels from number FIRST on: seconds, root (hex)
    lookup NUMBER                 a lookup proof of the label: made, checked (seconds), bytes
    history NUMBER                the same for a history proof of the 2 most recent versions
    append_only                   the same for the newest epoch's append-only proof, made again from what is stored
    size                          memory, disk (bytes)
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from ipls import akd
from ipls.store.directory import EpochRow, PendingUpdate, PreparedEpoch, StoredHead, open_directory_store
from ipls.store.log import FileLog, object_name

VRF_SEED = bytes.fromhex("c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721")
"""That of the akd crate's examples, so that both sides must come to the same roots."""

Result = dict[str, Any]


def label_of(number: int) -> bytes:
    return b"+1555%07d" % number


def value_of(number: int, version: int) -> bytes:
    return f"{number}/{version}".ljust(33, ".").encode()


def resident() -> int:
    """Of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


class Side:
    """A directory in a folder, as a directory process has it: SQLite and a log of files, each step durable."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = akd.DirectoryKey.from_seed(VRF_SEED)
        self._log = FileLog(folder / "log")
        self._head = StoredHead(0, akd.EMPTY_ROOT, 0, b"")
        self._old_root = akd.EMPTY_ROOT
        self._store = open_directory_store(folder / "directory.db", "bench.ipls", self._key.public_key)
        self._term = self._store.take_lease(self._store.lease())
        self._store.commit_start(self._term, self._head)

    def close(self) -> None:
        self._store.close()

    def publish(self, first: int, count: int, version: int) -> Result:
        """All that a directory does for an epoch but to queue the updates and to ask the witnesses."""
        batch = [PendingUpdate(n, label_of(n), value_of(n, version)) for n in range(first, first + count)]
        started = time.perf_counter()
        updates = [akd.Update(q.label, q.value, self._current(q.label)) for q in batch]
        made = akd.publish(self._store, self._key, self._head.epoch, self._head.root_hash, self._head.depth, updates)
        assert made is not None
        step = EpochRow(made.epoch, made.old_root, made.new_root, tuple(batch), made.blob)
        self._store.insert_step(self._term, step)
        self._log.put(object_name(step.epoch, step.old_root, step.new_root), step.blob)
        self._head, self._old_root = self._store.commit(self._term, step, PreparedEpoch(made), b""), made.old_root
        return {"seconds": time.perf_counter() - started, "root": made.new_root.hex()}

    def lookup(self, number: int) -> Result:
        label, head, public_key = label_of(number), self._head, self._key.public_key
        return _timed(
            lambda: akd.make_lookup(self._store, self._key, head.epoch, head.depth, label, self._newest(label)),
            lambda proof: akd.verify_lookup(head.root_hash, head.epoch, public_key, label, proof),
        )

    def history(self, number: int) -> Result:
        label, head, public_key = label_of(number), self._head, self._key.public_key

        def make() -> bytes:
            versions = self._store.versions(label, head.epoch, 2)
            return akd.make_history(self._store, self._key, head.epoch, head.depth, label, versions)

        return _timed(
            make,
            lambda proof: akd.verify_history(head.root_hash, head.epoch, public_key, label, proof, most_recent=2),
        )

    def append_only(self) -> Result:
        head = self._head
        return _timed(
            lambda: akd.make_append_only(self._store, head.epoch),
            lambda proof: akd.verify_append_only(self._old_root, head.root_hash, head.epoch, proof),
        )

    def size(self) -> Result:
        disk = sum(file.stat().st_size for file in self._folder.rglob("*") if file.is_file())
        return {"memory": resident(), "disk": disk}

    def _current(self, label: bytes) -> akd.Version | None:
        return next(iter(self._store.versions(label, self._head.epoch, 1)), None)

    def _newest(self, label: bytes) -> akd.Version:
        current = self._current(label)
        assert current is not None
        return current


def _timed(make: Callable[[], bytes], check: Callable[[bytes], object]) -> Result:
    started = time.perf_counter()
    proof = make()
    made = time.perf_counter()
    check(proof)
    return {"made": made - started, "checked": time.perf_counter() - made, "bytes": len(proof)}


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="ipls-bench-") as folder, closing(Side(Path(folder))) as side:
        answers: dict[str, Callable[..., Result]] = {
            "publish": side.publish,
            "lookup": side.lookup,
            "history": side.history,
            "append_only": side.append_only,
            "size": side.size,
        }
        for line in sys.stdin:
            command, *numbers = line.split()
            print(json.dumps(answers[command](*map(int, numbers))), flush=True)


if __name__ == "__main__":
    main()
