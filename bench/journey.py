"""The figures of the main job, on this machine: `python bench/journey.py` (about two minutes).

The journey and the vault run against real processes (`ipls serve all`), durable as in production; the proofs are made
from tiles in memory and checked, the directory holding `LABELS` labels.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from ipls import akd
from ipls.client.device import Device
from ipls.client.outbox import code_from
from ipls.client.vault import VaultSession

LABELS = 10_000
PROOFS = 200
SESSIONS = 50
RETRIEVES = 500


def row(what: str, seconds: float, unit: str = "s") -> None:
    factor = {"s": 1, "ms": 1000}[unit]
    print(f"{what:60} {seconds * factor:10.2f} {unit}", flush=True)


async def timed(what: str, work: Callable[[], Awaitable[object]]) -> None:
    started = time.perf_counter()
    await work()
    row(what, time.perf_counter() - started)


def median(work: Callable[[], object], times: int) -> float:
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def directory() -> None:
    key, tiles = akd.DirectoryKey.from_seed(os.urandom(32)), akd.MemoryTiles()
    labels = [b"+1555%07d" % number for number in range(LABELS)]
    updates = [akd.Update(label, os.urandom(33), None) for label in labels]
    started = time.perf_counter()
    publication = akd.publish(tiles, key, 0, akd.EMPTY_ROOT, 0, updates)
    row(f"publish {LABELS:,} new labels (in memory)", time.perf_counter() - started)
    assert publication is not None
    tiles.write(publication.rows)
    root, epoch, depth = publication.new_root, publication.epoch, publication.depth
    started = time.perf_counter()
    akd.verify_append_only(publication.old_root, root, epoch, publication.blob)
    row("  its append-only proof checked", time.perf_counter() - started, "ms")
    label, version = publication.versions[LABELS // 2]
    lookup = akd.make_lookup(tiles, key, epoch, depth, label, version)
    history = akd.make_history(tiles, key, epoch, depth, label, [version])
    public = key.public_key
    row("lookup proof made", median(lambda: akd.make_lookup(tiles, key, epoch, depth, label, version), PROOFS), "ms")
    row("  checked", median(lambda: akd.verify_lookup(root, epoch, public, label, lookup), PROOFS), "ms")
    row(
        "history proof made", median(lambda: akd.make_history(tiles, key, epoch, depth, label, [version]), PROOFS), "ms"
    )
    row("  checked", median(lambda: akd.verify_history(root, epoch, public, label, history), PROOFS), "ms")


async def journeys(folder: Path) -> None:
    source = code_from(folder / "data/registration.outbox")

    def device(name: str) -> Device:
        return Device.open(folder / "profiles" / name, folder / "endpoints.json")

    for count in (1_000, 10_000):
        book = folder / f"{count}.vcf"
        subprocess.run(["scripts/addressbook", "--count", str(count), "--out", str(book)], check=True)
        number = f"+1555{count:07}"
        async with device(f"old{count}") as phone:
            await timed(f"register, one epoch ({count:,} contacts next)", partial(phone.register, number, source))
            phone.address_book.import_cards(book.read_bytes())
            await timed(f"store {count:,} contacts", phone.store)
            cards = phone.address_book.cards()
        async with device(f"new{count}") as phone:
            await phone.register(number, source)
            await timed(f"restore {count:,} contacts, key rotation included", phone.restore)
            assert sorted(phone.address_book.cards()) == sorted(cards)
            await retrieves(phone)


async def retrieves(phone: Device) -> None:
    vault = phone._vault  # the device offers no bare retrieve, and needs none
    taken: list[float] = []

    async def whole(session: VaultSession) -> None:
        await session.retrieve(0)

    async def many(session: VaultSession) -> None:
        for _ in range(60):
            started = time.perf_counter()
            await session.retrieve(0)
            taken.append(time.perf_counter() - started)

    sessions = []
    for _ in range(SESSIONS):
        started = time.perf_counter()
        await vault.run(whole)
        sessions.append(time.perf_counter() - started)
    while len(taken) < RETRIEVES:
        await vault.run(many)
    row("  vault: session with one retrieve, median", statistics.median(sessions), "ms")
    row("  vault: retrieve in an open session, median", statistics.median(taken), "ms")


def main() -> None:
    directory()
    ipls = [sys.executable, "-m", "ipls.cli.main"]
    with tempfile.TemporaryDirectory(prefix="ipls-bench-") as temporary:
        folder = Path(temporary) / "deployment"
        subprocess.run([*ipls, "init", str(folder), "--port", "0"], check=True, stdout=subprocess.DEVNULL)
        command = [*ipls, "serve", "all", "--config", str(folder / "ipls.toml"), "--stop-at-eof"]
        with (folder / "logs/all.log").open("wb") as log:
            server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        assert server.stdout is not None
        assert server.stdin is not None
        server.stdout.readline()
        try:
            asyncio.run(journeys(folder))
        finally:
            server.stdin.close()
            server.wait()


if __name__ == "__main__":
    main()
