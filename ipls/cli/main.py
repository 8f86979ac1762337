"""The `ipls` command: thin over the packages below it.

Exit status: 0 done, 1 refused or failed verification, 2 usage, 3 unavailable (try again).
"""

import io
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import grpc
import typer

from ipls.akd import AkdError
from ipls.cli import audit, client, demo, directory, verify
from ipls.cli.console import fail
from ipls.cli.status import REFUSED, UNAVAILABLE, USAGE
from ipls.client.errors import ClientError, TryLaterError
from ipls.clock import system_now_ms
from ipls.config import ConfigError, configure_logging
from ipls.rpc.errors import ServiceError
from ipls.session.errors import SessionRefused
from ipls.store.errors import StoreError
from ipls.trust.errors import TrustError

LATER = ("PROFILE_BUSY", "CODE_RATE", "CALL_QUOTA", "QUOTA_EXCEEDED")
"""Refused now, not for good."""
MISUSE = ("LABEL_INVALID", "PROFILE_ABSENT", "ENDPOINTS_INVALID", "CODE_EMPTY")
"""What was typed can't be used."""

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="Identity Proof Linked Storage."
)
serve_app = typer.Typer()
keys_app = typer.Typer(no_args_is_help=True, help="The operator's ceremonies.")
app.add_typer(verify.app, name="verify")
app.add_typer(client.app, name="client")
app.add_typer(directory.app, name="directory")
app.add_typer(keys_app, name="keys")
app.command("demo")(demo.command)
app.command("audit")(audit.command)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    namespace: Annotated[str, typer.Option(help="The directory's name; no slash.")] = "ipls.local",
    port: Annotated[
        int, typer.Option(min=0, max=65528, help="First of eight loopback ports; 0 takes free ones.")
    ] = 7400,
) -> None:
    """Make keys, token, certificates, trust root and ipls.toml for a new deployment."""
    from ipls.cli import deployment

    deployment.create(folder, namespace, port=port)
    print(f"{folder} is ready. Next: ipls serve all --config {shlex.quote(str(folder / 'ipls.toml'))}")


@app.command()
def serve(
    service: Annotated[str, typer.Argument(help="directory, witness, log, vault, contacts, registration or all")],
    config: Annotated[Path, typer.Option(help="The deployment's ipls.toml.")],
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error")] = "info",
    stop_at_eof: Annotated[bool, typer.Option("--stop-at-eof", help="Stop when standard input ends.")] = False,
) -> None:
    """Run one service, or all of them, until SIGTERM or Ctrl-C."""
    import asyncio

    from ipls.cli import serve as serving
    from ipls.cli.deployment import SERVICES

    if service not in (*SERVICES, "all"):
        raise typer.BadParameter(f"must be one of {', '.join(SERVICES)} or all", param_hint="SERVICE")
    if log_level not in ("debug", "info", "warning", "error"):
        raise typer.BadParameter("must be debug, info, warning or error", param_hint="--log-level")
    configure_logging(log_level)
    if stop_at_eof:
        serving.stop_at_eof()
    if service == "all":
        asyncio.run(serving.serve_all(config.resolve(), log_level=log_level))
    else:
        serving.serve_one(service, config)


@keys_app.command("bundle")
def keys_bundle(
    config: Annotated[Path, typer.Option(help="The deployment's ipls.toml.")],
    operator_key: Annotated[Path | None, typer.Option(help="Default: keys/operator.key beside ipls.toml.")] = None,
) -> None:
    """Renew the fleet bundle: same HSMs, next number, valid for 30 days. Then restart the vault."""
    from ipls.cli.keys import renew_bundle
    from ipls.config import load

    key = operator_key or config.resolve().parent / "keys/operator.key"
    bundle = renew_bundle(load(config), key, now_ms=system_now_ms())
    print(f"bundle {bundle.number} signed; restart the vault to serve it")


def main() -> None:
    """Run the command; whatever goes wrong is one line on standard error and an exit status."""
    # A name in any script is printed, whatever the terminal's encoding can show of it.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except (ServiceError, ClientError, ConfigError, TrustError, AkdError, SessionRefused, StoreError) as error:
        fail(str(error), error.reason, _status(error))
    except BrokenPipeError:
        # The reader, `head` for one, has enough. Python would flush once more, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(REFUSED)
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        usage = isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError)
        fail(f"{name}{error.strerror or error}", "IO", USAGE if usage else REFUSED)
    except KeyboardInterrupt:
        sys.exit(130)


def _status(error: Exception) -> int:
    """The exit status for an error of ours."""
    reason = getattr(error, "reason", "")
    away = isinstance(error, ServiceError) and error.code is grpc.StatusCode.UNAVAILABLE
    if away or isinstance(error, TryLaterError) or reason in LATER:
        return UNAVAILABLE
    return USAGE if isinstance(error, ConfigError) or reason in MISUSE else REFUSED


if __name__ == "__main__":
    main()
