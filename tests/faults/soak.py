"""People register, store, lose their phones and restore while everything that can happen to a deployment happens to it;
at the end each of them has every contact whose storing was acknowledged. `scripts/soak` runs it.

It uses what a person and an operator use: the command line and the deployment's folder.
"""

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from random import Random, SystemRandom

from tests.e2e.running import Deployment, ipls, running
from tests.environment import BARE
from tests.faults.disks import disk
from tests.faults.wires import Wire

PEOPLE = 3
CALM_S = 5.0
"""At most, between the end of one fault and the beginning of the next; as long does the longest pause, cut or full disk
last at least."""
LONG_S = 15.0
DISK_BYTES = 512 << 20
"""Of the file system that the deployment lies on."""
STREAMS = 500
DAY_S = 24 * 3600
SETTLE_S = 180.0
"""In which everything serves again by itself, once nothing happens any more."""


class Lost(Exception):
    """Something that was acknowledged is not there."""


class Clock:
    """The wall clock of servers and devices (libfaketime); the monotonic one goes on as on a machine that sleeps."""

    def __init__(self, folder: Path) -> None:
        library = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")))
        self.folder = folder
        self._file = folder / "clock"
        self.offset_s = 0
        self.step(0)
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_RESET": "1",
        }

    def step(self, by_s: int) -> None:
        self.offset_s += by_s
        aside = self._file.with_suffix(".new")
        aside.write_text(f"{self.offset_s:+d}\n")
        aside.replace(self._file)


class Person:
    """One account: what it holds for sure, and what it may hold since a store went unanswered."""

    def __init__(self, number: str, folder: Path, endpoints: Path, clock: Clock, random: Random) -> None:
        self.number = number
        self._folder = folder
        self._endpoints = endpoints
        self._environment = BARE | clock.environment
        self._card = clock.folder / f"{number}.vcf"
        self._random = random
        self._phones = 0
        self._cards = 0
        self.held: frozenset[str] = frozenset()
        self.maybe: set[frozenset[str]] = set()
        self.done = Counter[str]()
        self.said = ""
        """Of the last command's errors, the last line."""

    def begin(self) -> None:
        """The first phone, and the first contact in the store."""
        quiet = threading.Event()
        self.new_phone(quiet)
        self._store(quiet)

    def live(self, over: threading.Event) -> None:
        """The journey in a loop, until it is over."""
        while not over.is_set():
            if self._random.random() < 0.3:
                self.new_phone(over)
            else:
                self._store(over)

    def _run(self, *arguments: object) -> "subprocess.CompletedProcess[str]":
        done = ipls(
            *("client", *arguments, "--home", self._folder, "--profile", f"{self.number[-3:]}-{self._phones}"),
            env=self._environment,
            timeout=300,
        )
        if "Traceback" in done.stderr or done.returncode not in (0, 1, 3):
            raise Lost(f"{arguments[0]} ended in {done.returncode}: {done.stderr[-2000:]}")
        self.said = done.stderr.strip().rpartition("\n")[2]
        self.done[str(arguments[0]) if done.returncode == 0 else f"{arguments[0]}, refused"] += 1
        return done

    def _again(self, over: threading.Event, *arguments: object) -> bool:
        """Until it is done; whether it was, before it was over."""
        while self._run(*arguments, "--patience", 10).returncode:
            if over.wait(1):
                return False
        return True

    def new_phone(self, over: threading.Event) -> bool:
        """The phone is lost; a new one registers and restores. False if it was over before that came to be."""
        self._phones += 1
        outbox = self._folder.parent / "data/registration.outbox"
        register = ("register", self.number, "--endpoints", self._endpoints, "--outbox", outbox)
        if not self._again(over, *register):
            return False
        if not self.held and not self.maybe:
            return True
        if not self._again(over, "restore"):
            return False
        found = self._book()
        if found not in self.maybe | {self.held}:
            raise Lost(f"restored {len(found)} contacts where {len(self.held)} are held")
        self.held, self.maybe = found, set()
        return True

    def _store(self, over: threading.Event) -> None:
        self._cards += 1
        name = f"Card {self._cards} of {self._random.randrange(10**6)}"
        self._card.write_text(f"BEGIN:VCARD\r\nVERSION:3.0\r\nFN:{name}\r\nEND:VCARD\r\n", newline="")
        if self._run("contacts", "import", self._card).returncode:
            return  # the phone's disk is full
        book = self._book()
        self.maybe.add(book)
        if self._again(over, "store"):
            self.held, self.maybe = book, set()

    def _book(self) -> frozenset[str]:
        """The names on the phone."""
        listed = self._run("contacts", "list", "--json")
        if listed.returncode:
            raise Lost(f"a phone can't list its contacts: {listed.stderr}")
        return frozenset(json.loads(line)["name"] for line in listed.stdout.splitlines())


