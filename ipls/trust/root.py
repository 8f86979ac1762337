"""The trust root: the one TOML file that a client, a vault, a witness or an auditor is configured with."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any
from urllib.parse import urlsplit

import tomli_w

from ipls.crypto.encoding import tagged_hash
from ipls.crypto.errors import SignatureRefused
from ipls.crypto.keys import check_public_key
from ipls.trust.errors import TrustRootRefused
from ipls.trust.limits import MAX_COSIGNATURES, MAX_INT
from ipls.units import date

MAX_FILE = 256 * 1024

_NAMESPACE = re.compile(r"[A-Za-z0-9._-]{1,64}")
_NAME = re.compile(r"[A-Za-z0-9 ._-]{1,64}")
_TEXT = re.compile(r"[ !#-\[\]-~]*")
_IGNORED = re.compile(rb"(#[ -~]*)?")


@dataclass(frozen=True)
class WitnessKey:
    """An Ed25519 key, good for signatures with a time in [not_before_ms, not_after_ms)."""

    public_key: bytes
    not_before_ms: int
    not_after_ms: int

    def covers(self, time_ms: int) -> bool:
        """Whether the key may sign at that time."""
        return self.not_before_ms <= time_ms < self.not_after_ms


@dataclass(frozen=True)
class Witness:
    """One voice of the quorum, however many keys it has had."""

    name: str
    url: str
    keys: tuple[WitnessKey, ...]


@dataclass(frozen=True)
class TrustRoot:
    """What is trusted, and by what rules. One that exists has passed `check`; times are ms since 1970."""

    number: int
    previous: bytes
    expires_ms: int
    namespace: str
    vrf_public_key: bytes
    witnesses: tuple[Witness, ...]
    k: int
    operator_key: bytes
    proposal_key: bytes
    log_url: str
    max_head_age_ms: int
    start_epoch: int
    start_root: bytes
    development: bool

    def __post_init__(self) -> None:
        _check(self)

    @cached_property
    def policy_digest(self) -> bytes:
        """32 bytes by which a vault and its client see that they judge by the same rules (the vault spec, Policy)."""
        witnesses = sorted(self.witnesses, key=lambda w: w.keys[0].public_key)
        return tagged_hash(
            "ipls/vault/v1 policy",
            self.namespace,
            self.vrf_public_key,
            self.k,
            self.max_head_age_ms,
            self.start_epoch,
            int(self.development),
            *(
                tagged_hash(
                    "ipls/vault/v1 witness",
                    *(f for k in w.keys for f in (k.public_key, k.not_before_ms, k.not_after_ms)),
                )
                for w in witnesses
            ),
        )

    def check_expiry(self, now_ms: int) -> None:
        """Raises TrustRootRefused TRUST_ROOT_EXPIRED."""
        if now_ms >= self.expires_ms:
            message = f"the trust root of {self.namespace} ran out on {date(self.expires_ms)}"
            raise TrustRootRefused("TRUST_ROOT_EXPIRED", f"{message}: ask who runs {self.namespace} for the newest")


def parse_trust_root(data: bytes) -> TrustRoot:
    """Reads a trust root file, in the exact subset of TOML that docs/protocol/trust-root.md gives: no two readers of a
    signed file may differ. Raises TrustRootRefused TRUST_ROOT_INVALID, with the line, for anything else.
    """
    if len(data) > MAX_FILE:
        raise _invalid("the file is too large")
    lines = _Lines(data)
    return TrustRoot(
        number=lines.integer("number"),
        previous=lines.hex("previous"),
        expires_ms=lines.integer("expires_ms"),
        namespace=lines.string("namespace"),
        vrf_public_key=lines.hex("vrf_public_key"),
        k=lines.integer("k"),
        operator_key=lines.hex("operator_key"),
        proposal_key=lines.hex("proposal_key"),
        log_url=lines.string("log_url"),
        max_head_age_ms=lines.integer("max_head_age_ms"),
        start_epoch=lines.integer("start_epoch"),
        start_root=lines.hex("start_root"),
        development=lines.boolean("development"),
        witnesses=tuple(_witnesses(lines)),
    )


def _witnesses(lines: "_Lines") -> Iterator[Witness]:
    while lines.table("witnesses"):
        name, url, keys = lines.string("name"), lines.string("url"), []
        while lines.table("witnesses.keys"):
            public, start, end = lines.hex("public_key"), lines.integer("not_before_ms"), lines.integer("not_after_ms")
            keys.append(WitnessKey(public, start, end))
        yield Witness(name, url, tuple(keys))
    lines.done()


def encode_trust_root(root: TrustRoot) -> bytes:
    """The TOML file that `parse_trust_root` reads back as an equal root."""
    return tomli_w.dumps(
        {
            "number": root.number,
            "previous": root.previous.hex(),
            "expires_ms": root.expires_ms,
            "namespace": root.namespace,
            "vrf_public_key": root.vrf_public_key.hex(),
            "k": root.k,
            "operator_key": root.operator_key.hex(),
            "proposal_key": root.proposal_key.hex(),
            "log_url": root.log_url,
            "max_head_age_ms": root.max_head_age_ms,
            "start_epoch": root.start_epoch,
            "start_root": root.start_root.hex(),
            "development": root.development,
            "witnesses": [
                {
                    "name": w.name,
                    "url": w.url,
                    "keys": [
                        {
                            "public_key": k.public_key.hex(),
                            "not_before_ms": k.not_before_ms,
                            "not_after_ms": k.not_after_ms,
                        }
                        for k in w.keys
                    ],
                }
                for w in root.witnesses
            ],
        }
    ).encode()


class _Lines:
    """Takes the lines of a file one after the other, each the one that is due; comments and empty ones are nobody's."""

    def __init__(self, data: bytes) -> None:
        *lines, rest = data.split(b"\n")
        if rest:
            raise _invalid(f"line {len(lines) + 1}: it does not end with a line feed")
        self._lines = [(number, line) for number, line in enumerate(lines, 1) if not _IGNORED.fullmatch(line)]
        self._end = len(lines) + 1

    def _value(self, name: str, kind: str, pattern: bytes) -> str:
        number, line = self._lines[0] if self._lines else (self._end, b"")
        found = re.fullmatch(rb"%b = %b" % (name.encode(), pattern), line)
        if found is None:
            raise _invalid(f"line {number}: `{name} = ` and {kind} should stand here")
        del self._lines[0]
        return found[1].decode("ascii")

    def string(self, name: str) -> str:
        return self._value(name, "a string", rb'"(%b)"' % _TEXT.pattern.encode())

    def integer(self, name: str) -> int:
        return int(self._value(name, "an integer", rb"(0|[1-9][0-9]{,18})"))

    def boolean(self, name: str) -> bool:
        return self._value(name, "true or false", rb"(true|false)") == "true"

    def hex(self, name: str) -> bytes:
        return bytes.fromhex(self._value(name, "a string of lower-case hex", rb'"((?:[0-9a-f]{2})*)"'))

    def table(self, name: str) -> bool:
        """Whether one begins here."""
        begins = bool(self._lines) and self._lines[0][1] == b"[[%b]]" % name.encode()
        if begins:
            del self._lines[0]
        return begins

    def done(self) -> None:
        if self._lines:
            raise _invalid(f"line {self._lines[0][0]}: another field or table should stand here, or none")


