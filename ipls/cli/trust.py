"""`ipls keys trust`: the next version of the trust root, from draft to chain (docs/operations.md)."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf.message import DecodeError

from ipls.clock import system_now_ms
from ipls.config import (
    ConfigError,
    WitnessConfig,
    chain_file,
    load_trust_chain,
    load_trust_version,
    load_witnesses,
)
from ipls.crypto.keys import KEY_BYTES, Signer
from ipls.hsm.token.signing import witness_signers
from ipls.proto.trust.v1.trust_pb2 import SignedTrustRoot, TrustChain
from ipls.proto.witness.v1.head_pb2 import Cosignature
from ipls.store.files import PUBLIC, write_new
from ipls.store.files import replace as replace_file
from ipls.store.witness import WitnessStore, open_witness_store
from ipls.trust.chain import TrustRootVersion, cosign_version, follow, successor
from ipls.trust.errors import TrustRootRefused
from ipls.trust.root import TrustRoot, Witness, WitnessKey, encode_trust_root
from ipls.units import DAY_MS

app = typer.Typer(no_args_is_help=True, help="The next version of the trust root: draft, signatures, chain.")

ConfigFile = Annotated[Path, typer.Option("--config", help="The deployment's, or the witness's, ipls.toml.")]
File = Annotated[Path, typer.Argument(help="The next version.")]


@app.command("next")
def draft(
    file: Annotated[Path, typer.Argument(help="Where to write it; nothing must be there.")],
    config: ConfigFile,
    days: Annotated[int, typer.Option(min=1, max=3650, help="It expires after so many days.")] = 365,
    new_key: Annotated[list[str] | None, typer.Option(metavar="WITNESS=KEY", help="Another key for a witness.")] = None,
    overlap: Annotated[int, typer.Option(min=0, max=3650, help="Days for which its old keys stay good.")] = 7,
    add: Annotated[list[str] | None, typer.Option(metavar="WITNESS=KEY=URL", help="Another witness.")] = None,
    remove: Annotated[list[str] | None, typer.Option(metavar="WITNESS", help="One witness less.")] = None,
    k: Annotated[int | None, typer.Option(min=1, help="So many witnesses make a quorum.")] = None,
    operator_key: Annotated[str | None, typer.Option(metavar="KEY", help="Of the fleet bundles from now on.")] = None,
    proposal_key: Annotated[str | None, typer.Option(metavar="KEY", help="Of the directory from now on.")] = None,
) -> None:
    """Draft the version after the newest: a text file, to be edited further before anybody signs it.

    A KEY is a public key in hex. A key that was good until the old version expired is good until the new one does.
    """
    old, now_ms = load_trust_version(_trust_root(config)), system_now_ms()
    root = old.root
    expires_ms = now_ms + days * DAY_MS
    witnesses = {witness.name: _prolonged(witness, root.expires_ms, expires_ms) for witness in root.witnesses}
    for name in remove or []:
        _known(witnesses, name, "--remove")
        del witnesses[name]
    for option in new_key or []:
        name, _, key = option.partition("=")
        witnesses[name] = _with_key(
            _known(witnesses, name, "--new-key"), _key(key, "--new-key"), now_ms, now_ms + overlap * DAY_MS, expires_ms
        )
    for option in add or []:
        name, key, url = [*option.split("=", 2), "", ""][:3]
        if name in witnesses:
            raise typer.BadParameter(f"there is a witness {name}", param_hint="--add")
        witnesses[name] = Witness(name, url, (WitnessKey(_key(key, "--add"), now_ms, expires_ms),))
    new = replace(
        root,
        number=root.number + 1,
        previous=old.head.root_hash,
        expires_ms=expires_ms,
        witnesses=tuple(witnesses.values()),
        k=root.k if k is None else k,
        operator_key=_key(operator_key, "--operator-key") if operator_key else root.operator_key,
        proposal_key=_key(proposal_key, "--proposal-key") if proposal_key else root.proposal_key,
    )
    write_new(file, encode_trust_root(new))
    _show(root, new)


@app.command()
def sign(
    file: File,
    config: ConfigFile,
    name: Annotated[str | None, typer.Option(help="Which witness, where there are several.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Sign without asking.")] = False,
) -> None:
    """As a witness: look at what changes, and sign it, if it continues the version that this witness has.

    One file a number is ever signed, whatever comes of it. The signature goes to a file beside it, for the operator.
    """
    settings = load_witnesses(config)
    witness = settings.named(name)
    old = load_trust_version(settings.trust_root)
    new = successor(old, file.read_bytes())
    _show(old.root, new.root)
    if not yes and not typer.confirm(f"Sign this as witness {witness.name}?"):
        raise typer.Exit(1)
    signature = sign_version(witness, old, new, system_now_ms())
    write_signature(file, witness.name, signature)


def sign_version(witness: WitnessConfig, old: TrustRootVersion, new: TrustRootVersion, now_ms: int) -> Cosignature:
    """The witness's signature on the successor of the version that it has, durable in its state.

    Raises ConfigError WITNESS_KEY_UNPINNED where neither version gives it the key; TrustRootRefused
    TRUST_ROOT_KEY_DROPPED, and TRUST_ROOT_START for a start raised to what it did not sign; StoreError
    WITNESS_DOCUMENT_FORK, WITNESS_NO_GENESIS.
    """
    with witness_signers(witness) as signers:
        signer = signer_for(witness.name, signers, (old.root, new.root), now_ms)
        _check_keys(old.root, new.root)
        with closing(open_witness_store(witness.database, new.root.namespace, witness.watermark)) as store:
            _check_start(store, old.root, new.root)
            encoded = store.sign_document(
                new.namespace,
                new.head,
                new.root.previous,
                lambda: cosign_version(signer, new, now_ms).SerializeToString(deterministic=True),
            )
    return Cosignature.FromString(encoded)


@app.command()
def publish(
    file: File, signatures: Annotated[list[Path], typer.Argument(help="The witnesses'.")], config: ConfigFile
) -> None:
    """Append the version, signed by quorums of the old witnesses and of the new, to the chain beside trust.toml."""
    trust_root = _trust_root(config)
    old = load_trust_version(trust_root)
    data = file.read_bytes()
    if data != old.file:  # else it was published before
        signed = SignedTrustRoot(file=data, cosignatures=[read_signature(path) for path in signatures])
        follow(old, signed, system_now_ms())
        chain = TrustChain(versions=[*load_trust_chain(trust_root), signed])
        replace_file(chain_file(trust_root), chain.SerializeToString(), mode=PUBLIC)
    number = TrustRootVersion.parse(data).root.number
    print(f"version {number} is the newest in {chain_file(trust_root)}; docs/operations.md has the order of restarts")


def _trust_root(config: Path) -> Path:
    return load_witnesses(config).trust_root


def signer_for(name: str, signers: Sequence[Signer], roots: Sequence[TrustRoot], now_ms: int) -> Signer:
    """The first key that one of the versions, the old one before the new, gives the witness; one that is good now."""
    windows = [key for root in roots for witness in root.witnesses if witness.name == name for key in witness.keys]
    for key in sorted(windows, key=lambda key: not key.covers(now_ms)):
        for signer in signers:
            if signer.public_key == key.public_key:
                return signer
    raise ConfigError(f"the trust root gives none of these keys to a witness {name}", "WITNESS_KEY_UNPINNED")


def _check_keys(old: TrustRoot, new: TrustRoot) -> None:
    """A witness that stays keeps its keys: by them its past signatures count, and its state by its last one."""
    kept = {(witness.name, key.public_key) for witness in new.witnesses for key in witness.keys}
    names = {name for name, _ in kept}
    for witness in old.witnesses:
        if witness.name in names and not all((witness.name, key.public_key) in kept for key in witness.keys):
            message = f"it takes out a key of {witness.name}: let the key's time end instead"
            raise TrustRootRefused("TRUST_ROOT_KEY_DROPPED", message)


def _check_start(store: WitnessStore, old: TrustRoot, new: TrustRoot) -> None:
    if new.start_epoch == old.start_epoch:
        return
    signed = store.signed(new.start_epoch)
    if signed is None or signed.root_hash != new.start_root:
        raise TrustRootRefused("TRUST_ROOT_START", "this witness did not sign the root at which the version starts")


def write_signature(file: Path, name: str, signature: Cosignature) -> None:
    """Into a file beside the one that was signed."""
    path = file.with_name(f"{file.name}.{name}-{signature.public_key.hex()[:8]}.sig")
    replace_file(path, signature.SerializeToString(), mode=PUBLIC)
    print(f"{path}: give this to the operator")


def read_signature(path: Path) -> Cosignature:
    try:
        return Cosignature.FromString(path.read_bytes())
    except DecodeError as error:
        raise ConfigError(f"{path}: not a witness's signature") from error


def _key(text: str, option: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise typer.BadParameter("a public key has 64 hex digits", param_hint=option)
    return key


def _known(witnesses: dict[str, Witness], name: str, option: str) -> Witness:
    if name not in witnesses:
        raise typer.BadParameter(f"there is no witness {name}", param_hint=option)
    return witnesses[name]


def _prolonged(witness: Witness, old_end_ms: int, new_end_ms: int) -> Witness:
    """Keys that were good until the trust root's end are so again."""
    keys = (replace(k, not_after_ms=new_end_ms) if k.not_after_ms == old_end_ms else k for k in witness.keys)
    return replace(witness, keys=tuple(keys))


