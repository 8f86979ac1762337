"""A deployment as 0.1.0 left it, in `old/deployment.tar.gz`: made once, and opened by every later version.

No clock ends it. Trust root and certificates are good to 2100; the fleet's bundle, of which 30 days are the most, is
renewed by whoever opens the deployment. Log and witness have the addresses that the trust root gives them for good.
"""

import fcntl
import json
import re
import secrets
import socket
import subprocess
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import tomli_w
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from nacl.signing import SigningKey

from tests.surface.running import done, init, serving
from tests.surface.story import book
from tests.surface.witness import two_signatures

ARCHIVE = Path(__file__).parent / "old/deployment.tar.gz"
END = datetime(2100, 1, 1, tzinfo=UTC)
END_MS = int(END.timestamp() * 1000)
HOST = "127.83.17.4"
"""A loopback address that nobody else uses."""
ADDRESSES = {"log": f"{HOST}:7403", "witness": f"{HOST}:7407"}
NUMBER, GUARDED = "+4930777000001", "+4930777000002"
"""Two accounts: phone `old` has the first, `guarded` the second, which waits three days but for `tablet`'s word."""


@contextmanager
def opened(home: Path) -> Iterator[Path]:
    """The deployment, unpacked into `home`, its services at free ports; one at a time on this machine."""
    subprocess.run(["tar", "-xzf", ARCHIVE, "-C", home, "--no-same-owner"], check=True)
    folder = home / "ipls"
    config = folder / "ipls.toml"
    with (Path(tempfile.gettempdir()) / "ipls-surface.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        text = config.read_text()
        for address in set(re.findall(r"127\.0\.0\.1:\d+", text)):
            text = text.replace(f'"{address}"', f'"127.0.0.1:{_free_port()}"')
        config.write_text(text)
        softhsm = folder / "token/softhsm2.conf"
        softhsm.write_text(
            re.sub("(?m)(?<=^directories.tokendir = ).*", f"{softhsm.parent}/objects", softhsm.read_text())
        )
        yield folder


def renew_bundle(folder: Path) -> None:
    """The same HSMs for 30 days more."""
    config = ("--config", folder / "ipls.toml")
    draft = folder / "next.pb"
    done("keys", "bundle", "next", draft, *config)
    _put_in_use(draft, folder)


def make(home: Path) -> None:
    """Make the archive anew, with this version."""
    folder = home / "ipls"
    init(folder)
    _keep_for_good(folder)
    with serving(folder):
        _story(folder, home)
    _second_version(folder)
    with serving(folder):
        done("client", "monitor", "--profile", "old", "--home", home)
        done("audit", "--trust", folder / "trust.toml", "--state", home / "audit.json")
    (home / "evidence").write_bytes(two_signatures(folder, "ipls.local", END_MS - 1))
    for log in (folder / "logs").iterdir():
        log.unlink()
    ARCHIVE.parent.mkdir(exist_ok=True)
    with tarfile.open(ARCHIVE, "w:gz", compresslevel=9) as archive:
        for path in sorted(home.iterdir()):
            archive.add(path, path.name, filter=_nobodys)


def _story(folder: Path, home: Path) -> None:
    endpoints = ("--endpoints", folder / "endpoints.json")
    outbox = ("--outbox", folder / "data/registration.outbox")

    def phone(name: str) -> tuple[object, ...]:
        return "--profile", name, "--home", home

    (home / "book.vcf").write_bytes(book(3))
    for number, names in ((NUMBER, ("first", "old")), (GUARDED, ("guarded",))):
        done("client", "contacts", "import", home / "book.vcf", *endpoints, *phone(names[0]))
        for place, name in enumerate(names):
            done("client", "register", number, *endpoints, *outbox, *phone(name))
            done("client", "restore" if place else "store", *phone(name))
    key = done("client", "vault", "key", *endpoints, *phone("tablet")).strip()
    done("client", "vault", "delay", "3", *phone("guarded"))
    done("client", "vault", "trust", key, *phone("guarded"))
    done("client", "history", "--save", home / "history.proof", *phone("old"))
    done("client", "lookup", NUMBER, "--save", home / "lookup.proof", *phone("old"))
    done("audit", "--trust", folder / "trust.toml", "--state", home / "audit.json")
    done("directory", "pin", 1, "--config", folder / "ipls.toml")


def _keep_for_good(folder: Path) -> None:
    """Another end for all that ends, before anybody has seen it."""
    ports = {"witness": "auditor", "log": "log"}
    services = json.loads((folder / "endpoints.json").read_text())["services"]
    moved = {services[port]["address"].removeprefix("http://"): ADDRESSES[name] for name, port in ports.items()}
    for name in ("trust.toml", "ipls.toml"):
        text = (folder / name).read_text()
        for before, after in moved.items():
            text = text.replace(before, after)
        (folder / name).write_text(text)
    _prolong(folder / "trust.toml")
    authority = serialization.load_pem_private_key((folder / "tls/ca.key").read_bytes(), None)
    for file in (folder / "tls").glob("*.pem"):
        file.write_bytes(_prolonged(x509.load_pem_x509_certificate(file.read_bytes()), authority))
    _name_hsm_for_good(folder)


def _prolong(file: Path) -> None:
    """A trust root and its witnesses' keys."""
    root = tomllib.loads(file.read_text())
    for witness in root["witnesses"]:
        for key in witness["keys"]:
            key["not_after_ms"] = END_MS
    file.write_text(tomli_w.dumps(root | {"expires_ms": END_MS}))


def _prolonged(certificate: x509.Certificate, authority: object) -> bytes:
    builder = x509.CertificateBuilder(
        certificate.issuer,
        certificate.subject,
        certificate.public_key(),
        certificate.serial_number,
        certificate.not_valid_before_utc,
        END,
    )
    for extension in certificate.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    return builder.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _name_hsm_for_good(folder: Path) -> None:
    """The next bundle, whose HSM's key ends with the trust root; the operator signs what was changed by hand."""
    from ipls.proto.vault.v1.vault_pb2 import Bundle, SignedBundle

    config = ("--config", folder / "ipls.toml")
    draft = folder / "next.pb"
    done("keys", "bundle", "next", draft, *config)
    bundle = Bundle.FromString(SignedBundle.FromString(draft.read_bytes()).bundle)
    bundle.hsms[0].not_after_ms = END_MS
    data = bundle.SerializeToString(deterministic=True)
    hashed = b"".join(len(field).to_bytes(8, "big") + field for field in (b"ipls/fleet/v1 bundle", data))
    operator = SigningKey(bytes.fromhex((folder / "keys/operator.key").read_text()))
    signature = operator.sign(sha256(hashed).digest()).signature
    draft.write_bytes(SignedBundle(bundle=data, operator_signature=signature).SerializeToString())
    _put_in_use(draft, folder)


def _put_in_use(bundle: Path, folder: Path) -> None:
    config = ("--config", folder / "ipls.toml")
    done("keys", "bundle", "sign", bundle, *config, "--yes")
    done("keys", "bundle", "publish", bundle, *folder.glob(f"{bundle.name}.*.sig"), *config)
    for file in folder.glob(f"{bundle.name}*"):
        file.unlink()


def _second_version(folder: Path) -> None:
    """Of the trust root, which ends when the first does."""
    config = ("--config", folder / "ipls.toml")
    draft = folder / "trust-2.toml"
    done("keys", "trust", "next", draft, *config)
    _prolong(draft)
    done("keys", "trust", "sign", draft, *config, "--yes")
    done("keys", "trust", "publish", draft, *folder.glob("trust-2.toml.*.sig"), *config)
    for file in folder.glob("trust-2.toml*"):
        file.unlink()


def _nobodys(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def _free_port() -> int:
    """Of the loopback, below those that outgoing connections are given."""
    while True:
        port = 10_000 + secrets.randbelow(20_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
