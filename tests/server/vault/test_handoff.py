"""A shard's move from one HSM to another, as an operator makes it: bundle, `hand-off`, `take-over`, the next vault."""

import secrets
import shutil
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from ipls.cli.main import app
from ipls.vault.errors import SessionRefused
from tests.hsm.fleet import another_host, write_bundle
from tests.hsm.rig import Owner, Rig
from tests.server.vault.process import running_vault
from tests.server.vault.test_state import ends


def vault_command(*arguments: object) -> str:
    """What `ipls vault` prints, or the reason why it refuses."""
    result = CliRunner().invoke(app, ["vault", *map(str, arguments)])
    if isinstance(result.exception, SessionRefused):
        return result.exception.reason
    assert result.exit_code == 0, result.output
    return result.output


async def test_the_next_hsm_serves_what_the_old_one_stored_and_the_old_one_ends(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    old = Rig(tmp_path / "old")
    new = another_host(old, tmp_path / "new", shard=0)
    owner, key = Owner(), secrets.token_bytes(32)
    old.directory.publish(owner)

    async def retrieve(client: Any, exchange: Any) -> None:
        assert client.on_answer(await exchange(client.retrieve_request())) == (1, key)

    async def store(client: Any, exchange: Any) -> None:
        client.on_answer(await exchange(client.store_request(0, bytes(16), key)))
        await retrieve(client, exchange)

    async def run(rig: Rig, work: Any) -> None:
        async with running_vault(rig) as vault:
            await vault.patiently(owner, work)

    await run(old, store)
    spare = another_host(old, tmp_path / "spare", shard=0)
    write_bundle([(new, [0])])
    moved, file = new.folder / "bundle.pb", tmp_path / "handoff"
    assert "is the HSM's" in vault_command("hand-off", moved, file, "--config", old.config_path)
    assert "VAULT_HANDED_OFF" in await ends(old)

    shutil.copy(old.folder / "vault.db", new.folder)
    assert vault_command("take-over", file, "--config", spare.config_path) == "VAULT_HANDOFF_REFUSED"
    assert "goes on with shard 0" in vault_command("take-over", file, "--config", new.config_path)
    await run(new, retrieve)
    assert "VAULT_HANDED_OFF" in await ends(old)
