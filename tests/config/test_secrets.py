"""Files with keys and PINs: read where their owner alone may, refused otherwise."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ipls.config import ConfigError, read_pin, read_secret

SEED = bytes(range(32))
Reader = Callable[[Path], object]


def private(path: Path, text: str) -> Path:
    path.touch(0o600)
    path.write_text(text)
    return path


def test_what_the_owner_alone_can_read_is_read(tmp_path: Path) -> None:
    assert read_pin(private(tmp_path / "pin", "1234\n")) == "1234"
    assert read_secret(private(tmp_path / "seed", SEED.hex() + "\n")) == SEED


@pytest.mark.parametrize("read", [read_pin, read_secret])
@pytest.mark.parametrize("mode", [0o640, 0o620, 0o604, 0o602])
def test_a_file_open_to_others_is_refused(tmp_path: Path, read: Reader, mode: int) -> None:
    file = private(tmp_path / "file", SEED.hex())
    file.chmod(mode)
    with pytest.raises(ConfigError) as refused:
        read(file)
    assert refused.value.reason == "KEY_FILE_OPEN"


@pytest.mark.parametrize("text", ["", "no hex", SEED.hex()[2:], SEED.hex() + "00"])
def test_a_key_file_has_32_bytes_in_hex(tmp_path: Path, text: str) -> None:
    file = private(tmp_path / "seed", text)
    with pytest.raises(ConfigError) as refused:
        read_secret(file)
    assert str(refused.value) == f"{file}: not a key file (64 hex digits)"


@pytest.mark.parametrize("read", [read_pin, read_secret])
def test_a_missing_file_is_named(tmp_path: Path, read: Reader) -> None:
    with pytest.raises(ConfigError, match="none: No such file or directory"):
        read(tmp_path / "none")
