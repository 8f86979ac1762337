"""A supervised deployment: which addresses and witnesses it can have, and what keeps its services alive."""

import asyncio
import json
import os
import select
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog

from ipls.admin import supervisor
from ipls.admin.deployment import create, free_ports
from ipls.admin.health import until_listening
from ipls.admin.supervisor import Supervisor
from ipls.config import ConfigError, load, load_trust_root
from ipls.rpc.health import until_serving
from ipls.runtime.service import Service
from ipls.store.witness import init_witness_state
from tests.e2e.running import children, command_line


@asynccontextmanager
async def supervised(folder: Path, prepare: Callable[[Path], None] = lambda config: None) -> AsyncIterator[Supervisor]:
    """A new deployment in `folder`, its ipls.toml as `prepare` leaves it, with all services up."""
    create(folder, "test.ipls", port=0)
    prepare(folder / "ipls.toml")
    supervisor = Supervisor(folder / "ipls.toml")
    async with Service("supervisor") as service:
        await supervisor.start(service)
        yield supervisor


def elsewhere(key: str, host: str) -> Callable[[Path], None]:
    """Has a service listen on another host: `key` is what ipls.toml says before its address."""

    def prepare(config: Path) -> None:
        old = f'{key}"127.0.0.1:'
        assert old in config.read_text()
        config.write_text(config.read_text().replace(old, f'{key}"{host}:'))

    return prepare


def services(folder: Path) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = json.loads((folder / "endpoints.json").read_text())["services"]
    return found


@pytest.mark.parametrize(("host", "asked"), [("[::1]", "[::1]"), ("0.0.0.0", "127.0.0.1"), ("[::]", "[::1]")])
async def test_services_may_listen_on_any_address(tmp_path: Path, host: str, asked: str) -> None:
    def prepare(config: Path) -> None:
        elsewhere("[log]\nlisten = ", host)(config)
        elsewhere("[contacts]\nlisten = ", host)(config)

    async with supervised(tmp_path / "ipls", prepare) as supervisor:
        config = load(tmp_path / "ipls/ipls.toml")
        ports = {
            name: table.listen.rpartition(":")[2]
            for name, table in (("log", config.log), ("contacts", config.contacts))
        }
        assert services(tmp_path / "ipls")["log"]["address"] == f"http://{asked}:{ports['log']}"
        assert services(tmp_path / "ipls")["contacts"]["address"] == f"{asked}:{ports['contacts']}"
        assert len(supervisor.pids) == supervisor.count


async def test_a_pull_only_witness_is_a_service_like_the_others(tmp_path: Path) -> None:
    folder = tmp_path / "ipls"
    (port,) = free_ports(1)

    def prepare(config: Path) -> None:
        table = f"""
[[witnesses]]
name = "outsider"
http_listen = "127.0.0.1:{port}"
database = "data/outsider.db"
watermark = "keys/outsider.mark"
key = "keys/operator.key"
"""
        config.write_text(config.read_text() + table)
        init_witness_state(folder / "data/outsider.db", load_trust_root(folder / "trust.toml"))

    async with supervised(folder, prepare) as supervisor:
        await until_listening(f"127.0.0.1:{port}")
        assert services(folder)["auditor-2"] == {
            "address": f"http://127.0.0.1:{port}",
            "pid": supervisor.pids["witness-2"],
        }
        assert "witness-2" not in services(folder)


def pid_of(service: str) -> int:
    """Of the one child of this process that runs the service now."""
    (pid,) = (pid for pid in children(os.getpid()) if f"serve {service} " in command_line(pid))
    return pid


def kill(pid: int) -> None:
    """Returns once it is dead and has let its port go."""
    watched = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    select.select([watched], [], [])
    os.close(watched)


