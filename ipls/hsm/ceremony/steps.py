"""A fleet's ceremony inside its tokens: their pairs, the shared keys and parcels of them, and taking a parcel in.

What several tokens share is made extractable, as session objects: they end with the session, however it ends. Each
token, the maker too, takes the keys out of its own parcel, never extractable there. So no extractable key is ever kept.
docs/protocol/ceremony.md.
"""

import hmac
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass

from ipls.config import ConfigError, TokenConfig
from ipls.hsm.token import module
from ipls.hsm.token.derivation import Derivation, by_profile, by_root
from ipls.hsm.token.module import find, hidden, labelled
from ipls.hsm.token.pkcs11 import (
    FLEET,
    LOG,
    ROOT,
    TRANSPORT,
    UNWRAP_REFUSED,
    HsmToken,
    Purpose,
    agree,
    check_hidden,
    create_folder,
    held,
    make_pair,
    new_storage_key_id,
    only,
    point_of,
    purposes,
    root_number,
    token_at,
)
from ipls.proto.vault.v1.fleet_pb2 import Card, Parcel, Report, SignedCard
from ipls.trust.ceremony import (
    check_descriptor,
    descriptor_digest,
    encode,
    log_check_input,
    open_wrapped_keys,
    root_check_input,
    wrapping_key_input,
)
from ipls.trust.errors import CeremonyRefused

_PAIRS = (
    (FLEET, MechanismFlag.SIGN, Mechanism.ECDSA),
    (TRANSPORT, MechanismFlag.DERIVE, Mechanism.ECDH1_DERIVE),
)
_WRAP = Mechanism.AES_KEY_WRAP
_UNUSABLE = pkcs11.PKCS11Error, AttributeError  # the latter: python-pkcs11's, of a key without the capability


class FleetKeys(NamedTuple):
    """The shared keys as a report names them, and the encoded parcels in the order of the cards."""

    storage_key_id: bytes
    root_check: bytes
    log_check: bytes
    maker: bytes
    parcels: list[bytes]


def prepare(place: Path | TokenConfig, pin: str, namespace: str, name: str, profile: str) -> SignedCard:
    """Makes the token's two pairs, as far as they are not there, and its card.

    A SoftHSM folder is made too. The profile is that of the storage root, where the token has one. Closes any other
    token of this process. Raises ConfigError TOKEN_KEY_MISSING for a token in service that lost a key;
    pkcs11.PKCS11Error.
    """
    if isinstance(place, Path) and not place.exists():
        create_folder(place, pin)
    with _opened(place, pin) as (library, session):
        for pair in _PAIRS:
            _make_pair(session, *pair)
        roots = find(session, ObjectClass.SECRET_KEY, ROOT)
        device = library.get_token(token_label=token_at(place).label)
        card = Card(
            namespace=namespace,
            name=name,
            public_key=point_of(only(session, ObjectClass.PUBLIC_KEY, FLEET)),
            transport_key=point_of(only(session, ObjectClass.PUBLIC_KEY, TRANSPORT)),
            profile=by_root(roots[0]).profile if roots else profile,
            model=f"{device.manufacturer_id} {device.model}".strip(),
            token=device.label,
            serial=device.serial.decode(errors="replace").strip(" \0"),
        )
        encoded = encode(card)
        fleet = only(session, ObjectClass.PRIVATE_KEY, FLEET)
        signed = SignedCard(card=encoded, signature=fleet.sign(descriptor_digest(encoded), mechanism=Mechanism.ECDSA))
    check_descriptor(signed)  # what a faulty token makes is of no use to anybody
    return signed


