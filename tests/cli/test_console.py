"""How the command speaks."""

import pytest

from ipls.cli.console import fail


def test_a_failure_is_one_line_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        fail("no\x1b[2J\nsuch \u202ethíng", "A_REASON", 3)
    assert ended.value.code == 3
    assert capsys.readouterr().err == "ipls: no?[2J?such ?thíng [A_REASON]\n"
