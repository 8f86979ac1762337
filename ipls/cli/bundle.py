"""`ipls keys bundle`: the next fleet bundle, from draft to the log (docs/operations.md)."""

import hashlib
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from google.protobuf.message import DecodeError

from ipls.cli.console import printable
from ipls.cli.dates import date
from ipls.cli.fleet import read_report, signed_report
from ipls.cli.keys import BUNDLE_LIFETIME_MS
from ipls.cli.trust import ConfigFile, read_signature, signer_for, write_signature
from ipls.clock import system_now_ms
from ipls.config import (
    Config,
    ConfigError,
    WitnessConfig,
    load,
    load_trust_chain,
    load_trust_root,
    load_witnesses,
    read_secret,
)
from ipls.crypto import keys
from ipls.crypto.errors import SignatureRefused
from ipls.hsm.token.signing import witness_signers
from ipls.proto.vault.v1.fleet_pb2 import Report
from ipls.proto.vault.v1.vault_pb2 import Bundle, SignedBundle
from ipls.proto.witness.v1.head_pb2 import Cosignature
from ipls.store.files import PUBLIC, replace, write_new
from ipls.store.log import bundle_name
from ipls.store.log.opening import open_log
from ipls.store.witness import open_witness_store
from ipls.trust.bundle import (
    bundle_head,
    check_bundle,
    check_follows,
    check_operator,
    countersign,
    countersigners,
    fleet_namespace,
    parse_bundle,
    shard_count,
    sign_bundle,
    verify_bundle,
)
from ipls.trust.ceremony import check_descriptor
from ipls.trust.errors import BundleRefused
from ipls.trust.root import TrustRoot, parse_trust_root

app = typer.Typer(no_args_is_help=True, help="The next fleet bundle: draft, signatures, publication.")

File = Annotated[Path, typer.Argument(help="The next bundle.")]


@app.command("next")
def draft(
    file: Annotated[Path, typer.Argument(help="Where to write it; nothing must be there.")],
    config: ConfigFile,
    operator_key: Annotated[Path | None, typer.Option(help="Default: keys/operator.key beside ipls.toml.")] = None,
    report: Annotated[Path | None, typer.Option(help="Of a ceremony: its HSMs take the place of those in use.")] = None,
    officers: Annotated[Path | None, typer.Option(help="With --report: officers.toml.")] = None,
    signature: Annotated[list[Path] | None, typer.Option(help="With --report: an officer's.")] = None,
    hsm: Annotated[list[str] | None, typer.Option(metavar="NAME=SHARDS", help="With --report: hsm-1=0,1")] = None,
) -> None:
    """As the operator: sign the successor of the bundle in use, the same HSMs for 30 days more, for the witnesses.

    With --report, those of a ceremony that m officers signed, and the first bundle where none is in use.
    """
    settings = load(config)
    key, now_ms = operator_key or config.resolve().parent / "keys/operator.key", system_now_ms()
    fleet = None
    if report is not None and officers is not None:
        held = signed_report(settings.trust_root, report, officers, signature or [])
        fleet = Fleet(held, hashlib.sha256(read_report(report)).digest(), _shards(hsm or []))
    elif report or officers or signature or hsm:
        raise typer.BadParameter("takes --officers, and --signature and --hsm as often", param_hint="--report")
    signed = next_bundle(settings, key, now_ms=now_ms, fleet=fleet)
    write_new(file, signed.SerializeToString())
    print("\n".join(described(parse_bundle(signed.bundle))))


@app.command()
def sign(
    file: File,
    config: ConfigFile,
    name: Annotated[str | None, typer.Option(help="Which witness, where there are several.")] = None,
    previous: Annotated[Path | None, typer.Option(help="The bundle before, if this witness did not sign it.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Sign without asking.")] = False,
) -> None:
    """As a witness: look at the fleet, and sign the bundle, if it is the operator's and continues the one before.

    One bundle a number is ever signed, whatever comes of it. The signature goes to a file beside it, for the operator.
    """
    settings = load_witnesses(config)
    witness, root = settings.named(name), load_trust_root(settings.trust_root)
    signed, now_ms = read_bundle(file), system_now_ms()
    print("\n".join(described(check_bundle(root, signed, now_ms=now_ms))))
    if not yes and not typer.confirm(f"Sign this as witness {witness.name}?"):
        raise typer.Exit(1)
    before = None if previous is None else read_bundle(previous)
    write_signature(file, witness.name, countersign_as(witness, root, signed, before, now_ms))


