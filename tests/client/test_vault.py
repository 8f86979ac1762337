"""The device with the vault's real processes."""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ipls.client.directory import DirectoryReader
from ipls.client.errors import RefusedError
from ipls.client.events import silent
from ipls.client.profile import Account, Profile
from ipls.client.vault import Vault
from ipls.clock import system_now_ms
from tests.hsm.rig import Owner, Rig
from tests.server.vault.process import running_vault


async def test_a_head_shown_by_the_vault_is_remembered(tmp_path: Path) -> None:
    """A directory that shows an older one later is refused, though it never showed the newer one itself."""
    rig, owner = Rig(tmp_path), Owner()
    head = rig.directory.publish(owner)
    nobody: Any = None  # the directory is not asked
    options: dict[str, Any] = {"now_ms": system_now_ms, "report": silent}
    with closing(Profile(tmp_path / "phone")) as profile:
        profile.put(Account(owner.label, owner.seed, 1, 1))
        reader = DirectoryReader(nobody, rig.root, profile, **options)
        async with running_vault(rig) as vault:
            device = Vault(vault.stub, rig.root, profile, reader, **options)
            assert list((await device.run(lambda session: session.list())).generations) == []
        assert profile.head is not None
        assert (profile.head.epoch, profile.head.root_hash) == (head.epoch, head.root_hash)
        with pytest.raises(RefusedError) as refused:
            reader.observe(rig.directory.head(epoch=0))
        assert refused.value.reason == "HEAD_BELOW_HIGHEST"


async def test_a_checkpoint_is_kept_and_told(tmp_path: Path) -> None:
    rig, owner, line, chain = Rig(tmp_path), Owner(), b"l" * 32, b"c" * 32
    rig.directory.publish(owner)
    nobody: Any = None
    options: dict[str, Any] = {"now_ms": system_now_ms, "report": silent}
    with closing(Profile(tmp_path / "phone")) as profile:
        profile.put(Account(owner.label, owner.seed, 1, 1))
        async with running_vault(rig) as vault:
            device = Vault(
                vault.stub, rig.root, profile, DirectoryReader(nobody, rig.root, profile, **options), **options
            )
            await device.run(lambda session: session.checkpoint(line, 7, chain))
            [kept] = (await device.run(lambda session: session.list())).checkpoints
            assert (kept.identity_version, kept.line, kept.n, kept.chain) == (1, line, 7, chain)
            with pytest.raises(RefusedError) as refused:
                await device.run(lambda session: session.checkpoint(line, 6, chain))
            assert refused.value.reason == "VAULT_CHECKPOINT_BELOW"
