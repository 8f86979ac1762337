"""A witness process that kills itself: `python -m tests.server.witness.mortal FOLDER STEP`.

It serves the witness whose files lie in FOLDER until its STEPth step, a database statement or a log line; for ever if
STEP is 0.
"""

import itertools
import os
import signal
import sqlite3
import sys
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from ipls.config import TlsFiles, WitnessConfig, load_trust_root
from ipls.runtime.service import run
from ipls.server.witness import app
from ipls.store.engine import sqlite as engine

folder, fatal = Path(sys.argv[1]), int(sys.argv[2])
steps = itertools.count(1)


def step(*_: object) -> None:
    if next(steps) == fatal:
        os.kill(os.getpid(), signal.SIGKILL)


def open_database(*arguments: Any, **options: Any) -> sqlite3.Connection:
    connection = honest_open(*arguments, **options)
    connection.set_trace_callback(step)
    return connection


def count_line(_logger: object, _method: str, event: Any) -> Any:
    step()
    return event


honest_open, engine.open_database = engine.open_database, open_database
structlog.configure(processors=[count_line, structlog.processors.JSONRenderer()])
files = TlsFiles(certificate=folder / "server.pem", key=folder / "server.key", ca=folder / "ca.pem")
config = WitnessConfig(
    listen="127.0.0.1:0",
    http_listen="127.0.0.1:0",
    tls=files,
    name="w1",
    database=folder / "w.db",
    watermark=folder / "w.mark",
    evidence=folder / "evidence",
    key=folder / "witness.key",
)
run("witness", partial(app.run, config, load_trust_root(folder / "trust.toml")))
