"""`ipls verify`: conformance files, checked offline."""

import sys
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
    """Replay a vector file into a fresh directory and compare everything, byte for byte."""
    try:
        counts = replay_vectors(file)
    except ConformanceError as error:
        fail(f"{file}: {error}", "VECTORS_DIFFER", REFUSED)
    emit(counts) if as_json else print(", ".join(f"{count} {what}" for what, count in counts.items()) + ": all agree")
