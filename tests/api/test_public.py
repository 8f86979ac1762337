"""The public API is the one that was recorded, and what docs/library.md shows of it runs."""

import re
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

from ipls.client import Device, ProfileError
from ipls.errors import IplsError
from ipls.proto.trust.v1.proof_pb2 import LabelProof
from tests.api.public import PACKAGES, RECORDED, ROOT, public
from tests.client.deployment import Deployment, book


def test_the_public_names_are_the_recorded_ones() -> None:
    assert public() == RECORDED.read_text(), "if this is meant: python -m tests.api.public"


@pytest.mark.parametrize("package", PACKAGES)
def test_each_public_name_is_there_and_documented(package: str) -> None:
    module = import_module(package)
    for name in module.__all__:
        found = getattr(module, name)
        if isinstance(found, type) and issubclass(found, Exception):
            assert issubclass(found, IplsError)
        elif isinstance(found, type | FunctionType):
            assert found.__doc__, name


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment(tmp_path_factory.mktemp("deployment")).running() as world:
        yield world


@pytest.fixture(scope="module")
def documented() -> dict[str, Any]:
    """What docs/library.md defines."""
    names: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/library.md").read_text(), re.M | re.S):
        exec(block, names)
    return names


async def test_the_documents_examples_of_a_day_run(
    world: Deployment, documented: dict[str, Any], tmp_path: Path
) -> None:
    endpoints, number, bars = world.folder / "endpoints.json", world.label(), list[float]()
    async with Device.open(world.profile(), endpoints) as device:
        await device.register(number, world.code)
        id = await documented["met"](device, "Ada King", "+1 202 555 0100")
        await documented["renumbered"](device, "king", "+12025550100", "+1 202 555 0111")
        (ada,) = documented["found"](device, "0111 ad")
        assert (ada.id, ada.numbers) == (id, ("+1 202 555 0111",))
        (tmp_path / "bo.vcf").write_bytes(b"BEGIN:VCARD\r\nVERSION:3.0\r\nUID:bo\r\nFN:Bo\r\nN:;Bo;;;\r\nEND:VCARD\r\n")
        assert documented["synced"](device, tmp_path).added == 1
        assert await documented["stored_or_why_not"](device) == "1 sent, 0 received"
    new = world.profile()
    async with Device.open(new, endpoints) as device:
        await device.register(number, world.code)
    assert await documented["restored_within"](new, 0, bars.append) is None
    restored = await documented["restored_within"](new, 60, bars.append)
    assert (restored.contacts, bars[-1]) == (2, 1)


async def test_the_documents_example_of_errors_runs(world: Deployment, documented: dict[str, Any]) -> None:
    label = world.label()
    first = await world.stored(label, book(1))
    with world.paused("contacts"):
        async with world.device(first, retry_for_s=0.1) as device:
            # So little patience is also at an end where another service asks to come again.
            assert (await documented["stored_or_why_not"](device)).startswith("later: ")
    await world.registered(label)
    async with world.device(first) as device:
        assert await documented["stored_or_why_not"](device) == "another phone has this number now"


async def test_the_documents_example_runs(world: Deployment, documented: dict[str, Any]) -> None:
    endpoints, number, warnings = world.folder / "endpoints.json", world.label(), list[str]()
    old, new = world.profile(), world.profile()
    common = endpoints, number, world.code
    assert await documented["back_up"](old, *common, book(3), warnings.append) == 3
    assert sorted((await documented["move"](new, *common, warnings.append)).split()) == sorted(book(3).split())
    assert warnings == []
    async with Device.open(old, report=documented["reporter"](warnings.append)) as device:
        with pytest.raises(ProfileError, match="registered anew"):
            await device.monitor()
    assert set(warnings) == {"somebody registered your number, as version 2"}

    async with Device.open(new) as device:
        proof = device.history_proof()
    trust_root, now_ms = (world.folder / "trust.toml").read_bytes(), time.time_ns() // 1_000_000
    label, keys = documented["proved_keys"](trust_root, proof, now_ms)
    assert (label, len(set(keys))) == (number, 2)
    another = LabelProof.FromString(proof)
    another.label = world.label().encode()
    with pytest.raises(IplsError):
        documented["proved_keys"](trust_root, another.SerializeToString(), now_ms)
