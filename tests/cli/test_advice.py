"""Every refusal that a person can meet names what to do next, and what it names is there."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from ipls.cli.advice import NEXT
from ipls.cli.commands import app
from ipls.cli.console import fail
from ipls.rpc.reasons import STATUSES

DOCUMENT = (Path(__file__).parents[2] / "docs/protocol/errors.md").read_text()
SECTIONS = ("Registration", "Contact store", "Trust root, heads, bundle", "Device")


def met() -> set[str]:
    """What crosses the wire, what the device finds, and what only a vault's sealed answer tells it."""
    sections = dict(re.findall(r"^## (.*)\n((?:(?!## ).*\n)*)", DOCUMENT, re.MULTILINE))
    rows = "".join(sections[name] for name in SECTIONS)
    rows += "".join(line + "\n" for line in sections["Vault"].splitlines() if re.search(r"\| (sealed|device)", line))
    cells = re.findall(r"^\| (`.*?) \|", rows, re.MULTILINE)
    return {*STATUSES, *(reason for cell in cells for reason in re.findall(r"`([A-Z0-9_]+)`", cell))}


def test_every_reason_has_its_next_step() -> None:
    assert met() - NEXT.keys() == set()


def test_no_reason_stands_for_what_nobody_refuses_with() -> None:
    assert {reason for reason in NEXT if f"`{reason}`" not in DOCUMENT} == set()


@pytest.mark.parametrize("advice", sorted({step for step in NEXT.values() if "ipls " in step}))
def test_every_command_that_is_named_is_there(advice: str) -> None:
    for words in re.findall(r"\bipls((?: [a-z]+)+)", advice):
        command = get_command(app)
        for word in words.split():
            command = getattr(command, "get_command", lambda context, name: None)(None, word)
            if command is None or not hasattr(command, "get_command"):
                break
        assert command is not None, words


def test_the_line_says_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fail("this key is not one of the account's", "READER_UNKNOWN", 1)
    line = "ipls: this key is not one of the account's; next: ipls client register NUMBER [READER_UNKNOWN]\n"
    assert capsys.readouterr().err == line
