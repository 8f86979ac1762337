"""A deployment's own certificate authority: one server certificate a service, one client certificate a role.

Tested by tests/rpc/test_errors.py and tests/admin/test_status.py.
"""

import datetime
import ipaddress
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ipls.clock import system_now_ms
from ipls.config import ConfigError, TlsFiles
from ipls.config.base import Model
from ipls.rpc.peer import ROLE_PREFIX
from ipls.store.files import PUBLIC, replace, write_new

LIFETIME = datetime.timedelta(days=365)
CA_LIFETIME = datetime.timedelta(days=3650)
"""Devices keep a copy of the CA's certificate, which nobody renews for them."""


class Authority:
    """Issues certificates under one self-signed P-256 CA, into `folder` as NAME.pem and NAME.key (0600)."""

    def __init__(self, folder: Path, namespace: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"IPLS CA of {namespace}")])
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        certificate = self._builder(self._name, self._key.public_key(), x509.BasicConstraints(True, 0))
        self._write("ca", self._key, certificate.add_extension(usage, critical=True))

    def issue_server(self, name: str) -> None:
        """A certificate for this machine's loopback names."""
        hosts: list[x509.GeneralName] = [x509.DNSName("localhost")]
        hosts += [x509.IPAddress(ipaddress.ip_address(address)) for address in ("127.0.0.1", "::1")]
        self._issue(name, hosts, ExtendedKeyUsageOID.SERVER_AUTH)

    def issue_client(self, name: str, role: str) -> None:
        """A client certificate that carries `role` as a SAN URI."""
        self._issue(name, [x509.UniformResourceIdentifier(ROLE_PREFIX + role)], ExtendedKeyUsageOID.CLIENT_AUTH)

    def _issue(self, name: str, names: list[x509.GeneralName], usage: x509.ObjectIdentifier) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(subject, key.public_key(), x509.BasicConstraints(False, None))
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        self._write(name, key, builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False))

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, constraints: x509.BasicConstraints
    ) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key)
        return _from(builder, system_now_ms(), ca=constraints.ca).add_extension(constraints, critical=True)

    def _write(self, name: str, key: ec.EllipticCurvePrivateKey, builder: x509.CertificateBuilder) -> None:
        certificate = builder.sign(self._key, hashes.SHA256())
        pem = serialization.Encoding.PEM
        write_new(self._folder / f"{name}.pem", certificate.public_bytes(pem), mode=PUBLIC)
        encoded = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        write_new(self._folder / f"{name}.key", encoded)


def _from(builder: x509.CertificateBuilder, now_ms: int, *, ca: bool) -> x509.CertificateBuilder:
    """A certificate of another serial number, for as long as such a one lasts."""
    now = datetime.datetime.fromtimestamp(now_ms / 1000, datetime.UTC)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(minutes=5))
    return builder.not_valid_after(now + (CA_LIFETIME if ca else LIFETIME))


def renew_certificate(file: Path, ca: Path, now_ms: int) -> None:
    """Another certificate in the place of the one in `file`, which may be the CA's own: for the same key, names and
    uses, from now on. One file changes, and whole: a crash leaves a certificate that fits its key.

    Raises ConfigError, also where the CA's key does not lie beside it; OSError.
    """
    old, issuer = _read(file), _read(ca)
    builder = x509.CertificateBuilder(issuer.subject, old.subject, old.public_key(), extensions=list(old.extensions))
    new = _from(builder, now_ms, ca=file == ca).sign(_ca_key(ca), hashes.SHA256())
    replace(file, new.public_bytes(serialization.Encoding.PEM), mode=PUBLIC)


def _ca_key(ca: Path) -> ec.EllipticCurvePrivateKey:
    file = ca.with_suffix(".key")
    if not file.exists():
        raise ConfigError(f"{file} is not here: certificates are renewed where the CA's key is")
    try:
        key = serialization.load_pem_private_key(file.read_bytes(), None)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{file}: not a key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{file}: not a key of an elliptic curve")
    return key


def tls_files_of(model: Model, name: str = "") -> Iterator[tuple[str, TlsFiles]]:
    """Every certificate that an `ipls.toml`, or a table of it, names, by its key there: `vault.client`."""
    if isinstance(model, TlsFiles):
        yield name, model
        return
    for field in type(model).model_fields:
        value = getattr(model, field)
        for number, item in enumerate(value if isinstance(value, tuple) else (value,), 1):
            if isinstance(item, Model):
                at = f"{field}.{number}" if isinstance(value, tuple) else field
                yield from tls_files_of(item, f"{name}.{at}" if name else at)


def certificate_window_ms(file: Path) -> tuple[int, int]:
    """From when until when a certificate is good. Raises ConfigError for a file that is none, OSError."""
    certificate = _read(file)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return int(begin.timestamp() * 1000), int(end.timestamp() * 1000)


def _read(file: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(file.read_bytes())
    except ValueError as error:
        raise ConfigError(f"{file}: not a certificate") from error
