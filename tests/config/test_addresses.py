"""Addresses in `ipls.toml`: one that is none is refused when the file is read, by its key."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from ipls.config import ConfigError, load_service, load_witnesses

TLS = '{certificate = "c", key = "k", ca = "a"}'
ROUTER = f'[router]\nlisten = "localhost:7500"\ntls = {TLS}\nclient = {TLS}\nvaults = ["v0:1", "[::1]:2"]\n'
LOG = '[log]\nlisten = "[::1]:7400"\nobjects = "log"\n'
DIRECTORY = f"""
[directory]
listen = "0.0.0.0:7400"
internal_listen = "10.0.0.1:7401"
tls = {TLS}
database = "d"
vrf_key = "v"
proposal_key = "p"
log = "log"
witnesses = {{first = "first.example.org:7402"}}
"""
SERVICE = f'client = {TLS}\ntls = {TLS}\ndatabase = "d"\nlisten = "localhost:1"\ndirectory = "localhost:2"\n'
VAULT = f'[vault]\n{SERVICE}token = "t"\npin = "p"\nbundle = "b"\n'
CONTACTS = f"[contacts]\n{SERVICE}"
REGISTRATION = f'[registration]\n{SERVICE}outbox = "o"\n'
WITNESS = f"""
[[witnesses]]
listen = "localhost:7402"
http_listen = "localhost:7407"
tls = {TLS}
name = "first"
database = "d"
watermark = "m"
key = "k"
"""

Loader = Callable[[Path], object]
ADDRESSES: list[tuple[Loader, str, str, str]] = [
    (load_service, LOG, "log.listen", '"[::1]:7400"'),
    (load_service, ROUTER, "router.listen", '"localhost:7500"'),
    (load_service, ROUTER, "router.vaults.1", '"[::1]:2"'),
    (load_service, DIRECTORY, "directory.listen", '"0.0.0.0:7400"'),
    (load_service, DIRECTORY, "directory.internal_listen", '"10.0.0.1:7401"'),
    (load_service, DIRECTORY, "directory.witnesses.first", '"first.example.org:7402"'),
    *(
        (load_service, table, f"{name}.{key}", address)
        for name, table in (("vault", VAULT), ("contacts", CONTACTS), ("registration", REGISTRATION))
        for key, address in (("listen", '"localhost:1"'), ("directory", '"localhost:2"'))
    ),
    (load_witnesses, WITNESS, "witnesses.0.listen", '"localhost:7402"'),
    (load_witnesses, WITNESS, "witnesses.0.http_listen", '"localhost:7407"'),
]


@pytest.mark.parametrize(("load", "table", "key", "address"), ADDRESSES, ids=[key for _, _, key, _ in ADDRESSES])
def test_an_address_without_a_port_is_refused_by_its_key(
    tmp_path: Path, load: Loader, table: str, key: str, address: str
) -> None:
    file = tmp_path / "ipls.toml"
    config = f'trust_root = "trust.toml"\n{table}'
    file.write_text(config)
    load(file)
    file.write_text(config.replace(address, '"localhost"'))
    with pytest.raises(ConfigError) as refused:
        load(file)
    assert str(refused.value) == f"{file}: {key}: Value error, not an address: host:port, or [IPv6]:port"
    assert refused.value.reason == "CONFIG_INVALID"


@pytest.mark.parametrize("everywhere", ["0.0.0.0:7401", "[::]:7401"])
@pytest.mark.parametrize(
    ("load", "table", "key", "address"),
    [row for row in ADDRESSES if "listen" not in row[2]],
    ids=[key for _, _, key, _ in ADDRESSES if "listen" not in key],
)
def test_every_interface_is_no_address_of_one_that_is_asked(
    tmp_path: Path, load: Loader, table: str, key: str, address: str, everywhere: str
) -> None:
    """No certificate names it, and who asks there would wait for ever."""
    file = tmp_path / "ipls.toml"
    file.write_text(f'trust_root = "trust.toml"\n{table}'.replace(address, f'"{everywhere}"'))
    with pytest.raises(ConfigError, match=re.escape(f"{key}: Value error, 0.0.0.0 and [::] are where")):
        load(file)
