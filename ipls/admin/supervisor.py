"""Runs the services of a deployment, each a process of its own, and starts again what dies."""

import asyncio
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import groupby
from pathlib import Path

import structlog

from ipls.address import parse_address
from ipls.admin.deployment import CORE, addresses_of, auditor_of, processes_of, write_endpoints
from ipls.admin.health import check_free, last_words, until_listening, until_there
from ipls.admin.renewal import renew_unasked
from ipls.admin.users import why_not_parted
from ipls.clock import machine, system_now_ms
from ipls.config import ConfigError, load, load_trust_root
from ipls.rpc.health import until_serving
from ipls.runtime.restart import RestartPolicy
from ipls.runtime.service import Service
from ipls.runtime.tasks import TaskScope, race

log = structlog.get_logger()

STOP_S = 10.0
LOG_BYTES = 8 << 20
"""Of a service's log; as many lie beside it, of before."""
LOGS_EVERY_S = 1.0
OFF_PAUSE_S = 30.0
"""Before a service that ended without having served is tried again."""
RENEW_EVERY_S = 600.0
BACK_S = 60.0
"""For a service to serve again, before the next one is restarted."""
ORDER = {CORE: 1, "vault": 1, "directory": 2, "contacts": 3, "registration": 3}
"""When a service is restarted for a new trust root: after the witnesses, which come first."""


def _order(name: str) -> int:
    return ORDER.get(name, 0)


def cut_log(path: Path) -> None:
    """Begin a log anew that is over LOG_BYTES: what is there goes to NAME.1, in the place of what was there before.

    Whoever has it open goes on writing to it. A line that comes at that very moment may be lost; where the disk has no
    room for a copy, the log is.
    """
    with suppress(OSError):  # a log that is not there
        if path.stat().st_size > LOG_BYTES:
            with suppress(OSError):
                shutil.copy(path, path.with_name(f"{path.name}.1"))
            os.truncate(path, 0)


