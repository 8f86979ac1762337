"""Files with keys and PINs, which nobody but their owner may read."""

from pathlib import Path

from ipls.config.base import ConfigError


def check_private(path: Path) -> None:
    """Raises ConfigError KEY_FILE_OPEN where others than its owner may read or write the file."""
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"{path}: others can read this key; run `chmod 600` on it", "KEY_FILE_OPEN")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error


def read_pin(path: Path) -> str:
    """A token's PIN from its file. Raises ConfigError, also where others may read the file."""
    check_private(path)
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the PIN can't be read") from error


def read_secret(path: Path) -> bytes:
    """A 32-byte seed from a file of 64 hex digits. Raises ConfigError, also where others may read the file."""
    check_private(path)
    try:
        seed = bytes.fromhex(path.read_text().strip())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not a key file (64 hex digits)") from error
    if len(seed) != 32:
        raise ConfigError(f"{path}: not a key file (64 hex digits)")
    return seed
