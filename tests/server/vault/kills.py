"""Devices that share accounts store and retrieve while a vault's processes are killed at random; all that they saw is
recorded, and judged at the end. `scripts/kills` does it for longer than the suite.
"""

import argparse
import asyncio
import secrets
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from itertools import count
from math import inf
from os import kill
from pathlib import Path
from random import Random, SystemRandom
from typing import Any

from ipls._grpc import grpc
from ipls.proto.vault.v1.vault_pb2 import SessionRequest, SessionResponse
from ipls.rpc.errors import RemoteError
from ipls.runtime.logging import configure_logging
from ipls.vault.errors import OperationRefused
from ipls.vault.history import Seen, follow
from ipls.vault.session.client import ClientSession, RetrievedKey
from tests.hsm.rig import Exchange, Owner, Rig
from tests.hsm.tokens import MODULES
from tests.server.vault.linear import Operation, Register, Retrieve, Store, linearizable
from tests.server.vault.process import Vault, running_vault
from tests.store.postgres import PostgresServer, postgres_server

ACCOUNTS = 3
DEVICES = 5
AT_ONCE = 5
"""Operations that a device has for one session."""
GIVEN_UP = 0.2
"""Of the operations whose answer is lost; the others are repeated."""
CALM = 20
"""Answers between two kills at most: what a vault that has come back gets done."""
MOMENT_S = 0.03
"""From an answer to the kill that it brings at most: so long several of the next are under way."""
PAUSE_S = 0.05
"""Of a device that is told to try again."""
VICTIMS: dict[str, tuple[int, Callable[[Vault], int]]] = {
    "front": (1, lambda vault: vault.front.pid),
    "core": (2, Vault.core),
    "worker": (8, Vault.worker),
    "anchor service": (9, Vault.anchor_service),
}
"""How often each is hit, in proportion to what its start costs."""
DATABASE_WEIGHT = 8
"""For a vault on PostgreSQL."""
LATER = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED
"""What a device repeats: the vault is away, or so slow that a session expired."""


class Killer:
    """Kills one of the vault's processes, or its database's server (SIGKILL), at a random moment after every few
    answers, and starts front and server again, as a supervisor does. All else comes back by itself."""

    def __init__(self, vault: Vault, random: Random, kills: int, server: PostgresServer | None = None) -> None:
        self._vault = vault
        self._server = server
        self._random = random
        self._left = kills
        self._calm = 0
        self._starting: asyncio.Task[None] | None = None
        self.killed = Counter[str]()
        self.over = asyncio.Event()

    def answered(self) -> None:
        """A device has an answer."""
        self._calm -= 1
        if self._calm < 0 and not self.over.is_set():
            self._calm = self._random.randrange(CALM)
            asyncio.get_running_loop().call_later(self._random.uniform(0, MOMENT_S), self._kill)

    def _kill(self) -> None:
        if self.over.is_set() or (self._starting and not self._starting.done()):
            return
        weights = [weight for weight, _ in VICTIMS.values()] + [DATABASE_WEIGHT if self._server else 0]
        [name] = self._random.choices([*VICTIMS, "database"], weights)
        if name == "database":
            self._killed(name, asyncio.to_thread(self._start_server))
            return
        try:
            kill(VICTIMS[name][1](self._vault), signal.SIGKILL)
        except (IndexError, FileNotFoundError, ProcessLookupError):
            return  # it has not come back since the last time
        self._killed(name, self._start() if name == "front" else None)

    def _killed(self, name: str, start: Coroutine[Any, Any, None] | None) -> None:
        self.killed[name] += 1
        if start is not None:
            self._starting = asyncio.create_task(start)
        if self.killed.total() == self._left:
            self.over.set()

    async def _start(self) -> None:
        await self._vault.front.wait()
        await self._vault.start()

    def _start_server(self) -> None:
        assert self._server
        self._server.kill()
        self._server.start()

    async def wait(self) -> None:
        """Until all kills are done and what was killed last is up."""
        await self.over.wait()
        if self._starting:
            await self._starting


class Account:
    """What its owner's devices saw."""

    def __init__(self) -> None:
        self.owner = Owner()
        self.history: list[Operation] = []
        self.generation = 0  # the highest seen
        self.retrieved = 0  # keys


class Attempt:
    """One thing that a device wants done, however often it has to ask."""

    def __init__(self, account: Account, random: Random, what: str = "") -> None:
        self._account = account
        self._what = what or random.choices(["store", "retrieve", "finish"], [10, 10, 2])[0]
        self._expected = max(0, account.generation + random.choices([0, 1, -1], [8, 1, 1])[0])
        self._id, self._key = secrets.token_bytes(16), secrets.token_bytes(32)
        self._operation: Operation | None = None
        self.asked = 0

    async def make(self, client: ClientSession, exchange: Exchange, order: Iterator[int]) -> None:
        """Asks for it. Raises RemoteError if there is no answer."""
        self.asked += 1
        match self._what:
            case "store":
                await self._store(client, exchange, order)
            case "retrieve":
                await self._retrieve(client, exchange, order)
            case _:  # lets older generations go: they are no register's
                with suppress(OperationRefused):
                    generation = self._account.generation
                    client.on_answer(await exchange(client.finish_rotation_request(generation)))

    async def _store(self, client: ClientSession, exchange: Exchange, order: Iterator[int]) -> None:
        if self._operation is None:
            self._operation = Store(called=next(order), expected=self._expected, key=self._key)
            self._account.history.append(self._operation)
        operation = self._operation
        assert isinstance(operation, Store)
        try:
            client.on_answer(await exchange(client.store_request(self._expected, self._id, self._key)))
        except OperationRefused as refused:
            if self.asked > 1:
                return  # an earlier attempt may have come to be, and others have followed: it stays open
            if refused.reason == "VAULT_TOO_MANY_GENERATIONS":
                self._account.history.remove(operation)
                return
            if refused.reason != "VAULT_GENERATION_CONFLICT":
                raise
            operation.refused = True
        else:
            self._account.generation = max(self._account.generation, self._expected + 1)
        operation.returned = next(order)

    async def _retrieve(self, client: ClientSession, exchange: Exchange, order: Iterator[int]) -> None:
        operation = Retrieve(called=next(order))
        try:
            found = client.on_answer(await exchange(client.retrieve_request()))
        except OperationRefused as refused:
            if refused.reason != "VAULT_GENERATION_UNKNOWN":
                raise
        else:
            assert isinstance(found, RetrievedKey)
            operation.found = Register(*found)
            self._account.retrieved += 1
            self._account.generation = max(self._account.generation, found.generation)
        operation.returned = next(order)
        self._account.history.append(operation)  # one without an answer says nothing


