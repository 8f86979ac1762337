"""A fleet's ceremony: tokens that share storage root and log key, and what officers sign of it (docs/operations.md).

Tested by tests/hsm/ceremony/test_steps.py.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from ipls.clock import system_now_ms
from ipls.config import ConfigError, CoreConfig, load_trust_root, read_pin
from ipls.config.base import Model, load_model
from ipls.hsm.ceremony import steps
from ipls.hsm.token.module import usable
from ipls.proto.vault.v1.fleet_pb2 import Card, Member, Officer, OfficerSignature, Report, SignedCard
from ipls.store.files import PUBLIC, read_bounded, replace, write_new
from ipls.trust.ceremony import (
    MAX_REPORT,
    Officers,
    check_descriptor,
    check_descriptors,
    check_officers,
    check_transcript,
    encode,
    parse_transcript,
)
from ipls.trust.errors import CeremonyRefused
from ipls.vault.session.profiles import HKDF_SHA256, SOFTHSM_AES_CBC

_M = TypeVar("_M", bound=Message)


def prepare(core: CoreConfig, file: Path, *, name: str, profile: str | None) -> Card:
    """The HSM's two key pairs, if it has none, and a card of their public halves, in a new file.

    `profile` None is the module's own. Raises FileExistsError, ConfigError.
    """
    _check_new(file)
    token = core.vault.token
    chosen = profile or (SOFTHSM_AES_CBC if isinstance(token, Path) else HKDF_SHA256)
    namespace = load_trust_root(core.trust_root).namespace
    with usable():
        signed = steps.prepare(token, read_pin(core.vault.pin), namespace, name, chosen)
    replace(file, encode(signed), mode=PUBLIC)
    return check_descriptor(signed)


def hold(
    core: CoreConfig, file: Path, cards: Sequence[Path], officers: Path, *, previous: bytes | None = None
) -> bytes:
    """The keys that the fleet shares, made in this HSM; gives the report, encoded.

    The report is in a new file, a parcel for each card beside it. With the report before, they are the keys that come
    after those. Killed before the report is there it has done nothing. Raises FileExistsError, CeremonyRefused,
    ConfigError.
    """
    _check_new(file)
    root = load_trust_root(core.trust_root)
    group = read_officers(officers, development=root.development)
    signed = [_read(SignedCard, path) for path in cards]
    checked = [check_descriptor(card) for card in signed]
    check_descriptors(checked, root.namespace)
    with usable():
        rotated = None if previous is None else parse_transcript(previous).root_id
        made = steps.make(core.vault.token, read_pin(core.vault.pin), checked, rotated)
    for card, parcel in zip(checked, made.parcels, strict=True):
        path = file.with_name(f"{file.name}.{card.name}.parcel")
        path.unlink(missing_ok=True)  # a killed run's: no report names it
        write_new(path, parcel)
    report = Report(
        namespace=root.namespace,
        development=root.development,
        time_ms=system_now_ms(),
        previous=b"" if previous is None else hashlib.sha256(previous).digest(),
        maker=made.maker,
        root_id=made.storage_key_id,
        root_check=made.root_check,
        log_check=made.log_check,
        members=[
            Member(card=card, parcel_hash=hashlib.sha256(parcel).digest())
            for card, parcel in zip(signed, made.parcels, strict=True)
        ],
        m=group.m,
        officers=group.officers,
    )
    data = encode(report)
    parse_transcript(data)
    replace(file, data, mode=PUBLIC)
    return data


def write_signature(file: Path, signature: OfficerSignature) -> Path:
    """Into a file beside the report."""
    path = file.with_name(f"{file.name}.{signature.public_key.hex()[:8]}.sig")
    replace(path, encode(signature), mode=PUBLIC)
    return path


def join(core: CoreConfig, report: Report, parcel: Path) -> None:
    """The keys of a report that m officers signed, out of the HSM's parcel; once more does no harm.

    Raises ConfigError, CeremonyRefused.
    """
    with usable():
        steps.join(core.vault.token, read_pin(core.vault.pin), report, read_bounded(parcel, MAX_REPORT))


def signed_report(trust_root: Path, file: Path, officers: Path, signatures: Sequence[Path]) -> Report:
    """The report, of the trust root's namespace, that m of these officers signed.

    Raises CeremonyRefused, ConfigError.
    """
    root = load_trust_root(trust_root)
    return check_transcript(
        read_report(file),
        [_read(OfficerSignature, path) for path in signatures],
        read_officers(officers, development=root.development),
        namespace=root.namespace,
        development=root.development,
    )


def read_report(file: Path) -> bytes:
    """Its bytes, unchecked, of a report's size."""
    with file.open("rb") as opened:
        return opened.read(MAX_REPORT + 1)


class _Officer(Model):
    name: str
    key: str


class _OfficersFile(Model):
    m: int
    officer: tuple[_Officer, ...]


def read_officers(file: Path, *, development: bool) -> Officers:
    """`m`, and `[[officer]]` with `name` and `key`. Raises ConfigError, CeremonyRefused OFFICERS_INVALID."""
    table = load_model(file, _OfficersFile, absent="it names the officers, as docs/operations.md shows")
    try:
        each = tuple(Officer(name=entry.name, public_key=bytes.fromhex(entry.key)) for entry in table.officer)
    except ValueError as error:
        raise ConfigError(f"{file}: an officer's key is 64 hex digits") from error
    officers = Officers(table.m, each)
    check_officers(officers, development=development)
    return officers


def _check_new(file: Path) -> None:
    """Raises FileExistsError."""
    if file.exists():
        raise FileExistsError(17, "it is there already, and stays", str(file))


def _read(kind: type[_M], path: Path) -> _M:
    try:
        return kind.FromString(read_bounded(path, MAX_REPORT))
    except DecodeError as error:
        raise CeremonyRefused("REPORT_INVALID", f"{path}: not a {kind.__name__}") from error
