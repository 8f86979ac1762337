"""Another vendor's auditor checks our log through a witness's interface, unchanged: Cloudflare's `plexi`.

`PLEXI` names its binary (github.com/cloudflare/plexi, `cargo build --release`; nothing of it is kept here). Without it
the same requests are made, in its order, and judged as it judges: the signature of E by the key that /info has under
its key_id, the object named by the signatures of E and E-1 at the root of the log's host.
"""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest

from ipls.akd import AkdError, verify_append_only
from ipls.config import load_trust_root
from ipls.trust.errors import TrustError
from ipls.trust.heads import signature_message
from ipls.trust.keys import verify
from tests.e2e.running import Deployment, running

PLEXI = os.environ.get("PLEXI")
NUMBERS = ("+15550000001", "+15550000002", "+15550000003")


async def register(deployment: Deployment) -> None:
    for number in NUMBERS:
        async with deployment.device(number[1:]) as device:
            await deployment.register(device, number)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with running(tmp_path_factory.mktemp("plexi") / "ipls") as deployment:
        asyncio.run(register(deployment))
        yield deployment


def asked_as_plexi_asks(auditor: str, namespace: str, epoch: int | None) -> str:
    """`plexi audit`: "success", or why not."""
    base = f"{auditor}/namespaces/{namespace}"
    if epoch is None:
        epoch = httpx.get(f"{base}/last-verified-epoch").raise_for_status().json()["epoch"]
    signature = httpx.get(f"{base}/audits/{epoch}").raise_for_status().json()
    keys = [key["public_key"] for key in httpx.get(f"{auditor}/info").raise_for_status().json()["keys"]]
    (key,) = [bytes.fromhex(key) for key in keys if int(key[-2:], 16) == signature["key_id"]]
    digest = bytes.fromhex(signature["digest"])
    message = signature_message(signature["namespace"], signature["epoch"], digest, signature["timestamp"])
    try:
        verify(key, message, bytes.fromhex(signature["signature"]))
    except TrustError as e:
        return e.reason
    described = httpx.get(base).raise_for_status().json()
    root_epoch, _, root_hash = described["root"].partition("/")
    if epoch == int(root_epoch):
        return "success" if signature["digest"] == root_hash else "root"
    before = httpx.get(f"{base}/audits/{epoch - 1}").raise_for_status().json()["digest"]
    proof = httpx.get(urljoin(described["log_directory"], f"/{epoch}/{before}/{signature['digest']}"))
    if proof.status_code == 404:
        return "no proof"
    try:
        verify_append_only(bytes.fromhex(before), digest, epoch, proof.content)
    except AkdError as e:
        return e.reason
    return "success"


def verdict(deployment: Deployment, epoch: int | None) -> str:
    auditor = str(deployment.endpoints()["auditor"]["address"])
    namespace = load_trust_root(deployment.folder / "trust.toml").namespace
    if PLEXI is None:
        return asked_as_plexi_asks(auditor, namespace, epoch)
    which = () if epoch is None else ("--epoch", str(epoch))
    command = [PLEXI, "audit", "--remote-url", auditor, "--namespace", namespace, *which]
    ended = subprocess.run(command, capture_output=True, text=True)
    return ended.stdout.strip() or ended.stderr.strip()


def test_it_accepts_the_newest_epoch_one_in_the_middle_and_the_start(deployment: Deployment) -> None:
    assert [verdict(deployment, epoch) for epoch in (None, 2, 1, 0)] == ["success"] * 4


def test_it_refuses_a_corrupted_epoch(deployment: Deployment) -> None:
    (found,) = (deployment.folder / "data/log/2").glob("*/*")
    honest = found.read_bytes()
    corrupted = bytearray(honest)
    corrupted[-1] ^= 1
    try:
        _replace(found, bytes(corrupted))
        assert verdict(deployment, 2) not in ("success", "")
        assert verdict(deployment, 3) == "success"
    finally:
        _replace(found, honest)
    assert verdict(deployment, 2) == "success"


def _replace(path: Path, data: bytes) -> None:
    draft = path.parent.parent.parent / ".draft"
    draft.write_bytes(data)
    draft.replace(path)
