"""Files."""

import asyncio
import io
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from unittest.mock import patch

from ipls.admin.deployment import create
from ipls.auditlog.chain import Position
from ipls.auditor.state import Kept, load_kept, save_kept
from ipls.cli import verify
from ipls.cli.status import REFUSED
from ipls.client.device import Device
from ipls.client.errors import ProfileError
from ipls.config import ConfigError, load, load_core, load_witnesses
from ipls.conformance.replay import ConformanceError, check_proofs, replay_vectors
from ipls.proto.trust.v1.proof_pb2 import LabelProof
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.trust.root import encode_trust_root
from tests.cli import test_verify_files
from tests.fuzz.target import ROOT, Target, folder, serialized, target
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


class _Refused(Exception):
    """`ipls verify` ended as it does for a file that proves nothing."""


def _verified(kind: str, seed: LabelProof) -> Target:
    """A file that anybody may hand over; what is printed has no control characters."""
    path, trust = folder() / "file", folder() / "trust.toml"
    trust.write_bytes(encode_trust_root(test_verify_files.ROOT))

    def run(data: bytes) -> None:
        path.write_bytes(data)
        said = io.StringIO()
        try:
            # A buffer of the largest size is taken whatever the file's.
            with patch.object(verify, "MAX_PROOF", 64 * 1024), redirect_stdout(said), redirect_stderr(said):
                getattr(verify, kind)(path, trust)
        except SystemExit as e:
            if e.code != REFUSED:
                raise
            raise _Refused from e
        finally:
            assert said.getvalue().replace("\n", "").isprintable()

    return Target(run, (_Refused,), serialized(seed), weight=4)


@target("file with a lookup")
def _() -> Target:
    return _verified("lookup", test_verify_files.lookup(2))


@target("file with a history")
def _() -> Target:
    return _verified("history", test_verify_files.history(2, 1))