class Faults:
    """One after the other, each at a random place, in a random order."""

    KINDS = ("kill", "pause", "cut", "stand", "fill", "flip", "sleep", "set_clock")

    def __init__(
        self, kinds: list[str], deployment: Deployment, wires: list[Wire], clock: Clock, random: Random, disk: Path
    ) -> None:
        self._kinds = kinds
        self._deployment = deployment
        self._wires = wires
        self._clock = clock
        self._random = random
        self._disk = disk
        self.made = Counter[str]()

    def go_on(self, over: threading.Event) -> None:
        while not over.wait(self._random.uniform(0, CALM_S)):
            kind = self._random.choice(self._kinds)
            say(kind)
            with suppress(ProcessLookupError, StopIteration, FileNotFoundError):  # what it was to hit is not there now
                getattr(self, kind)(over)
                self.made[kind] += 1

    def _victim(self) -> int:
        name = self._random.choice([*self._deployment.endpoints(), "core"])
        return self._deployment.pid(name)

    def _while(self, over: threading.Event) -> None:
        over.wait(self._random.uniform(1, LONG_S))

    def kill(self, over: threading.Event) -> None:
        os.kill(self._victim(), signal.SIGKILL)

    def pause(self, over: threading.Event) -> None:
        pid = self._victim()
        os.kill(pid, signal.SIGSTOP)
        try:
            self._while(over)
        finally:
            os.kill(pid, signal.SIGCONT)

    def cut(self, over: threading.Event) -> None:
        wire = self._random.choice(self._wires)
        with wire.cut():
            self._while(over)

    def stand(self, over: threading.Event) -> None:
        """Connections that say nothing."""
        wire = self._random.choice(self._wires)
        with wire.standing(STREAMS):
            self._while(over)

    def fill(self, over: threading.Event) -> None:
        ballast = self._disk / "ballast"
        try:
            with suppress(OSError), ballast.open("wb") as file:
                while True:
                    file.write(bytes(1 << 20))
            self._while(over)
        finally:
            ballast.unlink(missing_ok=True)

    def flip(self, over: threading.Event) -> None:
        """A bit of the log, until the operator has it mended."""
        folder = self._deployment.folder
        objects = [path for path in (folder / "data/log").rglob("*") if path.is_file() and path.stat().st_size]
        file = self._random.choice(sorted(objects))
        data = bytearray(file.read_bytes())
        data[self._random.randrange(len(data))] ^= 1 << self._random.randrange(8)
        file.chmod(0o600)
        file.write_bytes(data)
        self._while(over)
        ipls("fsck", "--repair", "--config", folder / "ipls.toml")  # it says, too, that the vault is not off

    def sleep(self, over: threading.Event) -> None:
        """As a laptop does: the wall clock is further on."""
        self._clock.step(self._random.randrange(60, 2 * 3600))

    def set_clock(self, over: threading.Event) -> None:
        """A day off, and back."""
        by_s = self._random.choice([-DAY_S, DAY_S])
        self._clock.step(by_s)
        try:
            self._while(over)
        finally:
            self._clock.step(-by_s)


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def behind_wires(folder: Path, stack: ExitStack) -> tuple[list[Wire], Path]:
    """What the devices are told: every public port behind a wire that can be cut."""
    endpoints = json.loads((folder / "endpoints.json").read_text())
    wires = []
    for name in ("directory", "vault", "contacts", "registration"):
        service = endpoints["services"][name]
        wires.append(stack.enter_context(Wire(service["address"])))
        service["address"] = wires[-1].address
    file = folder / "clients.json"
    file.write_text(json.dumps(endpoints))
    return wires, file


