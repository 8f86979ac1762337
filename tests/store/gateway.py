"""A real S3 server with Object Lock, versitygw, on a free loopback port."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3

from ipls.admin.deployment import free_ports
from ipls.store.log.s3 import Bucket, S3Log
from tests.environment import DIES_WITH_US

ACCESS, SECRET = "ipls-test", "a-secret-of-the-tests"
REGION = "us-east-1"
SCRIPT = Path(__file__).parents[2] / "scripts/versitygw"


class Gateway:
    """A server over `folder`; what it stores outlives it. `start` and `stop` may follow one another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("data", "versions", "iam"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (self.port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}"
        self.credentials = folder / "credentials"
        self.credentials.touch(0o600)
        self.credentials.write_text(f"[default]\naws_access_key_id = {ACCESS}\naws_secret_access_key = {SECRET}\n")
        self._process: subprocess.Popen[bytes] | None = None
        self._buckets = 0

    def start(self) -> None:
        binary = subprocess.run([SCRIPT], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
        command = [
            *DIES_WITH_US,
            binary,
            "--quiet",
            "--keep-alive",
            "--port",
            f"127.0.0.1:{self.port}",
            "--region",
            REGION,
        ]
        command += ["--iam-dir", self.folder / "iam", "posix", "--versioning-dir", self.folder / "versions"]
        environment = {**os.environ, "ROOT_ACCESS_KEY": ACCESS, "ROOT_SECRET_KEY": SECRET}
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, self.folder / "data"], env=environment, stdout=log, stderr=subprocess.STDOUT
            )
        while True:
            assert self._process.poll() is None, (self.folder / "server.log").read_text()
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
            except OSError:
                time.sleep(0.02)  # it says to nobody that it is up
            else:
                return

    def stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()

    def client(self) -> Any:
        """The S3 API with the operator's credentials, for doing by hand what a log must not."""
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=ACCESS,
            aws_secret_access_key=SECRET,
            region_name=REGION,
        )

    def bucket(self, name: str = "", **changes: Any) -> Bucket:
        """A log's buckets, which are not made yet; each call names new ones unless it is told a name."""
        self._buckets += 1
        name = name or f"log{self._buckets}"
        fields: dict[str, Any] = {
            "name": name,
            "claims": f"{name}-claims",
            "retention": timedelta(days=1),
            "endpoint": self.url,
            "region": REGION,
            "credentials": self.credentials,
        }
        return Bucket(**{**fields, **changes})

    def log(self) -> S3Log:
        """An empty log in buckets of its own."""
        log = S3Log(self.bucket())
        log.create_buckets()
        return log


@contextmanager
def gateway(folder: Path) -> Iterator[Gateway]:
    """A server that runs until the block ends."""
    server = Gateway(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
