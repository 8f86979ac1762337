"""A profile, opened for a command of `ipls client`: what its device reports, and how the command speaks.

Tested by tests/e2e/test_client_commands.py, tests/cli/test_commands.py and tests/cli/test_opening.py.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import Progress

from ipls.cli.console import emit
from ipls.cli.interrupt import interrupted
from ipls.cli.unlocking import key_access
from ipls.client import events
from ipls.client.access import describe
from ipls.client.calls import RETRY_FOR_S
from ipls.client.device import Device
from ipls.store.files import replace

STREAMS = (Path("/dev"), Path("/dev/fd"), Path("/proc/self/fd"))
"""The folders of what a process has open."""


Result = TypeVar("Result")


class Reporter:
    """Shows on standard error what of a device's reports a person has to know; if `verbose`, each proof and step too.
    On a terminal there is a bar for what takes long."""

    def __init__(self, *, verbose: bool) -> None:
        self._progress = Progress(console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task("")
        self._verbose = verbose
        self._warned: set[int] = set()
        self._code_holds_s = 0

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress.live.is_started:
            self._progress.stop()

    def __call__(self, event: events.Event) -> None:
        match event:
            case events.Progress(what, done, total):
                if self._progress.console.is_terminal:
                    self._progress.start()
                self._progress.update(self._task, description=what, completed=done, total=total, visible=done < total)
            case events.IdentityChange(version, epoch, _, "foreign"):
                if version not in self._warned:
                    self._warned.add(version)
                    self._say(f"WARNING: identity version {version} (epoch {epoch}) was not made by this device")
            case events.AccessEntry():
                if self._verbose or event.origin != "own":
                    self._say(describe(event))
            case events.ContactIdentityChanged():
                self._say(
                    f"WARNING: {event.label} has a new key, version {event.version}, since epoch {event.epoch}"
                    + (": you had compared the one before" if event.verified else "")
                )
            case events.ContactIdentityUnproved(label, reason):
                self._say(f"WARNING: what the directory says of {label} does not hold [{reason}]; it was not believed")
            case events.ContactIdentityDiffers(label):
                self._say(
                    f"WARNING: another device says that you compared another key of {label} than the directory proves;"
                    " compare again: ipls client contacts verify; or let go of it:"
                    f" ipls client contacts forget {label}"
                )
            case events.EvidenceMet(text, file):
                self._say(f"EVIDENCE: {text}; {file or 'its file could not be written'}")
            case events.CodeAwaited(sent_to, holds_s):
                if holds_s > self._code_holds_s:  # else it is the one that was spoken of
                    self._say(f"a code was sent to {sent_to or 'the number'}; it holds for {-(-holds_s // 60)} minutes")
                self._code_holds_s = holds_s
            case _ if self._verbose and (step := _in_words(event)):
                self._say(step)

    def _say(self, text: str) -> None:
        self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)


def _in_words(event: events.Event) -> str:
    """A proof that holds, or a step that is done."""
    match event:
        case events.TrustRootFollowed(number):
            return f"checked: version {number} of the trust root, signed by the witnesses before it and its own"
        case events.HeadChecked(epoch, root_hash, signers):
            return f"checked: epoch {epoch}, root {root_hash.hex()[:16]}…, signed by {', '.join(signers)}"
        case events.HistoryChecked(kind, epoch, _, versions):
            return f"checked: own history, {kind}, {versions} version(s) at epoch {epoch}"
        case events.VaultAccepted():
            return f"checked: the vault's HSM is bundle {event.bundle_number}'s; it judged by epoch {event.epoch}"
        case events.JourneyStep(name, _, count):
            return name + (f" ({count})" if count else "")
    return ""


def run(
    folder: Path,
    work: Callable[[Device], Awaitable[Result]],
    endpoints: Path | None = None,
    *,
    reading: bool = False,
    retry_for_s: float = RETRY_FOR_S,
    verbose: bool = False,
) -> Result:
    """What `work` does with the profile's device; what the device reports is shown meanwhile. Raises its errors."""

    async def at_work(opened: Device) -> Result:
        async with opened as device:
            return await work(device)

    with _reporting(verbose) as report:
        # Before the loop begins: at a passphrase's prompt Ctrl-C is this thread's.
        opened = Device.open(
            folder, endpoints, key=key_access(), reading=reading, report=report, retry_for_s=retry_for_s
        )
        return asyncio.run(at_work(opened))


def run_both(
    folder: Path,
    other: Path,
    work: Callable[[Device, Device], Awaitable[Result]],
    *,
    retry_for_s: float = RETRY_FOR_S,
    verbose: bool = False,
) -> Result:
    """Likewise with two profiles at once."""

    async def at_work(opened: Device, beside: Device) -> Result:
        async with opened as device, beside as to:
            return await work(device, to)

    with _reporting(verbose) as report:
        opened, beside = (
            Device.open(each, key=key_access(), report=report, retry_for_s=retry_for_s) for each in (folder, other)
        )
        return asyncio.run(at_work(opened, beside))


@contextmanager
def _reporting(verbose: bool) -> Iterator[Reporter]:
    """Of the block's device. Ctrl-C ends the command with a line."""
    try:
        with Reporter(verbose=verbose) as report:
            yield report
    except KeyboardInterrupt:
        interrupted("nothing is lost, and the same command goes on from there")


def local(folder: Path, work: Callable[[Device], Result], endpoints: Path | None = None) -> Result:
    """What asks nobody."""

    async def at_work(device: Device) -> Result:
        return work(device)

    return run(folder, at_work, endpoints)


def read(folder: Path, work: Callable[[Device], Result]) -> Result:
    """What changes nothing either, so that it goes while another command is at work."""

    async def at_work(device: Device) -> Result:
        return work(device)

    return run(folder, at_work, reading=True)


def say(text: str, value: Any, as_json: bool, following: str = "") -> None:
    """The outcome; what a person may do next goes to standard error, out of the way of who reads the outcome."""
    emit(value) if as_json else print(text)
    if following and not as_json:
        print(f"next: {following}", file=sys.stderr)


def is_stream(file: Path) -> bool:
    """Whether it is one that a process has open, as its standard output is."""
    return file.absolute().parent in STREAMS


def deliver(file: Path, data: bytes, text: str, value: Any, as_json: bool) -> None:
    """Write what was asked for, -: to standard output, and say the outcome; not among it where that is what the file
    is."""
    if str(file) == "-":
        sys.stdout.buffer.write(data)
        return
    write_file(file, data)
    if is_stream(file):
        print(text, file=sys.stderr)
    else:
        say(text, value, as_json)


def write_file(file: Path, data: bytes) -> None:
    """For its owner alone: numbers and names are in it. A pipe, or what is open already, takes it as it is."""
    if is_stream(file) or (file.exists() and not file.is_file()):
        file.write_bytes(data)
    else:
        replace(file, data)
