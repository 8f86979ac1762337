"""How far an audit has come, kept between runs in one small file.

Tested by tests/auditor/test_run.py.
"""

import json
import os
from pathlib import Path
from typing import NamedTuple

from google.protobuf.message import DecodeError

from ipls.auditlog.chain import Position
from ipls.config import ConfigError, in_home
from ipls.crypto.encoding import tagged_hash
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.store.files import PUBLIC, replace
from ipls.trust.root import TrustRoot


def _key(root: TrustRoot) -> str:
    """What must be the same for a position to go on from."""
    return tagged_hash("ipls/audit/v1 state", root.namespace, root.log_url, root.start_epoch, root.start_root).hex()


def default_path(root: TrustRoot) -> Path:
    """Under the user's state folder, a file for each log. Raises ConfigError where the user has no home."""
    base = in_home(Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state"))
    return base / "ipls/audit" / f"{root.namespace}-{_key(root)[:16]}.json"


class Kept(NamedTuple):
    """A position and what the witnesses signed of it: against that it shows if they sign another root."""

    position: Position
    signed: SignedHead


def load_kept(path: Path, root: TrustRoot) -> Kept | None:
    """What `save_kept` kept; None if the file is not there. Raises ConfigError AUDIT_STATE_INVALID."""
    try:
        kept = json.loads(path.read_bytes())
        if kept["log"] != _key(root):
            raise ValueError
        position = Position(int(kept["epoch"]), bytes.fromhex(kept["root"]), bytes.fromhex(kept["trail"]))
        signed = SignedHead.FromString(bytes.fromhex(kept["signed"]))
        if (signed.epoch, signed.root_hash) != position[:2]:
            raise ValueError
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, DecodeError) as e:
        message = f"{path} is not the state of an audit of this log; remove it, or name another with --state"
        raise ConfigError(message, "AUDIT_STATE_INVALID") from e
    return Kept(position, signed)


def save_kept(path: Path, root: TrustRoot, kept: Kept) -> None:
    """Durable when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fields = {
        "log": _key(root),
        "epoch": kept.position.epoch,
        "root": kept.position.root_hash.hex(),
        "trail": kept.position.trail.hex(),
        "signed": kept.signed.SerializeToString().hex(),
    }
    replace(path, json.dumps(fields).encode() + b"\n", mode=PUBLIC)
