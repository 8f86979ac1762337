"""What a batch of lookups saves: `python bench/batch.py [LABELS]` (10,000 labels: about half a minute).

The directory lies in SQLite on disk, as in production; the proofs are made in this process, without gRPC.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from ipls import akd
from ipls.store.directory import DirectoryStore, Step, StoredHead

BATCHES = (1, 8, 64)
ROUNDS = 15
EPOCH = 1


def median_ms(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken) * 1000


def published(store: DirectoryStore, key: akd.DirectoryKey, labels: list[bytes]) -> akd.Publication:
    """One epoch that holds all the labels."""
    store.commit_start(StoredHead(0, akd.EMPTY_ROOT, 0, b""))
    updates = [akd.Update(label, os.urandom(33), None) for label in labels]
    publication = akd.publish(store, key, 0, akd.EMPTY_ROOT, 0, updates)
    assert publication is not None
    step = Step(EPOCH, publication.old_root, publication.new_root, (), publication.blob)
    store.insert_step(step)
    store.commit(step, publication, b"")
    return publication


def main(count: int) -> None:
    key = akd.DirectoryKey.from_seed(os.urandom(32))
    with tempfile.TemporaryDirectory() as folder:
        store = DirectoryStore(Path(folder) / "directory.db", "bench.ipls", key.public_key)
        with closing(store):
            publication = published(store, key, [b"+1555%07d" % number for number in range(count)])
            every = count // max(BATCHES)
            known: list[tuple[bytes, akd.Version | None]] = list(publication.versions[::every])
            absent: list[tuple[bytes, akd.Version | None]] = [(b"+1666%07d" % n, None) for n in range(max(BATCHES))]
            print(f"{count:,} labels; ms for all, median of {ROUNDS}")
            print(f"{'':28}{'one by one':>12}{'one batch':>12}{'gain':>8}")
            for kind, wanted in (("lookups", known), ("absences", absent)):
                for size in BATCHES:
                    some = wanted[:size]

                    def batch(some: list[tuple[bytes, akd.Version | None]] = some) -> list[bytes]:
                        return akd.make_lookups(store, key, EPOCH, publication.depth, some)

                    def singly(some: list[tuple[bytes, akd.Version | None]] = some) -> list[bytes]:
                        return [akd.make_lookups(store, key, EPOCH, publication.depth, [one])[0] for one in some]

                    assert batch() == singly()
                    one_by_one, together = median_ms(singly), median_ms(batch)
                    print(f"{size:>4} {kind:23}{one_by_one:12.1f}{together:12.1f}{one_by_one / together:7.1f}x")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
