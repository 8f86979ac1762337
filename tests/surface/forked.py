"""`ipls`, many times over from one process that has imported it: each run is a fork, which saves half a second.

A line on standard input is a JSON list: files for what the command prints and for its errors, then its arguments. The
exit status comes back as a line.
"""

import gc
import json
import os
import sys
from typing import Any

from typer.main import get_command

from ipls.cli.commands import app
from ipls.cli.main import main


def until_forked() -> bool:
    """True in each fork, whose standard streams are the command's; False when there is nothing more to run."""
    _import_commands(get_command(app))
    gc.freeze()  # the end of each fork would collect what was imported, which takes longer than most commands
    for line in sys.stdin:
        output, errors, *arguments = json.loads(line)
        if (child := os.fork()) == 0:
            for number, path in enumerate((os.devnull, output, errors)):
                os.dup2(os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY), number)
            sys.stdin = open(0)  # noqa: SIM115  # the other one knows what it has read
            sys.argv = ["ipls", *arguments]
            return True
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    return False


def _import_commands(command: Any) -> None:
    if hasattr(command, "list_commands"):
        context = command.context_class(command)
        for name in command.list_commands(context):
            _import_commands(command.get_command(context, name))


if __name__ == "__main__" and until_forked():
    main()