def _with_key(witness: Witness, key: bytes, from_ms: int, old_end_ms: int, end_ms: int) -> Witness:
    """Keys that end sooner stay as they are, for what they signed; the others end at `old_end_ms`."""
    old = (replace(k, not_after_ms=min(k.not_after_ms, max(old_end_ms, k.not_before_ms + 1))) for k in witness.keys)
    return replace(witness, keys=(*old, WitnessKey(key, from_ms, end_ms)))


def _show(old: TrustRoot, new: TrustRoot) -> None:
    """What changes, all of it."""
    print(f"version {new.number} of the trust root of {new.namespace}, after version {old.number}:")
    before, after = dict(_lines(old)), dict(_lines(new))
    for name in dict.fromkeys([*before, *after]):
        if before.get(name) != after.get(name):
            print(f"  {name}: {before.get(name, 'none')} -> {after.get(name, 'none')}")


def _lines(root: TrustRoot) -> Iterator[tuple[str, str]]:
    """Each thing that it says, by a name that does not depend on its place."""
    for field in fields(root):
        if field.name not in ("number", "previous", "witnesses"):
            yield field.name, _text(field.name, getattr(root, field.name))
    for witness in root.witnesses:
        yield f"witness {witness.name}", witness.url
        for key in witness.keys:
            window = f"{_text('_ms', key.not_before_ms)} to {_text('_ms', key.not_after_ms)}"
            yield f"witness {witness.name}, key {key.public_key.hex()}", window


def _text(name: str, value: object) -> str:
    if isinstance(value, bytes):
        return value.hex()
    if name in ("expires_ms", "_ms") and isinstance(value, int) and value < 253_402_300_800_000:  # the year 10000
        return datetime.fromtimestamp(value / 1000, UTC).isoformat(" ", "milliseconds")
    return str(value)
