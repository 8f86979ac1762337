"""A shard's move from one HSM to another, as an operator makes it: bundle, `hand-off`, `take-over`, the next vault."""

import secrets
import shutil
from pathlib import Path
from typing import Any

import pytest

from ipls.admin import vault as admin
from ipls.admin.bundles import read_bundle
from ipls.clock import system_now_ms
from ipls.config import load_core
from ipls.vault.errors import SessionRefused
from tests.hsm.fleet import another_host, write_bundle
from tests.hsm.rig import Owner, Rig
from tests.server.vault.process import running_vault
from tests.server.vault.test_state import ends


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
    admin.hand_off(load_core(old.config_path), read_bundle(moved), file, now_ms=system_now_ms())
    assert "VAULT_HANDED_OFF" in await ends(old)

    shutil.copy(old.folder / "vault.db", new.folder)
    with pytest.raises(SessionRefused) as refused:
        admin.take_over(load_core(spare.config_path).vault, file.read_bytes())
    assert refused.value.reason == "VAULT_HANDOFF_REFUSED"
    assert admin.take_over(load_core(new.config_path).vault, file.read_bytes()).shard == 0
    await run(new, retrieve)
    assert "VAULT_HANDED_OFF" in await ends(old)