def make(place: Path | TokenConfig, pin: str, cards: Sequence[Card], rotated: bytes | None = None) -> FleetKeys:
    """Makes storage root and log key, and a parcel of them for each card; the token keeps nothing of it.

    `rotated` is the id of those that they come after, which must be the token's newest. Raises ConfigError
    TOKEN_KEY_EXISTS where the token has other such keys, or any at a fleet's beginning, CeremonyRefused
    CARD_OTHER_TOKEN where no card is its own; pkcs11.PKCS11Error.
    """
    with _opened(place, pin) as (_, session), ExitStack() as held_keys:
        if max((key.id for key in labelled(session, (ROOT, LOG))), default=None) != rotated:
            raise ConfigError("the token's newest storage root or log key is another one", "TOKEN_KEY_EXISTS")
        own = _own(session, cards)
        derivation = by_profile(own.profile)
        storage_key_id = new_storage_key_id(1 if rotated is None else root_number(rotated) + 1)
        keys = [held_keys.enter_context(held(_extractable(session, each))) for each in purposes(derivation)]
        parcels = [encode(_parcel(session, derivation, storage_key_id, keys, card)) for card in cards]
        root, log_key = (_check(derivation, *each, storage_key_id) for each in _with(purposes(derivation), keys))
        return FleetKeys(storage_key_id, root, log_key, own.public_key, parcels)


def join(place: Path | TokenConfig, pin: str, report: Report, parcel: bytes) -> None:
    """Takes storage root and log key out of the token's parcel, and keeps them when they are those of the report.

    `report` is one that the officers signed. Once more does no harm; what a killed run left is made whole. Raises
    CeremonyRefused CARD_OTHER_TOKEN, FLEET_KEYS_DIFFER, as `open_wrapped_keys`; ConfigError TOKEN_KEY_EXISTS where the
    token has other such keys, TOKEN_KEY_EXTRACTABLE; pkcs11.PKCS11Error.
    """
    with _opened(place, pin) as (library, session):
        own = _own(session, [check_descriptor(member.card) for member in report.members])
        opened = open_wrapped_keys(report, parcel, own.public_key)
        number = root_number(report.root_id)
        if any(key.id != report.root_id and root_number(key.id) >= number for key in labelled(session, (ROOT, LOG))):
            raise ConfigError("the token has another storage root or log key, not an older one", "TOKEN_KEY_EXISTS")
        derivation = by_profile(own.profile)
        transport = only(session, ObjectClass.PRIVATE_KEY, TRANSPORT)
        with held(agree(transport, derivation, opened.ephemeral)) as secret:
            for purpose, blob, expected in zip(
                purposes(derivation),
                (opened.root, opened.log_key),
                (report.root_check, report.log_check),
                strict=True,
            ):
                _take(session, derivation, purpose, secret, own, opened, blob, expected)
        HsmToken(library, session)  # as the vault will open it


def _take(
    session: Any,
    derivation: Derivation,
    purpose: Purpose,
    secret: Any,
    own: Card,
    parcel: Parcel,
    blob: bytes,
    expected: bytes,
) -> None:
    """One key of the parcel. It is looked at as a session object before the token keeps anything."""
    for key in find(session, ObjectClass.SECRET_KEY, purpose.label):
        if key.id != parcel.root_id:
            continue  # an older one
        if _holds(derivation, purpose, key, parcel.root_id, expected):
            check_hidden(key)
            return
        key.destroy()  # a killed run's, half written: of this very id, and the parcel has it whole
    data = wrapping_key_input(purpose.label, parcel.ephemeral, own.transport_key, parcel.root_id)
    wrapping = derivation.derive(secret, data, KeyType.AES, MechanismFlag.UNWRAP, _WRAP)
    with held(wrapping):
        try:
            with held(_unwrap(wrapping, purpose, blob)) as key:
                right = _holds(derivation, purpose, key, parcel.root_id, expected)
        except UNWRAP_REFUSED:
            raise CeremonyRefused("PARCEL_INVALID", "the parcel does not open with the token's transport key") from None
        if not right:
            raise CeremonyRefused("FLEET_KEYS_DIFFER", "the parcel has other keys than the report vouches for")
        _unwrap(wrapping, purpose, blob, label=purpose.label, id=parcel.root_id, store=True)


