"""`ipls audit` against a deployment as a person runs it."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.running import Deployment, ipls, running

NUMBERS = ("+15550000001", "+15550000002")


async def register(deployment: Deployment) -> None:
    for number in NUMBERS:
        async with deployment.device(number[1:]) as device:
            await deployment.register(device, number)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with running(tmp_path_factory.mktemp("audit") / "ipls") as deployment:
        asyncio.run(register(deployment))
        yield deployment


def test_an_honest_deployment_holds_and_a_corrupted_epoch_is_found(deployment: Deployment, tmp_path: Path) -> None:
    trust = ("--trust", deployment.folder / "trust.toml")
    honest = ipls("audit", *trust, "--state", tmp_path / "honest", "--json")
    assert honest.returncode == 0, honest.stderr
    report = json.loads(honest.stdout)
    assert (report["ok"], report["first"], report["signed"]) == (True, 1, {"witness": report["last"]})
    assert report["last"] >= 2
    (found,) = (deployment.folder / "data/log/2").glob("*/*")
    blob = bytearray(found.read_bytes())
    blob[-1] ^= 1
    found.write_bytes(blob)
    caught = ipls("audit", *trust, "--state", tmp_path / "caught")
    assert caught.returncode == 1
    assert caught.stderr.startswith("ipls: epoch 2: the proof does not hold")
    assert caught.stderr.endswith("[AUDIT_PROOF_REFUSED]\n")
    assert ipls("audit", *trust, "--state", tmp_path / "later", "--from", 3).returncode in (0, 3)
