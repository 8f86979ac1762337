"""Every command, for each of its files, where in its place lies what it can't read or understand; and without streams
and a home folder. A line says so, and a documented exit status. A new command or option is tried here by itself."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from ipls.admin.deployment import create
from ipls.cli.commands import app
from tests.environment import BARE
from tests.users import STRANGER, as_user, give, open_folder, python

PROJECT = Path(__file__).parents[2]
HOSTILE = ("empty", "garbage", "folder", "closed", "\udcff")
"""No byte; all bytes; a folder; what only root may read; a name that is no text, and absent."""
TEXTS = ("\udcff", "a\nb")
NUMBERS = ("-1", "9" * 30)
MAKES_ANEW = {("demo", "keep"), ("demo", "contacts"), ("init", "folder")}
"""It begins in earnest where its file is hostile, or is a folder with nothing in it: tests/e2e/test_demo.py and
tests/cli/test_commands.py have these."""
Ask = Callable[..., dict[str, Any]]


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The commands that do something, with the words that name them."""
    if not hasattr(command, "list_commands"):
        yield path, command
        return
    for name in command.list_commands(None):
        yield from leaves(command.get_command(None, name), (*path, name))


COMMANDS = dict(leaves(get_command(app)))


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder of an ordinary user's, with a deployment that does not run, and what is hostile."""
    with open_folder() as folder:
        create(folder / "d", "test.ipls", port=0)
        (folder / "empty").touch()
        (folder / "garbage").write_bytes(bytes(range(256)) * 40)
        (folder / "folder").mkdir()
        give(folder, STRANGER)
        (folder / "closed").touch(0o600)
        yield folder


@pytest.fixture(scope="module")
def ask(place: Path) -> Iterator[Ask]:
    """Runs a command as that user."""
    command = as_user(STRANGER, *python(), "-m", "tests.cli.forks")
    environment = BARE | {"HOME": str(place), "LC_ALL": "C.UTF-8"}
    command[command.index("env") + 1] += f":{PROJECT}"
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=place
    ) as forks:
        to, answers = forks.stdin, forks.stdout
        assert to is not None
        assert answers is not None

        def run(*arguments: str) -> dict[str, Any]:
            print(json.dumps(arguments), file=to, flush=True)
            answer: dict[str, Any] = json.loads(answers.readline())
            return answer

        yield run
        to.close()


def kind(parameter: Any) -> object:
    annotation = parameter.type_descriptor.annotation
    return {list[Path]: Path, list[str]: str, float: int, list[int]: int}.get(annotation, annotation)


def words(path: tuple[str, ...], hostile: Any = None, value: object = None, **usual: object) -> list[str]:
    """What the command needs at least, as it should be where `usual` has it, but for one parameter."""
    said: list[object] = [*path]
    for parameter in COMMANDS[path].params:
        if parameter is hostile or parameter.required or parameter.name in usual:
            given = value if parameter is hostile else usual.get(parameter.name, "garbage")
            said += [given] if parameter.param_type_name == "argument" else [parameter.opts[0], given]
    return [str(word) for word in said]


def check(command: list[str], status: int, out: str, err: str) -> None:
    assert status in (0, 1, 2, 3), (command, err)
    assert "Traceback" not in err, command
    assert "[INTERNAL]" not in err, (command, err)
    if status:
        assert err.count("\n") == 1 or "Usage: " in err or out, (command, err)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_a_command_says_in_a_line_what_is_wrong_with_a_file_a_text_or_a_number(ask: Ask, path: tuple[str, ...]) -> None:
    usual: dict[str, object] = {
        "config": "d/ipls.toml",
        "trust": "d/trust.toml",
        "service": "log",
        "number": "+4915111",
        "epoch": 1,
    }
    values: dict[object, tuple[str, ...]] = {Path: HOSTILE, str: TEXTS, int: NUMBERS}
    for parameter in COMMANDS[path].params:
        if parameter.name != "help" and (path[-1], parameter.name) not in MAKES_ANEW:
            for value in values.get(kind(parameter), ()):
                command = words(path, parameter, value, home="home", **usual)
                check(command, **ask(*command))


@pytest.mark.parametrize(
    "path", {path[0]: path for path in reversed(COMMANDS) if path != ("demo",)}.values(), ids=" ".join
)
def test_a_command_without_streams_and_a_home_says_what_is_wrong(place: Path, path: tuple[str, ...]) -> None:
    command = as_user(STRANGER, *python(), "-m", "ipls.cli.main", *words(path))
    shell = ["sh", "-c", 'exec "$@" <&- >&-', "sh", *command]
    ended = subprocess.run(shell, env={"PATH": BARE["PATH"]}, stderr=subprocess.PIPE, text=True, cwd=place)
    check(command, ended.returncode, "", ended.stderr)
