"""The vault's token over PKCS#11: SoftHSM 2.6.1 through python-pkcs11.

Everything secret is made, derived, wrapped and unwrapped inside the token; what a session makes there is private,
sensitive, allowed one mechanism each, and destroyed after use. SoftHSM runs without locking here: one thread of one
process uses a token, opened after any fork, one at a time. It works on keys in this process's memory and never fsyncs:
it is for development.
"""

import ctypes
import os
import secrets
import shutil
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pkcs11
from pkcs11 import KDF, Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass
from pkcs11.attributes import AttributeMapper
from pkcs11.util.ec import encode_named_curve_parameters

from ipls.session import transcript
from ipls.session.errors import SessionRefused

MODULE = "/usr/lib/softhsm/libsofthsm2.so"

_NAME = "ipls vault"
_FLEET, _TRANSPORT, _ROOT, _LOG = "fleet", "transport", "storage root", "log"
_P256 = {Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
_POINT_HEADER = b"\x04\x41"  # DER: an OCTET STRING of 65 bytes
_ZERO_IV = bytes(16)
_ROOT_ID_BYTES = 16


class TokenKeys(NamedTuple):
    """The public halves of a token's keys, 65-byte points."""

    public_point: bytes  # the fleet key's
    transport_point: bytes


def create_token(directory: Path, pin: str) -> TokenKeys:
    """Makes a token with its four keys in `directory`.

    One that is there already is opened and kept. The directory appears complete or not at all. Closes any other token
    of this process. Raises pkcs11.PKCS11Error, also for a wrong PIN.
    """
    if not directory.exists():
        unfinished = directory.with_name(directory.name + ".new")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700, parents=True)
        _write_conf(unfinished, unfinished)
        with _initialised(unfinished) as library:
            _make_keys(library, pin)
        _write_conf(unfinished, directory)
        for path in [*unfinished.rglob("*"), unfinished]:
            _sync(path)
        unfinished.rename(directory)
        _sync(directory.parent)
    token = SoftToken.open(directory, pin)
    token.close()
    return TokenKeys(token.public_point, token.transport_point)


class SoftToken:
    """An open token: `ipls.session.token.Token`."""

    def __init__(self, library: Any, session: Any) -> None:
        self._library = library
        self._session = session
        self._fleet = _find(session, ObjectClass.PRIVATE_KEY, _FLEET)
        self._root = _find(session, ObjectClass.SECRET_KEY, _ROOT)
        self.root_id: bytes = self._root.id
        self.public_point = _point(_find(session, ObjectClass.PUBLIC_KEY, _FLEET))
        self.transport_point = _point(_find(session, ObjectClass.PUBLIC_KEY, _TRANSPORT))
        self.hsm_key_id = transcript.hsm_key_id(self.public_point)

    @classmethod
    def open(cls, directory: Path, pin: str) -> "SoftToken":
        """Opens what `create_token` made; closes any other token of this process. Raises pkcs11.PKCS11Error."""
        library = _initialise(directory)
        return cls(library, _token(library).open(user_pin=pin, attribute_mapper=_mapper()))

    def sign(self, digest: bytes) -> bytes:
        """See `Token`."""
        signature: bytes = self._fleet.sign(digest, mechanism=Mechanism.ECDSA)
        return signature

    def ephemeral(self) -> "SoftEphemeral":
        """See `Token`."""
        parameters = self._session.create_domain_parameters(KeyType.EC, _P256, local=True)
        public, private = parameters.generate_keypair(
            store=False, capabilities=MechanismFlag.DERIVE, private_template=_hidden(Mechanism.ECDH1_DERIVE)
        )
        with _held(public):
            return SoftEphemeral(self._root, private, _point(public))

    def close(self) -> None:
        """See `Token`. Ends the PKCS#11 module in this process."""
        self._session.close()
        self._library.finalize()


