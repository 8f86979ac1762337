"""`ipls audit`: checks a public log against its witnesses, as anyone can who holds the trust root."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.text import Text

from ipls.auditlog.errors import AuditError, AuditUnavailable
from ipls.auditor.run import AuditRun, CaughtUp, Event, Listed, Summary, Unanswered, Unwritten, Waiting
from ipls.auditor.walker import VerifiedEpoch
from ipls.cli.console import emit, fail
from ipls.cli.status import exit_status
from ipls.clock import system_now_ms
from ipls.config import load_trust_root
from ipls.trust.limits import MAX_INT


def command(
    trust: Annotated[Path, typer.Option(help="The trust root: all that is believed.")],
    first: Annotated[
        int | None,
        typer.Option(
            "--from", max=MAX_INT, help="Begin at this epoch, from the root that the witnesses signed before it."
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on for ever, epoch by epoch.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")] = False,
    state: Annotated[
        Path | None, typer.Option(help="Where to keep how far it came. Default: in your state folder.")
    ] = None,
    evidence: Annotated[
        Path | None, typer.Option(help="The folder for evidence that it meets. Default: beside the state.")
    ] = None,
    parallel: Annotated[int, typer.Option(min=1, max=64, help="Epochs fetched and checked at a time.")] = 8,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks with --follow.")] = 2.0,
) -> None:
    """Audit the public log: every proof, every link, every witness's signature. Goes on where it stopped.

    Exit 1 at the first fault, which is named with its epoch; 3 if the log or too many witnesses do not answer.
    """
    root = load_trust_root(trust)
    root.check_expiry(system_now_ms())
    if first is not None and first <= root.start_epoch:
        raise typer.BadParameter(f"the directory starts at {root.start_epoch}", param_hint="--from")
    shown = _Shown(as_json=as_json)
    run = AuditRun(root, shown, first=first, state=state, evidence=evidence, parallel=parallel)
    try:
        try:
            run.catch_up()
            if follow:
                run.follow(interval)
        finally:
            shown.end_bar()
    except AuditError as error:
        _print(root.namespace, run.end(error), error, as_json)
        fail(str(error), error.reason, exit_status(error))
    except KeyboardInterrupt:
        _print(root.namespace, run.end(None), None, as_json)
        raise
    _print(root.namespace, run.end(None), None, as_json)


class _Shown:
    """Shows a run as it goes: a bar until it has caught up, a line for each epoch from then on."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._caught_up = False
        console = Console(stderr=True)
        columns = (BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self._task = self._bar.add_task("", total=None)

    def __call__(self, event: Event) -> None:
        match event:
            case Listed(epochs):
                if epochs > 0 and not self._as_json:
                    self._bar.reset(self._task, total=epochs)
                    self._bar.start()
            case CaughtUp():
                self.end_bar()
                self._caught_up = True
            case VerifiedEpoch():
                if self._caught_up:
                    self._tell(event)
                else:
                    self._bar.advance(self._task)
            case Waiting(error):
                print(f"ipls: {error}; no fault [{error.reason}]", file=sys.stderr, flush=True)
            case Unanswered(error):
                print(f"ipls: {error}; trying again [{error.reason}]", file=sys.stderr, flush=True)
            case Unwritten(error):
                print(f"ipls: evidence could not be written: {error}", file=sys.stderr)

    def end_bar(self) -> None:
        """Nothing more is drawn."""
        if self._bar.live.is_started:
            self._bar.stop()

    def _tell(self, step: VerifiedEpoch) -> None:
        epoch, root, signed = step.position.epoch, step.position.root_hash.hex(), sorted(step.signed)
        if self._as_json:
            emit({"epoch": epoch, "root": root, "signed": signed})
        else:
            print(f"epoch {epoch} holds: {root}, signed by {', '.join(signed)}", flush=True)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:.1f} epochs/s")


def _print(namespace: str, found: Summary, error: AuditError | None, as_json: bool) -> None:
    """The last word, of a run that ended well (None) or not."""
    if as_json:
        fault = error and {"epoch": error.epoch, "reason": error.reason, "message": error.message}
        unavailable = isinstance(error, AuditUnavailable)
        emit(
            {
                "namespace": namespace,
                "ok": error is None,
                "first": found.first,
                "last": found.last,
                "epochs": found.epochs,
                "root": found.root_hash.hex(),
                "waiting": found.waiting,
                "signed": found.signed,
                "seconds": round(found.seconds, 3),
                "epochs_per_second": round(found.rate, 1),
                "fault": None if unavailable else fault,
                "unavailable": fault if unavailable else None,
                "evidence": [str(file) for file in found.evidence],
            }
        )
        return
    print(f"{namespace}: the log holds up to epoch {found.last}, root {found.root_hash.hex()}")
    print(f"checked now: {found.epochs} epochs from {found.first} on, {found.rate:.1f} a second")
    if found.waiting is not None:
        print(f"epoch {found.waiting} is in the log and waits for its witnesses' signatures")
    for witness, count in found.signed.items():
        print(f"signed by {witness}: {count} of {found.epochs}")
    for file in found.evidence:
        print(f"evidence: {file}")
