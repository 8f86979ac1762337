"""Every command that a document gives is there, with its options."""

import re
import shlex
from collections.abc import Iterator
from typing import Any, cast

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


def leaves(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Each command that does something by itself."""
    below = [(word, command.get_command(None, word)) for word in getattr(command, "commands", {})]
    if not below or command.invoke_without_command:
        yield name, command
    for word, each in below:
        yield from leaves(each, f"{name} {word}")


CLIENT = dict(leaves(cast("Any", get_command(app)).get_command(None, "client"), "ipls client"))


@pytest.mark.parametrize("name", CLIENT)
def test_its_help_ends_with_an_example_that_it_takes(name: str) -> None:
    title, *examples = (CLIENT[name].epilog or "").split("\n\n")
    assert title == ("Examples:" if examples[1:] else "Example:")
    for line in examples:
        assert f"{line} ".startswith(f"{name} ")
        assert unknown(shlex.split(line)[1:]) == ""


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_that_it_gives_is_there_with_its_options(document: str) -> None:
    text = (ROOT / document).read_text().replace("\\\n", " ")
    given = [BEHIND.split(one or other)[0] for one, other in COMMAND.findall(text)]
    assert [line for line in given if unknown(shlex.split(line)[1:])] == []