class SoftEphemeral:
    """`ipls.session.token.Ephemeral`."""

    def __init__(self, root: Any, private: Any, point: bytes) -> None:
        self._root = root
        self._private = ExitStack()
        self._key = self._private.enter_context(_held(private))
        self.point = point

    def agree(self, peer: bytes, h2: bytes) -> "SoftChannel":
        """See `Ephemeral`."""
        with self._private, ExitStack() as undo:
            secret = self._key.derive_key(
                KeyType.AES,
                256,
                mechanism=Mechanism.ECDH1_DERIVE,
                mechanism_param=(KDF.NULL, None, peer),
                capabilities=MechanismFlag.DERIVE,
                template=_hidden(Mechanism.AES_CBC_ENCRYPT_DATA),
            )
            with _held(secret):
                keys = []
                for name in transcript.SESSION_KEYS:
                    key = _derive(secret, transcript.session_key_input(name, h2), *_SESSION_KEY_USES[name])
                    keys.append(undo.enter_context(_held(key)))
            return SoftChannel(self._root, keys, undo.pop_all())

    def close(self) -> None:
        """See `Ephemeral`."""
        self._private.close()


class SoftChannel:
    """`ipls.session.token.Channel`."""

    def __init__(self, root: Any, keys: list[Any], held: ExitStack) -> None:
        self._root = root
        self._c2v_mac, self._v2c_mac, self._c2v_wrap, self._v2c_wrap = keys
        self._held = held

    def mac_c2v(self, digest: bytes) -> bytes:
        """See `Channel`."""
        return _mac(self._c2v_mac, digest)

    def mac_v2c(self, digest: bytes) -> bytes:
        """See `Channel`."""
        return _mac(self._v2c_mac, digest)

    def store(self, blob: bytes, record: bytes) -> bytes:
        """See `Channel`."""
        with _unwrapped(self._c2v_wrap, blob, "VAULT_BLOB_REFUSED") as contact_key:
            wrapping = _derive(self._root, record, KeyType.AES, MechanismFlag.WRAP, Mechanism.AES_KEY_WRAP)
            with _held(wrapping):
                return _wrap(wrapping, contact_key)

    def retrieve(self, wrapped: bytes, record: bytes) -> bytes:
        """See `Channel`."""
        unwrapping = _derive(self._root, record, KeyType.AES, MechanismFlag.UNWRAP, Mechanism.AES_KEY_WRAP)
        with _held(unwrapping), _unwrapped(unwrapping, wrapped, "VAULT_RECORD_REFUSED") as contact_key:
            return _wrap(self._v2c_wrap, contact_key)

    def close(self) -> None:
        """See `Channel`."""
        self._held.close()


_SESSION_KEY_USES = {
    "c2v mac": (KeyType.GENERIC_SECRET, MechanismFlag.SIGN, Mechanism.SHA256_HMAC),
    "v2c mac": (KeyType.GENERIC_SECRET, MechanismFlag.SIGN, Mechanism.SHA256_HMAC),
    "c2v wrap": (KeyType.AES, MechanismFlag.UNWRAP, Mechanism.AES_KEY_WRAP),
    "v2c wrap": (KeyType.AES, MechanismFlag.WRAP, Mechanism.AES_KEY_WRAP),
}


def _hidden(mechanism: Mechanism) -> dict[Attribute, Any]:
    """The template of a secret that never leaves the token and serves one mechanism."""
    return {
        Attribute.ALLOWED_MECHANISMS: [mechanism],
        Attribute.PRIVATE: True,
        Attribute.SENSITIVE: True,
        Attribute.EXTRACTABLE: False,
        Attribute.MODIFIABLE: False,  # last: SoftHSM sets one after the other
    }


def _derive(base: Any, data: bytes, kind: KeyType, use: MechanismFlag, mechanism: Mechanism) -> Any:
    """A 256-bit session object: AES-CBC of 32 bytes under `base`, IV 0."""
    return base.derive_key(
        kind,
        256,
        mechanism=Mechanism.AES_CBC_ENCRYPT_DATA,
        mechanism_param=(_ZERO_IV, data),
        capabilities=use,
        template=_hidden(mechanism),
    )


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
        key = unwrapping.unwrap_key(
            ObjectClass.SECRET_KEY,
            KeyType.AES,
            blob,
            mechanism=Mechanism.AES_KEY_WRAP,
            capabilities=MechanismFlag(0),
            # By default it would be neither private nor sensitive. Extractable means: by wrapping.
            template={Attribute.PRIVATE: True, Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: True},
        )
    except pkcs11.GeneralError:  # SoftHSM's word for a wrong integrity check
        raise SessionRefused(reason, "a wrapped key doesn't unwrap") from None
    with _held(key):
        yield key


