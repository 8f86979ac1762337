"""The commands of `ipls`: thin over the packages below them.

Tested by tests/cli/test_commands.py.
"""

import io
import os
import shlex
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group

from ipls._grpc import grpc
from ipls.address import parse_address
from ipls.cli.console import fail
from ipls.cli.examples import add_examples
from ipls.cli.interrupt import INTERRUPTED, interrupted
from ipls.cli.status import REFUSED, USAGE, exit_status
from ipls.errors import IplsError
from ipls.rpc.errors import remote_error
from ipls.runtime.logging import configure_logging


class _Commands(TyperGroup):
    """Imports what a command needs when the command is named: a service would wait for the HSM's library otherwise."""

    modules: ClassVar[dict[str, str]]
    """The module of `ipls.cli` for each command."""

    # Any: of its copy of click typer makes no types public.

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted((*super().list_commands(ctx), *self.modules))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.modules:
            return super().get_command(ctx, cmd_name)
        module = import_module(f"ipls.cli.{self.modules[cmd_name]}")
        if hasattr(module, "app"):
            made: Any = get_group(module.app)
        else:
            alone = typer.Typer(add_completion=False)
            alone.command()(module.command)
            made = get_command(alone)
        made.name = cmd_name
        add_examples(made, "ipls", cmd_name)
        return made


class _Top(_Commands):
    modules: ClassVar = {
        name: name for name in ("audit", "client", "demo", "directory", "hsm", "log", "vault", "verify", "witness")
    } | {"backup": "backup", "fsck": "fsck", "restore": "restore", "status": "parts"}


class _Keys(_Commands):
    modules: ClassVar = {"bundle": "bundle", "fleet": "fleet", "renew": "renew", "trust": "trust"}


app = typer.Typer(
    cls=_Top,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
keys_app = typer.Typer(cls=_Keys, no_args_is_help=True, help="The operator's ceremonies.")
app.add_typer(keys_app, name="keys")


def _show_version(asked: bool) -> None:
    if asked:
        print(f"ipls {version('ipls')}")
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Identity Proof Linked Storage."""


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    namespace: Annotated[str, typer.Option(help="The directory's name; no slash.")] = "ipls.local",
    port: Annotated[
        int, typer.Option(min=0, max=65498, help="First of the loopback ports: 6, and 2 a witness; 0 takes free ones.")
    ] = 7400,
    witnesses: Annotated[int, typer.Option(min=1, max=16, help="How many; more than half of them make a quorum.")] = 1,
    shards: Annotated[
        int, typer.Option(min=1, max=256, help="Of the accounts, for good; each needs a vault (docs/operations.md).")
    ] = 1,
) -> None:
    """Make keys, token, certificates, trust root and ipls.toml for a new deployment."""
    from ipls.admin import deployment

    deployment.create(folder, namespace, witnesses=witnesses, shards=shards, port=port)
    print(f"{folder} is ready. Next: ipls serve all --config {shlex.quote(str(folder / 'ipls.toml'))}")


@app.command()
def serve(
    service: Annotated[
        str, typer.Argument(help="directory, witness, log, vault, vault-core, router, contacts, registration or all")
    ],
    config: Annotated[Path, typer.Option(help="The deployment's ipls.toml.")],
    name: Annotated[str | None, typer.Option(help="Which witness, where there are several.")] = None,
    listen: Annotated[str | None, typer.Option(help="directory: another host:port than ipls.toml's.")] = None,
    internal_listen: Annotated[str | None, typer.Option(help="directory: the update port, likewise.")] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error")] = "info",
    stop_at_eof: Annotated[bool, typer.Option("--stop-at-eof", help="Stop when standard input ends.")] = False,
) -> None:
    """Run one service, or all of them, until SIGTERM or Ctrl-C."""

    from ipls.admin.deployment import CORE, SERVICES
    from ipls.cli import serve as serving

    services = (*SERVICES, CORE, "router")
    if service not in (*services, "all"):
        raise typer.BadParameter(f"must be one of {', '.join(services)} or all", param_hint="SERVICE")
    if log_level not in ("debug", "info", "warning", "error"):
        raise typer.BadParameter("must be debug, info, warning or error", param_hint="--log-level")
    if name is not None and service != "witness":
        raise typer.BadParameter("only a witness is named", param_hint="--name")
    ports = {port: at for port, at in (("listen", listen), ("internal_listen", internal_listen)) if at is not None}
    if ports and service != "directory":
        raise typer.BadParameter("only a directory's ports are named", param_hint="--listen, --internal-listen")
    for port, address in ports.items():
        try:
            parse_address(address)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint=f"--{port.replace('_', '-')}") from error
    configure_logging(log_level)
    if stop_at_eof:
        serving.stop_at_eof()
    if service == "all":
        serving.serve_all(config.resolve(), log_level=log_level)
    elif service == "witness":
        serving.serve_witness(name, config)
    elif service == CORE:
        serving.serve_core(config)
    else:
        serving.serve_one(service, config, ports)


@keys_app.command("new")
def keys_new(
    file: Annotated[Path, typer.Argument(help="Where to write it; nothing must be there.")],
) -> None:
    """Make a key in a file for its owner alone; print its public key.

    It may be a witness's, the operator's, an officer's, or that of the proposals.
    """
    import secrets

    from ipls.crypto.keys import public_key
    from ipls.store.files import write_new

    seed = secrets.token_bytes(32)
    write_new(file, seed.hex().encode() + b"\n")
    print(public_key(seed).hex())


def run() -> None:
    """Run the command; its refusals, and the system's, are one line on standard error and an exit status.

    Raises KeyboardInterrupt, and what is a fault of ours.
    """
    # A name in any script is printed, whatever the terminal's encoding can show of it; so is what is typed taken.
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            app()
        except SystemExit as ended:
            if ended.code == INTERRUPTED and isinstance(ended.__context__, typer.Exit):  # typer's way, without a word
                interrupted()
            raise
        finally:
            sys.stdout.flush()
    except IplsError as error:
        fail(str(error), error.reason, exit_status(error))
    except grpc.aio.AioRpcError as raised:
        away = remote_error(raised)
        fail(str(away), away.reason, exit_status(away))
    except OSError as error:
        _drop_what_nobody_takes()
        if isinstance(error, BrokenPipeError):  # the reader, `head` for one, has enough
            sys.exit(REFUSED)
        name = f"{error.filename}: " if error.filename else ""
        usage = isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError)
        fail(f"{name}{error.strerror or error}", "IO", USAGE if usage else REFUSED)


def _drop_what_nobody_takes() -> None:
    """Python would flush once more at the end, and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
