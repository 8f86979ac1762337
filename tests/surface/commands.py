"""Every command, option and argument of `ipls`, by its name: the tree as typer has it, not its help."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from ipls.cli.commands import app


def surface() -> dict[str, dict[str, Any]]:
    """Each command by its words, each parameter by these and its own names."""
    return dict(_walk(get_command(app), "ipls"))


def _walk(command: Any, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    context = command.context_class(command)
    subcommands = command.list_commands(context) if hasattr(command, "list_commands") else []
    yield name, {"kind": "group" if subcommands else "command"}
    for place, parameter in enumerate(command.params):
        yield _parameter(parameter, name, place)
    for each in subcommands:
        yield from _walk(command.get_command(context, each), f"{name} {each}")


def _parameter(parameter: Any, command: str, place: int) -> tuple[str, dict[str, Any]]:
    annotation, info = parameter.type_descriptor.annotation, parameter.type_descriptor.parameter_info
    found = {
        "kind": parameter.param_type_name,
        "type": annotation.__name__ if isinstance(annotation, type) else str(annotation),
        "required": parameter.required,
        "default": _plain(parameter.default),
        "many": parameter.multiple or parameter.nargs != 1,
        "environment": parameter.envvar,
        "min": parameter.min,
        "max": parameter.max,
        "must_exist": info.exists,
    }
    if parameter.param_type_name == "argument":
        return f"{command} {parameter.metavar or parameter.name.upper()}", found | {"place": place}
    return f"{command} {'/'.join([*parameter.opts, *parameter.secondary_opts])}", found | {"flag": parameter.is_flag}


def _plain(value: Any) -> Any:
    """As JSON has it; a path without this user's home."""
    return str(value).replace(str(Path.home()), "~") if isinstance(value, Path) else value
