"""Our directory beside the Rust crate `akd`, the same work in turns: `python bench/directory.py --write`.

Each side is a process of its own (bench/ours.py, bench/peers/akd, which cargo builds) and answers the same commands;
their roots are compared at every epoch. All three sizes take about ten minutes and 8 GB of memory, most of it akd's.
"""

import argparse
import json
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

BENCH = Path(__file__).resolve().parent
PEER = BENCH / "peers/akd"
DOCUMENT = BENCH.parent / "docs/benchmarks.md"
MARKS = "<!-- measured -->\n", "<!-- end of what was measured -->\n"

SIZES = 10_000, 100_000, 1_000_000
EPOCH_UPDATES = 10_000
"""Labels in an epoch, as many as a directory takes at most; a quarter of the tree where that is less."""

APPENDED = 10_000
ROUNDS = 3
SAMPLES = 100

Result = dict[str, Any]


class Side:
    """One of the two, spoken to in lines."""

    def __init__(self, command: Sequence[str | Path]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, *command: object) -> Result:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(*command, file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._process.args!r} ended at {command!r}")
        answer: Result = json.loads(line)
        return answer

    def close(self) -> None:
        self._process.communicate()


class Row(NamedTuple):
    """One measure of both sides; `more_is_better` for rates. None where there is nothing to measure."""

    what: str
    unit: str
    akd: float | None
    ours: float
    more_is_better: bool = False

    def ratio(self) -> float | None:
        """How many times as much ours takes: below 1 it is the faster or the smaller."""
        if self.akd is None:
            return None
        return self.akd / self.ours if self.more_is_better else self.ours / self.akd

    def cells(self) -> list[str]:
        ratio = self.ratio()
        return [self.what, self.unit, _number(self.akd), _number(self.ours), "–" if ratio is None else f"{ratio:.2f}"]


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


class Both:
    """The two sides, at work in turns on directories that are the same."""

    def __init__(self, akd: Side, ours: Side) -> None:
        self._sides = akd, ours
        self._labels = 0

    def measure(self, size: int) -> list[Row]:
        """Grow to `size` labels and measure there; the directory has APPENDED more afterwards."""
        count = min(EPOCH_UPDATES, size // 4)
        new = list[list[float]]()
        while self._labels < size:
            new.append(self._publish(self._labels, min(count, size - self._labels), 1))
            _progress(f"{self._labels:,} labels of {size:,}")
        changed = [self._publish(size - (turn + 1) * count, count, 2) for turn in range(ROUNDS)]
        sizes = [side.ask("size") for side in self._sides]
        sampled = range(size - 1, size - ROUNDS * count, -ROUNDS * count // SAMPLES)
        proofs = list[Row]()
        for kind, name in (("lookup", "lookup"), ("history", "history of 2 versions")):
            first, again = (self._ask_all([(kind, number) for number in sampled]) for _ in range(2))
            proofs += [
                _row(f"{name} made, first asked for", "ms", first, "made", 1e3),
                _row(f"{name} made, asked for before", "ms", again, "made", 1e3),
                _row(f"{name} checked", "ms", [*first, *again], "checked", 1e3),
                _row(f"{name} proof", "bytes", again, "bytes"),
            ]
        self._publish(self._labels, APPENDED, 1)
        appended = self._ask_all([("append_only",)] * ROUNDS)
        name = f"append-only of {APPENDED:,} inserted"
        return [
            _rate("publish new labels", count, new[-ROUNDS:]),
            _rate("publish changed labels", count, changed),
            *proofs,
            _row(f"{name} made", "s", appended, "made"),
            _row(f"{name} checked", "s", appended, "checked"),
            _row("append-only proof", "bytes", appended, "bytes"),
            Row("memory a label", "bytes", *(answer["memory"] / size for answer in sizes)),
            Row("disk a label, log included", "bytes", None, sizes[1]["disk"] / size),
        ]

    def _publish(self, first: int, count: int, version: int) -> list[float]:
        """The seconds that each side took."""
        akd, ours = (side.ask("publish", first, count, version) for side in self._sides)
        if akd["root"] != ours["root"]:
            raise SystemExit("the two directories have different roots")
        self._labels = max(self._labels, first + count)
        return [akd["seconds"], ours["seconds"]]

    def _ask_all(self, commands: Iterable[tuple[object, ...]]) -> list[list[Result]]:
        return [[side.ask(*command) for side in self._sides] for command in commands]


def _row(what: str, unit: str, answers: Sequence[Sequence[Result]], field: str, factor: float = 1) -> Row:
    akd, ours = (statistics.median(pair[side][field] for pair in answers) * factor for side in (0, 1))
    return Row(what, unit, akd, ours)


def _rate(what: str, count: int, seconds: Sequence[Sequence[float]]) -> Row:
    akd, ours = (count / statistics.median(pair[side] for pair in seconds) for side in (0, 1))
    return Row(what, "a second", akd, ours, more_is_better=True)


def _progress(text: str) -> None:
    print(f"\r{text:40}", end="", file=sys.stderr, flush=True)


def machine() -> str:
    """What this runs on, for whoever compares."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{model}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB of memory, Linux {platform.release()},"
        f" Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    )


def table(size: int, rows: Sequence[Row]) -> str:
    """The rows as Markdown, a ratio at the end of each."""
    lines = [["", "", "akd", "IPLS", "IPLS / akd"], ["---", "---", "--:", "--:", "--:"], *(row.cells() for row in rows)]
    body = "".join("| " + " | ".join(line) + " |\n" for line in lines)
    return f"### {size:,} labels\n\n{body}\n"


def write(text: str, marks: tuple[str, str] = MARKS) -> None:
    """Put the tables in place of those in the document."""
    document = DOCUMENT.read_text()
    begin, end = (document.index(mark) for mark in marks)
    DOCUMENT.write_text(document[:begin] + marks[0] + "\n" + text + document[end:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of labels, ascending")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the tables")
    parser.add_argument("--write", action="store_true", help="write the tables into docs/benchmarks.md too")
    options = parser.parse_args()
    build: list[str | Path] = [
        "cargo",
        "build",
        "--quiet",
        "--release",
        "--locked",
        "--manifest-path",
        PEER / "Cargo.toml",
    ]
    subprocess.run(build, check=True)
    commands: list[list[str | Path]] = [[PEER / "target/release/akd-peer"], [sys.executable, BENCH / "ours.py"]]
    with closing(Side(commands[0])) as akd, closing(Side(commands[1])) as ours:
        both = Both(akd, ours)
        measured = {size: both.measure(size) for size in options.sizes}
    _progress("")
    rust = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    text = f"Measured on {machine()}, Rust {rust}.\n\n" + "".join(table(size, rows) for size, rows in measured.items())
    if options.json:
        rows = {size: [row._asdict() | {"ratio": row.ratio()} for row in of] for size, of in measured.items()}
        print(json.dumps({"machine": machine(), "rust": rust, "sizes": rows}))
    else:
        print("\n" + text, end="")
    if options.write:
        write(text)


if __name__ == "__main__":
    main()
