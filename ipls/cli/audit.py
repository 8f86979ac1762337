"""`ipls audit`: checks a public log against its witnesses, as anyone can who holds the trust root."""

import threading
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ipls.auditlog.errors import AuditError, AuditUnavailable
from ipls.cli.console import fail
from ipls.cli.status import exit_status
from ipls.clock import system_now_ms
from ipls.trust.limits import MAX_INT

if TYPE_CHECKING:
    from ipls.auditor.walker import Auditor
    from ipls.cli.audit_report import Run


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
    from ipls.auditor.state import default_path, load_kept
    from ipls.auditor.walker import Auditor
    from ipls.cli.audit_report import Run
    from ipls.config import load_trust_root
    from ipls.store.evidence import EvidenceFolder

    root = load_trust_root(trust)
    root.check_expiry(system_now_ms())
    if first is not None and first <= root.start_epoch:
        raise typer.BadParameter(f"the directory starts at {root.start_epoch}", param_hint="--from")
    # An audit of a part says nothing about where the audit of the whole is.
    path = None if first is not None else state or default_path(root)
    kept = load_kept(path, root) if path else None
    folder = EvidenceFolder(evidence or (state or default_path(root)).parent / "evidence")
    auditor = Auditor(root, parallel=parallel)
    run = Run(root, path, folder, auditor.signed, as_json=as_json)
    try:
        auditor.survey(auditor.newest())
        run.begin(auditor.begin_at(first) if first is not None else auditor.resume(kept))
        _catch_up(auditor, run, bar=not as_json)
        while follow:
            threading.Event().wait(interval)
            try:
                _catch_up(auditor, run, tell=True)
            except AuditUnavailable as error:
                run.note(error)
    except AuditError as error:
        run.report(error)
        fail(str(error), error.reason, exit_status(error))
    except KeyboardInterrupt:
        run.report(None)
        raise
    run.report(None)


def _catch_up(auditor: "Auditor", run: "Run", *, bar: bool = False, tell: bool = False) -> None:
    """Everything that the log has by now. Raises AuditError."""
    from ipls.cli.audit_progress import Bar

    newest = auditor.newest()
    listed = auditor.index.last - run.at.epoch
    with Bar(listed) if bar and listed > 0 else nullcontext() as shown:
        for step in auditor.walk(run.at, auditor.steps(run.at), run.look):
            run.take(step, tell=tell)
            if shown:
                shown.advance()
    auditor.check_end(run.at, newest)
    run.save()
