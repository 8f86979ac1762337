"""`ipls init`: a new deployment in one folder, every key made here, every secret file 0600.

ipls.toml       what each service is told          keys/       seeds: VRF, proposal, witnesses, operator
trust.toml      the pinned trust root              tls/        the CA and the certificates
bundle.pb       the signed list of HSM keys        token/      the SoftHSM token
endpoints.json  where the services are             data/       databases, the audit log's objects

Tested by tests/cli/test_commands.py.
"""

import contextlib
import json
import secrets
import shutil
import socket
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import tomli_w

from ipls.address import reachable
from ipls.admin.bundles import BUNDLE_LIFETIME_MS, first_bundle
from ipls.admin.certificates import Authority
from ipls.admin.users import CORE_FOLDER, new_users
from ipls.akd import EMPTY_ROOT, DirectoryKey
from ipls.clock import system_now_ms
from ipls.config import Config, ConfigError, PartedCore
from ipls.crypto import keys
from ipls.hsm.anchor_service import TokenAnchorService
from ipls.hsm.state.anchor import genesis
from ipls.hsm.token.pkcs11 import HsmToken, create_token
from ipls.store.files import PUBLIC, replace, write_new
from ipls.store.log import FileLog, bundle_name
from ipls.store.vault import open_vault_store
from ipls.store.witness import init_witness_state, open_witness_store
from ipls.trust import root
from ipls.trust.bundle import bundle_head, countersign, fleet_namespace
from ipls.units import DAY_MS

PORTS = ("directory", "updates", "witness", "log", "vault", "contacts", "registration", "auditor")
"""The ports of a deployment, in the order in which `ipls init --port` numbers them; then those of further witnesses."""
SERVICES = ("witness", "directory", "log", "vault", "contacts", "registration")
"""What `ipls serve` runs. `updates` is the directory's second port, `auditor` the witness's."""
CORE = "vault-core"
"""What `ipls serve` calls the vault's core, where it is parted from its front."""
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


def witness_names(count: int) -> list[str]:
    """The witnesses of a deployment, as trust root, files, processes and ports have them: witness, witness-2, …"""
    return ["witness", *(f"witness-{number}" for number in range(2, count + 1))]


def auditor_of(witness: str) -> str:
    """The name of a witness's HTTP port: auditor, auditor-2, …"""
    return witness.replace("witness", "auditor")


def port_names(witnesses: int) -> list[str]:
    """The ports of a deployment with so many witnesses."""
    further = witness_names(witnesses)[1:]
    return [*PORTS, *(port for name in further for port in (name, auditor_of(name)))]


def addresses_of(config: Config) -> dict[str, str]:
    """The address of every port, by its name in endpoints.json; a pull-only witness has that of its HTTP port alone."""
    addresses = {
        "directory": config.directory.listen,
        "updates": config.directory.internal_listen,
        "log": config.log.listen,
        "vault": config.vault.listen,
        "contacts": config.contacts.listen,
        "registration": config.registration.listen,
    }
    for name, witness in zip(witness_names(len(config.witnesses)), config.witnesses, strict=True):
        addresses |= {name: witness.listen} if witness.listen else {}
        addresses |= {auditor_of(name): witness.http_listen}
    return addresses


def process_of(port: str) -> str:
    """The name of the process that a port is of."""
    return "directory" if port == "updates" else port.replace("auditor", "witness")


def speaks_http(port: str) -> bool:
    """Whether it is plain HTTP's, and not gRPC's."""
    return port == "log" or port.startswith("auditor")


def processes_of(config: Config, *, parted: bool) -> dict[str, list[str]]:
    """The processes of a deployment, in the order of starting, with what `ipls serve` is told to run each. `parted`:
    the vault's core is one of them."""
    names = zip(witness_names(len(config.witnesses)), config.witnesses, strict=True)
    return {name: ["witness", "--name", witness.name] for name, witness in names} | {
        name: [name] for name in ((CORE,) if parted else ()) + SERVICES if name != "witness"
    }


