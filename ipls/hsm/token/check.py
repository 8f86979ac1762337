"""What a token can and cannot do of what the vault asks of one (the vault spec, Keys in the token): `ipls hsm check`.

What a vault does is done by the vault's own code, on keys of this check's own. What must be refused is first shown to
work where it may: a token that lacks the mechanism, or refuses everything, is not praised for a refusal.
"""

import ctypes
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pkcs11
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pkcs11 import KDF, Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass

from ipls.config import ConfigError, TokenConfig
from ipls.errors import IplsError
from ipls.hsm.token import module
from ipls.hsm.token.derivation import DERIVATIONS, Derivation
from ipls.hsm.token.module import find, hidden
from ipls.hsm.token.pkcs11 import LABELS, UNWRAP_REFUSED, HsmChannel, HsmToken, held, make_keys, make_pair, unwrap
from ipls.vault.errors import SessionRefused
from ipls.vault.session import profiles, transcript

PREFIX = "ipls hsm check "
"""Before the labels of what it makes; what bears it is destroyed, before and after."""
LOOP, LOOP_S = 10_000, 5.0
"""A loop for speed ends after so many rounds or seconds."""
_ANCHORS = 50
_SECRETS = ObjectClass.SECRET_KEY, ObjectClass.PRIVATE_KEY
_CLASSES = *_SECRETS, ObjectClass.PUBLIC_KEY, ObjectClass.DATA
_ENCRYPT_INIT, _SIGN_INIT = 29, 42  # places in CK_FUNCTION_LIST
_DIGEST = bytes(range(32))
_CONTACT_KEY = bytes(range(32, 64))
_RECORD = transcript.record_digest(bytes(16), bytes(32), 1, bytes(16))
_OTHER_RECORD = transcript.record_digest(bytes(16), bytes(32), 2, bytes(16))
_H2 = transcript.key_exchange_hash(b"m1", b"m2", b"sig2")


class Finding(NamedTuple):
    """One line of the check."""

    check: str
    """Its stable name."""
    text: str
    holds: bool | None
    """None where the vault does not depend on it."""
    detail: str = ""
    profile: str | None = None
    """The one that needs it; None: all."""


class _Fails(IplsError):
    """The token does not do it; the message says what it does."""

    def __init__(self, message: str) -> None:
        super().__init__("TOKEN_CHECK_FAILED", message)


Check = Callable[[], str | None]
"""Does it; returns a detail for people. Raises _Fails, pkcs11.PKCS11Error, SessionRefused."""


class _Mechanism(ctypes.Structure):
    """CK_MECHANISM, without a parameter."""

    _fields_ = (("mechanism", ctypes.c_ulong), ("parameter", ctypes.c_void_p), ("length", ctypes.c_ulong))


def check_token(place: TokenConfig, pin: str, tell: Callable[[Finding], None]) -> str | None:
    """Does everything, tells each thing as it is found; the profile that a vault can run with, the standard one first.

    Closes any other token of this process. Raises pkcs11.PKCS11Error where the token can't be opened.
    """
    library = module.initialise(place)
    try:
        with module.open_session(place, library, pin) as session:
            checker = _Checker(place, library, session, tell)
            try:
                checker.sweep()
                checker.common()
                for derivation in DERIVATIONS:
                    checker.of_profile(derivation)
                    checker.sweep()
            finally:
                checker.sweep()
            return checker.verdict()
    finally:
        library.finalize()


