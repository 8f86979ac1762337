"""Looking into the memory of other processes: Linux, root or one's own descendants."""

import os
import re
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw.. \S+ \S+ \S+\s*(.*)")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PRESENT = (1 << 63) | (1 << 62)  # in memory, or swapped out


def stopped(pid: int) -> None:
    """Stops a process; returns when it stands still."""
    os.kill(pid, signal.SIGSTOP)
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "Tt":
        pass


def resident(pid: int) -> Iterator[bytes]:
    """All writable memory that a process has touched, in runs of adjacent pages."""
    with (
        open(f"/proc/{pid}/maps") as maps,
        open(f"/proc/{pid}/pagemap", "rb") as pagemap,
        open(f"/proc/{pid}/mem", "rb", buffering=0) as memory,
    ):
        for line in maps:
            found = _MAPPING.match(line)
            if not found or found[3] == "[vvar]":
                continue
            start, end = int(found[1], 16), int(found[2], 16)
            pagemap.seek(start // _PAGE * 8)
            entries = memoryview(pagemap.read((end - start) // _PAGE * 8)).cast("Q")
            run = None
            for page, entry in enumerate([*entries, 0]):
                if entry & _PRESENT:
                    run = page if run is None else run
                elif run is not None:
                    memory.seek(start + run * _PAGE)
                    yield memory.read((page - run) * _PAGE)
                    run = None


def search(pid: int, needles: Sequence[bytes]) -> list[bool]:
    """Whether each of `needles` lies anywhere in a process's writable memory, between two of its instructions."""
    stopped(pid)
    try:
        memory = list(resident(pid))
    finally:
        os.kill(pid, signal.SIGCONT)
    return [any(needle in run for run in memory) for needle in needles]