@app.command()
def publish(
    file: File,
    config: ConfigFile,
    signatures: Annotated[list[Path] | None, typer.Argument(help="The witnesses'.")] = None,
) -> None:
    """Put the bundle, signed by a quorum of the witnesses, into the audit log and in the place of the one in use.

    The one that is in use, again: into a log that does not have it.
    """
    settings = load(config)
    signed = read_bundle(file)
    signed.cosignatures.extend(read_signature(path) for path in signatures or ())
    bundle = put_in_use(settings, signed, now_ms=system_now_ms())
    print(f"bundle {bundle.number} is in use and in the log")


class Fleet(NamedTuple):
    """The HSMs of a ceremony, and the shards of those that are to have some, by name."""

    report: Report  # which m officers signed
    report_hash: bytes
    shards: dict[str, list[int]]


def next_bundle(config: Config, operator_key: Path, *, now_ms: int, fleet: Fleet | None = None) -> SignedBundle:
    """The successor of the bundle in use, by the operator alone: the next number, 30 days from now.

    The same HSMs, or those of a fleet, of which there may be a first bundle too. The old one must be the operator's
    own, by the key of any version of the trust root, expired or not. Raises ConfigError, VerificationError.
    """
    root = load_trust_root(config.trust_root)
    seed = read_secret(operator_key)
    if keys.public_key(seed) != root.operator_key:
        raise ConfigError(f"{operator_key} is not the operator key that the trust root pins", "OPERATOR_KEY_WRONG")
    if fleet is not None and not config.vault.bundle.exists():
        bundle = Bundle(namespace=root.namespace)
    else:
        old = read_bundle(config.vault.bundle)
        _check_own(config.trust_root, old)
        bundle = parse_bundle(old.bundle)
        bundle.previous = hashlib.sha256(old.bundle).digest()
    bundle.number += 1
    bundle.expires_ms = now_ms + BUNDLE_LIFETIME_MS
    if fleet is not None:
        _put_fleet(bundle, fleet, root, now_ms)
    for hsm in bundle.hsms:
        hsm.policy_digest = root.policy_digest
    return sign_bundle(seed, bundle)


def _put_fleet(bundle: Bundle, fleet: Fleet, root: TrustRoot, now_ms: int) -> None:
    """All HSMs of the report in the place of those in use; who has no shard is there to be handed one."""
    cards = [check_descriptor(member.card) for member in fleet.report.members]
    if unknown := set(fleet.shards) - {card.name for card in cards}:
        raise ConfigError(f"the report has no HSM {min(unknown)}", "HSM_UNKNOWN")
    since, shards = {hsm.public_key: hsm.not_before_ms for hsm in bundle.hsms}, shard_count(bundle)
    del bundle.hsms[:]
    for card in cards:
        bundle.hsms.add(
            public_key=card.public_key,
            profile=card.profile,
            shards=fleet.shards.get(card.name, []),
            not_before_ms=since.get(card.public_key, now_ms),
            not_after_ms=root.expires_ms,
            transport_key=card.transport_key,
            report_hash=fleet.report_hash,
            policy_digest=root.policy_digest,
        )
    if bundle.number > 1 and shard_count(bundle) != shards:
        raise ConfigError(
            f"there are {shards} shards, and stay as many: nothing moves accounts between them", "SHARDS_CHANGED"
        )
    bundle.development = fleet.report.development


def _shards(options: Sequence[str]) -> dict[str, list[int]]:
    found = {}
    for name, _, numbers in (option.partition("=") for option in options):
        try:
            found[name] = [int(number) for number in numbers.split(",")]
        except ValueError:
            raise typer.BadParameter(f"{name}: shards are numbers, 0,1 for one", param_hint="--hsm") from None
    return found


