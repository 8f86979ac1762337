"""Linking a device: contacts.md, Linking (docs/protocol/contacts.md). Both sides. Pure; random bytes aside.

The device that has the contacts is the `Inviter`: it shows a link code, which the new one, the `Joiner`, reads. What
they send each other lies in a slot of the contact store, which gives a slot to one hello, and for ten minutes. The six
digits that a person carries from one to the other can't be searched for by who stands between with the link code: the
old device's part of them is made after the hello, and the new one's, which its hello commits to, is opened after that.
"""

import hmac
import os
import re
import struct
from base64 import b32decode, b32encode
from functools import partial
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ipls.contacts import kem
from ipls.contacts.errors import LineError, LinkError
from ipls.contacts.kem import KemKey
from ipls.contacts.names import is_shown_as_it_is
from ipls.crypto.codes import read_code
from ipls.crypto.encoding import tagged_hash
from ipls.crypto.errors import SignatureRefused
from ipls.crypto.keys import SIGNATURE_BYTES, SeedSigner, Signer, verify
from ipls.trust.errors import IdentityRefused
from ipls.trust.identity import check_label
from ipls.trust.root import MAX_FILE

SECRET_BYTES = 32
MAX_HELLO = 8192
"""Bytes that a slot takes for a hello."""
MAX_NAME, MAX_PLATFORM = 128, 64
"""Bytes of UTF-8."""
SHORT_CODE_DIGITS = 6
MAX_WRONG = 3
"""Wrong short codes, after which nobody is linked by the link code."""

_DOMAIN = "ipls/link/v1 "
_LINK_CODE = re.compile(r"(\+[0-9]{1,15}):([A-Z2-7]{52})")
_NONCE_BYTES = 12
_TAG_BYTES = 16
_P_BYTES = 16
_R_BYTES = 32
_VERSION = 1
_HELLO = struct.Struct(f">B32s{kem.PUBLIC_BYTES}s32sB")
_PACKAGE = struct.Struct(">B32sQ16sQ32sQ32s")
MAX_PACKAGE = kem.SEALED_OVERHEAD + _PACKAGE.size + MAX_FILE + SIGNATURE_BYTES
"""Bytes of a sealed package."""


class LinkCode(NamedTuple):
    """What the old device shows as a QR: the account's number, and 32 random bytes that are known to who sees it."""

    label: str
    secret: bytes

    @classmethod
    def new(cls, label: str) -> "LinkCode":
        """One that nobody has seen."""
        return cls(label, os.urandom(SECRET_BYTES))

    @classmethod
    def parse(cls, text: str) -> "LinkCode":
        """The inverse of `text`, also of one that was broken into lines. Raises LinkError LINK_CODE_INVALID."""
        label, secret = read_code(text, "LINK", "link code", _LINK_CODE, partial(LinkError, "LINK_CODE_INVALID"))
        code = cls(label, b32decode(secret + "===="))
        if not code.text.endswith(secret):  # bits beyond the last byte
            raise LinkError("LINK_CODE_INVALID", "a character of the link code is wrong")
        return code

    @property
    def text(self) -> str:
        """In characters of a QR's alphanumeric mode. Raises LinkError LINK_CODE_INVALID for what is no number."""
        try:
            check_label(self.label)
        except IdentityRefused as e:
            raise LinkError("LINK_CODE_INVALID", e.message) from e
        return f"IPLS-LINK:1:{self.label}:{b32encode(self.secret).decode().rstrip('=')}"

    @property
    def slot(self) -> bytes:
        """Where the two devices meet at the contact store: 32 bytes, which say nothing of the secret."""
        return tagged_hash(_DOMAIN + "slot", self.secret)


class Hello(NamedTuple):
    """The new device: its Ed25519 key, its KEM key, the commitment to its part of the short code, and what it says that
    it is called and runs on."""

    key: bytes
    kem_key: bytes
    commitment: bytes  # 32 bytes
    name: str
    platform: str

    def encode(self) -> bytes:
        """Its one encoding. Raises LinkError DEVICE_NAME_INVALID."""
        name, platform = _check_text(self.name, MAX_NAME), _check_text(self.platform, MAX_PLATFORM)
        return _HELLO.pack(_VERSION, self.key, self.kem_key, self.commitment, len(name)) + name + platform

    @classmethod
    def decode(cls, data: bytes) -> "Hello":
        """The inverse. Raises LinkError LINK_HELLO_INVALID, DEVICE_NAME_INVALID."""
        try:
            version, key, kem_key, commitment, length = _HELLO.unpack_from(data)
            name, platform = data[_HELLO.size :][:length].decode(), data[_HELLO.size + length :].decode()
        except (struct.error, UnicodeDecodeError):
            raise LinkError("LINK_HELLO_INVALID", "what the new device sent can't be read") from None
        if version != _VERSION:
            raise LinkError("LINK_HELLO_INVALID", "the new device links by another version than this one knows")
        hello = cls(key, kem_key, commitment, name, platform)
        if hello.encode() != data:  # cut off within its name
            raise LinkError("LINK_HELLO_INVALID", "what the new device sent can't be read")
        return hello