def create(
    folder: Path,
    namespace: str,
    *,
    witnesses: int = 1,
    shards: int = 1,
    port: int = DEFAULT_PORT,
    max_head_age_s: int = 3600,
) -> None:
    """Make a deployment in `folder`, which must be new or empty, with so many witnesses, more than half of which make
    a quorum, and accounts in so many shards, of which its vault keeps the first. `port` is the first of eight, and two
    more a further witness; 0 takes free ones.

    Raises ConfigError if the folder is in use. What it began it removes when it fails.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is not empty; name a new folder", "FOLDER_IN_USE")
    existed = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _fill(folder.resolve(), namespace, witness_names(witnesses), shards, port, max_head_age_s * 1000)
    except BaseException:  # Ctrl-C too
        for entry in folder.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        if not existed:
            folder.rmdir()
        raise


def _fill(folder: Path, namespace: str, witnesses: list[str], shards: int, port: int, max_head_age_ms: int) -> None:
    users = new_users(folder)
    vault_database = str((CORE_FOLDER if users else Path("data")) / "vault.db")
    for name in ("tls", "keys", "data", "data/log", "logs"):
        (folder / name).mkdir(mode=0o700)
    (folder / vault_database).parent.mkdir(mode=0o700, exist_ok=True)
    seeds = {name: secrets.token_bytes(32) for name in ("vrf", "proposal", "operator", *witnesses)}
    for name, seed in seeds.items():
        write_new(folder / f"keys/{name}.key", seed.hex().encode() + b"\n")
    authority = Authority(folder / "tls", namespace)
    for service in ("directory", *witnesses, "vault", "contacts", "registration"):
        authority.issue_server(service)
    authority.issue_client("messaging-service", "messaging-service")
    for service in ("vault", "contacts"):
        authority.issue_client(f"{service}-reader", "reader")
    authority.issue_client("router", "router")

    ports = port_names(len(witnesses))
    numbers = free_ports(len(ports)) if port == 0 else range(port, port + len(ports))
    addresses = {name: f"127.0.0.1:{number}" for name, number in zip(ports, numbers, strict=True)}
    now_ms = system_now_ms()
    trust = root.TrustRoot(
        number=1,
        previous=b"",
        expires_ms=now_ms + TRUST_ROOT_LIFETIME_MS,
        namespace=namespace,
        vrf_public_key=DirectoryKey.from_seed(seeds["vrf"]).public_key,
        witnesses=tuple(
            root.Witness(
                name=name,
                url=f"http://{addresses[auditor_of(name)]}",
                keys=(
                    root.WitnessKey(
                        public_key=keys.public_key(seeds[name]),
                        not_before_ms=now_ms - DAY_MS,
                        not_after_ms=now_ms + TRUST_ROOT_LIFETIME_MS,
                    ),
                ),
            )
            for name in witnesses
        ),
        k=len(witnesses) // 2 + 1,
        operator_key=keys.public_key(seeds["operator"]),
        proposal_key=keys.public_key(seeds["proposal"]),
        log_url=f"http://{addresses['log']}",
        max_head_age_ms=max_head_age_ms,
        start_epoch=0,
        start_root=EMPTY_ROOT,
        development=True,
    )
    write_new(folder / "trust.toml", root.encode_trust_root(trust), mode=PUBLIC)
    for name in witnesses:
        init_witness_state(folder / f"data/{name}.db", trust)

    pin = secrets.token_hex(16)
    write_new(folder / "keys/token.pin", pin.encode() + b"\n")
    hsm = create_token(folder / "token", pin)
    with (
        closing(open_vault_store(folder / vault_database)) as database,
        closing(HsmToken.open(folder / "token", pin)) as token,
    ):
        genesis(database, TokenAnchorService(token, 0))
    bundle = first_bundle(trust, hsm, seeds["operator"], now_ms=now_ms, lifetime_ms=BUNDLE_LIFETIME_MS, shards=shards)
    for name in witnesses:
        cosignature = countersign(keys.SeedSigner(seeds[name]), trust, bundle, now_ms)
        encoded = cosignature.SerializeToString(deterministic=True)
        with closing(open_witness_store(folder / f"data/{name}.db", namespace, folder / f"keys/{name}.mark")) as store:
            store.sign_document(fleet_namespace(trust), bundle_head(bundle), b"", partial(bytes, encoded))
        bundle.cosignatures.append(cosignature)
    FileLog(folder / "data/log").put(bundle_name(1), bundle.SerializeToString())
    replace(folder / "bundle.pb", bundle.SerializeToString(), mode=PUBLIC)
    write_endpoints(folder, namespace, addresses, {})
    # Last: a folder with this file is a whole deployment.
    replace(
        folder / "ipls.toml", tomli_w.dumps(_config(addresses, witnesses, vault_database, users)).encode(), mode=PUBLIC
    )


def _config(
    addresses: dict[str, str], witnesses: list[str], vault_database: str, users: PartedCore | None
) -> dict[str, Any]:
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
            "witnesses": {name: addresses[name] for name in witnesses},
        },
        "witnesses": [
            {
                "listen": addresses[name],
                "http_listen": addresses[auditor_of(name)],
                "tls": tls(name),
                "name": name,
                "database": f"data/{name}.db",
                "watermark": f"keys/{name}.mark",
                "key": f"keys/{name}.key",
            }
            for name in witnesses
        ],
        "log": {"listen": addresses["log"], "objects": "data/log"},
        "vault": {
            "listen": addresses["vault"],
            "tls": tls("vault"),
            "directory": addresses["updates"],
            "client": tls("vault-reader"),
            "database": vault_database,
            "token": "token",
            "pin": "keys/token.pin",
            "bundle": "bundle.pb",
        }
        | ({"evidence": "data/vault-evidence", "parted": users.model_dump(mode="json")} if users else {}),
        "contacts": {
            "listen": addresses["contacts"],
            "tls": tls("contacts"),
            "directory": addresses["updates"],
            "client": tls("contacts-reader"),
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
    """`endpoints.json`: where other programs find the services; pids only of those that run. Raises OSError."""
    services: dict[str, dict[str, object]] = {}
    for name, address in addresses.items():
        asked = reachable(address)
        entry: dict[str, object] = {"address": f"http://{asked}" if speaks_http(name) else asked}
        pid = pids.get(process_of(name))
        if pid is not None:
            entry["pid"] = pid
        services[name] = entry
    endpoints = {
        "namespace": namespace,
        "trust_root": str(folder / "trust.toml"),
        "ca_file": str(folder / "tls/ca.pem"),
        "services": services,
    }
    replace(folder / "endpoints.json", json.dumps(endpoints, indent=1).encode() + b"\n", mode=PUBLIC)
