"""What the commands of `ipls client` are told alike: which profile, where profiles lie, how to answer.

Tested by tests/e2e/test_client_commands.py.
"""

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from ipls.config import in_home

Name = Annotated[str, typer.Option("--profile", help="The profile's name.")]
Home = Annotated[Path, typer.Option("--home", envvar="IPLS_HOME", help="The folder that the profiles lie in.")]
Endpoints = Annotated[
    Path | None, typer.Option("--endpoints", help="The deployment's endpoints.json; needed to make a profile.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
Patience = Annotated[float, typer.Option("--patience", help="Seconds to go on asking a service that is away.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show each proof and step.")]
HOME = Path("~/.ipls")


def profiles_folder(home: Path) -> Path:
    """Where a folder for each profile is."""
    return in_home(home) / "profiles"


def profile_folder(home: Path, profile: str, *, hint: str = "--profile") -> Path:
    """A profile's own. Raises typer.BadParameter, of what `hint` names."""
    if not profile or "/" in profile or profile.startswith("."):
        raise typer.BadParameter("a profile's name has no slash and does not begin with a dot", param_hint=hint)
    return profiles_folder(home) / profile


def check_placed(context: typer.Context) -> None:
    """Of a group that does something by itself: an option before the name of a command would count for nothing.

    Raises typer.BadParameter.
    """
    for name in context.params:
        source = context.get_parameter_source(name)
        if source and source.name == "COMMANDLINE":
            raise typer.BadParameter(f"options go behind the command: {context.command_path} COMMAND [OPTIONS]")


def options_for(profile: str, home: Path) -> str:
    """What the next command has to be told, too, to find this profile."""
    told = [] if profile == "default" else ["--profile", profile]
    if home != HOME and str(home) != os.environ.get("IPLS_HOME"):
        told += ["--home", str(home)]
    return "".join(f" {shlex.quote(word)}" for word in told)
