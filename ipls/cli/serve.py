"""`ipls serve`: one service in this process, or all of a deployment, each in its own."""

import asyncio
import os
import sys
import threading
from collections.abc import Coroutine, Mapping
from pathlib import Path

from ipls.cli.health import check_free
from ipls.cli.supervisor import Supervisor
from ipls.config import Config, load, load_trust_chain, load_trust_root, load_witnesses
from ipls.rpc.server import until_signal
from ipls.server import contacts, directory, registration, vault, witness
from ipls.server import log as audit_log
from ipls.trust.root import TrustRoot


def stop_at_eof() -> None:
    """End this process in order when its standard input ends, as it does when its parent dies."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), 15)

    threading.Thread(target=watch, daemon=True).start()


def _service(name: str, config: Config, root: TrustRoot) -> Coroutine[None, None, None]:
    match name:
        case "directory":
            return directory.serve(config.directory, root, load_trust_chain(config.trust_root))
        case "log":
            return audit_log.serve(config.log)
        case "vault":
            return vault.serve(config.vault)
        case "contacts":
            return contacts.serve(config.contacts, root)
        case _:
            return registration.serve(config.registration, root)


def serve_one(name: str, config_file: Path, ports: Mapping[str, str]) -> None:
    """Run the service `name`, any but a witness, until SIGTERM or SIGINT; `ports` of it are other than the file says.

    Raises ConfigError.
    """
    config = load(config_file)
    config = config.model_copy(update={name: getattr(config, name).model_copy(update=ports)})
    check_free(name, getattr(config, name).listen)
    asyncio.run(_service(name, config, load_trust_root(config.trust_root)))


def serve_witness(name: str | None, config_file: Path) -> None:
    """Run the witness of this name, None if there is but one, until SIGTERM or SIGINT. Raises ConfigError.

    It needs no more than a file with the trust root's path and its own table: witnesses are best run elsewhere.
    """
    config = load_witnesses(config_file)
    chosen = config.named(name)
    check_free(chosen.name, chosen.listen or chosen.http_listen)
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
