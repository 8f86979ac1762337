"""A deployment's own certificate authority: one server certificate a service, one client certificate a role.

Tested by tests/rpc/test_errors.py and tests/admin/test_status.py.
"""

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ipls.config import Config, ConfigError, ContactsConfig, RegistrationConfig, TlsFiles, VaultConfig
from ipls.rpc.server import ROLE_PREFIX
from ipls.store.files import PUBLIC, write_new

LIFETIME = datetime.timedelta(days=365)


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
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + LIFETIME)
            .add_extension(constraints, critical=True)
        )

    def _write(self, name: str, key: ec.EllipticCurvePrivateKey, builder: x509.CertificateBuilder) -> None:
        certificate = builder.sign(self._key, hashes.SHA256())
        pem = serialization.Encoding.PEM
        write_new(self._folder / f"{name}.pem", certificate.public_bytes(pem), mode=PUBLIC)
        encoded = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        write_new(self._folder / f"{name}.key", encoded)


def tls_files_of(config: Config) -> dict[str, TlsFiles]:
    """Every certificate that a deployment's `ipls.toml` names, with its CA, by the part that shows it."""
    files = {"directory": config.directory.tls}
    asking: dict[str, VaultConfig | ContactsConfig | RegistrationConfig] = {
        "vault": config.vault,
        "contacts": config.contacts,
        "registration": config.registration,
    }
    for name, table in asking.items():
        files |= {name: table.tls, f"{name}, asking": table.client}
    return files | {witness.name: witness.tls for witness in config.witnesses if witness.tls}


def certificate_ends_ms(file: Path) -> int:
    """When a certificate runs out. Raises ConfigError for a file that is none, OSError."""
    return int(_read(file).not_valid_after_utc.timestamp() * 1000)


def _read(file: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(file.read_bytes())
    except ValueError as error:
        raise ConfigError(f"{file}: not a certificate") from error
