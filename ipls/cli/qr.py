"""Codes to be scanned off a terminal."""

import shutil
import sys

import segno

_QUIET = 4
"""Light modules around it, which scanners need."""
# By number, so that no theme has a say in it: a QR is dark on light, whatever the terminal's own colours are.
_BLACK_ON_WHITE, _AS_BEFORE = "\x1b[38;5;16;48;5;231m", "\x1b[0m"
_HALVES = {(0, 0): " ", (1, 0): "▀", (0, 1): "▄", (1, 1): "█"}


def draw(text: str) -> list[str]:
    """Lines for a terminal: two rows of modules in each, one column a module."""
    rows = [tuple(row) for row in segno.make(text, error="m", micro=False).matrix_iter(border=_QUIET)]
    rows.append((0,) * len(rows[0]))  # their number is odd
    return [
        _BLACK_ON_WHITE + "".join(_HALVES[halves] for halves in zip(*rows[at : at + 2], strict=True)) + _AS_BEFORE
        for at in range(0, len(rows), 2)
    ]


def show(text: str) -> None:
    """The code on a terminal that is wide enough, and the text below, to be pasted; elsewhere the text alone."""
    lines = draw(text)
    width = len(lines[0]) - len(_BLACK_ON_WHITE + _AS_BEFORE)
    if sys.stdout.isatty() and width <= shutil.get_terminal_size().columns:
        print("\n".join(lines))
    print(text)