def test_a_log_begins_anew_and_its_writer_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "LOG_BYTES", 10)
    path, before = tmp_path / "a.log", tmp_path / "a.log.1"
    supervisor.cut_log(path)  # which is not there
    with path.open("ab", buffering=0) as writer:
        for text in (b"some ", b"first lines ", b"others, longer "):
            writer.write(text)
            supervisor.cut_log(path)
        assert (before.read_bytes(), path.read_bytes()) == (b"others, longer ", b"")
        before.unlink()
        before.mkdir()  # no copy can be made
        writer.write(b"more than fits")
        supervisor.cut_log(path)
        writer.write(b"end")
    assert path.read_bytes() == b"end"


async def test_logs_are_cut_while_their_services_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "LOG_BYTES", 10)
    monkeypatch.setattr(supervisor, "LOGS_EVERY_S", 0.05)
    original, loop, all_cut = supervisor.cut_log, asyncio.get_running_loop(), asyncio.Event()
    cut = set[Path]()

    def cutting(path: Path) -> None:
        original(path)
        cut.update(path.parent.glob("*.log.1"))
        if len(cut) == 6:
            loop.call_soon_threadsafe(all_cut.set)

    monkeypatch.setattr(supervisor, "cut_log", cutting)
    async with supervised(tmp_path / "ipls") as running:
        assert running.count == 6
        await asyncio.wait_for(all_cut.wait(), 60)


async def test_one_part_that_can_not_start_is_said_and_the_others_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A vault whose database is another file; once it is there again, the vault is too, by itself."""
    monkeypatch.setattr("ipls.admin.supervisor.OFF_PAUSE_S", 0.1)
    folder, reported = tmp_path / "ipls", list[str]()
    create(folder, "test.ipls", port=0)
    database = folder / "data/vault.db"
    database.rename(folder / "elsewhere.db")
    database.write_bytes(b"no database" * 1000)
    supervisor = Supervisor(folder / "ipls.toml")
    async with Service("supervisor") as service:
        await supervisor.start(service, reported.append)
        assert supervisor.off.keys() == {"vault"}
        (off,) = (line for line in reported if line.startswith("OFF: vault did not start: "))
        assert "vault.db" in off
        assert len(reported) == supervisor.count
        await until_listening(load(folder / "ipls.toml").contacts.listen)
        for file in folder.glob("data/vault.db*"):
            file.unlink()
        (folder / "elsewhere.db").rename(database)
        config = load(folder / "ipls.toml")
        await until_serving(config.vault.listen, config.directory.tls.ca)


async def test_where_none_can_start_that_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "ipls"
    create(folder, "test.ipls", port=0)
    for file in folder.glob("tls/*.key"):
        file.chmod(0o644)
    config = folder / "ipls.toml"
    config.write_text(config.read_text().replace('objects = "data/log"', 'objects = "trust.toml"'))
    with pytest.raises(ConfigError, match=r"did not start: .*KEY_FILE_OPEN"):
        async with Service("supervisor") as service:
            await Supervisor(config).start(service)


async def test_what_the_disk_refuses_leaves_a_service_kept_alive(tmp_path: Path) -> None:
    async with supervised(tmp_path / "ipls"):
        address = load(tmp_path / "ipls/ipls.toml").log.listen
        endpoints = tmp_path / "ipls/endpoints.json"
        endpoints.unlink()
        (endpoints / "in the way").mkdir(parents=True)  # nothing takes its place
        for _ in range(2):
            kill(pid_of("log"))
            await until_listening(address)


async def test_a_service_that_could_not_be_started_is_tried_again(tmp_path: Path) -> None:
    tried = asyncio.Event()

    def hear(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        if event["event"] == "service not started":
            tried.set()
        raise structlog.DropEvent

    async with supervised(tmp_path / "ipls"):
        address = load(tmp_path / "ipls/ipls.toml").log.listen
        log = tmp_path / "ipls/logs/log.log"
        log.unlink()
        log.mkdir()  # it can't be opened
        before = structlog.get_config()
        structlog.configure(processors=[hear])
        try:
            kill(pid_of("log"))
            await tried.wait()
        finally:
            structlog.configure(**before)
        log.rmdir()
        await until_listening(address)
