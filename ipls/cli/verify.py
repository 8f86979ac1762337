"""`ipls verify`: conformance files, checked offline."""

from pathlib import Path
from typing import Annotated

import typer

from ipls.cli.conformance import ConformanceError, check_proofs, replay_vectors
from ipls.cli.console import emit, fail
from ipls.cli.status import REFUSED

app = typer.Typer(no_args_is_help=True, help="Check files offline.")

File = Annotated[Path, typer.Argument(help="One JSON object a line, the first of kind `key`.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, last, on one line.")]


@app.command()
def vectors(file: File, as_json: Json = False) -> None:
    """Replay a vector file into a fresh directory: every root, proof and field must come out the same."""
    try:
        counts = replay_vectors(file)._asdict()
    except ConformanceError as error:
        fail(f"{file}: {error}", "VECTORS_DIFFER", REFUSED)
    if as_json:
        emit(counts)
    else:
        print(", ".join(f"{count} {what.replace('_', ' ')}" for what, count in counts.items()) + ": all agree")


@app.command()
def proofs(file: File, as_json: Json = False) -> None:
    """Check each line's proof by itself; goes on after a refusal, exit 1 if there was any."""
    report = check_proofs(file)
    for line, reason in report.refused:
        if not as_json:
            print(f"line {line}: refused, {reason}")
    if as_json:
        refused = [{"line": line, "reason": reason} for line, reason in report.refused]
        emit({"accepted": len(report.accepted), "refused": refused})
    else:
        accepted = ", ".join(map(str, report.accepted)) or "none"
        print(f"{len(report.accepted)} accepted (lines {accepted}), {len(report.refused)} refused")
    if report.refused:
        raise typer.Exit(REFUSED)
