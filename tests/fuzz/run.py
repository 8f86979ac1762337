"""`scripts/fuzz`: the targets of tests/fuzz/targets, and the directory's state machine, for as long as it is let."""

import argparse
import faulthandler
import resource
import sys
import time
from collections.abc import Iterator
from random import Random, SystemRandom

from ipls.runtime.logging import configure_logging
from tests.fuzz.meter import Hangs, check
from tests.fuzz.mutation import mutate
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS
from tests.store.directory import machine

DIRECTORY = "directory"
MEMORY = 4 << 30
"""Bytes of address space: what C code allocates shows as a MemoryError."""
HANG_S = 120
"""C code that does not come back within it ends the run with a traceback."""


def inputs(target: Target, number: int | None) -> Iterator[tuple[int, bytes]]:
    """Inputs with the number that makes each again; without end unless one was named."""
    source = SystemRandom()
    while True:
        seed = source.getrandbits(63) if number is None else number
        random = Random(seed)
        yield (
            seed,
            random.randbytes(random.randint(0, 300))
            if seed % 20 == 0
            else mutate(random, target.seeds, target.longest),
        )
        if number is not None:
            return


def fuzz(name: str, seconds: float, number: int | None) -> bool:
    """Whether no input did harm; says which did."""
    target, taken, tried = TARGETS[name](), 0, 0
    for seed in target.seeds:
        target.run(seed)
    end = time.monotonic() + seconds
    for number_of_input, data in inputs(target, number):
        faulthandler.dump_traceback_later(HANG_S, exit=True)
        try:
            taken += check(target, data)
        except (Exception, Hangs):
            sys.excepthook(*sys.exc_info())
            print(f"{name}: harmed by {data[:200]!r} ({len(data)} bytes); again: --input {number_of_input}")
            return False
        finally:
            faulthandler.cancel_dump_traceback_later()
        tried += 1
        if time.monotonic() > end:
            break
    print(f"{name}: {tried} inputs, {taken} taken, none did harm", flush=True)
    return True


def explore_directory(seconds: float) -> bool:
    """Whether the directory's database came through every story; a failing one is printed as a test of its own."""
    end, rounds = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        try:
            machine.explore(stories=20, steps=50)
        except Exception:
            sys.excepthook(*sys.exc_info())
            return False
        rounds += 1
    print(f"{DIRECTORY}: {rounds * 20} stories, all as in the model", flush=True)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    names = [*TARGETS, DIRECTORY]
    parser.add_argument("target", nargs="?", choices=names, metavar="TARGET", help=", ".join(names))
    parser.add_argument("--seconds", type=float, default=60, help="for each target; 60 unless told otherwise")
    parser.add_argument("--input", type=int, help="one input again, by its number")
    options = parser.parse_args()
    configure_logging("critical")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    harmed = []
    for name in [options.target] if options.target else names:
        good = explore_directory(options.seconds) if name == DIRECTORY else fuzz(name, options.seconds, options.input)
        harmed += [] if good else [name]
    return 1 if harmed else 0


if __name__ == "__main__":
    sys.exit(main())