def _unwrap(wrapping: Any, purpose: Purpose, blob: bytes, **kept: Any) -> Any:
    return wrapping.unwrap_key(
        ObjectClass.SECRET_KEY,
        purpose.kind,
        blob,
        mechanism=_WRAP,
        capabilities=purpose.use,
        template=hidden(purpose.mechanism),
        **kept,
    )


def _extractable(session: Any, purpose: Purpose) -> Any:
    """A session object that is wrapped for other tokens, and ends with the session."""
    return session.generate_key(
        purpose.kind,
        256,
        store=False,
        capabilities=purpose.use,
        template=hidden(purpose.mechanism) | {Attribute.EXTRACTABLE: True},
    )


def _parcel(session: Any, derivation: Derivation, storage_key_id: bytes, keys: Sequence[Any], card: Card) -> Parcel:
    public, private = make_pair(session, MechanismFlag.DERIVE, Mechanism.ECDH1_DERIVE)
    with held(public), held(private), held(agree(private, derivation, card.transport_key)) as secret:
        ephemeral, blobs = point_of(public), []
        for purpose, key in _with(purposes(derivation), keys):
            data = wrapping_key_input(purpose.label, ephemeral, card.transport_key, storage_key_id)
            with held(derivation.derive(secret, data, KeyType.AES, MechanismFlag.WRAP, _WRAP)) as wrapping:
                blobs.append(wrapping.wrap_key(key, mechanism=_WRAP))
    root, log_key = blobs
    return Parcel(public_key=card.public_key, ephemeral=ephemeral, root_id=storage_key_id, root=root, log_key=log_key)


def _with(each: Sequence[Purpose], keys: Sequence[Any]) -> Iterator[tuple[Purpose, Any]]:
    return zip(each, keys, strict=True)


def _check(derivation: Derivation, purpose: Purpose, key: Any, storage_key_id: bytes) -> bytes:
    """The key's check value, 32 bytes."""
    if purpose.label == LOG:
        return _mac(key, log_check_input(storage_key_id))
    data = root_check_input(storage_key_id)
    made = derivation.derive(key, data, KeyType.GENERIC_SECRET, MechanismFlag.SIGN, Mechanism.SHA256_HMAC)
    with held(made):
        return _mac(made, data)


def _mac(key: Any, data: bytes) -> bytes:
    value: bytes = key.sign(data, mechanism=Mechanism.SHA256_HMAC)
    return value


def _holds(derivation: Derivation, purpose: Purpose, key: Any, storage_key_id: bytes, expected: bytes) -> bool:
    try:
        return hmac.compare_digest(_check(derivation, purpose, key, storage_key_id), expected)
    except _UNUSABLE:
        return False


def _own(session: Any, cards: Sequence[Card]) -> Card:
    """The card of this token: both keys. Raises CeremonyRefused CARD_OTHER_TOKEN."""
    points = [point_of(only(session, ObjectClass.PUBLIC_KEY, label)) for label in (FLEET, TRANSPORT)]
    for card in cards:
        if [card.public_key, card.transport_key] == points:
            return card
    raise CeremonyRefused("CARD_OTHER_TOKEN", "no card is this token's")


def _make_pair(session: Any, label: str, use: MechanismFlag, mechanism: Mechanism) -> None:
    halves = [find(session, kind, label) for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY)]
    if [len(half) for half in halves] == [1, 1]:
        return
    if labelled(session, (ROOT, LOG)):
        raise ConfigError(f"the token is in service, and has not one key {label}", "TOKEN_KEY_MISSING")
    for half in halves:  # a killed run's
        for found in half:
            found.destroy()
    make_pair(session, use, mechanism, label)


@contextmanager
def _opened(place: Path | TokenConfig, pin: str) -> Iterator[tuple[Any, Any]]:
    """Module and session."""
    where = token_at(place)
    library = module.initialise(where)
    try:
        with module.open_session(where, library, pin) as session:
            yield library, session
    finally:
        library.finalize()
