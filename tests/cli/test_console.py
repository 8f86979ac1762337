"""How the command speaks."""

import io
import pty
import sys

import pytest

from ipls.cli.console import fail
from ipls.cli.opening import Reporter
from ipls.client.events import Progress


def test_a_failure_is_one_line_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        fail("no\x1b[2J\nsuch \u202ethíng", "A_REASON", 3)
    assert ended.value.code == 3
    assert capsys.readouterr().err == "ipls: no?[2J?such ?thíng [A_REASON]\n"


def test_what_takes_long_has_a_bar_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, of_command = pty.openpty()
    with open(terminal, "rb", buffering=0) as screen, open(of_command, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        monkeypatch.setenv("TERM", "xterm")
        with Reporter(verbose=False) as report:
            report(Progress("storing", 3, 10))
        stderr.flush()
        shown = screen.read(1 << 16)
    assert b"storing" in shown
    assert b"30%" in shown
    elsewhere = io.StringIO()
    monkeypatch.setattr(sys, "stderr", elsewhere)
    with Reporter(verbose=False) as report:
        report(Progress("storing", 3, 10))
    assert elsewhere.getvalue() == ""
