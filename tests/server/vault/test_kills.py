"""A vault whose processes are killed at random moments, under devices that store and retrieve on the same accounts.
`scripts/kills` does it for longer."""

from pathlib import Path
from random import SystemRandom

import pytest

from tests.server.vault.kills import survive
from tests.store.postgres import PostgresServer

KILLS = 30
KILLS_TOO = 10


@pytest.mark.parametrize("run", range(2))
async def test_what_devices_see_under_kills_is_linearizable_and_nothing_is_lost(run: int, tmp_path: Path) -> None:
    seed = SystemRandom().getrandbits(32)
    print(f"again: scripts/kills --runs 1 --kills {KILLS} --seed {seed}")
    await survive(tmp_path, KILLS, seed)


async def test_nor_when_the_databases_server_is_killed_as_well(postgres: PostgresServer, tmp_path: Path) -> None:
    seed = SystemRandom().getrandbits(32)
    print(f"again: scripts/kills --runs 1 --kills {KILLS_TOO} --postgres --seed {seed}")
    await survive(tmp_path, KILLS_TOO, seed, postgres)
