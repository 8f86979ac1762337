"""How far an audit has come, kept between runs in one small file."""

import json
import os
from pathlib import Path

from ipls.audit.walk import Position
from ipls.cli.files import replace
from ipls.config import ConfigError
from ipls.trust.encoding import T
from ipls.trust.root import TrustRoot


def _key(root: TrustRoot) -> str:
    """What must be the same for a position to go on from."""
    return T("ipls/audit/v1 state", root.namespace, root.log_url, root.start_epoch, root.start_root).hex()


def default_path(root: TrustRoot) -> Path:
    """Under the user's state folder, a file for each log."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    return Path(base) / "ipls/audit" / f"{root.namespace}-{_key(root)[:16]}.json"


def load_position(path: Path, root: TrustRoot) -> Position | None:
    """What `save_position` kept; None if the file is not there. Raises ConfigError AUDIT_STATE_INVALID."""
    try:
        kept = json.loads(path.read_bytes())
        if kept["log"] != _key(root):
            raise ValueError
        position = Position(int(kept["epoch"]), bytes.fromhex(kept["root"]), bytes.fromhex(kept["trail"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as e:
        message = f"{path} is not the state of an audit of this log; remove it, or name another with --state"
        raise ConfigError(message, "AUDIT_STATE_INVALID") from e
    return position


def save_position(path: Path, root: TrustRoot, position: Position) -> None:
    """Durable when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {
        "log": _key(root),
        "epoch": position.epoch,
        "root": position.root_hash.hex(),
        "trail": position.trail.hex(),
    }
    replace(path, json.dumps(kept).encode() + b"\n")
