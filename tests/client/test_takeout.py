"""All that is held of an account, in a file of its owner's."""

import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from ipls.client.line.kept import KEYS
from ipls.contacts.envelope import Conflict, Placement, Verified
from ipls.crypto.keys import public_key
from tests.client.deployment import Deployment, book


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment(tmp_path_factory.mktemp("deployment")).running() as world:
        yield world


def unpacked(data: bytes) -> dict[str, Any]:
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        files = {name: packed.read(name) for name in packed.namelist()}
    return {name: json.loads(data) if name.endswith(".json") else data for name, data in files.items()}


async def test_all_of_it_is_there_and_no_secret_unless_it_is_asked_for(world: Deployment) -> None:
    label = world.label()
    profile = await world.stored(label, book(3))
    async with world.device(profile) as device:
        first = device._profile.contacts()[0]
        more = replace(
            first.envelope,
            placement=Placement.IPLS_ONLY,
            conflicts=(Conflict(b"NOTE:another", bytes(32), 7),),
            verified=(Verified("+4915112345678", b"k" * 32, 2, 9),),
        )
        device._profile.put_contacts([first._replace(envelope=more)])
        device.approver_key()
        uses = await device.uses()
        seed, proof = device.account.seed, device.history_proof()
        secrets = [seed, *(row.secret for row in device._profile.line.rows.all(KEYS))]
        taken = device.take_out()
        with_keys = unpacked(device.take_out(keys=True).data)
        cards = device.address_book.export()
    found = unpacked(taken.data)
    assert (taken.contacts, taken.unreadable) == (3, 0)
    assert found["contacts.vcf"] == cards
    described = found["contacts.json"][0]
    assert (described["sent"], described["placement"]) == (False, Placement.IPLS_ONLY)
    assert described["conflicts"] == [{"unit": b"NOTE:another".hex(), "device": bytes(32).hex(), "ms": 7}]
    assert described["verified"][0]["label"] == "+4915112345678"
    assert found["account.json"]["number"] == label
    assert found["account.json"]["versions"][0]["public_key"] == public_key(seed).hex()
    assert found["account.json"]["line"]["commit"] == 1
    assert found["history.proof"] == proof
    assert found["trust-root-1"] == (world.folder / "trust.toml").read_bytes()
    assert [use["operation"] for use in found["uses.json"]] == [use.operation for use in uses]
    assert found["settings.json"]["who is on the service is found out"] is False

    packed = str(found)
    for secret in secrets:
        assert secret.hex() not in packed
    assert "keys.json" not in found
    assert with_keys.pop("keys.json")["identity"] == seed.hex()
    assert with_keys == found
