"""`ipls status`: what of a deployment serves, what runs out and when, what stopped and why, what to do about it.

A check is a small function of a Deployment that returns its findings. One more line of `ipls status` is one more
function in CHECKS; it is to be quick, to change nothing, and to raise nothing but OSError and IplsError, which become
a finding.
"""

import asyncio
import enum
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ipls._grpc import grpc
from ipls.address import parse_address, reachable
from ipls.admin.deployment import addresses_of, process_of, speaks_http
from ipls.admin.expiry import Ending, bundle_endings, certificate_endings, trust_root_endings
from ipls.admin.health import last_lines, last_words
from ipls.auditlog.cosignatures import parse_cosignature
from ipls.auditlog.errors import CosignatureInvalid
from ipls.config import Config, load_trust_root
from ipls.errors import IplsError
from ipls.http.client import HttpClient, HttpTooLarge, HttpUnavailable
from ipls.http.public_log import PublicReader
from ipls.proto.directory.v1.directory_pb2 import GetHeadRequest
from ipls.proto.directory.v1.directory_pb2_grpc import DirectoryServiceStub
from ipls.proto.vault.v1.vault_pb2 import SessionRequest
from ipls.proto.vault.v1.vault_pb2_grpc import VaultServiceStub
from ipls.rpc.channel import open_channel
from ipls.rpc.errors import remote_error
from ipls.rpc.health import why_not_serving
from ipls.store.directory import left_out
from ipls.trust.limits import MAX_AHEAD_MS, MAX_INT
from ipls.trust.root import TrustRoot
from ipls.units import date

ANSWER_S = 5.0
_HANGS = "it takes connections, and does not answer"


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
    except PermissionError as error:
        owner = deployment.file.stat().st_uid
        text, do = f"this user may not read {error.filename}", f"as user {owner}: ipls status {deployment.with_config}"
        return [Finding(check.__name__.replace("_", " "), State.UNREACHABLE, text, do)]
    except (OSError, IplsError) as error:
        return [Finding(check.__name__.replace("_", " "), State.WRONG, str(error))]


async def services(deployment: Deployment) -> list[Finding]:
    """Whether each port of the deployment answers, and what a part that does not answer said last."""
    addresses, pids = addresses_of(deployment.config), _pids(deployment)
    asked = await asyncio.gather(*(_why_not(deployment, *port) for port in addresses.items()))
    listening = await asyncio.gather(*(_listens(address) for address in addresses.values()))
    found = []
    for (name, address), why, listens in zip(addresses.items(), asked, listening, strict=True):
        if not why:
            found.append(Finding(name, State.WELL, f"serves at {address}"))
            continue
        said = last_words(deployment.file.parent, process_of(name))
        text = f"does not serve at {address}: {why if listens else 'nobody listens'}"
        text += f"; its log ends in: {said}" if said else ""
        do = _tail(deployment, process_of(name))  # `serve all` tries it again by itself
        if not any(listening):
            do = f"ipls serve all {deployment.with_config}"
        elif listens and why == _HANGS and name in pids:
            do = f"kill -9 {pids[name]}; `ipls serve all` starts it again"
        found.append(Finding(name, State.UNREACHABLE, text, do))
    return found


def _pids(deployment: Deployment) -> dict[str, int]:
    """Of the processes behind the ports, as `serve all` noted them."""
    with suppress(OSError, ValueError, KeyError, AttributeError):
        ports = json.loads((deployment.file.parent / "endpoints.json").read_text())["services"].items()
        return {name: port["pid"] for name, port in ports if "pid" in port}
    return {}


async def _listens(address: str) -> bool:
    """Whether the system takes a connection there, for a process that hangs too."""
    host, port = parse_address(reachable(address))
    try:
        async with asyncio.timeout(ANSWER_S):
            _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    return True


async def _why_not(deployment: Deployment, name: str, address: str) -> str:
    """gRPC's health over TLS, with a certificate where the port asks for one; a GET of what is plain HTTP."""
    if speaks_http(name):
        why = asyncio.to_thread(_why_no_http, address)
    else:
        client = deployment.config.contacts.client
        shown = {"certificate": client.certificate, "key": client.key} if name == "updates" else {}
        why = why_not_serving(address, deployment.config.directory.tls.ca, **shown)
    started = asyncio.get_running_loop().time()
    answer = await why
    waited_s = asyncio.get_running_loop().time() - started
    return _HANGS if answer and waited_s > 0.9 * ANSWER_S else answer


