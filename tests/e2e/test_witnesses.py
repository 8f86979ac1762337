"""Three witnesses as a person runs them, one of which stops, and an outsider's who only follows the log."""

import asyncio
import json
import os
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from ipls.admin.deployment import free_ports
from ipls.auditlog.cosignatures import parse_cosignature
from ipls.clock import system_now_ms
from ipls.config import TokenConfig, load_trust_root
from ipls.http.client import HttpClient, HttpUnavailable
from ipls.trust.root import Witness, WitnessKey
from tests.e2e.running import IPLS, Deployment, ipls, running
from tests.hsm.tokens import MODULES, as_configured, bare_token, pin_file


def soon(config: Path) -> None:
    config.write_text(config.read_text().replace("[[witnesses]]\n", "[[witnesses]]\ncatch_up_every_s = 0.2\n"))


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with running(tmp_path_factory.mktemp("witnesses") / "ipls", witnesses=3, prepare=soon) as deployment:
        yield deployment


async def register(deployment: Deployment, number: str) -> None:
    async with deployment.device(number[1:]) as device:
        await deployment.register(device, number)


def shown(url: str, namespace: str, what: str) -> Any:
    """What an auditor's interface answers; None where there is nothing."""
    try:
        status, answer = HttpClient(5).get(f"{url}/namespaces/{namespace}/{what}", limit=100_000)
    except HttpUnavailable:
        return None
    return json.loads(answer) if status == 200 else None


def until(url: str, namespace: str, epoch: int) -> bytes:
    """Its signature on an epoch, as it is shown, once it is."""
    while not (audit := shown(url, namespace, f"audits/{epoch}")):
        time.sleep(0.05)  # the witness says it to who asks
    return json.dumps(audit).encode()


def test_a_witness_that_stood_still_is_not_waited_for_and_catches_up_by_itself(deployment: Deployment) -> None:
    root = load_trust_root(deployment.folder / "trust.toml")
    third = deployment.pid("witness-3")
    os.kill(third, signal.SIGSTOP)
    try:
        for n in range(3):
            asyncio.run(register(deployment, f"+1555000001{n}"))
        newest = shown(root.witnesses[0].url, root.namespace, "last-verified-epoch")["epoch"]
        assert newest >= 3
    finally:
        os.kill(third, signal.SIGCONT)
    for epoch in range(1, newest + 1):
        roots = {
            parse_cosignature(root, w, epoch, until(w.url, root.namespace, epoch), system_now_ms()).root_hash
            for w in root.witnesses
        }
        assert len(roots) == 1


@contextmanager
def outsiders(folder: Path) -> Iterator[Path]:
    """A pull-only witness in `folder`, which has its configuration, while the block runs."""
    with (folder / "log").open("wb") as log:
        command = [*IPLS, "serve", "witness", "--config", str(folder / "witness.toml")]
        process = subprocess.Popen([*command, "--stop-at-eof"], stdin=subprocess.PIPE, stderr=log)
    try:
        yield folder
    finally:
        process.terminate()
        assert process.wait() == 0


@pytest.mark.parametrize("module", MODULES)
def test_an_outsider_with_the_trust_root_alone_witnesses_the_log_with_a_key_in_a_token(
    deployment: Deployment, tmp_path: Path, module: str
) -> None:
    asyncio.run(register(deployment, f"+1555000002{MODULES.index(module)}"))
    trust = tmp_path / "trust.toml"
    trust.write_bytes((deployment.folder / "trust.toml").read_bytes())
    place = bare_token(module, tmp_path / "token")
    (port,) = free_ports(1)
    table = {
        "name": "outsider",
        "http_listen": f"127.0.0.1:{port}",
        "database": "witness.db",
        "watermark": "witness.mark",
        "catch_up_every_s": 0.2,
        "token": {"place": as_configured(place), "pin": "pin", "keys": ["mine"]},
    }
    if isinstance(place, TokenConfig):
        pin_file(tmp_path)
    config = tmp_path / "witness.toml"
    config.write_text(tomli_w.dumps({"trust_root": "trust.toml", "witnesses": [table]}))
    made = ipls("witness", "key", "--config", config, "--label", "mine")
    assert made.returncode == 0, made.stderr
    assert stat.S_IMODE((tmp_path / "pin").stat().st_mode) == 0o600
    key = bytes.fromhex(made.stdout.strip())
    early = ipls("serve", "witness", "--config", config)
    assert (early.returncode, early.stderr.endswith("[WITNESS_NO_GENESIS]\n")) == (1, True)
    for _ in range(2):
        assert ipls("witness", "genesis", "--config", config).returncode == 0
    root = load_trust_root(trust)
    own = Witness("outsider", "", (WitnessKey(key, 0, 2**62),))
    with outsiders(tmp_path):
        url = f"http://127.0.0.1:{port}"
        answer = until(url, root.namespace, 1)
    vote = parse_cosignature(root, own, 1, answer, system_now_ms())
    first = root.witnesses[0]
    theirs = parse_cosignature(root, first, 1, until(first.url, root.namespace, 1), system_now_ms())
    assert vote.root_hash == theirs.root_hash
    (tmp_path / "witness.db").rename(tmp_path / "lost.db")
    again = ipls("witness", "genesis", "--config", config)
    assert (again.returncode, again.stderr.endswith("[WITNESS_RESTORED]\n")) == (2, True)