class _Checker:
    def __init__(self, place: TokenConfig, library: Any, session: Any, tell: Callable[[Finding], None]) -> None:
        self._place = place
        self._library = library
        self._session = session
        self._tell = tell
        self._profile: str | None = None
        self._failed: set[str | None] = set()  # the profiles that lack something; None: all do

    def sweep(self) -> None:
        """Destroys what this check made, by this run or an earlier one that was killed."""
        for found in module.labelled(self._session, [PREFIX + label for label in (*LABELS, "anchor")]):
            found.destroy()

    def verdict(self) -> str | None:
        able = [derivation.profile for derivation in DERIVATIONS if not {None, derivation.profile} & self._failed]
        return able[0] if able else None

    def _find(self, check: str, text: str, work: Check, *, needed: bool = True) -> bool:
        """Tells whether `work` succeeds."""
        try:
            holds, detail = True, work() or ""
        except _Fails as fault:
            holds, detail = False, str(fault)
        except (
            pkcs11.PKCS11Error,
            ConfigError,
            SessionRefused,
            AttributeError,
            InvalidSignature,
            InvalidUnwrap,
        ) as error:
            # python-pkcs11 has no message for most, and an AttributeError for a key without the capability.
            holds, detail = False, f"{type(error).__name__} {error}".strip()
        if not holds and needed:
            self._failed.add(self._profile)
        self._tell(Finding(check, text, holds if needed else None, detail, self._profile))
        return holds

    # What no profile does without

    def common(self) -> None:
        """Everything that does not depend on how keys are derived."""
        self._find("wrap", "AES-KW (RFC 3394) wraps and unwraps a 32-byte key", self._wraps)
        self._find("wrap_wrong_key", "a blob does not unwrap under another key", self._wrong_key)
        self._find("wrap_damaged", "a damaged or shortened blob does not unwrap", self._damaged)
        self._find("wrap_24_bytes", "the vault refuses other lengths itself; the token", self._short_key, needed=False)
        self._find("contact_key", "an unwrapped key is sensitive, and can only be wrapped again", self._contact_key)
        self._find("unextractable", "a key that is not extractable can't be wrapped", self._unextractable)
        self._find("extractable_final", "EXTRACTABLE once false stays false, SENSITIVE once true true", self._final)
        self._find("usage", "a key that may only derive can't encrypt", self._usage)
        self._find("allowed_mechanisms", "ALLOWED_MECHANISMS is enforced", self._allowed_mechanisms)
        self._find("public_destroyed", "a session's public key object can be destroyed alone", self._public_destroyed)
        for name, text, encode in _POINTS:
            self._find(name, text, partial(self._point_form, encode), needed=False)
        self._find("anchor", "a private data object is created, read by another session, destroyed", self._anchor)

    def _generated(self, use: MechanismFlag, bits: int = 256, **changes: Any) -> Any:
        """A context with an AES session key, sensitive and extractable unless `changes` say otherwise."""
        template = {Attribute.PRIVATE: True, Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: True}
        template |= {Attribute[name]: value for name, value in changes.items()}
        return held(self._session.generate_key(KeyType.AES, bits, store=False, capabilities=use, template=template))

    @contextmanager
    def _blob(self, bits: int = 256) -> Iterator[tuple[Any, Any, bytes]]:
        """An AES-KW key, a key of so many bits, and the second wrapped under the first."""
        both = MechanismFlag.WRAP | MechanismFlag.UNWRAP
        with self._generated(both) as wrapping, self._generated(MechanismFlag.ENCRYPT, bits) as key:
            yield wrapping, key, wrapping.wrap_key(key, mechanism=Mechanism.AES_KEY_WRAP)

    def _wraps(self) -> None:
        with self._blob() as (wrapping, _, blob):
            _expect(len(blob) == transcript.BLOB_BYTES, f"the blob has {len(blob)} bytes")
            with held(unwrap(wrapping, blob)) as again:
                _expect(wrapping.wrap_key(again, mechanism=Mechanism.AES_KEY_WRAP) == blob, "another key came back")

    def _wrong_key(self) -> str:
        with self._blob() as (_, _, blob), self._generated(MechanismFlag.UNWRAP) as other:
            return self._refuses_blob(other, blob)

    def _damaged(self) -> str:
        with self._blob() as (wrapping, _, blob):
            said = self._refuses_blob(wrapping, blob[:-1] + bytes([blob[-1] ^ 1]))
            self._refuses_blob(wrapping, blob[:-8])
            return said

    def _refuses_blob(self, wrapping: Any, blob: bytes) -> str:
        """What the token says, which must be what the vault takes for a refusal and not for a fault."""
        try:
            unwrap(wrapping, blob).destroy()
        except UNWRAP_REFUSED as refused:
            return f"it says {type(refused).__name__}"
        raise _Fails("it is taken")

    def _short_key(self) -> str:
        with self._blob(128) as (wrapping, _, blob):
            try:
                unwrap(wrapping, blob).destroy()
            except pkcs11.PKCS11Error:
                return "refuses a blob of 24 bytes too"
            return "takes a blob of 24 bytes"

    def _contact_key(self) -> None:
        with self._blob() as (wrapping, _, blob), held(unwrap(wrapping, blob)) as key:
            for attribute in (Attribute.PRIVATE, Attribute.SENSITIVE, Attribute.EXTRACTABLE):
                _expect(key[attribute], f"{attribute.name} reads as false")
            _refused("its value can be read", lambda: key[Attribute.VALUE])
            _expect(self._init(_ENCRYPT_INIT, key, Mechanism.AES_ECB) != 0, "it encrypts")

    def _unextractable(self) -> None:
        with self._blob() as (wrapping, key, _), self._generated(MechanismFlag.ENCRYPT, EXTRACTABLE=False) as kept:
            wrapping.wrap_key(key, mechanism=Mechanism.AES_KEY_WRAP)
            _refused("it is wrapped", lambda: wrapping.wrap_key(kept, mechanism=Mechanism.AES_KEY_WRAP))

    def _final(self) -> None:
        """As a ceremony ends: the key has been wrapped for other tokens, and never is again."""
        with self._blob() as (wrapping, key, _):
            key[Attribute.EXTRACTABLE] = False
            _expect(not key[Attribute.EXTRACTABLE], "EXTRACTABLE reads as true")
            _refused("it is wrapped", lambda: wrapping.wrap_key(key, mechanism=Mechanism.AES_KEY_WRAP))
            _refused("EXTRACTABLE is set again", lambda: _set(key, Attribute.EXTRACTABLE, True))
            _refused("SENSITIVE is taken away", lambda: _set(key, Attribute.SENSITIVE, False))
            _expect(not key[Attribute.EXTRACTABLE] and key[Attribute.SENSITIVE], "a refused change was made")

    def _usage(self) -> None:
        with self._generated(MechanismFlag.ENCRYPT) as may, self._generated(MechanismFlag.DERIVE) as may_not:
            _expect(self._init(_ENCRYPT_INIT, may, Mechanism.AES_ECB) == 0, "no key encrypts by AES-ECB")
            _expect(self._init(_ENCRYPT_INIT, may_not, Mechanism.AES_ECB) != 0, "it encrypts")

    def _allowed_mechanisms(self) -> None:
        with self._hmac_key({}) as free, self._hmac_key(hidden(Mechanism.SHA256_HMAC)) as bound:
            _expect(self._init(_SIGN_INIT, free, Mechanism.SHA512_HMAC) == 0, "no key makes an HMAC-SHA-512")
            _expect(self._init(_SIGN_INIT, bound, Mechanism.SHA256_HMAC) == 0, "no key makes an HMAC-SHA-256")
            _expect(self._init(_SIGN_INIT, bound, Mechanism.SHA512_HMAC) != 0, "a key serves another mechanism")
            _expect(bound[Attribute.ALLOWED_MECHANISMS] == [Mechanism.SHA256_HMAC], "it reads as another list")

    def _hmac_key(self, template: dict[Attribute, Any]) -> Any:
        kind = KeyType.GENERIC_SECRET
        return held(
            self._session.generate_key(kind, 512, store=False, capabilities=MechanismFlag.SIGN, template=template)
        )

    def _init(self, function: int, key: Any, mechanism: Mechanism) -> int:
        """Begins an operation past python-pkcs11, which would not ask the token; a session of its own ends it."""
        with self._library.get_token(token_label=self._place.label).open() as session:
            return module.call(self._place, function, session.handle, _Mechanism(mechanism, None, 0), key.handle)

    def _public_destroyed(self) -> None:
        before = self._objects()
        public, private = make_pair(self._session, MechanismFlag.DERIVE, Mechanism.ECDH1_DERIVE)
        with held(private):
            public.destroy()
            _expect(self._objects() == before + 1, "another number of objects is left")
            self._agree(private, _uncompressed(_new_key())).destroy()
        _expect(self._objects() == before, "the private key is left")

    def _point_form(self, encode: Callable[[ec.EllipticCurvePrivateKey], bytes]) -> str:
        public, private = make_pair(self._session, MechanismFlag.DERIVE, Mechanism.ECDH1_DERIVE)
        with held(public), held(private):
            try:
                self._agree(private, encode(_new_key())).destroy()
            except pkcs11.PKCS11Error:
                return "refuses one"
            return "takes one"

    def _agree(self, private: Any, point: bytes) -> Any:
        return private.derive_key(
            KeyType.GENERIC_SECRET,
            256,
            mechanism=Mechanism.ECDH1_DERIVE,
            mechanism_param=(KDF.NULL, None, point),
            capabilities=MechanismFlag.DERIVE,
            template={Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False},
        )

    def _anchor(self) -> str:
        def write(number: int) -> Any:
            template = {Attribute.CLASS: ObjectClass.DATA, Attribute.TOKEN: True, Attribute.PRIVATE: True}
            value = {Attribute.LABEL: PREFIX + "anchor", Attribute.VALUE: number.to_bytes(256, "big")}
            return self._session.create_object(template | value)

        begun = time.perf_counter()
        anchor = write(0)
        for number in range(1, _ANCHORS + 1):  # the new one before the old one goes
            anchor, old = write(number), anchor
            old.destroy()
        took = (time.perf_counter() - begun) / _ANCHORS
        with self._library.get_token(token_label=self._place.label).open() as other:
            (read,) = find(other, ObjectClass.DATA, PREFIX + "anchor")
            _expect(int.from_bytes(read[Attribute.VALUE], "big") == _ANCHORS, "another value is read")
        anchor.destroy()
        _expect(not find(self._session, ObjectClass.DATA, PREFIX + "anchor"), "it is still there")
        return f"{took * 1000:.1f} ms to replace one"

    def _objects(self) -> int:
        """All that this session sees, by class: SoftHSM raises on an unfiltered search after a crash."""
        return sum(len(list(self._session.get_objects({Attribute.CLASS: kind}))) for kind in _CLASSES)

    # What one profile needs

    def of_profile(self, derivation: Derivation) -> None:
        """The vault's own code on keys of this profile."""
        self._profile = derivation.profile
        try:
            text = f"makes and keeps the four keys of profile {derivation.profile}"
            if self._find("keys", text, lambda: make_keys(self._session, derivation.profile, PREFIX)):
                self._of_keys(derivation)
        finally:
            self._profile = None

    def _of_keys(self, derivation: Derivation) -> None:
        self._find("attributes", "they are hidden for good, and serve one mechanism each", self._attributes)
        opened: list[HsmToken] = []
        text = "they are found by their labels, their points read as uncompressed ones"
        if not self._find("open", text, lambda: opened.append(HsmToken(self._library, self._session, PREFIX))):
            return
        (token,) = opened
        self._find("sign", "the fleet key signs a digest by ECDSA", lambda: _check_signature(token))
        self._find("one_use", "fleet key, transport key, root and log key do nothing else", self._one_use)
        text = "a session derives its keys as a client does; a contact key is stored and retrieved"
        if not self._find("session_keys", text, lambda: self._session_keys(token)):
            return
        self._find("record_moved", "a record does not unwrap in another's place", lambda: self._moved(token))
        self._find("leak", "no object is left by sessions, stores, retrieves and refusals", lambda: self._leak(token))
        self._find("retrieves", "speed of bare retrieves", lambda: self._retrieves(token), needed=False)
        self._find("sessions", "speed of key exchanges", lambda: self._exchanges(token), needed=False)

    def _attributes(self) -> None:
        for label in LABELS:
            (key,) = self._secret(label)
            names = "PRIVATE", "SENSITIVE", "ALWAYS_SENSITIVE", "NEVER_EXTRACTABLE", "LOCAL"
            for name in names:
                _expect(key[Attribute[name]], f"{label}: {name} reads as false")
            for name in ("EXTRACTABLE", "MODIFIABLE"):
                _expect(not key[Attribute[name]], f"{label}: {name} reads as true")
            _expect(len(key[Attribute.ALLOWED_MECHANISMS]) == 1, f"{label}: ALLOWED_MECHANISMS reads as another list")
            _refused(f"{label}: its value can be read", partial(key.__getitem__, Attribute.VALUE))

    def _one_use(self) -> None:
        fleet, transport, root, log = (key for label in LABELS for key in self._secret(label))
        _expect(self._init(_SIGN_INIT, fleet, Mechanism.ECDSA) == 0, "the fleet key does not sign")
        _expect(self._init(_SIGN_INIT, transport, Mechanism.ECDSA) != 0, "the transport key signs")
        _expect(self._init(_SIGN_INIT, log, Mechanism.SHA256_HMAC) == 0, "the log key makes no HMAC")
        for key in (root, log):
            _expect(self._init(_ENCRYPT_INIT, key, Mechanism.AES_ECB) != 0, "storage root or log key encrypts")
        _expect(self._init(_SIGN_INIT, root, Mechanism.SHA256_HMAC) != 0, "the storage root makes an HMAC")
        _expect(not fleet[Attribute.DERIVE], "the fleet key derives")

    def _secret(self, label: str) -> list[Any]:
        return [key for kind in _SECRETS for key in find(self._session, kind, PREFIX + label)]

    def _session_keys(self, token: HsmToken) -> None:
        with _session(token) as (channel, keys):
            for mac, key in ((channel.mac_c2v, keys[0]), (channel.mac_v2c, keys[1])):
                _expect(mac(_DIGEST) == transcript.hmac_sha256(key, _DIGEST), "a session's MAC key is another")
            wrapped = channel.store(aes_key_wrap(keys[2], _CONTACT_KEY), token.storage_key_id, _RECORD)
            _expect(
                aes_key_unwrap(keys[3], channel.retrieve(wrapped, token.storage_key_id, _RECORD)) == _CONTACT_KEY,
                "another key came back",
            )

    def _moved(self, token: HsmToken) -> None:
        with _session(token) as (channel, keys):
            wrapped = channel.store(aes_key_wrap(keys[2], _CONTACT_KEY), token.storage_key_id, _RECORD)
            _session_refuses(lambda: channel.retrieve(wrapped, token.storage_key_id, _OTHER_RECORD))
            _session_refuses(lambda: channel.store(aes_key_wrap(keys[3], _CONTACT_KEY), token.storage_key_id, _RECORD))

    def _leak(self, token: HsmToken) -> None:
        before = self._objects()
        for _ in range(3):
            with _session(token) as (channel, keys):
                wrapped = channel.store(aes_key_wrap(keys[2], _CONTACT_KEY), token.storage_key_id, _RECORD)
                channel.retrieve(wrapped, token.storage_key_id, _RECORD)
                _session_refuses(partial(channel.retrieve, wrapped, token.storage_key_id, _OTHER_RECORD))
        left = self._objects() - before
        _expect(left == 0, f"{left} objects are left")

    def _retrieves(self, token: HsmToken) -> str:
        with _session(token) as (channel, keys):
            wrapped = channel.store(aes_key_wrap(keys[2], _CONTACT_KEY), token.storage_key_id, _RECORD)
            before = _memory()
            rounds, rate = _loop(lambda: channel.retrieve(wrapped, token.storage_key_id, _RECORD))
            grown = max(0, _memory() - before) // rounds
        return f"{rate:.0f} a second; this process grew by {grown} bytes with each"

    def _exchanges(self, token: HsmToken) -> str:
        def exchange() -> None:
            ephemeral = token.ephemeral()
            token.sign(_DIGEST)
            ephemeral.agree(peer, _H2).close()

        peer = _uncompressed(_new_key())
        return f"{_loop(exchange)[1]:.0f} a second"


