"""How the demonstration is told: text with a progress bar for people, one JSON object a line for programs.

Tested by tests/e2e/test_demo.py.
"""

import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from ipls.client import events
from ipls.client.access import describe


class Reporter:
    """Tells what happens as it happens. Text goes to standard output; to standard error where `emit` takes objects."""

    def __init__(self, emit: Callable[[object], None] | None) -> None:
        self._write = emit
        self._console = Console(stderr=emit is not None, highlight=False, markup=False, soft_wrap=True)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._started = time.monotonic()

    def chapter(self, title: str) -> None:
        """A new part of the story."""
        self._print(f"\n── {title}", style="bold")
        self._emit("chapter", title=title)

    def say(self, text: str) -> None:
        """One thing that happened."""
        self._print(f"   {text}")
        self._emit("say", text=text)

    def refused(self, attack: str, where: str, reason: str, message: str) -> None:
        """An attack that was refused, by whom and why."""
        self._print(f"   ✗ {where} refused: {message} [{reason}]", style="green")
        self._emit("theft", theft=attack, refused=True, by=where, reason=reason, message=message)

    def succeeded(self, attack: str, where: str) -> None:
        """An attack that was not refused."""
        self._print(f"   ! {where} did not refuse {attack}", style="bold red")
        self._emit("theft", theft=attack, refused=False, by=where)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Around work that reports progress: no bar outlives it."""
        try:
            yield
        finally:
            self._end_bar()

    def event(self, event: events.Event) -> None:
        """What the device reports, each proof as it is checked."""
        match event:
            case events.HeadChecked(epoch, root_hash, signers):
                names = ", ".join(signers)
                self._checked("head", f"epoch {epoch}, root {root_hash.hex()}, signed by {names}", epoch, root_hash)
            case events.HistoryChecked(kind, epoch, root_hash, versions):
                text = f"history, {kind}, up to version {versions}, against that root"
                self._checked("history", text, epoch, root_hash)
            case events.IdentityChange(version, epoch, public_key, origin):
                whose = {"own": "made by this device", "earlier": "from before this device", "foreign": "NOT OURS"}
                self.say(
                    f"• identity version {version}, published in epoch {epoch}: "
                    f"{public_key.hex()[:16]}…, {whose.get(origin, origin)}"
                )
            case events.AccessEntry():
                self.say(f"• {describe(event)}")
            case events.EvidenceMet(text, _):
                self.say(f"• evidence: {text}")
            case events.VaultAccepted():
                text = (
                    f"vault: HSM key {event.hsm_key_id.hex()[:16]}… of bundle {event.bundle_number}; it demanded the "
                    f"witnesses' signature on epoch {event.epoch}, the proof of identity version "
                    f"{event.identity_version} (epoch {event.identity_epoch}) and a signature by that key"
                )
                self._checked("vault", text, event.epoch, event.root_hash)
            case events.JourneyStep(name, generation, count):
                details = [f"generation {generation}"] if generation else []
                details += [f"{count} records"] if count else []
                self.say(f"• {name}" + (f" ({', '.join(details)})" if details else ""))
            case events.Progress(what, done, total):
                self._progress(what, done, total)

    def end(self, summary: dict[str, Any], line: str) -> None:
        """The last line: what came of it."""
        self._print(f"\n{line}", style="bold")
        if self._write is not None:
            self._write(summary)

    def _checked(self, kind: str, text: str, epoch: int, root_hash: bytes) -> None:
        self._print(f"   ✓ {text}")
        self._emit("checked", proof=kind, epoch=epoch, root_hash=root_hash.hex(), text=text)

    def _print(self, text: str, style: str | None = None) -> None:
        """A line above which no bar stands; on a terminal it is broken between words, to the terminal's width."""
        self._end_bar()
        if self._console.is_terminal:
            width = self._console.width
            text = textwrap.fill(
                text, width, subsequent_indent="     ", replace_whitespace=False, break_on_hyphens=False
            )
        self._console.print(text, style=style)

    def _emit(self, kind: str, **fields: Any) -> None:
        if self._write is not None:
            self._write({"event": kind, "at": round(time.monotonic() - self._started, 3), **fields})

    def _progress(self, what: str, done: int, total: int) -> None:
        if self._bar is None:
            columns = (TextColumn("   {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            if self._bar.console.is_terminal:
                self._bar.start()
            self._task = self._bar.add_task(what, total=total)
        assert self._task is not None
        self._bar.update(self._task, description=what, completed=done, total=total)

    def _end_bar(self) -> None:
        if self._bar is not None and self._bar.live.is_started:
            self._bar.stop()
        self._bar = None
