"""What is done for a witness by hand: a key in its token, its beginning, its signatures on documents."""

import secrets
from collections.abc import Sequence
from pathlib import Path

from google.protobuf.message import DecodeError

from ipls.config import ConfigError, TokenConfig, WitnessConfig, read_pin
from ipls.crypto.keys import Signer
from ipls.hsm.token.signing import make_token_key
from ipls.proto.witness.v1.head_pb2 import Cosignature
from ipls.store.files import PUBLIC, read_bounded, replace, write_new
from ipls.store.witness import init_witness_state
from ipls.trust.root import TrustRoot

MAX_SIGNATURE = 16 * 1024
"""Bytes of a file with one."""


def make_key(place: Path | TokenConfig, pin: Path, label: str) -> bytes:
    """A new key in the token; its public half. A folder's token is made if it is not there, and its PIN's file too.

    Raises ConfigError.
    """
    if isinstance(place, Path) and not place.exists() and not pin.exists():
        write_new(pin, secrets.token_hex(16).encode() + b"\n")
    return make_token_key(place, read_pin(pin), label)


def genesis(witness: WitnessConfig, root: TrustRoot) -> None:
    """The state of a new witness, which starts where the trust root does. Raises ConfigError WITNESS_RESTORED."""
    if witness.watermark.exists() and not witness.database.exists():
        raise ConfigError("this witness has signed before and lost its state: it needs a new key", "WITNESS_RESTORED")
    init_witness_state(witness.database, root)


def signer_for(name: str, signers: Sequence[Signer], roots: Sequence[TrustRoot], now_ms: int) -> Signer:
    """The first key that one of the versions, the old one before the new, gives the witness; one that is good now.

    Raises ConfigError WITNESS_KEY_UNPINNED.
    """
    windows = [key for root in roots for witness in root.witnesses if witness.name == name for key in witness.keys]
    for key in sorted(windows, key=lambda key: not key.covers(now_ms)):
        for signer in signers:
            if signer.public_key == key.public_key:
                return signer
    raise ConfigError(f"the trust root gives none of these keys to a witness {name}", "WITNESS_KEY_UNPINNED")


def write_signature(file: Path, name: str, signature: Cosignature) -> Path:
    """Into a file beside the one that was signed."""
    path = file.with_name(f"{file.name}.{name}-{signature.public_key.hex()[:8]}.sig")
    replace(path, signature.SerializeToString(), mode=PUBLIC)
    return path


def read_signature(path: Path) -> Cosignature:
    """Raises ConfigError, OSError."""
    try:
        return Cosignature.FromString(read_bounded(path, MAX_SIGNATURE))
    except DecodeError as error:
        raise ConfigError(f"{path}: not a witness's signature") from error