class Devices:
    """All of them, at one vault."""

    def __init__(self, vault: Vault, random: Random, killer: Killer) -> None:
        self._vault = vault
        self._random = random
        self._killer = killer
        self._order = count()
        self.accounts = [Account() for _ in range(ACCOUNTS)]
        for account in self.accounts:
            vault.rig.directory.publish(account.owner)

    async def use(self) -> None:
        """What one device does until the killer is through."""
        while not self._killer.over.is_set():
            account = self._random.choice(self.accounts)
            attempts = [Attempt(account, self._random) for _ in range(self._random.randint(1, AT_ONCE))]
            await self._make(account, attempts)

    async def _make(self, account: Account, attempts: list[Attempt]) -> None:
        """All of them, in as many sessions as it takes; some of those without an answer are given up."""
        while attempts:
            try:
                async with self._vault.stream() as exchange:
                    noticed = self._noticed(exchange)
                    head = self._vault.rig.directory.head()
                    client = await self._vault.rig.open(account.owner, noticed, known_head=head)
                    while attempts:
                        await attempts[0].make(client, noticed, self._order)
                        attempts.pop(0)
            except RemoteError as error:
                if error.code not in LATER:
                    raise
                if attempts[0].asked and self._random.random() < GIVEN_UP:
                    attempts.pop(0)
                await asyncio.sleep(PAUSE_S)
                await self._vault.channel.channel_ready()

    def _noticed(self, exchange: Exchange) -> Exchange:
        """The killer hears of each answer."""

        async def exchanged(frame: SessionRequest) -> SessionResponse:
            response = await exchange(frame)
            self._killer.answered()
            return response

        return exchanged

    async def judge(self) -> None:
        """When no more is killed: nothing acknowledged is lost, nothing came to be twice, each use is on record."""
        for account in self.accounts:
            await self._vault.patiently(account.owner, partial(self._judge, account))

    async def _judge(self, account: Account, client: ClientSession, exchange: Exchange) -> None:
        await Attempt(account, self._random, "retrieve").make(client, exchange, self._order)
        assert linearizable(account.history)
        seen, used = Seen(), Counter[str]()
        while entries := follow(seen, client.on_answer(await exchange(client.history_request(seen.length + 1)))):
            used.update(entry.operation for entry, _ in entries)
            seen = entries[-1][1]
        end = account.history[-1]
        assert isinstance(end, Retrieve)
        assert used["store"] == end.found.generation
        assert used["retrieve"] >= account.retrieved


async def survive(
    folder: Path, kills: int, seed: int, server: PostgresServer | None = None, module: str = "softhsm"
) -> str:
    """A vault in `folder` does, with a token of this module, and on `server`, if there is one. Returns what there was
    of it."""
    random, rig = Random(seed), Rig(folder, module, server.new().place if server else None)
    async with running_vault(rig, config={"daily_uses": 10**9}) as vault:
        killer = Killer(vault, random, kills, server)
        devices = Devices(vault, random, killer)
        async with asyncio.TaskGroup() as group:
            group.create_task(killer.wait())
            for _ in range(DEVICES):
                group.create_task(devices.use())
        await devices.judge()
    rig.check()
    operations = [operation for account in devices.accounts for operation in account.history]
    unanswered = sum(operation.returned == inf for operation in operations)
    return f"killed {dict(killer.killed)}; {len(operations)} operations, {unanswered} of them without an answer"


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/kills", description=__doc__)
    parser.add_argument("--runs", type=int, default=10, help="vaults, each with its own seed (%(default)s)")
    parser.add_argument("--kills", type=int, default=200, help="in each run (%(default)s)")
    parser.add_argument("--postgres", action="store_true", help="on PostgreSQL, whose server is killed too")
    parser.add_argument("--module", choices=MODULES, default="softhsm", help="whose token it has (%(default)s)")
    parser.add_argument("--seed", type=int, help="of the first run; else a random one")
    options = parser.parse_args()
    configure_logging("critical")
    first = SystemRandom().getrandbits(32) if options.seed is None else options.seed
    for seed in range(first, first + options.runs):
        print(f"seed {seed}: ", end="", flush=True)
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            server = stack.enter_context(postgres_server(folder)) if options.postgres else None
            print(asyncio.run(survive(folder, options.kills, seed, server, options.module)), flush=True)


if __name__ == "__main__":
    main()
