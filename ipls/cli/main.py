"""The `ipls` command as the system starts it. Before `main` nothing is imported but what Python has already: whatever
goes wrong from there on, while the rest is being imported too, is one line.

Tested by tests/cli/test_start.py.
"""

import os
import sys

_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def main() -> None:
    """Run the command; whatever goes wrong is one line on standard error and an exit status.

    0: done, 1: refused or failed verification, 2: usage, 3: unavailable (try again), 130: Ctrl-C.
    """
    sys.unraisablehook = _end_if_interrupted
    try:
        _open_standard_streams()
        from ipls.cli import commands

        commands.run()
    except KeyboardInterrupt:
        from ipls.cli.interrupt import interrupted

        interrupted()
    except Exception as error:
        # The type and the place alone: a message may hold what must not be shown.
        print(f"ipls: a fault of ipls itself, {_place(error)}; please report it [INTERNAL]", file=sys.stderr)
        sys.exit(1)
    finally:
        import signal

        signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing is left to be done in order


def _open_standard_streams() -> None:
    """Give a command that is started without one of them, by a desktop or a service manager, the null device there.

    What is opened next would get its number, and a database what is printed.
    """
    for number, (name, mode) in enumerate(_STREAMS):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, number)
            os.set_inheritable(number, True)
            if null != number:
                os.close(null)
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115  # for as long as the process


def _end_if_interrupted(unraisable: "sys.UnraisableHookArgs") -> None:
    """A Ctrl-C may come up in a callback of Python's own, where nothing can catch it."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        os.write(2, b"ipls: interrupted\n")
        os._exit(130)
    sys.__unraisablehook__(unraisable)


def _place(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = trace.tb_frame.f_code.co_filename if trace is not None else "?"
    return f"{type(error).__name__} at {where}:{trace.tb_lineno if trace is not None else 0}"


if __name__ == "__main__":
    main()