def _expect(holds: object, otherwise: str) -> None:
    if not holds:
        raise _Fails(otherwise)


def _refused(otherwise: str, work: Callable[[], object]) -> None:
    try:
        work()
    except pkcs11.PKCS11Error:
        return
    raise _Fails(otherwise)


def _session_refuses(work: Callable[[], object]) -> None:
    try:
        work()
    except SessionRefused:
        return
    raise _Fails("it is taken")


def _set(key: Any, attribute: Attribute, value: bool) -> None:
    key[attribute] = value


def _check_signature(token: HsmToken) -> None:
    signature = token.sign(_DIGEST)
    _expect(len(signature) == 64, f"a signature has {len(signature)} bytes")
    encoded = encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
    transcript.check_point(token.public_point).verify(encoded, _DIGEST, ec.ECDSA(Prehashed(SHA256())))


@contextmanager
def _session(token: HsmToken) -> Iterator[tuple[HsmChannel, list[bytes]]]:
    """A session's channel, and its four keys as the client has them."""
    private = _new_key()
    ephemeral = token.ephemeral()
    secret = private.exchange(ec.ECDH(), transcript.check_point(ephemeral.point))
    inputs = (transcript.session_key_input(name, _H2) for name in transcript.SESSION_KEYS)
    keys = [profiles.derive(token.profile, secret, data) for data in inputs]
    channel = ephemeral.agree(_uncompressed(private), _H2)
    try:
        yield channel, keys
    finally:
        channel.close()


def _loop(work: Callable[[], object]) -> tuple[int, float]:
    """How many rounds, and how many a second."""
    begun, rounds = time.perf_counter(), 0
    while rounds < LOOP and time.perf_counter() - begun < LOOP_S:
        work()
        rounds += 1
    return rounds, rounds / (time.perf_counter() - begun)


def _memory() -> int:
    """Bytes that this process has in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _uncompressed(private: ec.EllipticCurvePrivateKey) -> bytes:
    return transcript.encode_point(private.public_key())


def _compressed(private: ec.EllipticCurvePrivateKey) -> bytes:
    return private.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)


def _der(private: ec.EllipticCurvePrivateKey) -> bytes:
    return module.POINT_HEADER + _uncompressed(private)


def _off_curve(private: ec.EllipticCurvePrivateKey) -> bytes:
    point = _uncompressed(private)
    return point[:-1] + bytes([point[-1] ^ 1])


_POINTS = (
    ("point_compressed", "the vault refuses compressed points itself; the token", _compressed),
    ("point_der", "the vault refuses points in DER itself; the token", _der),
    ("point_off_curve", "the vault refuses points off the curve itself; the token", _off_curve),
)