async def heads(deployment: Deployment) -> list[Finding]:
    """How old the newest head is that a quorum of the witnesses shows: what is too old counts for nobody, nor what is
    ahead. And whether the directory shows it, but for an epoch that is being signed."""
    root, now_ms = load_trust_root(deployment.config.trust_root), deployment.now_ms
    epoch, times = await asyncio.to_thread(_newest, root)
    if len(times) < root.k:
        text = f"{len(times)} of {len(root.witnesses)} witnesses show epoch {epoch}, and {root.k} are needed"
        return [Finding("heads", State.UNREACHABLE, text, f"ipls serve all {deployment.with_config}")]
    signed_ms = times[-root.k]
    if signed_ms > now_ms + MAX_AHEAD_MS:
        text = f"the witnesses signed at {date(signed_ms)}, and this machine's clock says {date(now_ms)}"
        return [Finding("heads", State.WRONG, text, "timedatectl")]
    if signed_ms < now_ms - root.max_head_age_ms:
        text = f"the newest head was signed at {date(signed_ms)}, too long ago by this clock, which says {date(now_ms)}"
        return [Finding("heads", State.WRONG, text, _tail(deployment, "directory"))]
    shown = await _shown(deployment.config)
    if shown is not None and shown + 1 < epoch:
        text = f"the directory shows epoch {shown}, and the witnesses have signed epoch {epoch}"
        return [Finding("heads", State.WRONG, text, _tail(deployment, "directory"))]
    return [Finding("heads", State.WELL, f"epoch {epoch}, signed {date(signed_ms)}")]


def _tail(deployment: Deployment, *processes: str) -> str:
    """The command that shows what these logged last."""
    return " ".join(["tail", *(str(deployment.file.parent / f"logs/{name}.log") for name in processes)])


async def _shown(config: Config) -> int | None:
    """The epoch of the directory's newest head; None, if it answers no reads."""
    async with open_channel(reachable(config.directory.listen), config.directory.tls.ca) as channel:
        try:
            answer = await DirectoryServiceStub(channel).GetHead(GetHeadRequest(), timeout=ANSWER_S)
        except grpc.aio.AioRpcError:
            return None
    return answer.head.epoch


def _newest(root: TrustRoot) -> tuple[int, list[int]]:
    """The highest epoch that a witness shows, or the first, and the times at which witnesses signed it, ascending; the
    one before, if the others have still to sign that one."""
    public = PublicReader(root, http=HttpClient(ANSWER_S), now_ms=lambda: MAX_INT)  # however far it is ahead
    public.end()  # one attempt
    epoch = root.start_epoch
    for witness in root.witnesses:
        with suppress(HttpUnavailable):
            head = public.newest(witness)
            epoch = max(epoch, head.epoch if head else epoch)
    times = _times(public, root, epoch)
    if len(times) < root.k and len(before := _times(public, root, epoch - 1)) >= root.k:
        return epoch - 1, before
    return epoch, times


def _times(public: PublicReader, root: TrustRoot, epoch: int) -> list[int]:
    answers, times = public.answers(epoch), list[int]()
    for witness in root.witnesses:
        with suppress(CosignatureInvalid):
            times.append(parse_cosignature(root, witness, epoch, answers.get(witness.name) or b"", MAX_INT).time_ms)
    return sorted(times)


def _why_no_http(address: str) -> str:
    """By a path that every one of them refuses at once: an answer is what counts."""
    try:
        HttpClient(ANSWER_S).get(f"http://{reachable(address)}/", limit=1 << 20)
    except HttpUnavailable as error:
        return error.message
    except HttpTooLarge:
        pass
    return ""


async def epochs(deployment: Deployment) -> list[Finding]:
    """Whether the directory makes no epoch, by what it logged last, and why; nothing where all is well."""
    failure = _last_said(deployment, "no epoch", "updates held", "epochs again", "another process publishes")
    if failure.get("event") != "no epoch":
        return []
    reason = failure.get("reason", "")
    do = f"see {reason} in docs/protocol/errors.md"
    if reason in ("TREE_CORRUPT", "STEP_DIFFERS", "STEP_UNPROVEN"):
        do = f"ipls fsck --repair {deployment.with_config}"
    text = f"the directory makes no epoch, and tries again: {failure.get('why', '')} [{reason}]"
    return [Finding("epochs", State.WRONG, text, do)]


async def level(deployment: Deployment) -> list[Finding]:
    """How far the directory is that answers no reads yet, by what it logged last; nothing of one that does."""
    said = _last_said(deployment, "catching up with the log", "level with the log", "served below the log")
    if said.get("event") != "catching up with the log":
        return []
    text = f"catches up with the log, and answers no reads until then: epoch {said.get('epoch')} of {said.get('of')}"
    return [Finding("directory", State.UNREACHABLE, text, _tail(deployment, "directory"))]


