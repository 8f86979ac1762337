"""`ipls serve`: one service in this process, or all of a deployment, each in its own.

Tested by tests/cli/test_start.py.
"""

import os
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path

from ipls.admin.deployment import CORE
from ipls.admin.expiry import table_endings, watch
from ipls.admin.health import check_free
from ipls.admin.users import hand_out, why_not_parted
from ipls.cli.console import printable
from ipls.config import (
    ConfigError,
    ContactsConfig,
    DirectoryConfig,
    LogConfig,
    RegistrationConfig,
    RouterConfig,
    ServiceConfig,
    VaultConfig,
    WitnessConfig,
    load_service,
    load_trust_chain,
    load_trust_root,
    load_witnesses,
)
from ipls.runtime.privileges import become
from ipls.runtime.service import Service, run

Table = DirectoryConfig | LogConfig | VaultConfig | RouterConfig | ContactsConfig | RegistrationConfig


def stop_at_eof() -> None:
    """End this process in order when its standard input ends, as it does when its parent dies."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), 15)

    threading.Thread(target=watch, daemon=True).start()


def _start(config_file: Path, table: Table, trust_root: Path) -> Callable[[Service], Awaitable[object]]:
    """A service imports its own program alone."""
    match table:
        case DirectoryConfig():
            from ipls.server.directory import app as directory

            versions = load_trust_chain(trust_root)
            return partial(directory.run, table, load_trust_root(trust_root), versions=versions)
        case LogConfig():
            from ipls.server.log import app as audit_log

            return partial(audit_log.run, table)
        case VaultConfig():
            from ipls.server.vault import app as vault

            return partial(vault.run, table, table.core_config or config_file)
        case RouterConfig():
            from ipls.server.router import app as router

            return partial(router.run, table)
        case ContactsConfig():
            from ipls.server.contacts import app as contacts

            return partial(contacts.run, table, load_trust_root(trust_root))
        case RegistrationConfig():
            from ipls.server.registration import app as registration

            return partial(registration.run, table, load_trust_root(trust_root))


def _watched(
    start: Callable[[Service], Awaitable[object]], table: Table | WitnessConfig, trust_root: Path
) -> Callable[[Service], Awaitable[object]]:
    """`start`, then warnings of what the service has that runs out."""

    async def begin(service: Service) -> None:
        await start(service)
        service.spawn("watch what runs out", partial(watch, partial(table_endings, table, trust_root)))

    return begin


def serve_one(name: str, config_file: Path, ports: Mapping[str, str]) -> None:
    """Run the service `name`, any but a witness, until SIGTERM or SIGINT; `ports` of it are other than the file says.

    It needs no more than a file with the trust root's path and its own table. Raises ConfigError.
    """
    config = load_service(config_file)
    table: Table | None = getattr(config, name)
    if table is None:
        raise ConfigError(f"{config_file}: there is no table [{name}]")
    table = table.model_copy(update=ports)
    check_free(name, table.listen)
    if isinstance(table, VaultConfig):
        table = _front(table, config, config_file)
    if isinstance(table, DirectoryConfig | VaultConfig) and table.internal_listen:
        check_free(name, table.internal_listen)
    run(name, _watched(_start(config_file, table, config.trust_root), table, config.trust_root))


def _front(vault: VaultConfig, config: ServiceConfig, config_file: Path) -> VaultConfig:
    """The vault's table where this process is the front's user now; without `parted` it starts the core as its own."""
    if why_not_parted(vault, config_file.absolute().parent):
        return vault.model_copy(update={"parted": None})
    assert vault.parted is not None
    if os.geteuid() == 0:
        hand_out(config, config_file)
    import_module("ipls.server.vault.app")  # this Python may be closed to the front's user
    become(vault.parted.front)
    return vault


def serve_core(config_file: Path) -> None:
    """Run the vault's core by itself until SIGTERM or SIGINT, as its user. Raises ConfigError, OSError."""
    from ipls.hsm.core import listener

    config = load_service(config_file)
    vault = config.vault
    if vault is None or vault.parted is None:
        raise ConfigError(f"{config_file}: there is no table [vault.parted]: the front starts the core")
    if os.geteuid() == 0:
        hand_out(config, config_file)
    run(CORE, partial(listener.run, vault.core_config or config_file.absolute(), vault.parted))


def serve_witness(name: str | None, config_file: Path) -> None:
    """Run the witness of this name, None if there is but one, until SIGTERM or SIGINT. Raises ConfigError.

    It needs no more than a file with the trust root's path and its own table: witnesses are best run elsewhere.
    """
    from ipls.server.witness import app as witness

    config = load_witnesses(config_file)
    chosen = config.named(name)
    for address in filter(None, (chosen.listen, chosen.http_listen)):
        check_free(chosen.name, address)
    start = partial(witness.run, chosen, load_trust_root(config.trust_root))
    run("witness", _watched(start, chosen, config.trust_root))


def serve_all(config_file: Path, *, log_level: str) -> None:
    """Run every service of the deployment until SIGTERM or SIGINT; one that dies is started again."""
    from ipls.admin.supervisor import Supervisor

    supervisor = Supervisor(config_file, log_level=log_level)

    def report(line: str) -> None:
        print(printable(line), file=sys.stderr)
        if line == "vault serves" and supervisor.why_not_parted:
            print(f"the vault's core runs as its front's user: {supervisor.why_not_parted}", file=sys.stderr)

    async def start(service: Service) -> None:
        await supervisor.start(service, report)
        # `ipls demo` waits for this line at the other end of a pipe.
        where = config_file.parent / "endpoints.json"
        off = len(supervisor.off)
        some = f"{supervisor.count - off} of {supervisor.count}, without {', '.join(supervisor.off)}," if off else ""
        print(f"{some or f'all {supervisor.count}'} services run; {where} says where. Ctrl-C ends them.", flush=True)

    run("supervisor", start)
