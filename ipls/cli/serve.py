"""`ipls serve`: one service in this process, or all of a deployment, each in its own."""

import asyncio
import os
import sys
import threading
from collections.abc import Coroutine, Mapping
from pathlib import Path

from ipls.admin.health import check_free
from ipls.admin.supervisor import Supervisor
from ipls.config import (
    ConfigError,
    ContactsConfig,
    DirectoryConfig,
    LogConfig,
    RegistrationConfig,
    RouterConfig,
    VaultConfig,
    load_service,
    load_trust_chain,
    load_trust_root,
    load_witnesses,
)
from ipls.rpc.server import until_signal
from ipls.server import directory
from ipls.server.contacts import service as contacts
from ipls.server.log import service as audit_log
from ipls.server.registration import service as registration
from ipls.server.router import service as router
from ipls.server.vault import service as vault
from ipls.server.witness import service as witness

Table = DirectoryConfig | LogConfig | VaultConfig | RouterConfig | ContactsConfig | RegistrationConfig


def stop_at_eof() -> None:
    """End this process in order when its standard input ends, as it does when its parent dies."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), 15)

    threading.Thread(target=watch, daemon=True).start()


def _service(table: Table, trust_root: Path) -> Coroutine[None, None, None]:
    match table:
        case DirectoryConfig():
            return directory.serve(table, load_trust_root(trust_root), load_trust_chain(trust_root))
        case LogConfig():
            return audit_log.serve(table)
        case VaultConfig():
            return vault.serve(table)
        case RouterConfig():
            return router.serve(table)
        case ContactsConfig():
            return contacts.serve(table, load_trust_root(trust_root))
        case RegistrationConfig():
            return registration.serve(table, load_trust_root(trust_root))


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
    if isinstance(table, DirectoryConfig):
        check_free(name, table.internal_listen)
    asyncio.run(_service(table, config.trust_root))


def serve_witness(name: str | None, config_file: Path) -> None:
    """Run the witness of this name, None if there is but one, until SIGTERM or SIGINT. Raises ConfigError.

    It needs no more than a file with the trust root's path and its own table: witnesses are best run elsewhere.
    """
    config = load_witnesses(config_file)
    chosen = config.named(name)
    for address in filter(None, (chosen.listen, chosen.http_listen)):
        check_free(chosen.name, address)
    asyncio.run(witness.serve(chosen, load_trust_root(config.trust_root)))


async def serve_all(config_file: Path, *, log_level: str) -> None:
    """Run every service of the deployment until SIGTERM or SIGINT; one that dies is started again."""
    supervisor = Supervisor(config_file, log_level=log_level)
    stopped = asyncio.create_task(until_signal())
    starting = asyncio.create_task(supervisor.start(lambda name: print(f"{name} serves", file=sys.stderr)))
    await asyncio.wait((stopped, starting), return_when=asyncio.FIRST_COMPLETED)
    try:
        if not stopped.done():
            await starting
            # `ipls demo` waits for this line at the other end of a pipe.
            where = config_file.parent / "endpoints.json"
            print(f"all {supervisor.count} services run; {where} says where. Ctrl-C ends them.", flush=True)
            await stopped
    finally:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await supervisor.stop()
