"""Codes on a terminal: dark on light by their own colours, quiet all around, in 80 columns."""

import io
import os
import re
import sys

import pytest
import segno

from ipls.cli import qr
from ipls.contacts.contact_code import MAX_NAME, ContactCode
from ipls.contacts.linking import LinkCode
from ipls.trust.safety import SafetyNumber

LONGEST = SafetyNumber("n" * 64, "+" + "1" * 15, "+" + "2" * 15, "0" * 60)
CODES = [
    LinkCode.new("+" + "9" * 15).text,
    ContactCode("+" + "9" * 15, "x" * MAX_NAME).text,
    ContactCode("+15550100", "山田 太郎").text,
    LONGEST.text,
]
LINE = re.compile("\x1b\\[38;5;16;48;5;231m([ ▀▄█]+)\x1b\\[0m")


def modules(lines: list[str]) -> list[list[int]]:
    """What a camera sees: 1 is black; every line brings its colours along, and ends them."""
    rows: list[list[int]] = []
    for line in lines:
        match = LINE.fullmatch(line)
        assert match
        rows += [[int(c in "▀█") for c in match[1]], [int(c in "▄█") for c in match[1]]]
    return rows


@pytest.mark.parametrize("text", CODES, ids=range(len(CODES)))
def test_a_code_is_drawn_whole_within_80_columns(text: str) -> None:
    drawn = modules(qr.draw(text))
    width = len(drawn[0])
    assert width <= 80
    symbol = [row[4:-4] for row in drawn[4 : width - 4]]
    assert symbol == [list(row) for row in segno.make(text, error="m", micro=False).matrix]
    symbol_sum, all_sum = (sum(map(sum, rows)) for rows in (symbol, drawn))
    assert symbol_sum == all_sum  # nothing is dark in the four modules around it
    finder = [[1] * 7, [1, 0, 0, 0, 0, 0, 1], *[[1, 0, 1, 1, 1, 0, 1]] * 3, [1, 0, 0, 0, 0, 0, 1], [1] * 7]
    for rows in (symbol[:7], symbol[-7:]):
        assert [row[:7] for row in rows] == finder


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("columns", "drawn"), [(80, True), (30, False)])
def test_the_text_stands_below_and_alone_where_there_is_no_room(
    monkeypatch: pytest.MonkeyPatch, columns: int, drawn: bool
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", str(columns))
    qr.show(CODES[0])
    *lines, text = terminal.getvalue().splitlines()
    assert (text, bool(lines)) == (CODES[0], drawn)


def test_where_there_is_no_terminal_there_is_the_text_alone(capsys: pytest.CaptureFixture[str]) -> None:
    qr.show(CODES[0])
    assert capsys.readouterr().out == CODES[0] + os.linesep