@contextmanager
def _held(key: Any) -> Iterator[Any]:
    """Destroys a session object at the end: the token keeps it otherwise until its session closes."""
    try:
        yield key
    finally:
        key.destroy()


def _find(session: Any, kind: ObjectClass, label: str) -> Any:
    # Unfiltered, the search raises on the empty object files that a crash can leave behind.
    (found,) = session.get_objects({Attribute.CLASS: kind, Attribute.LABEL: label})
    return found


def _point(public: Any) -> bytes:
    encoded: bytes = public[Attribute.EC_POINT]
    point = encoded.removeprefix(_POINT_HEADER)
    transcript.check_point(point)
    return point


def _make_keys(library: Any, pin: str) -> None:
    """Initialises the token in the first slot, sets the user's PIN and makes the keys."""
    officer_pin = secrets.token_hex(16)  # not kept: nobody is to set another user PIN
    (slot, *_) = library.get_slots()
    # python-pkcs11 has no C_InitToken, and softhsm2-util takes PINs on its command line.
    init_token = ctypes.CDLL(MODULE).C_InitToken
    init_token.argtypes = [ctypes.c_ulong, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
    result = init_token(slot.slot_id, officer_pin.encode(), len(officer_pin), _NAME.ljust(32).encode())
    if result != 0:
        raise pkcs11.PKCS11Error(f"C_InitToken: 0x{result:x}")
    with _token(library).open(rw=True, so_pin=officer_pin) as session:
        session.init_pin(pin)
    with _token(library).open(rw=True, user_pin=pin, attribute_mapper=_mapper()) as session:
        pairs = (
            (_FLEET, MechanismFlag.SIGN, Mechanism.ECDSA),
            (_TRANSPORT, MechanismFlag.DERIVE, Mechanism.ECDH1_DERIVE),
        )
        for label, use, mechanism in pairs:
            session.create_domain_parameters(KeyType.EC, _P256, local=True).generate_keypair(
                store=True, label=label, capabilities=use, private_template=_hidden(mechanism)
            )
        session.generate_key(
            KeyType.AES,
            256,
            store=True,
            label=_ROOT,
            id=secrets.token_bytes(_ROOT_ID_BYTES),
            capabilities=MechanismFlag.DERIVE,
            template=_hidden(Mechanism.AES_CBC_ENCRYPT_DATA),
        )
        session.generate_key(
            KeyType.GENERIC_SECRET,
            256,
            store=True,
            label=_LOG,
            capabilities=MechanismFlag.SIGN,
            template=_hidden(Mechanism.SHA256_HMAC),
        )


def _mapper() -> AttributeMapper:
    mapper = AttributeMapper()
    mapper.register_handler(
        Attribute.ALLOWED_MECHANISMS,
        lambda mechanisms: struct.pack(f"{len(mechanisms)}L", *mechanisms),
        lambda data: [Mechanism(m) for (m,) in struct.iter_unpack("L", data)],
    )
    return mapper


def _token(library: Any) -> Any:
    return library.get_token(token_label=_NAME)


def _initialise(directory: Path) -> Any:
    """The PKCS#11 module on this token's folder. It reads the variable when it is initialised, at no other time."""
    os.environ["SOFTHSM2_CONF"] = str(directory / "softhsm2.conf")
    library = pkcs11.lib(MODULE)
    library.reinitialize()
    return library


@contextmanager
def _initialised(directory: Path) -> Iterator[Any]:
    library = _initialise(directory)
    try:
        yield library
    finally:
        library.finalize()


def _write_conf(where: Path, token: Path) -> None:
    """The file that names a token's folder, which SoftHSM wants in full; made before what it names."""
    (where / "objects").mkdir(mode=0o700, exist_ok=True)
    text = f"directories.tokendir = {token.absolute() / 'objects'}\nobjectstore.backend = file\nlog.level = ERROR\n"
    path = where / "softhsm2.conf"
    path.touch(mode=0o600)
    path.write_text(text)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