def _check(root: TrustRoot) -> None:
    """Raises TrustRootRefused unless a quorum under `root` means what it should."""
    n, keys = len(root.witnesses), [key for w in root.witnesses for key in w.keys]
    integers = [root.number, root.expires_ms, root.max_head_age_ms, root.start_epoch, root.k]
    integers += [time for key in keys for time in (key.not_before_ms, key.not_after_ms)]
    if not all(0 <= i <= MAX_INT for i in integers):
        raise _invalid("a number is out of range")
    if root.number < 1 or len(root.previous) != (0 if root.number == 1 else 32):
        raise _invalid("versions are numbered from 1; every later one names the SHA-256 of the one before")
    if root.max_head_age_ms == 0 or len(root.start_root) != 32:
        raise _invalid("the maximum head age is above 0, the starting root hash has 32 bytes")
    if not _NAMESPACE.fullmatch(root.namespace):
        raise _invalid("a namespace is 1 to 64 of A-Z a-z 0-9 . _ - (no slash)")
    if not (1 <= root.k <= n <= MAX_COSIGNATURES and 2 * root.k > n):
        raise _invalid("k of n witnesses must be a majority: two quorums would not have to meet")
    if not all(map(_is_url, [root.log_url, *(w.url for w in root.witnesses)])):
        raise _invalid("the log and each witness have an http or https URL")
    if not all(_NAME.fullmatch(w.name) for w in root.witnesses):
        raise _invalid("a witness's name is 1 to 64 of A-Z a-z 0-9 space . _ -")
    _no_repeat("witness name", [w.name for w in root.witnesses])
    all_keys = [root.vrf_public_key, root.operator_key, root.proposal_key, *(k.public_key for k in keys)]
    _no_repeat("key", all_keys)
    try:
        for public in all_keys:
            check_public_key(public)
    except SignatureRefused as e:
        raise _invalid(e.message) from e
    for witness in root.witnesses:
        _check_windows(witness)


def _check_windows(witness: Witness) -> None:
    if not witness.keys or any(key.not_before_ms >= key.not_after_ms for key in witness.keys):
        raise _invalid("a witness has a key, and each key a time in which it is good")
    for a, b in combinations(witness.keys, 2):
        overlap = a.not_before_ms < b.not_after_ms and b.not_before_ms < a.not_after_ms
        if overlap and a.public_key[-1] == b.public_key[-1]:
            raise _invalid(
                "two live keys of a witness share their last byte, by which clients in the field tell them apart"
            )


def _no_repeat(what: str, values: list[Any]) -> None:
    if max(Counter(values).values()) > 1:
        raise _invalid(f"the same {what} stands twice")


def _is_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        whole = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
        return whole and _TEXT.fullmatch(text) is not None
    except ValueError:
        return False


def _invalid(message: str) -> TrustRootRefused:
    return TrustRootRefused("TRUST_ROOT_INVALID", message)
