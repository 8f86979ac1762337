"""Every command that a document gives is there, with its options."""

import re
import shlex
from typing import Any

import pytest
from typer.main import get_command

from ipls.cli.commands import app
from tests.test_documents import DOCUMENTS, ROOT

COMMAND = re.compile(r"^ *(ipls [a-z].*)|`(ipls [a-z][^`]*)`", re.MULTILINE)
BEHIND = re.compile(r"\s#|\s>|…")  # what no longer is of the command: a comment, where its output goes


def unknown(words: list[str]) -> str:
    """The first word that is no command, and no option of the one that it stands with; of `a|b` the first."""
    command: Any = get_command(app)
    while words and hasattr(command, "get_command") and not words[0].startswith("-"):
        word = words.pop(0).split("|")[0]
        command = command.get_command(None, word)
        if command is None:
            return word
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    given = (word.strip("[],").split("=")[0] for word in words)
    return next((word for word in given if word.startswith("--") and word not in {*options, "--help"}), "")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_that_it_gives_is_there_with_its_options(document: str) -> None:
    text = (ROOT / document).read_text().replace("\\\n", " ")
    given = [BEHIND.split(one or other)[0] for one, other in COMMAND.findall(text)]
    assert [line for line in given if unknown(shlex.split(line)[1:])] == []
