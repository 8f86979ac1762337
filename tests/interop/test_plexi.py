"""Another vendor's auditor checks our log through a witness's interface, unchanged: Cloudflare's `plexi`."""

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipls.config import load_trust_root
from tests.e2e.running import Deployment, running

SCRIPT = Path(__file__).parents[2] / "scripts/plexi"
NUMBERS = ("+15550000001", "+15550000002", "+15550000003")


async def register(deployment: Deployment) -> None:
    for number in NUMBERS:
        async with deployment.device(number[1:]) as device:
            await deployment.register(device, number)


@pytest.fixture(scope="module")
def plexi() -> Path:
    """Its binary, built if need be."""
    return Path(subprocess.run([SCRIPT], stdout=subprocess.PIPE, text=True, check=True).stdout.strip())


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with running(tmp_path_factory.mktemp("plexi") / "ipls") as deployment:
        asyncio.run(register(deployment))
        yield deployment


def verdict(plexi: Path, deployment: Deployment, epoch: int | None) -> str:
    """What `plexi audit` says: "success", or why not."""
    auditor = str(deployment.endpoints()["auditor"]["address"])
    namespace = load_trust_root(deployment.folder / "trust.toml").namespace
    which = () if epoch is None else ("--epoch", str(epoch))
    command = [plexi, "audit", "--remote-url", auditor, "--namespace", namespace, *which]
    ended = subprocess.run(command, capture_output=True, text=True)
    return ended.stdout.strip() or ended.stderr.strip()


def test_it_accepts_the_newest_epoch_one_in_the_middle_and_the_start(plexi: Path, deployment: Deployment) -> None:
    assert [verdict(plexi, deployment, epoch) for epoch in (None, 2, 1, 0)] == ["success"] * 4


def test_it_refuses_a_corrupted_epoch(plexi: Path, deployment: Deployment) -> None:
    (found,) = (deployment.folder / "data/log/2").glob("*/*")
    honest = found.read_bytes()
    corrupted = bytearray(honest)
    corrupted[-1] ^= 1
    try:
        _replace(found, bytes(corrupted))
        assert verdict(plexi, deployment, 2) not in ("success", "")
        assert verdict(plexi, deployment, 3) == "success"
    finally:
        _replace(found, honest)
    assert verdict(plexi, deployment, 2) == "success"


def _replace(path: Path, data: bytes) -> None:
    draft = path.parent.parent.parent / ".draft"
    draft.write_bytes(data)
    draft.replace(path)
