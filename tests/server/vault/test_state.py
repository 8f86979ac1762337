"""A vault whose database or token is not as it left them: it does not start, or serves all but whose row it is."""

import asyncio
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
from pkcs11 import Attribute, ObjectClass

from ipls._grpc import grpc
from ipls.hsm.token.pkcs11 import HsmToken
from ipls.rpc.errors import RemoteError
from ipls.vault.state.journal import account_key
from tests.hsm.rig import Owner, Rig
from tests.hsm.tokens import PIN
from tests.server.vault.process import FRONT, Vault, running_vault


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def edit(rig: Rig, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(rig.folder / "vault.db", timeout=10)) as connection, connection:
        assert connection.execute(statement, values).rowcount


async def use(vault: Vault, owner: Owner) -> None:
    async with vault.stream() as exchange:
        client = await vault.rig.open(owner, exchange, known_head=vault.rig.directory.head())
        client.on_answer(await exchange(client.store_request(0, bytes(16), bytes(32))))


async def refused(vault: Vault, owner: Owner) -> tuple[grpc.StatusCode, str]:
    """Code and reason, once it is."""
    while True:
        try:
            await vault.patiently(owner, lambda client, exchange: exchange(client.list_request()))
        except RemoteError as error:
            return error.code, error.reason


async def used(rig: Rig) -> None:
    """By an owner."""
    owner = Owner()
    rig.directory.publish(owner)
    async with running_vault(rig) as vault:
        await use(vault, owner)


async def ends(rig: Rig) -> str:
    """What a vault says that starts on these files and ends by itself."""
    front = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", FRONT, str(rig.config_path)), stderr=asyncio.subprocess.PIPE
    )
    _, said = await front.communicate()
    assert front.returncode
    return said.decode()


async def test_it_does_not_start_on_yesterdays_database(rig: Rig) -> None:
    yesterday = rig.folder / "yesterday.db"
    shutil.copy(rig.folder / "vault.db", yesterday)
    await used(rig)
    shutil.copy(yesterday, rig.folder / "vault.db")
    assert "VAULT_DATABASE_BEHIND" in await ends(rig)


async def test_it_does_not_start_on_a_token_without_its_anchor(rig: Rig) -> None:
    await used(rig)
    with closing(HsmToken.open(rig.token, PIN)) as token:
        for found in token._session.get_objects({Attribute.CLASS: ObjectClass.DATA}):
            found.destroy()
    assert "VAULT_ANCHOR_MISSING" in await ends(rig)


async def test_it_does_not_start_with_a_pin_that_others_can_read(rig: Rig) -> None:
    (rig.folder / "pin").chmod(0o640)
    assert "KEY_FILE_OPEN" in await ends(rig)


async def test_it_ends_the_session_of_an_account_whose_row_was_edited(rig: Rig) -> None:
    """Under way. Who has another account is served."""
    victim, other = Owner(), Owner()
    rig.directory.publish(victim)
    rig.directory.publish(other)
    async with running_vault(rig) as vault:
        async with vault.stream() as exchange:
            client = await rig.open(victim, exchange, known_head=rig.directory.head())
            client.on_answer(await exchange(client.store_request(0, bytes(16), bytes(32))))
            edit(rig, "UPDATE records SET record = zeroblob(32) WHERE key = ?", account_key(victim.label))
            edit(rig, "UPDATE log SET key = x'' WHERE key = ?", account_key(victim.label))  # else it comes from there
            with pytest.raises(RemoteError) as refusal:
                await exchange(client.retrieve_request())
        assert (refusal.value.code, refusal.value.reason) == (grpc.StatusCode.DATA_LOSS, "VAULT_DATABASE_EDITED")
        await use(vault, other)


async def test_the_walk_tells_of_a_row_that_nobody_reads_and_all_are_served(
    rig: Rig, capfd: pytest.CaptureFixture[str]
) -> None:
    await used(rig)
    edit(rig, "UPDATE log SET entry = substr(entry, 9) WHERE sequence = 1")
    owner = Owner()
    rig.directory.publish(owner)
    async with running_vault(rig) as vault:
        said = ""
        while "vault database checked" not in said:
            await vault.patiently(owner, lambda client, exchange: exchange(client.list_request()))
            said += capfd.readouterr().err
        assert said.count("vault database damaged") == said.count("VAULT_LOG_BROKEN") == 1
        await use(vault, owner)