class Package(NamedTuple):
    """What a linked device begins with: whom it trusts, whose contacts they are, where their line stood when the
    device was listed, and the key that they are sealed under."""

    trust_root: bytes  # the file's bytes
    identity_key: bytes  # 32 bytes
    identity_version: int
    line_seed: bytes  # the 16 bytes that the line's id is made of
    n: int  # of the commit that lists the device
    chain: bytes  # chain_n, 32 bytes
    generation: int
    contact_key: bytes  # 32 bytes

    def encode(self) -> bytes:
        """Its one encoding."""
        return _PACKAGE.pack(_VERSION, *self[1:]) + self.trust_root

    @classmethod
    def decode(cls, data: bytes) -> "Package":
        """The inverse. Raises LinkError LINK_PACKAGE_INVALID."""
        try:
            version, *fields = _PACKAGE.unpack_from(data)
        except struct.error:
            raise LinkError("LINK_PACKAGE_INVALID", "what the other device sent is cut off") from None
        if version != _VERSION:
            raise LinkError("LINK_PACKAGE_INVALID", "the other device links by another version than this one knows")
        return cls(data[_PACKAGE.size :], *fields)


def seal_hello(code: LinkCode, device: Signer, hello: Hello, nonce: bytes | None = None) -> bytes:
    """The hello with the new device's signature, readable to who has the code. Raises LinkError DEVICE_NAME_INVALID."""
    data = hello.encode()
    return _seal(code, "hello", data + device.sign(_hello_digest(code, data)), nonce)


def open_hello(code: LinkCode, sealed: bytes) -> Hello:
    """The inverse. Raises LinkError LINK_HELLO_INVALID: not by this code, for another slot, altered, not signed by its
    own key, with a KEM key that is none, or over MAX_HELLO; DEVICE_NAME_INVALID."""
    if len(sealed) > MAX_HELLO:
        raise LinkError("LINK_HELLO_INVALID", f"a hello has {MAX_HELLO} bytes at most")
    content = _open(code, "hello", sealed, "LINK_HELLO_INVALID")
    data, signature = content[:-SIGNATURE_BYTES], content[-SIGNATURE_BYTES:]
    hello = Hello.decode(data)
    _check_signature(hello.key, _hello_digest(code, data), signature, "LINK_HELLO_INVALID")
    try:
        kem.seal_to(hello.kem_key, b"", b"")  # what can't be sealed to is found before a person is asked
    except LineError as e:
        raise LinkError("LINK_HELLO_INVALID", e.message) from e
    return hello


def seal_answer(code: LinkCode, p: bytes, nonce: bytes | None = None) -> bytes:
    """The old device's 16 random bytes, made when it had the hello."""
    return _seal(code, "answer", p, nonce)


def open_answer(code: LinkCode, sealed: bytes) -> bytes:
    """The inverse. Raises LinkError LINK_ANSWER_INVALID."""
    p = _open(code, "answer", sealed, "LINK_ANSWER_INVALID")
    if len(p) != _P_BYTES:
        raise LinkError("LINK_ANSWER_INVALID", "what the other device answered can't be read")
    return p


def commit(code: LinkCode, r: bytes) -> bytes:
    """What a hello says of the new device's 32 random bytes, while they are secret: 32 bytes, for this slot alone."""
    return tagged_hash(_DOMAIN + "commitment", code.slot, r)


def seal_opening(code: LinkCode, r: bytes, nonce: bytes | None = None) -> bytes:
    """The new device's 32 random bytes, told when it had the answer."""
    return _seal(code, "opening", r, nonce)


def open_opening(code: LinkCode, hello: Hello, sealed: bytes) -> bytes:
    """The inverse. Raises LinkError LINK_OPENING_INVALID, also for bytes that the hello does not commit to."""
    r = _open(code, "opening", sealed, "LINK_OPENING_INVALID")
    if len(r) != _R_BYTES or commit(code, r) != hello.commitment:
        raise LinkError("LINK_OPENING_INVALID", "the new device did not open what it had committed to")
    return r