class Supervisor:
    """The services of the deployment of `config_file`; logs go to logs/NAME.log beside it, of
    bounded size.

    A child reads its standard input to the end and then stops: however this process ends, none outlives it.
    """

    def __init__(self, config_file: Path, *, log_level: str = "info") -> None:
        self._folder = config_file.parent
        self._config_file = config_file
        config = self._config = load(self._config_file)
        self._ca = config.directory.tls.ca
        self._addresses = addresses_of(config)
        self.why_not_parted = why_not_parted(config.vault, self._folder)
        """Why the vault's core runs as its front's user, if it does."""
        self._commands = processes_of(config, parted=not self.why_not_parted)
        self._root = load_trust_root(config.trust_root)
        """That the services run by."""
        self._ahead_ms = machine.ahead_ms
        self._not_renewed = list[str]()
        self._log_level = log_level
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self.off: dict[str, str] = {}
        """The services that do not serve since they were started, each with why. They are tried again."""

    @property
    def count(self) -> int:
        """How many processes there are to run."""
        return len(self._commands)

    @property
    def pids(self) -> dict[str, int]:
        """Of the processes that run, by the names of the services."""
        return {name: process.pid for name, process in self._processes.items() if process.returncode is None}

    async def start(self, owner: Service, report: Callable[[str], None] = lambda line: None) -> None:
        """Start every service and wait until each serves, or is off; `report` hears of each. They end with `owner`.

        Raises ConfigError if none can or an address is taken, OSError if `endpoints.json` can't be written.
        """
        for name, address in self._addresses.items():
            if parse_address(address)[1] == 0:
                raise ConfigError(f"{name}: {address}: under `serve all` a port has a number, by which it is asked")
            check_free(name, address)
        await self._renew(restarting=True)
        self._root = load_trust_root(self._config.trust_root)
        owner.release_async(self._stop)
        for name in self._commands:
            await self._launch(name)
        async with TaskScope() as scope:
            waits = {name: scope.start(f"{name} serves", self._until_serving(name)) for name in self._commands}
            for name, wait in waits.items():
                try:
                    await wait
                    report(f"{name} serves")
                except ConfigError as error:
                    self.off[name] = error.message
                    report(f"OFF: {error.message}")
        if len(self.off) == self.count:
            raise ConfigError(next(iter(self.off.values())), "SERVICE_DID_NOT_START")
        write_endpoints(self._folder, self._root.namespace, self._addresses, self.pids)
        for name in self._commands:
            owner.spawn(f"keep {name}", partial(self._keep, name))
        owner.spawn("cut logs", self._cut_logs)
        owner.spawn("renew", self._keep_renewed)

    async def _keep_renewed(self) -> None:
        while True:
            await asyncio.sleep(RENEW_EVERY_S)
            await self._renew()
            if self._has_newer_root():
                await self._restart()

    async def _renew(self, *, restarting: bool = False) -> None:
        """What is due for it. Raises nothing: what can't be renewed is said, once, and tried again."""
        jumped_ms = machine.ahead_ms - self._ahead_ms
        done = await asyncio.to_thread(
            renew_unasked, self._config, self._folder, system_now_ms(), jumped_ms=jumped_ms, restarting=restarting
        )
        not_renewed = [each.what for each in done if each.failed]
        for what, text, failed in done:
            if not failed:
                log.info("renewed", what=what, text=text)
            elif not_renewed != self._not_renewed:
                log.warning("not renewed", what=what, text=text)
        self._not_renewed = not_renewed

    def _has_newer_root(self) -> bool:
        """Whether there is one that the services do not run by, of our making or by a person's command."""
        old = self._root
        with suppress(ConfigError):  # it can't be read now
            self._root = load_trust_root(self._config.trust_root)
        return self._root.number > old.number

    async def _restart(self) -> None:
        """Each in its turn, in the order that a new version of the trust root asks for (docs/operations.md). One that
        is off, or does not come back in time, holds up nobody."""
        having_one = (name for name in self._commands if name != "log" and name not in self.off)
        for order, names in groupby(sorted(having_one, key=_order), key=_order):
            if order == ORDER["vault"]:
                await self._renew(restarting=True)  # the bundle, which is to name the rules that the vault takes up
            for name in names:
                await self._end(self._processes[name])
                try:
                    async with asyncio.timeout(BACK_S):
                        await self._answers(name)  # `_keep` has started it again
                except TimeoutError:
                    log.error("not back since the restart for a new trust root", service=name)
        log.info("restarted for a new trust root")

    async def _cut_logs(self) -> None:
        while True:
            await asyncio.sleep(LOGS_EVERY_S)
            for name in self._commands:
                await asyncio.to_thread(cut_log, self._folder / "logs" / f"{name}.log")

    async def _stop(self) -> None:
        """Ask each to stop; kill what has not after STOP_S seconds."""
        await asyncio.gather(*(self._end(process) for process in self._processes.values()))
        self._note_pids()

    async def _launch(self, name: str) -> None:
        """Raises OSError."""
        arguments = ["-m", "ipls.cli.main", "serve", *self._commands[name], "--config", str(self._config_file)]
        with (self._folder / "logs" / f"{name}.log").open("ab") as output:
            self._processes[name] = await asyncio.create_subprocess_exec(
                sys.executable,
                *arguments,
                "--log-level",
                self._log_level,
                "--stop-at-eof",
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                # A Ctrl-C at the terminal is for us alone; we then stop them in order.
                start_new_session=True,
            )

    async def _until_serving(self, name: str) -> None:
        if await race(self._answers(name), self._processes[name].wait()) is not None:  # an exit status
            raise ConfigError(f"{name} did not start: {last_words(self._folder, name)}", "SERVICE_DID_NOT_START")

    async def _answers(self, name: str) -> None:
        if name == "log":
            await until_listening(self._addresses[name])
        elif name == CORE:
            assert self._config.vault.parted is not None
            await until_there(self._config.vault.parted.socket)
        elif name not in self._addresses:  # a pull-only witness
            await until_listening(self._addresses[auditor_of(name)])
        else:
            await until_serving(self._addresses[name], self._ca)

    async def _keep(self, name: str) -> None:
        policy = RestartPolicy()
        while True:
            started = asyncio.get_running_loop().time()
            if name in self.off:
                await self._until_on(name)
            code = await self._processes[name].wait()
            log.warning("service died, starting it again", service=name, status=code)
            lived_s = asyncio.get_running_loop().time() - started
            await asyncio.sleep(OFF_PAUSE_S if name in self.off else policy.pause_s(lived_s))
            try:
                await self._launch(name)
            except OSError as error:  # no more memory, processes or files: as if it had died at once
                log.warning("service not started", service=name, why=str(error))
            else:
                self._note_pids()

    async def _until_on(self, name: str) -> None:
        """Return when a service that was off serves, or has ended without."""
        try:
            await self._until_serving(name)
        except ConfigError as error:
            self.off[name] = error.message
            log.warning("service is off", service=name, why=error.message)
        else:
            del self.off[name]
            log.info("service is on again", service=name)

    def _note_pids(self) -> None:
        """Write `endpoints.json` anew. Where the disk refuses it, the next time this is called will do."""
        try:
            write_endpoints(self._folder, self._root.namespace, self._addresses, self.pids)
        except OSError as error:
            log.warning("endpoints.json not written", why=str(error))

    @staticmethod
    async def _end(process: asyncio.subprocess.Process) -> None:
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(STOP_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
