"""`ipls status`: what of a deployment serves, what runs out and when, what stopped and why, what to do about it.

A check is a small function of a Deployment that returns its findings. One more line of `ipls status` is one more
function in CHECKS; it is to be quick, to change nothing, and to raise nothing but OSError and IplsError, which become
a finding.
"""

import asyncio
import enum
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

from ipls.address import reachable
from ipls.admin.bundles import read_bundle
from ipls.admin.certificates import certificate_ends_ms, tls_files_of
from ipls.admin.deployment import addresses_of, process_of, speaks_http
from ipls.admin.health import last_words
from ipls.config import Config, load_trust_root
from ipls.errors import IplsError
from ipls.http.client import HttpClient, HttpTooLarge, HttpUnavailable
from ipls.rpc.health import why_not_serving
from ipls.trust.bundle import parse_bundle
from ipls.units import DAY_MS, date

WARN_MS = 30 * DAY_MS
"""How long before the end of what lasts a year it is told of."""
BUNDLE_WARN_MS = 5 * DAY_MS
"""The same of a bundle, which lasts 30 days."""
ANSWER_S = 5.0


class State(enum.StrEnum):
    """How a part is."""

    WELL = "well"
    SOON = "soon"
    """It serves; what it needs runs out soon."""
    WRONG = "wrong"
    UNREACHABLE = "unreachable"


class Finding(NamedTuple):
    """One line: what `part` is like, and the command that mends it, if it is not well."""

    part: str
    state: State
    text: str
    do: str = ""


class Deployment(NamedTuple):
    """What a check looks at: the deployment of an `ipls.toml`, at a time."""

    file: Path
    config: Config
    now_ms: int

    @property
    def with_config(self) -> str:
        """What commands about it end with."""
        return f"--config {self.file}"


Check = Callable[[Deployment], Awaitable[list[Finding]]]


async def examine(deployment: Deployment) -> list[Finding]:
    """The findings of every check, in their order."""
    return [finding for check in CHECKS for finding in await _findings(check, deployment)]


async def _findings(check: Check, deployment: Deployment) -> list[Finding]:
    try:
        return await check(deployment)
    except (OSError, IplsError) as error:
        return [Finding(check.__name__, State.WRONG, str(error))]


async def services(deployment: Deployment) -> list[Finding]:
    """Whether each port of the deployment answers, and what a part that does not answer said last."""
    addresses = addresses_of(deployment.config)
    return list(await asyncio.gather(*(_port(deployment, *port) for port in addresses.items())))


async def _port(deployment: Deployment, name: str, address: str) -> Finding:
    """gRPC's health over TLS, with a certificate where the port asks for one; a GET of what is plain HTTP."""
    if speaks_http(name):
        why = await asyncio.to_thread(_why_no_http, address)
    else:
        client = deployment.config.contacts.client
        shown = {"certificate": client.certificate, "key": client.key} if name == "updates" else {}
        why = await why_not_serving(address, deployment.config.directory.tls.ca, **shown)
    if not why:
        return Finding(name, State.WELL, f"serves at {address}")
    process = process_of(name)
    said = last_words(deployment.file.parent, process)
    text = f"does not serve at {address}: {why}" + (f"; its log ends in: {said}" if said else "")
    return Finding(name, State.UNREACHABLE, text, f"ipls serve all {deployment.with_config}")


def _why_no_http(address: str) -> str:
    """By a path that every one of them refuses at once: an answer is what counts."""
    try:
        HttpClient(ANSWER_S).get(f"http://{reachable(address)}/", limit=1 << 20)
    except HttpUnavailable as error:
        return error.message
    except HttpTooLarge:
        pass
    return ""


async def certificates(deployment: Deployment) -> list[Finding]:
    """Each certificate that `ipls.toml` names, and the CA."""
    files = {tls.certificate: name for name, tls in tls_files_of(deployment.config).items()}
    files[deployment.config.directory.tls.ca] = "every part"
    renew = "have the CA sign another with the same names, and start the part again"
    ends = {file: certificate_ends_ms(file) for file in files}
    soon = [
        _until(name, f"certificate {file.name}", ends[file], deployment.now_ms, renew) for file, name in files.items()
    ]
    return _worst(soon, Finding("certificates", State.WELL, f"good until {date(min(ends.values()))}"))


async def trust_root(deployment: Deployment) -> list[Finding]:
    """The newest version of it, and the keys of its witnesses."""
    root = load_trust_root(deployment.config.trust_root)
    next_version = f"ipls keys trust next FILE {deployment.with_config}"
    ends = {"trust root": root.expires_ms} | {
        f"newest key of witness {witness.name}": max(key.not_after_ms for key in witness.keys)
        for witness in root.witnesses
    }
    soon = [_until("trust root", what, end_ms, deployment.now_ms, next_version) for what, end_ms in ends.items()]
    text = f"number {root.number} of {root.namespace}, good until {date(min(ends.values()))}"
    return _worst(soon, Finding("trust root", State.WELL, text))


async def bundle(deployment: Deployment) -> list[Finding]:
    """The list of HSM keys, and the windows of those that have a shard."""
    found = parse_bundle(read_bundle(deployment.config.vault.bundle).bundle)
    renew = f"ipls keys bundle next FILE {deployment.with_config}"
    now_ms = deployment.now_ms
    windows = [hsm.not_after_ms for hsm in found.hsms if hsm.shards]
    soon = [
        _until("bundle", f"bundle {found.number}", found.expires_ms, now_ms, renew, BUNDLE_WARN_MS),
        _until("bundle", "HSM window", min(windows), now_ms, renew),
    ]
    text = f"number {found.number}, good until {date(found.expires_ms)}; HSM windows until {date(min(windows))}"
    return _worst(soon, Finding("bundle", State.WELL, text))


def _until(part: str, what: str, end_ms: int, now_ms: int, do: str, warn_ms: int = WARN_MS) -> Finding | None:
    """Nothing if there is time."""
    if end_ms <= now_ms:
        return Finding(part, State.WRONG, f"the {what} ran out on {date(end_ms)}", do)
    if end_ms <= now_ms + warn_ms:
        return Finding(part, State.SOON, f"the {what} runs out on {date(end_ms)}", do)
    return None


def _worst(found: list[Finding | None], otherwise: Finding) -> list[Finding]:
    return [finding for finding in found if finding is not None] or [otherwise]


CHECKS: list[Check] = [services, certificates, trust_root, bundle]