def countersign_as(
    witness: WitnessConfig, root: TrustRoot, signed: SignedBundle, previous: SignedBundle | None, now_ms: int
) -> Cosignature:
    """The witness's signature on a bundle that continues the one before, durable in its state.

    Where it did not sign that one, `previous` shows it with a quorum's signatures. Raises VerificationError: as
    `check_bundle`, BUNDLE_GAP without `previous`, BUNDLE_FORK, as `countersigners`; ConfigError WITNESS_KEY_UNPINNED;
    StoreRefused WITNESS_DOCUMENT_FORK, WITNESS_NO_GENESIS, WITNESS_RESTORED.
    """
    bundle, namespace = check_bundle(root, signed, now_ms=now_ms), fleet_namespace(root)
    with witness_signers(witness) as signers:
        signer = signer_for(witness.name, signers, [root], now_ms)
        with closing(open_witness_store(witness.database, root.namespace, witness.watermark)) as store:
            if bundle.number > 1 and not store.has_signed(namespace, bundle.number - 1):
                _check_previous(root, bundle, previous, now_ms)
            encoded = store.sign_document(
                namespace,
                bundle_head(signed),
                bundle.previous,
                lambda: countersign(signer, root, signed, now_ms).SerializeToString(deterministic=True),
            )
    return Cosignature.FromString(encoded)


def _check_previous(root: TrustRoot, bundle: Bundle, previous: SignedBundle | None, now_ms: int) -> None:
    if previous is None:
        raise BundleRefused(
            "BUNDLE_GAP", f"this witness did not sign bundle {bundle.number - 1}: name it by --previous"
        )
    head = bundle_head(previous)
    countersigners(root, previous, now_ms=now_ms)
    check_follows(bundle, head)


def put_in_use(config: Config, signed: SignedBundle, *, now_ms: int) -> Bundle:
    """Into the log, then in the place of the bundle in use; once more does no harm.

    Raises VerificationError, StoreError.
    """
    seen = bundle_head(read_bundle(config.vault.bundle)) if config.vault.bundle.exists() else None
    bundle = verify_bundle(load_trust_root(config.trust_root), signed, now_ms=now_ms, seen=seen)
    if seen is not None and bundle.number > seen.epoch + 1:
        raise BundleRefused("BUNDLE_GAP", f"bundle {seen.epoch} is in use: {bundle.number} is not the next one")
    log, name = open_log(config.directory.log), bundle_name(bundle.number)
    if seen is None or bundle.number > seen.epoch or log.get(name) is None:
        log.put(name, signed.SerializeToString())
        replace(config.vault.bundle, signed.SerializeToString(), mode=PUBLIC)
    return bundle


def read_bundle(path: Path) -> SignedBundle:
    """Raises ConfigError."""
    try:
        return SignedBundle.FromString(path.read_bytes())
    except DecodeError as error:
        raise ConfigError(f"{path}: not a fleet bundle") from error


def described(bundle: Bundle) -> list[str]:
    """What it says, all of it, for people."""
    kind = "a development fleet" if bundle.development else "a fleet"
    lines = [
        f"bundle {bundle.number} of {bundle.namespace}, {kind}; it expires on {date(bundle.expires_ms)}",
        f"  continues {bundle.previous.hex() or 'nothing'}",
    ]
    for hsm in bundle.hsms:
        lines += [
            f"  HSM {hsm.public_key.hex()}",
            f"    profile {printable(hsm.profile)}, good from {date(hsm.not_before_ms)} to {date(hsm.not_after_ms)}",
            f"    shards {_ranges(hsm.shards) or 'none'}; policy {hsm.policy_digest.hex()}",
            f"    transport key {hsm.transport_key.hex()}",
            f"    the ceremony's report {hsm.report_hash.hex() or 'none'}",
        ]
    return lines


def _ranges(shards: Sequence[int]) -> str:
    """Numbers for people: 0-3, 7."""
    runs: list[list[int]] = []
    for shard in sorted(shards):
        if runs and shard == runs[-1][-1] + 1:
            runs[-1][1:] = [shard]
        else:
            runs.append([shard])
    return ", ".join("-".join(map(str, run)) for run in runs)


def _check_own(trust_root: Path, signed: SignedBundle) -> None:
    """Raises SignatureRefused unless the operator of some version signed it."""
    files = [trust_root.read_bytes(), *(version.file for version in load_trust_chain(trust_root))]
    *earlier, newest = [parse_trust_root(file) for file in files]
    for root in earlier:
        with suppress(SignatureRefused):
            return check_operator(root, signed)
    return check_operator(newest, signed)