class Exchange(NamedTuple):
    """All that both devices have said, before the package."""

    code: LinkCode
    hello: Hello
    p: bytes
    r: bytes

    @property
    def short_code(self) -> str:
        """The six digits that the new device shows, and that a person types into the old one."""
        digest = self._digest("code")
        return f"{int.from_bytes(digest[:8], 'big') % 10**SHORT_CODE_DIGITS:0{SHORT_CODE_DIGITS}}"

    @property
    def transcript(self) -> bytes:
        """What the package is bound to, 32 bytes."""
        return self._digest("transcript")

    def seal_package(self, identity: Signer, package: Package) -> bytes:
        """The package with the identity's signature, to the new device's KEM key."""
        data = package.encode()
        return kem.seal_to(self.hello.kem_key, self._info, data + identity.sign(self._package_digest(data)))

    def open_package(self, device: KemKey, sealed: bytes) -> Package:
        """The inverse. That the label's history ends in its identity key is yet to be seen.

        Raises LinkError LINK_PACKAGE_INVALID: to another device, of another exchange, altered, not signed by the
        identity that it names, or over MAX_PACKAGE.
        """
        if len(sealed) > MAX_PACKAGE:
            raise LinkError("LINK_PACKAGE_INVALID", f"a package has {MAX_PACKAGE} bytes at most")
        try:
            content = device.open(self._info, sealed)
        except LineError as e:
            raise LinkError("LINK_PACKAGE_INVALID", e.message) from e
        data, signature = content[:-SIGNATURE_BYTES], content[-SIGNATURE_BYTES:]
        package = Package.decode(data)
        _check_signature(package.identity_key, self._package_digest(data), signature, "LINK_PACKAGE_INVALID")
        return package

    @property
    def _info(self) -> bytes:
        return f"{_DOMAIN}package".encode() + self.transcript

    def _digest(self, name: str) -> bytes:
        return tagged_hash(_DOMAIN + name, self.code.secret, self.hello.encode(), self.p, self.r)

    def _package_digest(self, data: bytes) -> bytes:
        return tagged_hash(_DOMAIN + "package", self.transcript, data)


class Inviter:
    """The old device's side, in this order: admit, answer, on_opening, confirm, package. It lists the device when it
    has confirmed.

    Its link code links one device, or none.
    """

    def __init__(self, code: LinkCode) -> None:
        self.code = code
        self._admitted: tuple[bytes, Hello] | None = None
        self._p = b""
        self._answer = b""
        self._exchange: Exchange | None = None
        self._wrong = 0
        self._confirmed = False

    def admit(self, sealed: bytes) -> Hello:
        """Who wants to be linked, to be named to the person. The first hello alone is taken, as often as it comes.

        Raises LinkError LINK_HELLO_INVALID, DEVICE_NAME_INVALID, LINK_SLOT_TAKEN.
        """
        if self._admitted is None:
            # p is made when the hello is there: no hello can be searched for that gives a wanted code.
            self._admitted, self._p = (sealed, open_hello(self.code, sealed)), os.urandom(_P_BYTES)
            self._answer = seal_answer(self.code, self._p)
        if self._admitted[0] != sealed:
            raise LinkError("LINK_SLOT_TAKEN", "another device had used this link code before: make a new one")
        return self._admitted[1]

    @property
    def answer(self) -> bytes:
        """What the new device makes its short code of, sealed. Raises LinkError LINK_NOT_CONFIRMED."""
        self._hello()
        return self._answer

    def on_opening(self, sealed: bytes) -> None:
        """Takes what the new device opens when it has the answer; as often as it comes.

        Raises LinkError LINK_OPENING_INVALID, after which another may come; LINK_NOT_CONFIRMED before a hello.
        """
        hello = self._hello()
        self._exchange = Exchange(self.code, hello, self._p, open_opening(self.code, hello, sealed))

    def confirm(self, typed: str) -> None:
        """Takes what the person read off the new device; blanks in it don't count.

        Raises LinkError: SHORT_CODE_WRONG, which may be tried again; LINK_CODE_BURNT from the third wrong one on;
        LINK_NOT_CONFIRMED before the new device has opened its part.
        """
        exchange = self._opened()
        if self._wrong >= MAX_WRONG:
            raise _burnt()
        digits = "".join(typed.split())
        if len(digits) != SHORT_CODE_DIGITS or not digits.isdecimal():  # no guess
            raise LinkError("SHORT_CODE_WRONG", f"the code has {SHORT_CODE_DIGITS} digits")
        if not hmac.compare_digest(f"{int(digits):0{SHORT_CODE_DIGITS}}", exchange.short_code):
            self._wrong += 1
            if self._wrong >= MAX_WRONG:
                raise _burnt()
            raise LinkError("SHORT_CODE_WRONG", "that is not the code that belongs to this device")
        self._confirmed = True

    def package(self, identity: Signer, package: Package) -> bytes:
        """The package, sealed to the device that was confirmed. Raises LinkError LINK_NOT_CONFIRMED."""
        if not self._confirmed:
            raise LinkError("LINK_NOT_CONFIRMED", "nobody has confirmed the new device")
        return self._opened().seal_package(identity, package)

    def _hello(self) -> Hello:
        if self._admitted is None:
            raise LinkError("LINK_NOT_CONFIRMED", "no device has used this link code yet")
        return self._admitted[1]

    def _opened(self) -> Exchange:
        if self._exchange is None:
            raise LinkError("LINK_NOT_CONFIRMED", "no device shows a code for this link code yet")
        return self._exchange


