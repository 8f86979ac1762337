"""`ipls init`: a new deployment in one folder, every key made here, every secret file 0600.

ipls.toml       what each service is told          keys/       seeds: VRF, proposal, witness, operator
trust.toml      the pinned trust root              tls/        the CA and the certificates
bundle.pb       the signed list of HSM keys        token/      the SoftHSM token
endpoints.json  where the services are             data/       databases, the audit log's objects
"""

import contextlib
import json
import secrets
import shutil
import socket
from pathlib import Path
from typing import Any

import tomli_w

from ipls.akd import EMPTY_ROOT, DirectoryKey
from ipls.cli.certificates import Authority
from ipls.cli.files import replace, write_private
from ipls.cli.keys import BUNDLE_LIFETIME_MS, DAY_MS, first_bundle
from ipls.clock import system_now_ms
from ipls.config import ConfigError
from ipls.hsm.token import create_token
from ipls.store.witness import init_witness_state
from ipls.trust import keys, root

PORTS = ("directory", "updates", "witness", "log", "vault", "contacts", "registration", "auditor")
"""The ports of a deployment, in the order in which `ipls init --port` numbers them."""
SERVICES = ("witness", "directory", "log", "vault", "contacts", "registration")
"""The processes of a deployment. `updates` is the directory's second port, `auditor` the witness's."""
DEFAULT_PORT = 7400
TRUST_ROOT_LIFETIME_MS = 365 * DAY_MS


def free_ports(count: int) -> list[int]:
    """Loopback TCP ports that nobody listens on at this moment, below those that outgoing connections are given."""
    found: list[int] = []
    while len(found) < count:
        port = 10_000 + secrets.randbelow(20_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found += [port] if port not in found else []
    return found


def create(folder: Path, namespace: str, *, port: int = DEFAULT_PORT, max_head_age_s: int = 3600) -> None:
    """Make a deployment in `folder`, which must be new or empty; `port` is the first of eight, 0 takes free ones.

    Raises ConfigError if the folder is in use. What it began it removes when it fails.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is not empty; name a new folder", "FOLDER_IN_USE")
    existed = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _fill(folder.resolve(), namespace, port, max_head_age_s * 1000)
    except BaseException:  # Ctrl-C too
        for entry in folder.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        if not existed:
            folder.rmdir()
        raise


def _fill(folder: Path, namespace: str, port: int, max_head_age_ms: int) -> None:
    for name in ("tls", "keys", "data", "data/log", "logs"):
        (folder / name).mkdir(mode=0o700)
    seeds = {name: secrets.token_bytes(32) for name in ("vrf", "proposal", "witness", "operator")}
    for name, seed in seeds.items():
        write_private(folder / f"keys/{name}.key", seed.hex().encode() + b"\n")
    authority = Authority(folder / "tls", namespace)
    for service in ("directory", "witness", "vault", "contacts", "registration"):
        authority.issue_server(service)
    authority.issue_client("messaging-service", "messaging-service")

    numbers = free_ports(len(PORTS)) if port == 0 else range(port, port + len(PORTS))
    addresses = {name: f"127.0.0.1:{number}" for name, number in zip(PORTS, numbers, strict=True)}
    now_ms = system_now_ms()
    trust = root.TrustRoot(
        number=1,
        previous=b"",
        expires_ms=now_ms + TRUST_ROOT_LIFETIME_MS,
        namespace=namespace,
        vrf_public_key=DirectoryKey.from_seed(seeds["vrf"]).public_key,
        witnesses=(
            root.Witness(
                name="witness",
                url=f"http://{addresses['auditor']}",
                keys=(
                    root.WitnessKey(
                        public_key=keys.public_key(seeds["witness"]),
                        not_before_ms=now_ms - DAY_MS,
                        not_after_ms=now_ms + TRUST_ROOT_LIFETIME_MS,
                    ),
                ),
            ),
        ),
        k=1,
        operator_key=keys.public_key(seeds["operator"]),
        proposal_key=keys.public_key(seeds["proposal"]),
        log_url=f"http://{addresses['log']}",
        max_head_age_ms=max_head_age_ms,
        start_epoch=0,
        start_root=EMPTY_ROOT,
        development=True,
    )
    (folder / "trust.toml").write_bytes(root.encode(trust))
    init_witness_state(folder / "data/witness.db", trust)

    pin = secrets.token_hex(16)
    write_private(folder / "keys/token.pin", pin.encode() + b"\n")
    hsm = create_token(folder / "token", pin)
    bundle = first_bundle(trust, hsm, seeds["operator"], now_ms=now_ms, lifetime_ms=BUNDLE_LIFETIME_MS)
    replace(folder / "bundle.pb", bundle.SerializeToString())
    write_endpoints(folder, namespace, addresses, {})
    # Last: a folder with this file is a whole deployment.
    replace(folder / "ipls.toml", tomli_w.dumps(_config(addresses)).encode())


def _config(addresses: dict[str, str]) -> dict[str, Any]:
    def tls(name: str) -> dict[str, str]:
        return {"certificate": f"tls/{name}.pem", "key": f"tls/{name}.key", "ca": "tls/ca.pem"}

    return {
        "trust_root": "trust.toml",
        "directory": {
            "listen": addresses["directory"],
            "internal_listen": addresses["updates"],
            "tls": tls("directory"),
            "database": "data/directory.db",
            "vrf_key": "keys/vrf.key",
            "proposal_key": "keys/proposal.key",
            "log": "data/log",
            "witnesses": {"witness": addresses["witness"]},
        },
        "witness": {
            "listen": addresses["witness"],
            "http_listen": addresses["auditor"],
            "tls": tls("witness"),
            "name": "witness",
            "database": "data/witness.db",
            "key": "keys/witness.key",
        },
        "log": {"listen": addresses["log"], "objects": "data/log"},
        "vault": {
            "listen": addresses["vault"],
            "tls": tls("vault"),
            "directory": addresses["directory"],
            "database": "data/vault.db",
            "token": "token",
            "pin": "keys/token.pin",
            "bundle": "bundle.pb",
        },
        "contacts": {
            "listen": addresses["contacts"],
            "tls": tls("contacts"),
            "directory": addresses["directory"],
            "database": "data/contacts.db",
        },
        "registration": {
            "listen": addresses["registration"],
            "tls": tls("registration"),
            "directory": addresses["updates"],
            "client": tls("messaging-service"),
            "database": "data/registration.db",
            "outbox": "data/registration.outbox",
        },
    }


def write_endpoints(folder: Path, namespace: str, addresses: dict[str, str], pids: dict[str, int]) -> None:
    """`endpoints.json`: where other programs find the services; pids only of those that run."""
    services: dict[str, dict[str, object]] = {}
    for name, address in addresses.items():
        entry: dict[str, object] = {"address": f"http://{address}" if name in ("log", "auditor") else address}
        pid = pids.get({"updates": "directory", "auditor": "witness"}.get(name, name))
        if pid is not None:
            entry["pid"] = pid
        services[name] = entry
    endpoints = {
        "namespace": namespace,
        "trust_root": str(folder / "trust.toml"),
        "ca_file": str(folder / "tls/ca.pem"),
        "services": services,
    }
    replace(folder / "endpoints.json", json.dumps(endpoints, indent=1).encode() + b"\n")
