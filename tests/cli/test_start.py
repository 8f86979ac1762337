"""How the command begins and ends: ports that are taken, a reader that has enough."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ipls.admin.health import check_free
from ipls.config import ConfigError

VECTORS = Path(__file__).parent.parent / "vectors/whatsapp_v1.jsonl"


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"the log .* {address}") as refused:
            check_free("the log", address)
        assert refused.value.reason == "SERVICE_DID_NOT_START"
    check_free("the log", address)


def test_a_reader_that_has_enough_ends_the_command_without_a_word() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "ipls.cli.main", "verify", "vectors", str(VECTORS)]
    ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, "")
