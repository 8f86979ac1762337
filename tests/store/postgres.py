"""A real PostgreSQL server on a free loopback port, for a host who owns it and a vault that is a plain role on it."""

import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg

from ipls.admin.deployment import free_ports
from ipls.config import VaultPostgresConfig
from ipls.store.vault import VaultStore, open_vault_store
from tests.environment import DIES_WITH_US

PASSWORD = "a-password-of-the-tests"
USER = "postgres" if os.geteuid() == 0 else None
"""Who the server runs as: it refuses root."""
RUN_AS = [*DIES_WITH_US, f"--reuid={USER}", f"--regid={USER}", "--clear-groups"] if USER else DIES_WITH_US
"""Not by Popen, which would fork for it, and gRPC in another thread may hang in that."""
_STARTER = ThreadPoolExecutor(1)
"""Its thread lasts as long as this process: a server dies with the one that started it, and any may call `start`."""


def binary(name: str) -> str:
    """Debian's, or what the path has."""
    newest = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    return str(newest[-1]) if newest else name


class PostgresServer:
    """`start` and `kill` may follow one another."""

    def __init__(self, folder: Path, primary: "PostgresServer | None" = None) -> None:
        """`folder` is for the test's own files; the server's user may have no way into it. With a primary it is the
        standby of the name `standby`."""
        folder.mkdir(exist_ok=True)
        self._data = Path(tempfile.mkdtemp(prefix="ipls-postgres-"))
        self._log = folder / "postgres.log"
        self._passfile = folder / "pgpass"
        self._passfile.touch(0o600)
        self._passfile.write_text(f"*:*:*:*:{PASSWORD}\n")
        (password := self._data / "password").write_text(PASSWORD)
        if USER:
            shutil.chown(self._data, USER)
        (self.port,) = free_ports(1)
        self._folder = folder
        self._schemas = 0
        if primary is not None:
            source = f"host=127.0.0.1 port={primary.port} user=host password={PASSWORD} application_name=standby"
            self._run("pg_basebackup", "--write-recovery-conf", "--checkpoint=fast", "--no-sync", "-d", source).wait()
            self.start()
            return
        arguments = ["--auth=scram-sha-256", "--username=host", f"--pwfile={password}", "--no-sync"]
        self._run("initdb", *arguments, "--locale=C", "--encoding=UTF8", "--no-instructions").wait()
        self.start()
        self.execute(f"CREATE ROLE vault LOGIN PASSWORD '{PASSWORD}'")
        self.execute("GRANT CREATE ON DATABASE postgres TO vault")

    def _run(self, name: str, *arguments: str) -> "subprocess.Popen[bytes]":
        command = [*RUN_AS, binary(name), "-D", str(self._data / "data"), *arguments]
        with self._log.open("ab") as log:
            return _STARTER.submit(subprocess.Popen, command, cwd="/", stdout=log, stderr=log).result()

    def start(self) -> None:
        """Return once it takes connections."""
        settings = [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "dynamic_shared_memory_type=mmap",  # in its folder: one that is killed leaves it
        ]
        self._process = self._run("postgres", "-p", str(self.port), *(f"-c{setting}" for setting in settings))
        while True:
            assert self._process.poll() is None, self._log.read_text()
            with suppress(psycopg.OperationalError):
                self.execute("SELECT 1")
                return
            time.sleep(0.02)  # it says to nobody that it is up

    def kill(self) -> None:
        """SIGKILL for it and all its processes, at once."""
        pid = self._process.pid
        descriptors = []
        self._process.send_signal(signal.SIGSTOP)  # it starts no more of them
        for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
            with suppress(ProcessLookupError):
                descriptors.append(os.pidfd_open(child))
                signal.pidfd_send_signal(descriptors[-1], signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        for descriptor in descriptors:
            select.select([descriptor], [], [])
            os.close(descriptor)

    def stop(self) -> None:
        """It and its processes take what comes and answer nothing, until `go_on`."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        pid = self._process.pid
        self._process.send_signal(number)
        for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
            os.kill(child, number)

    def close(self) -> None:
        """For good."""
        if self._process.poll() is None:
            self.kill()
        shutil.rmtree(self._data)

    def conninfo(self, role: str, schema: str) -> str:
        """Without the password, which lies in a passfile."""
        address = f"host=127.0.0.1 port={self.port} dbname=postgres user={role}"
        return f"{address} passfile={self._passfile} options=-csearch_path={schema}"

    def execute(self, statement: str, *values: object, schema: str = "public", role: str = "host") -> Any:
        """As the server's owner, or another role; the cursor, from which rows can be taken."""
        with psycopg.connect(self.conninfo(role, schema), autocommit=True) as connection:
            return connection.execute(statement.replace("?", "%s"), values or None)

    def new(self) -> "PostgresDatabase":
        """An empty schema."""
        self._schemas += 1
        schema = f"vault{self._schemas}"
        self.execute(f"CREATE SCHEMA {schema}", role="vault")
        return PostgresDatabase(self, schema, self._folder / f"{schema}.lock")


class PostgresDatabase:
    """A vault's schema, as its host has it: `tests.store.vault_databases.Database`."""

    def __init__(self, server: PostgresServer, schema: str, lock: Path) -> None:
        self.server = server
        self.schema = schema
        self.place = VaultPostgresConfig(postgres=server.conninfo("vault", schema), lock=lock)

    def open(self, *, wait: bool = True) -> VaultStore:
        return open_vault_store(self.place, wait=wait)

    def execute(self, statement: str, *values: object) -> int:
        changed: int = self.server.execute(statement, *values, schema=self.schema).rowcount
        return changed

    def rows(self, query: str, *values: object) -> list[Any]:
        rows: list[Any] = self.server.execute(query, *values, schema=self.schema).fetchall()
        return rows

    def copy(self) -> "PostgresDatabase":
        other = self.server.new()
        other.open().close()  # which makes the tables
        other.put_back(self)
        return other

    def put_back(self, backup: "PostgresDatabase") -> None:
        self.execute(
            ";".join(
                f"DELETE FROM {table}; INSERT INTO {table} SELECT * FROM {backup.schema}.{table}"
                for table in ("log", "records", "nodes")
            )
        )

    def elsewhere(self) -> "PostgresDatabase":
        """The same, as another host sees it."""
        return PostgresDatabase(self.server, self.schema, self.place.lock.with_suffix(".elsewhere"))

    def disconnect(self) -> None:
        """Whoever has it open loses the connection."""
        self.server.execute("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = 'vault'")


@contextmanager
def postgres_server(folder: Path, primary: PostgresServer | None = None) -> Iterator[PostgresServer]:
    """A server that runs until the block ends."""
    server = PostgresServer(folder, primary)
    try:
        yield server
    finally:
        server.close()
