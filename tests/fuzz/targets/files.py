"""Files."""

import asyncio
from functools import cache
from pathlib import Path

from ipls.admin.deployment import create
from ipls.auditlog.chain import Position
from ipls.auditor.state import Kept, load_kept, save_kept
from ipls.client.device import Device
from ipls.client.errors import ProfileError
from ipls.config import ConfigError, load, load_core, load_witnesses
from ipls.conformance.replay import ConformanceError, check_proofs, replay_vectors
from ipls.proto.witness.v1.head_pb2 import SignedHead
from tests.fuzz.target import ROOT, Target, folder, target
from tests.trust.roots import NAMESPACE


@cache
def deployment() -> Path:
    """What `ipls init` makes."""
    made = folder() / "deployment"
    create(made, NAMESPACE, port=0)
    return made


@target("ipls.toml")
def _() -> Target:
    path = folder() / "ipls.toml"

    def run(data: bytes) -> None:
        path.write_bytes(data)
        load_core(path)
        load_witnesses(path)
        load(path)

    return Target(run, (ConfigError,), ((deployment() / "ipls.toml").read_bytes(),))


@target("endpoints.json")
def _() -> Target:
    place = folder()
    for file in ("trust.toml", "tls/ca.pem"):
        (place / file).parent.mkdir(exist_ok=True)
        (place / file).write_bytes((deployment() / file).read_bytes())
    seed = (deployment() / "endpoints.json").read_bytes().replace(str(deployment()).encode() + b"/", b"")
    path = place / "endpoints.json"

    def run(data: bytes) -> None:
        path.write_bytes(data)

        async def go() -> None:
            async with Device.open(place / "profile", path, report=lambda _: None):
                pass

        asyncio.run(go())

    return Target(run, (ProfileError,), (seed,), weight=4)


@target("audit's state")
def _() -> Target:
    path = folder() / "state.json"
    signed = SignedHead(epoch=7, root_hash=b"\x07" * 32)
    save_kept(path, ROOT, Kept(Position(7, b"\x07" * 32, bytes(32)), signed))
    seed = path.read_bytes()

    def run(data: bytes) -> None:
        path.write_bytes(data)
        load_kept(path, ROOT)

    return Target(run, (ConfigError,), (seed,))


@target("conformance file")
def _() -> Target:
    path = folder() / "proofs.jsonl"
    lines = Path("tests/vectors/whatsapp_v1.jsonl").read_bytes().splitlines(keepends=True)

    def run(data: bytes) -> None:
        path.write_bytes(data)
        check_proofs(path)
        replay_vectors(path)

    return Target(run, (ConformanceError,), (b"".join(lines[:5]),), weight=4, longest=64 * 1024)
