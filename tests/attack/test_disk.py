"""Whoever has services write without end: what they log has a bound."""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

from ipls.runtime.logging import LINES

SERVICE = """
import sys
from pathlib import Path
from ipls.config import LogConfig
from ipls.runtime import service
from ipls.runtime.logging import configure_logging
from ipls.server.log import app

configure_logging()
config = LogConfig(listen="127.0.0.1:0", objects=Path(sys.argv[1]))
service.run("log", lambda owner: app.run(config, owner))
"""
FLOOD = LINES + 100


def test_nonsense_without_end_is_counted_and_not_written(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    command = [sys.executable, "-c", SERVICE, str(tmp_path / "log")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as service:
        assert service.stderr
        try:
            (port,) = json.loads(service.stderr.readline())["ports"]
            for _ in range(FLOOD):
                with socket.create_connection(("127.0.0.1", port)) as stranger:
                    stranger.sendall(b"nonsense\r\n\r\n")
                    while stranger.recv(4096):
                        pass
        finally:
            service.send_signal(signal.SIGTERM)
        lines = [json.loads(line) for line in service.stderr]
    about = [line for line in lines if "Invalid HTTP request" in line["event"]]
    counts = [line["left_out"] for line in about if "left_out" in line]
    assert len(about) - len(counts) + sum(counts) == FLOOD
    assert sum(counts) > 0  # all at once: LINES of them are written, or where a minute ends meanwhile twice as many
    assert service.returncode == 0