def soak(minutes: float, seed: int, kinds: list[str], keep: Path | None) -> None:
    """Raises Lost. The deployment's logs go to `keep`."""
    random, over = Random(seed), threading.Event()
    failed: list[BaseException] = []
    with ExitStack() as stack:
        temporary = tempfile.TemporaryDirectory(prefix="ipls-soak-", ignore_cleanup_errors=True)
        folder = Path(stack.enter_context(temporary))
        folder.chmod(0o755)  # the vault's users are to come in
        try:
            folder = stack.enter_context(disk(folder / "disk", DISK_BYTES))
        except OSError:
            say("the disk is not filled: that needs root, to make one of its own")
            kinds = [kind for kind in kinds if kind != "fill"]
        aside = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ipls-soak-clock-")))
        clock = Clock(aside)
        environment = BARE | clock.environment
        if keep:
            stack.callback(shutil.copytree, folder / "d/logs", keep)
        deployment = stack.enter_context(running(folder / "d", witnesses=3, environment=environment))
        wires, endpoints = behind_wires(deployment.folder, stack)
        (deployment.folder / "phones").mkdir()
        people = [
            Person(f"+1555010{n:04}", deployment.folder / "phones", endpoints, clock, Random(random.random()))
            for n in range(PEOPLE)
        ]
        for person in people:
            person.begin()
        say(f"{len(people)} people have registered and stored")
        faults = Faults(kinds, deployment, wires, clock, random, folder)

        def part(work: Callable[[threading.Event], object]) -> threading.Thread:
            def run() -> None:
                try:
                    work(over)
                except BaseException as error:  # it is raised where the parts are joined
                    failed.append(error)
                    over.set()

            thread = threading.Thread(target=run)
            thread.start()
            return thread

        parts = [part(person.live) for person in people] + [part(faults.go_on)]
        try:
            over.wait(minutes * 60)
        finally:
            over.set()
            for thread in parts:
                thread.join()
        say(f"faults made: {faults.made.total()}: " + ", ".join(f"{n} {k}" for k, n in sorted(faults.made.items())))
        done = sum((person.done for person in people), Counter[str]())
        say("done: " + ", ".join(f"{n} {what}" for what, n in sorted(done.items())))
        if failed:
            raise failed[0]
        say("nothing happens any more; each takes a new phone")
        late = threading.Event()
        timer = threading.Timer(SETTLE_S, late.set)
        timer.start()
        try:
            for person in people:
                if not person.new_phone(late):
                    raise Lost(f"not restored within {SETTLE_S:.0f} s of quiet: {person.said}")
        finally:
            timer.cancel()
        ipls("fsck", "--repair", "--config", deployment.folder / "ipls.toml")
        audited = ipls("audit", "--trust", deployment.folder / "trust.toml", env=environment)
        if audited.returncode:
            raise Lost(f"the log is not whole: {audited.stderr}")
        held = sum(len(person.held) for person in people)
        say(f"all acknowledged writes are there: {held} contacts of {len(people)} people; {faults.made.total()} faults")


def main() -> int:
    """0 if nothing was lost."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(2**32))
    parser.add_argument("--faults", default=",".join(Faults.KINDS), help="which ones, of %(default)s")
    parser.add_argument("--keep-logs", type=Path, help="a new folder for the services' logs")
    given = parser.parse_args()
    say(f"seed {given.seed}, {given.minutes:g} minutes")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was mounted and started ends too
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    try:
        soak(given.minutes, given.seed, given.faults.split(","), given.keep_logs)
    except Lost as lost:
        say(f"LOST (seed {given.seed}): {lost}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
