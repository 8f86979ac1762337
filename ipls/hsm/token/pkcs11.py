"""The vault's token over PKCS#11: SoftHSM in a folder, or any other module with what `ipls hsm check` asks for.

Everything secret is made, derived, wrapped and unwrapped inside the token; what a session makes there is private,
sensitive, allowed one mechanism each, and destroyed after use. One thread of one process uses a token: see
`ipls.hsm.token.module`.
"""

import hmac
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pkcs11
from pkcs11 import KDF, Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass
from pkcs11.util.ec import encode_named_curve_parameters

from ipls.config import ConfigError, TokenConfig
from ipls.hsm.token import module, softhsm
from ipls.hsm.token.derivation import Derivation, by_profile, by_root
from ipls.hsm.token.module import find, hidden, raw_point
from ipls.vault.errors import SessionRefused
from ipls.vault.session import transcript
from ipls.vault.session.profiles import SOFTHSM_AES_CBC

_NAME = "ipls vault"
LABELS = FLEET, TRANSPORT, ROOT, LOG = "fleet", "transport", "storage root", "log"
_P256 = {Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
_ANCHOR = "anchor "
_LOOKS = 4  # at an anchor that is on the move
_ROOT_ID_RANDOM_BYTES = 8
# What modules say where AES-KW's integrity check fails: the standard's words, then SoftHSM's, then kryoptic's.
UNWRAP_REFUSED = pkcs11.WrappedKeyInvalid, pkcs11.EncryptedDataInvalid, pkcs11.GeneralError, pkcs11.DeviceError


class TokenKeys(NamedTuple):
    """What the bundle says of a token: the public halves of its keys, 65-byte points, and how it derives."""

    public_point: bytes  # the fleet key's
    transport_point: bytes
    profile: str


class Record(NamedTuple):
    """Where a stored key lies: the 32 bytes that its wrapping key is derived from under one of the storage roots."""

    storage_key_id: bytes
    digest: bytes


def create_token(directory: Path, pin: str) -> TokenKeys:
    """Makes a SoftHSM token with its four keys in `directory`.

    One that is there already is opened and kept. The directory appears complete or not at all. Closes any other token
    of this process. Raises pkcs11.PKCS11Error, also for a wrong PIN.
    """
    if not directory.exists():
        softhsm.create(directory, pin, _NAME, lambda session: make_keys(session, SOFTHSM_AES_CBC))
    return _keys(HsmToken.open(directory, pin))


def create_keys(place: TokenConfig, pin: str, profile: str) -> TokenKeys:
    """Makes the four keys in an initialised token. Closes any other token of this process.

    Raises ConfigError TOKEN_KEY_EXISTS where it has any of them; pkcs11.PKCS11Error.
    """
    library = module.initialise(place)
    with module.open_session(place, library, pin) as session:
        if module.labelled(session, LABELS):
            raise ConfigError("the token has keys of a vault already", "TOKEN_KEY_EXISTS")
        make_keys(session, profile)
    return _keys(HsmToken.open(place, pin))


def create_folder(directory: Path, pin: str) -> None:
    """Makes a SoftHSM token without keys in `directory`, complete or not at all. Raises pkcs11.PKCS11Error."""
    softhsm.create(directory, pin, _NAME, lambda session: None)


def token_at(place: Path | TokenConfig) -> TokenConfig:
    """Where the vault's token is: in a folder, for SoftHSM, or where a table says."""
    return softhsm.token_at(place, _NAME)


class HsmToken:
    """An open token: `ipls.vault.session.token.Token`."""

    def __init__(self, library: Any, session: Any, prefix: str = "") -> None:
        """`prefix` stands before the labels of its keys.

        Raises ConfigError TOKEN_KEY_MISSING, TOKEN_KEY_EXTRACTABLE.
        """
        self._library = library
        self._session = session
        self._fleet = only(session, ObjectClass.PRIVATE_KEY, prefix + FLEET)
        self._roots = Roots(session, prefix + ROOT)
        self.storage_key_id = self._roots.newest
        self._derivation = self._roots.derivation
        self.profile = self._derivation.profile
        self._log_label = prefix + LOG
        self.public_point = point_of(only(session, ObjectClass.PUBLIC_KEY, prefix + FLEET))
        self.transport_point = point_of(only(session, ObjectClass.PUBLIC_KEY, prefix + TRANSPORT))
        self.hsm_key_id = transcript.hsm_key_id(self.public_point)
        for key in (self._fleet, *self._log_keys()):
            check_hidden(key)

    @classmethod
    def open(cls, place: Path | TokenConfig, pin: str) -> "HsmToken":
        """Opens what `create_token` or `create_keys` made; closes any other token of this process.

        Raises pkcs11.PKCS11Error; ConfigError as the constructor.
        """
        place = token_at(place)
        library = module.initialise(place)
        return cls(library, module.open_session(place, library, pin))

    def sign(self, digest: bytes) -> bytes:
        """See `Token`."""
        signature: bytes = self._fleet.sign(digest, mechanism=Mechanism.ECDSA)
        return signature

    def ephemeral(self) -> "HsmEphemeral":
        """See `Token`."""
        public, private = make_pair(self._session, MechanismFlag.DERIVE, Mechanism.ECDH1_DERIVE)
        with held(public):
            return HsmEphemeral(self._roots, private, point_of(public))

    @module.until_free
    def storage_key_ids(self) -> list[bytes]:
        """See `Token`."""
        return self._roots.ids()

    def drop_root(self, storage_key_id: bytes) -> None:
        """Destroys a storage root, for good. Raises SessionRefused VAULT_ROOT_MISSING."""
        self._roots.drop(storage_key_id)

    def rewrap(self, wrapped: bytes, record: Record, new: Record) -> bytes:
        """A record's contact key, wrapped under another record's key instead.

        Raises SessionRefused VAULT_RECORD_REFUSED, VAULT_ROOT_MISSING.
        """
        unwrapping = self._roots.record_key(record, MechanismFlag.UNWRAP)
        with held(unwrapping), _unwrapped(unwrapping, wrapped, "VAULT_RECORD_REFUSED") as contact_key:
            wrapping = self._roots.record_key(new, MechanismFlag.WRAP)
            with held(wrapping):
                return _wrap(wrapping, contact_key)

    @module.until_free
    def log_macs(self, digests: Sequence[bytes]) -> list[bytes]:
        """HMAC-SHA-256 (32 bytes) over each, by the newest log key. Raises ConfigError as the constructor."""
        newest = self._log_keys()[0]
        check_hidden(newest)
        return [_mac(newest, digest) for digest in digests]

    @property
    @module.until_free
    def first_log_key(self) -> int:
        """The number of the oldest one."""
        return root_number(self._log_keys()[-1].id)

    @module.until_free
    def log_holds(self, digests: Sequence[bytes], macs: Sequence[bytes], *, retired: bool = False) -> list[bool]:
        """Whether the newest log key made each over its digest, or any of them where `retired` ones count too."""
        keys = self._log_keys()[: None if retired else 1]
        each = zip(digests, macs, strict=True)
        return [any(hmac.compare_digest(_mac(key, digest), mac) for key in keys) for digest, mac in each]

    def _log_keys(self) -> list[Any]:
        """As they are in the token now, the newest first: a rotation puts one there while the vault runs."""
        return _newest_first(self._session, self._log_label)

    @module.until_free
    def anchors(self, shard: int) -> list[bytes]:
        """What lies in the token as this shard's anchor: one value, two after a crash, none before genesis."""
        # A second vault, which there must not be, may replace it between the search and the reading.
        for _ in range(_LOOKS):
            if values := [value for _, value in self._anchors(shard)]:
                break
        return values

    @module.until_free
    def replace_anchor(self, shard: int, expected: Sequence[bytes], new: bytes) -> None:
        """Puts `new` in the place of exactly the values expected; there is a whole anchor at any moment.

        Interrupted by a busy token, it goes on where it was when it is done again. Raises SessionRefused
        VAULT_ANCHOR_MOVED if others are there: somebody else writes them. `new` is gone then.
        """
        there = self._anchors(shard)
        if all(value != new for _, value in there):
            self._add_anchor(shard, expected, new)
        elif not {value for _, value in there} <= {*expected, new}:
            self._take_back(shard, new)
            raise _anchor_moved()
        for found, value in self._anchors(shard):
            if value in expected and value != new:
                found.destroy()

    def _add_anchor(self, shard: int, expected: Sequence[bytes], new: bytes) -> None:
        if sorted(value for _, value in self._anchors(shard)) != sorted(expected):
            raise _anchor_moved()
        template = {
            Attribute.CLASS: ObjectClass.DATA,
            Attribute.LABEL: _anchor_label(shard),
            Attribute.TOKEN: True,
            Attribute.PRIVATE: True,
            Attribute.VALUE: new,
        }
        self._session.create_object(template)
        # A second writer that looked before this one wrote writes before it looks again: one of them sees the other.
        if sorted(value for _, value in self._anchors(shard)) != sorted((*expected, new)):
            self._take_back(shard, new)
            raise _anchor_moved()

    def _take_back(self, shard: int, new: bytes) -> None:
        for found, value in self._anchors(shard):
            if value == new:
                found.destroy()

    def shards(self) -> list[int]:
        """Of which there is an anchor, ascending, also of such as were handed off since."""
        data = self._session.get_objects({Attribute.CLASS: ObjectClass.DATA})
        labels = [found[Attribute.LABEL] for found in data]
        return sorted({int(label.removeprefix(_ANCHOR)) for label in labels if label.startswith(_ANCHOR)})

    def _anchors(self, shard: int) -> list[tuple[Any, bytes]]:
        """The objects, and what is in them."""
        found = find(self._session, ObjectClass.DATA, _anchor_label(shard))
        return [(each, bytes(each[Attribute.VALUE])) for each in found]

    def close(self) -> None:
        """See `Token`. Ends the PKCS#11 module in this process."""
        self._session.close()
        self._library.finalize()


class HsmEphemeral:
    """`ipls.vault.session.token.Ephemeral`."""

    def __init__(self, roots: "Roots", private: Any, point: bytes) -> None:
        self._roots = roots
        self._private = ExitStack()
        self._key = self._private.enter_context(held(private))
        self.point = point

    def agree(self, peer: bytes, h2: bytes) -> "HsmChannel":
        """See `Ephemeral`."""
        derivation = self._roots.derivation
        with self._private, ExitStack() as undo:
            with held(agree(self._key, derivation, peer)) as secret:
                keys = []
                for name in transcript.SESSION_KEYS:
                    data = transcript.session_key_input(name, h2)
                    key = derivation.derive(secret, data, *_SESSION_KEY_USES[name])
                    keys.append(undo.enter_context(held(key)))
            return HsmChannel(self._roots, keys, undo.pop_all())

    def close(self) -> None:
        """See `Ephemeral`."""
        self._private.close()


class HsmChannel:
    """`ipls.vault.session.token.Channel`."""

    def __init__(self, roots: "Roots", keys: list[Any], held: ExitStack) -> None:
        self._roots = roots
        self._c2v_mac, self._v2c_mac, self._c2v_wrap, self._v2c_wrap = keys
        self._held = held

    def mac_c2v(self, digest: bytes) -> bytes:
        """See `Channel`."""
        return _mac(self._c2v_mac, digest)

    def mac_v2c(self, digest: bytes) -> bytes:
        """See `Channel`."""
        return _mac(self._v2c_mac, digest)

    def store(self, blob: bytes, storage_key_id: bytes, record: bytes) -> bytes:
        """See `Channel`."""
        with _unwrapped(self._c2v_wrap, blob, "VAULT_BLOB_REFUSED") as contact_key:
            wrapping = self._roots.record_key(Record(storage_key_id, record), MechanismFlag.WRAP)
            with held(wrapping):
                return _wrap(wrapping, contact_key)

    def retrieve(self, wrapped: bytes, storage_key_id: bytes, record: bytes) -> bytes:
        """See `Channel`."""
        unwrapping = self._roots.record_key(Record(storage_key_id, record), MechanismFlag.UNWRAP)
        with held(unwrapping), _unwrapped(unwrapping, wrapped, "VAULT_RECORD_REFUSED") as contact_key:
            return _wrap(self._v2c_wrap, contact_key)

    def close(self) -> None:
        """See `Channel`."""
        self._held.close()


class Roots:
    """The storage roots in a token. Another process may put newer ones there; one is found when it is asked for."""

    def __init__(self, session: Any, label: str) -> None:
        """Raises ConfigError TOKEN_KEY_MISSING, TOKEN_KEY_EXTRACTABLE."""
        self._session = session
        self._label = label
        found = self._look()
        self.newest: bytes = found[0].id
        """The id of the one that was the newest when the token was opened."""
        self.derivation = by_root(found[0])

    def record_key(self, record: Record, use: MechanismFlag) -> Any:
        """The key that wraps a record. Raises SessionRefused VAULT_ROOT_MISSING."""
        root = self._root(record.storage_key_id)
        return self.derivation.derive(root, record.digest, KeyType.AES, use, Mechanism.AES_KEY_WRAP)

    def ids(self) -> list[bytes]:
        """Of all that are there now, the newest first."""
        return [root.id for root in self._look()]

    def drop(self, storage_key_id: bytes) -> None:
        """See `HsmToken.drop_root`."""
        self._root(storage_key_id).destroy()
        self._look()

    def _root(self, storage_key_id: bytes) -> Any:
        if storage_key_id not in self._by_id:
            self._look()
        if storage_key_id not in self._by_id:
            raise SessionRefused("VAULT_ROOT_MISSING", "the record lies under a storage root that the HSM lacks")
        return self._by_id[storage_key_id]

    def _look(self) -> list[Any]:
        found = _newest_first(self._session, self._label)
        for root in found:
            check_hidden(root)
        self._by_id = {root.id: root for root in found}
        return found


_SESSION_KEY_USES = {
    "c2v mac": (KeyType.GENERIC_SECRET, MechanismFlag.SIGN, Mechanism.SHA256_HMAC),
    "v2c mac": (KeyType.GENERIC_SECRET, MechanismFlag.SIGN, Mechanism.SHA256_HMAC),
    "c2v wrap": (KeyType.AES, MechanismFlag.UNWRAP, Mechanism.AES_KEY_WRAP),
    "v2c wrap": (KeyType.AES, MechanismFlag.WRAP, Mechanism.AES_KEY_WRAP),
}


def _mac(key: Any, digest: bytes) -> bytes:
    tag: bytes = key.sign(digest, mechanism=Mechanism.SHA256_HMAC)
    return tag


def _wrap(wrapping: Any, key: Any) -> bytes:
    blob: bytes = wrapping.wrap_key(key, mechanism=Mechanism.AES_KEY_WRAP)
    return blob


@contextmanager
def _unwrapped(unwrapping: Any, blob: bytes, reason: str) -> Iterator[Any]:
    """The contact key in the token, which may only be wrapped again, and goes at the end."""
    if len(blob) != transcript.BLOB_BYTES:
        raise SessionRefused(reason, f"a wrapped key has {transcript.BLOB_BYTES} bytes")
    try:
        key = unwrap(unwrapping, blob)
    except UNWRAP_REFUSED:
        raise SessionRefused(reason, "a wrapped key doesn't unwrap") from None
    with held(key):
        yield key


def agree(private: Any, derivation: Derivation, peer: bytes) -> Any:
    """The ECDH secret with a validated 65-byte point, a session object that serves the derivation alone."""
    return private.derive_key(
        derivation.base,
        256,
        mechanism=Mechanism.ECDH1_DERIVE,
        mechanism_param=(KDF.NULL, None, peer),
        capabilities=MechanismFlag.DERIVE,
        template=hidden(derivation.mechanism),
    )


def unwrap(unwrapping: Any, blob: bytes) -> Any:
    """A contact key of whatever length, which may only be wrapped again. Raises UNWRAP_REFUSED."""
    return unwrapping.unwrap_key(
        ObjectClass.SECRET_KEY,
        KeyType.AES,
        blob,
        mechanism=Mechanism.AES_KEY_WRAP,
        capabilities=MechanismFlag(0),
        # By default it would be neither private nor sensitive. Extractable means: by wrapping.
        template={Attribute.PRIVATE: True, Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: True},
    )


@contextmanager
def held(key: Any) -> Iterator[Any]:
    """Destroys a session object at the end: the token keeps it otherwise until its session closes."""
    try:
        yield key
    finally:
        key.destroy()


def _newest_first(session: Any, label: str) -> list[Any]:
    found = find(session, ObjectClass.SECRET_KEY, label)
    if not found:
        raise ConfigError(f"the token has no key {label}", "TOKEN_KEY_MISSING")
    return sorted(found, key=lambda key: bytes(key.id), reverse=True)


def only(session: Any, kind: ObjectClass, label: str) -> Any:
    """The one object of this kind and label. Raises ConfigError TOKEN_KEY_MISSING."""
    found = find(session, kind, label)
    if len(found) != 1:
        raise ConfigError(f"the token has no key {label}, or several", "TOKEN_KEY_MISSING")
    return found[0]


def check_hidden(key: Any) -> None:
    """Raises ConfigError TOKEN_KEY_EXTRACTABLE for a key that could leave the token."""
    if key[Attribute.EXTRACTABLE] or not key[Attribute.SENSITIVE]:
        raise ConfigError(f"the token's key {key.label} could be taken out of it", "TOKEN_KEY_EXTRACTABLE")


def point_of(public: Any) -> bytes:
    """A P-256 public key's point. Raises SessionRefused VAULT_POINT_INVALID."""
    point = raw_point(public[Attribute.EC_POINT])
    transcript.check_point(point)
    return point


def _anchor_label(shard: int) -> str:
    return f"{_ANCHOR}{shard}"


def _anchor_moved() -> SessionRefused:
    return SessionRefused("VAULT_ANCHOR_MOVED", "the anchor in the token is not the one that this vault wrote")


def _keys(token: HsmToken) -> TokenKeys:
    token.close()
    return TokenKeys(token.public_point, token.transport_point, token.profile)


def make_pair(session: Any, use: MechanismFlag, mechanism: Mechanism, label: str | None = None) -> tuple[Any, Any]:
    """A P-256 pair, (public, private), for one mechanism; kept in the token if it has a label."""
    parameters = session.create_domain_parameters(KeyType.EC, _P256, local=True)
    pair: tuple[Any, Any] = parameters.generate_keypair(
        store=label is not None, label=label, capabilities=use, private_template=hidden(mechanism)
    )
    return pair


def make_keys(session: Any, profile: str, prefix: str = "") -> None:
    """The four keys of a vault that is a fleet by itself, `prefix` before their labels. Raises pkcs11.PKCS11Error."""
    make_pair(session, MechanismFlag.SIGN, Mechanism.ECDSA, prefix + FLEET)
    make_pair(session, MechanismFlag.DERIVE, Mechanism.ECDH1_DERIVE, prefix + TRANSPORT)
    storage_key_id = new_storage_key_id(1)
    for purpose in purposes(by_profile(profile)):
        session.generate_key(
            purpose.kind,
            256,
            store=True,
            label=prefix + purpose.label,
            id=storage_key_id,
            capabilities=purpose.use,
            template=hidden(purpose.mechanism),
        )


def new_storage_key_id(number: int) -> bytes:
    """What names the storage root of this number, and the log key made with it: the newest has the highest."""
    return number.to_bytes(8, "big") + secrets.token_bytes(_ROOT_ID_RANDOM_BYTES)


def root_number(storage_key_id: bytes) -> int:
    """The inverse."""
    return int.from_bytes(storage_key_id[:8], "big")


class Purpose(NamedTuple):
    """What a secret that all tokens of a fleet share is for."""

    label: str
    kind: KeyType
    use: MechanismFlag
    mechanism: Mechanism


def purposes(derivation: Derivation) -> tuple[Purpose, Purpose]:
    """Storage root and log key."""
    return (
        Purpose(ROOT, derivation.base, MechanismFlag.DERIVE, derivation.mechanism),
        Purpose(LOG, KeyType.GENERIC_SECRET, MechanismFlag.SIGN, Mechanism.SHA256_HMAC),
    )
