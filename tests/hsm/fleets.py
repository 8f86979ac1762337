"""Hosts of a fleet, each with a token, and the officers, who hold its ceremony."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from ipls.admin import ceremony
from ipls.config import ConfigError, CoreConfig, TokenConfig, load_core, read_secret
from ipls.crypto.errors import VerificationError
from ipls.crypto.keys import public_key
from ipls.proto.vault.v1.fleet_pb2 import Report
from ipls.trust import root as trust_root
from ipls.trust.ceremony import sign_transcript
from ipls.vault.errors import SessionRefused
from tests.hsm.tokens import as_configured, bare_token, pin_file
from tests.trust.roots import make_root, seed

OFFICERS = {"Anna": seed(21), "Berta": seed(22), "Carla": seed(23)}
STRANGER = seed(24)


def refusal(work: Callable[[], object]) -> str:
    """The reason why it is refused; empty if it is done."""
    try:
        work()
    except (VerificationError, ConfigError, SessionRefused) as error:
        return error.reason
    except OSError as error:
        return type(error).__name__
    return ""


def officers_table(m: int, **seeds: bytes) -> str:
    each = [{"name": name, "key": public_key(secret).hex()} for name, secret in seeds.items()]
    return tomli_w.dumps({"m": m, "officer": each})


class Host:
    """A vault's host: its folder, with `ipls.toml`, and its token, which has no keys yet."""

    def __init__(self, folder: Path, name: str, module: str = "softhsm", **changes: Any) -> None:
        self.name = name
        self.folder = folder / name
        self.folder.mkdir()
        self.place: Path | TokenConfig = bare_token(module, self.folder / "token")
        self.profile = "softhsm-aes-cbc" if module == "softhsm" else "hkdf-sha256"
        self.config = self.folder / "ipls.toml"
        files = {"certificate": "c.pem", "key": "c.key", "ca": "ca.pem"}
        vault = {"listen": "127.0.0.1:1", "directory": "127.0.0.1:1", "tls": files, "client": files}
        vault |= {"database": "vault.db", "token": as_configured(self.place), "pin": pin_file(self.folder).name}
        vault |= {"bundle": "bundle.pb", **changes}
        self.config.write_text(tomli_w.dumps({"trust_root": "trust.toml", "vault": vault}))
        self.trust()

    def trust(self, **changes: Any) -> None:
        """Its trust root, of no development fleet unless told otherwise."""
        root = make_root(**{"development": False, **changes})
        (self.folder / "trust.toml").write_bytes(trust_root.encode_trust_root(root))

    @property
    def core(self) -> CoreConfig:
        return load_core(self.config)

    def prepare(self, card: Path, profile: str | None = None) -> None:
        ceremony.prepare(self.core, card, name=card.stem, profile=profile)

    def hold(self, report: Path, cards: Sequence[Path], officers: Path, previous: bytes | None = None) -> str:
        """Why it is refused, empty if it is not."""
        return refusal(lambda: ceremony.hold(self.core, report, cards, officers, previous=previous))


class Fleet:
    """Hosts h0, h1, …, and the folder in which people exchange files; two of three officers suffice."""

    def __init__(self, folder: Path, count: int = 2, module: str = "softhsm") -> None:
        self.folder = folder
        self.hosts = [Host(folder, f"h{number}", module) for number in range(count)]
        self.report = folder / "report.pb"
        self.officers = folder / "officers.toml"
        self.officers.write_text(officers_table(2, **OFFICERS))
        for name, secret in {**OFFICERS, "stranger": STRANGER}.items():
            path = folder / f"{name}.key"
            path.touch(0o600)
            path.write_text(secret.hex() + "\n")

    def card(self, host: Host) -> Path:
        return self.folder / f"{host.name}.card"

    def parcel(self, host: Host) -> Path:
        return self.folder / f"{self.report.name}.{host.name}.parcel"

    @property
    def cards(self) -> list[Path]:
        return [self.card(host) for host in self.hosts]

    def prepare(self) -> None:
        for host in self.hosts:
            host.prepare(self.card(host))

    def genesis(self) -> str:
        return self.hosts[0].hold(self.report, self.cards, self.officers)

    def rotate(self, *new: "Host") -> "Fleet":
        """The first host makes the next keys, for new hosts too: the fleet with that report."""
        later = object.__new__(Fleet)
        later.__dict__ |= {**self.__dict__, "hosts": [*self.hosts, *new], "report": self.folder / "report-2.pb"}
        for host in new:
            host.prepare(later.card(host))
        later.refused = self.hosts[0].hold(later.report, later.cards, later.officers, self.report.read_bytes())
        return later

    refused = ""
    """Why the last `rotate` was, empty if it was not."""

    def sign(self, *names: str) -> list[Path]:
        """The signatures of these officers."""
        for name in names:
            signature = sign_transcript(read_secret(self.folder / f"{name}.key"), self.report.read_bytes())
            ceremony.write_signature(self.report, signature)
        return [self.signature(OFFICERS[name]) for name in names]

    def signature(self, secret: bytes) -> Path:
        return self.folder / f"{self.report.name}.{public_key(secret).hex()[:8]}.sig"

    def join(self, host: Host, *signatures: Path, parcel: Path | None = None) -> str:
        """Why it is refused, empty if it is not."""
        return refusal(lambda: ceremony.join(host.core, self._signed(host, signatures), parcel or self.parcel(host)))

    def check(self, *signatures: Path) -> str:
        return refusal(lambda: self._signed(self.hosts[0], signatures))

    def _signed(self, host: Host, signatures: Sequence[Path]) -> Report:
        return ceremony.signed_report(host.core.trust_root, self.report, self.officers, signatures)

    def held(self) -> list[Path]:
        """All before the tokens join; the signatures of two."""
        self.prepare()
        self.genesis()
        return self.sign("Anna", "Carla")

    def edit(self, change: Callable[[Report], object]) -> None:
        """In the report."""
        report = Report.FromString(self.report.read_bytes())
        change(report)
        self.report.write_bytes(report.SerializeToString(deterministic=True))
