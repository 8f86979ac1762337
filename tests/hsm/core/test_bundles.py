"""Whose accounts a vault takes, by the bundle's word; in its process that is in tests/hsm/core/test_core.py."""

import hashlib
from itertools import count
from pathlib import Path

import pytest

from ipls.hsm.core.bundles import BundleKeeper
from ipls.hsm.messages import Opened
from ipls.trust.bundle import shard_of
from ipls.vault.errors import SessionRefused
from tests.hsm.state_stores import MemoryNotary, new_ledger, perform
from tests.trust.bundles import bundle, hsm, point, signed_bundle
from tests.trust.roots import NOW, make_root

TOKEN = Opened(hashlib.sha256(point(1)).digest(), "softhsm-aes-cbc")


def label_of(shard: int) -> str:
    return next(label for label in map("+49{}".format, count(100)) if shard_of(label, 2) == shard)


@pytest.mark.parametrize("own", [0, 1])
def test_a_vault_takes_its_own_shard_alone_also_where_its_hsm_has_both(own: int, tmp_path: Path) -> None:
    """Another vault on the same token keeps the other one: here nothing would be known of its accounts."""
    (tmp_path / "bundle.pb").write_bytes(signed_bundle(bundle(hsm(1, 0, 1))).SerializeToString())
    anchor_service = MemoryNotary()
    anchor_service.shard = own
    with new_ledger(tmp_path / "vault.db", anchor_service) as state_store:
        keeper = BundleKeeper(make_root(), state_store, tmp_path / "bundle.pb")
        perform(state_store, lambda: keeper.check(label_of(own), TOKEN, 1, NOW))
        with pytest.raises(SessionRefused) as refused:
            perform(state_store, lambda: keeper.check(label_of(1 - own), TOKEN, 1, NOW))
        assert refused.value.reason == "VAULT_WRONG_SHARD"
