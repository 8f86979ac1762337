"""What of a deployment runs out, and when: certificates, the trust root and its witnesses' keys, bundle, HSM windows.

Tested by tests/admin/test_status.py and tests/admin/test_renewal.py.
"""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import structlog

from ipls.admin.bundles import BUNDLE_LIFETIME_MS, read_bundle
from ipls.admin.certificates import certificate_window_ms, tls_files_of
from ipls.clock import system_now_ms
from ipls.config import VaultConfig, load_trust_root
from ipls.config.base import Model
from ipls.errors import IplsError
from ipls.trust.bundle import parse_bundle
from ipls.units import DAY_MS, date

log = structlog.get_logger()

YEAR_MS = 365 * DAY_MS
WARN_MS = 30 * DAY_MS
LOOK_EVERY_S = DAY_MS / 1000


class Ending(NamedTuple):
    """What ends, of a part or a file of the deployment, and how long one lasts (ms)."""

    part: str
    what: str
    end_ms: int
    lasts_ms: int

    def due(self, now_ms: int) -> bool:
        """Whether three quarters of its time are over: it is time for another."""
        return now_ms >= self.end_ms - self.lasts_ms // 4

    def told(self, now_ms: int) -> str:
        """What is to be said of it, if it has ended or does within 30 days, or a sixth of its time; else nothing."""
        if now_ms >= self.end_ms:
            return f"the {self.what} ran out on {date(self.end_ms)}"
        soon = now_ms >= self.end_ms - min(WARN_MS, self.lasts_ms // 6)
        return f"the {self.what} runs out on {date(self.end_ms)}" if soon else ""


def certificate_endings(model: Model) -> Iterator[Ending]:
    """Of each certificate that an `ipls.toml`, or a table of it, names, and its CA. Raises ConfigError, OSError."""
    of: dict[Path, str] = {}
    for name, tls in tls_files_of(model):
        of.setdefault(tls.certificate, name)
        of[tls.ca] = "every part"
    for file, part in of.items():
        begin_ms, end_ms = certificate_window_ms(file)
        yield Ending(part, f"certificate {file.name}", end_ms, end_ms - begin_ms)


def trust_root_endings(trust_root: Path) -> Iterator[Ending]:
    """Of its newest version, and of its witnesses' newest keys. Raises ConfigError."""
    root = load_trust_root(trust_root)
    yield Ending("trust root", f"trust root {root.number} of {root.namespace}", root.expires_ms, YEAR_MS)
    for witness in root.witnesses:
        end_ms = max(key.not_after_ms for key in witness.keys)
        yield Ending("trust root", f"newest key of witness {witness.name}", end_ms, YEAR_MS)


def bundle_endings(file: Path) -> Iterator[Ending]:
    """Of the bundle, and of the window of each HSM that has a shard. Raises ConfigError, BundleRefused, OSError."""
    bundle = parse_bundle(read_bundle(file).bundle)
    yield Ending("bundle", f"bundle {bundle.number} of {bundle.namespace}", bundle.expires_ms, BUNDLE_LIFETIME_MS)
    for hsm in bundle.hsms:
        if hsm.shards:
            key = hsm.public_key.hex()[:16]
            yield Ending("bundle", f"window of the HSM with the key {key}…", hsm.not_after_ms, YEAR_MS)


def table_endings(table: Model, trust_root: Path) -> Iterator[Ending]:
    """Of what one service has. Raises ConfigError, BundleRefused, OSError."""
    yield from certificate_endings(table)
    yield from trust_root_endings(trust_root)
    if isinstance(table, VaultConfig):
        yield from bundle_endings(table.bundle)


async def watch(endings: Callable[[], Iterator[Ending]], now_ms: Callable[[], int] = system_now_ms) -> None:
    """Log a warning of what ends soon or has ended, now and once a day; does not return."""
    while True:
        try:
            for text in filter(None, [ending.told(now_ms()) for ending in endings()]):
                log.warning("runs out", what=text, do="ipls keys renew")
        except (OSError, IplsError) as error:
            log.warning("what runs out is not known", why=str(error))
        await asyncio.sleep(LOOK_EVERY_S)