class Joiner:
    """The new device's side: `hello`, on_answer, `opening`, on_package. Its keys are new where none are given.

    Raises LinkError DEVICE_NAME_INVALID for a name or platform that can't be shown.
    """

    def __init__(
        self, code: LinkCode, name: str, platform: str, seed: bytes | None = None, kem_secret: bytes | None = None
    ) -> None:
        """`seed`: of its Ed25519 key."""
        self.code = code
        self.seed = seed or os.urandom(32)
        self.kem = KemKey(kem_secret)
        device = SeedSigner(self.seed)
        self._r = os.urandom(_R_BYTES)
        self._hello = Hello(device.public_key, self.kem.public, commit(code, self._r), name, platform)
        self._exchange: Exchange | None = None
        self._opening = seal_opening(code, self._r)
        self.hello = seal_hello(code, device, self._hello)
        """Sealed, for the slot: the same bytes as often as it is sent."""

    def on_answer(self, sealed: bytes) -> str:
        """The short code to show. Raises LinkError LINK_ANSWER_INVALID, also for another answer than the first."""
        exchange = Exchange(self.code, self._hello, open_answer(self.code, sealed), self._r)
        if self._exchange not in (None, exchange):
            raise LinkError("LINK_ANSWER_INVALID", "the other device answered twice, each time otherwise")
        self._exchange = exchange
        return exchange.short_code

    @property
    def opening(self) -> bytes:
        """Its part of the short code, sealed. Raises LinkError LINK_ANSWER_INVALID before the answer: who knew it then
        would look for an answer that gives a wanted code."""
        if self._exchange is None:
            raise LinkError("LINK_ANSWER_INVALID", "the other device has not answered yet")
        return self._opening

    def on_package(self, sealed: bytes) -> Package:
        """See `Exchange.open_package`. Raises LinkError LINK_PACKAGE_INVALID."""
        if self._exchange is None:
            raise LinkError("LINK_PACKAGE_INVALID", "it came before the other device's answer")
        return self._exchange.open_package(self.kem, sealed)


def _hello_digest(code: LinkCode, data: bytes) -> bytes:
    return tagged_hash(_DOMAIN + "hello", code.slot, data)


def _key(code: LinkCode, name: str) -> AESGCM:
    return AESGCM(HKDF(SHA256(), 32, salt=None, info=f"{_DOMAIN}{name}".encode()).derive(code.secret))


def _seal(code: LinkCode, name: str, content: bytes, nonce: bytes | None) -> bytes:
    """nonce || AES-256-GCM, for this slot; the nonce is random where none is given."""
    nonce = nonce or os.urandom(_NONCE_BYTES)
    return nonce + _key(code, name).encrypt(nonce, content, code.slot)


def _open(code: LinkCode, name: str, sealed: bytes, reason: str) -> bytes:
    nonce, rest = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
    try:
        if len(rest) < _TAG_BYTES:
            raise InvalidTag
        return _key(code, name).decrypt(nonce, rest, code.slot)
    except InvalidTag:
        raise LinkError(reason, "what the other device sent does not open: by another link code, or altered") from None


def _check_signature(key: bytes, digest: bytes, signature: bytes, reason: str) -> None:
    try:
        verify(key, digest, signature)
    except SignatureRefused as e:
        raise LinkError(reason, f"what the other device sent is not signed by it: {e.message}") from e


def _check_text(text: str, limit: int) -> bytes:
    """In UTF-8."""
    if not is_shown_as_it_is(text, limit):
        message = f"a device's name has 1 to {MAX_NAME} bytes, its platform {MAX_PLATFORM}, without control characters"
        raise LinkError("DEVICE_NAME_INVALID", message)
    return text.encode()


def _burnt() -> LinkError:
    return LinkError("LINK_CODE_BURNT", f"{MAX_WRONG} wrong codes: nobody is linked; make a new link code")