def _last_said(deployment: Deployment, *events: str) -> dict[str, Any]:
    """The last of these that the directory logged; nothing, where none is among its last lines."""
    last: dict[str, Any] = {}
    for line in last_lines(deployment.file.parent, process_of("directory")):
        with suppress(ValueError, TypeError, KeyError):  # a line of another's making
            said = json.loads(line)
            last = said if said["event"] in events else last
    return last


async def updates(deployment: Deployment) -> list[Finding]:
    """What the directory leaves out of its epochs; nothing where that is nothing."""
    database, found = deployment.config.directory.database, list[Finding]()
    if not database.exists():
        return found
    database.open("rb").close()  # who may not read it is told so
    held, refused, labels = await asyncio.to_thread(left_out, database)
    if held:
        text = f"{held} updates wait until the stored tree is mended where they would go [TREE_CORRUPT]"
        found.append(Finding("updates", State.WRONG, text, f"ipls fsck --repair {deployment.with_config}"))
    if refused:
        text = f"{refused} updates of {labels} numbers were refused, as all later ones of theirs will be [LEAF_EXISTS]"
        do = f"ipls fsck {deployment.with_config}; then as docs/protocol/errors.md says of LEAF_EXISTS"
        found.append(Finding("updates", State.WRONG, text, do))
    return found


async def certificates(deployment: Deployment) -> list[Finding]:
    """Each certificate that `ipls.toml` names, and the CA."""
    return _ends("certificates", certificate_endings(deployment.config), deployment)


async def trust_root(deployment: Deployment) -> list[Finding]:
    """The newest version of it, and the keys of its witnesses."""
    return _ends("trust root", trust_root_endings(deployment.config.trust_root), deployment)


async def bundle(deployment: Deployment) -> list[Finding]:
    """The list of HSM keys, and the windows of those that have a shard."""
    return _ends("bundle", bundle_endings(deployment.config.vault.bundle), deployment)


def _ends(part: str, endings: Iterator[Ending], deployment: Deployment) -> list[Finding]:
    """What ends soon or has ended; if nothing does, when the first will."""
    now_ms, renew = deployment.now_ms, f"ipls keys renew {deployment.with_config}"
    by_end = sorted(endings, key=lambda ending: ending.end_ms)
    told = [(ending, ending.told(now_ms)) for ending in by_end]
    found = [
        Finding(ending.part, State.WRONG if ending.end_ms <= now_ms else State.SOON, text, renew)
        for ending, text in told
        if text
    ]
    first = by_end[0]
    return found or [Finding(part, State.WELL, f"good until {date(first.end_ms)}, when the {first.what} runs out")]


async def sessions(deployment: Deployment) -> list[Finding]:
    """Whether the vault's core answers what its front hands it; nothing where it does, or the front does not serve."""
    why = await _why_no_session(deployment.config)
    if not why:
        return []
    do = _tail(deployment, "vault-core", "vault")
    if why == _HANGS and (pid := _pids(deployment).get("vault")):
        do = f"kill -9 {pid}, its front, with which it ends; `ipls serve all` starts them again"
    return [Finding("vault-core", State.UNREACHABLE, f"behind its front: {why}", do)]


async def _why_no_session(config: Config) -> str:
    """By a message that is none, which core and worker refuse: an answer is what counts."""
    async with open_channel(reachable(config.vault.listen), config.directory.tls.ca) as channel:
        call = VaultServiceStub(channel).Session(None, timeout=ANSWER_S)
        try:
            with suppress(asyncio.InvalidStateError):  # it has ended: reading says how
                await call.write(SessionRequest())
            await call.read()
        except grpc.aio.AioRpcError as raised:
            if raised.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                return _HANGS
            error = remote_error(raised)
            return error.message if error.reason == "VAULT_CORE_LOST" else ""
    return ""


async def vault_core(deployment: Deployment) -> list[Finding]:
    """Whether the vault's core has a user of its own, as its socket says."""
    part, parted = "vault-core", deployment.config.vault.parted
    if parted is None:
        text = "runs as its front's user: who takes over the front has the token's PIN"
    elif parted.socket.exists() and parted.socket.stat().st_uid == parted.core:
        text = f"runs as user {parted.core}, apart from its front, user {parted.front}"
    else:
        do = f"as root: ipls serve all {deployment.with_config}"
        return [Finding(part, State.UNREACHABLE, "does not run as its own user", do)]
    return [Finding(part, State.WELL, text)]


CHECKS: list[Check] = [services, vault_core, sessions, level, epochs, updates, heads, certificates, trust_root, bundle]
