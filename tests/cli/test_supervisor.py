"""A supervised deployment: which addresses and witnesses it can have."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ipls.admin.deployment import create, free_ports
from ipls.admin.health import until_listening
from ipls.admin.supervisor import Supervisor
from ipls.config import load, load_trust_root
from ipls.store.witness import init_witness_state


@asynccontextmanager
async def supervised(folder: Path, prepare: Callable[[Path], None] = lambda config: None) -> AsyncIterator[Supervisor]:
    """A new deployment in `folder`, its ipls.toml as `prepare` leaves it, with all services up."""
    create(folder, "test.ipls", port=0)
    prepare(folder / "ipls.toml")
    supervisor = Supervisor(folder / "ipls.toml")
    await supervisor.start()
    try:
        yield supervisor
    finally:
        await supervisor.stop()


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
