"""The token by itself: what its keys may do, and that the software on the other side derives the same ones."""

import hashlib
import hmac
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pkcs11
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap, aes_key_wrap
from pkcs11 import KDF, Attribute, KeyType, Mechanism, ObjectClass

from ipls.config import TokenConfig
from ipls.hsm.token import pkcs11 as token_module
from ipls.hsm.token.pkcs11 import HsmChannel, HsmToken, TokenKeys, create_token, token_at
from ipls.vault.errors import SessionRefused
from ipls.vault.session import transcript
from tests.hsm.tokens import MODULES, PIN, vault_token

H2 = hashlib.sha256(b"h2").digest()
KEY = bytes(range(32))
RECORD = transcript.record_digest(bytes(16), bytes(32), 1, bytes(16))
DIGEST = hashlib.sha256(b"digest").digest()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("token") / "token"
    create_token(folder, PIN)
    return folder


@pytest.fixture(scope="module", params=MODULES)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path | TokenConfig:
    """A vault's token of each PKCS#11 module."""
    return vault_token(request.param, tmp_path_factory.mktemp("vault") / "token")[0]


@pytest.fixture
def token(place: Path | TokenConfig) -> Iterator[HsmToken]:
    token = HsmToken.open(place, PIN)
    yield token
    token.close()


@pytest.fixture
def observed(place: Path | TokenConfig, token: HsmToken) -> Iterator[Callable[[ObjectClass], list[Any]]]:
    """Every object of a class in the token, as another session of this process sees them."""
    where = token_at(place)
    with pkcs11.lib(str(where.module)).get_token(token_label=where.label).open() as session:
        yield lambda kind: list(session.get_objects({Attribute.CLASS: kind}))


def aes_cbc(secret: bytes, data: bytes) -> bytes:
    encryptor = Cipher(algorithms.AES256(secret), modes.CBC(bytes(16))).encryptor()
    return encryptor.update(data) + encryptor.finalize()


def hkdf(secret: bytes, data: bytes) -> bytes:
    """RFC 5869, one block."""
    return hmac.digest(hmac.digest(bytes(32), secret, "sha256"), data + b"\x01", "sha256")


PROFILES = {"softhsm-aes-cbc": aes_cbc, "hkdf-sha256": hkdf}


def software_keys(token: HsmToken, peer: bytes, private: ec.EllipticCurvePrivateKey, h2: bytes) -> list[bytes]:
    """The four session keys as the protocol's document says that a client makes them."""
    secret = private.exchange(ec.ECDH(), transcript.check_point(peer))
    derive = PROFILES[token.profile]
    return [derive(secret, transcript.session_key_input(name, h2)) for name in transcript.SESSION_KEYS]


def agreed(token: HsmToken, h2: bytes = H2) -> tuple[HsmChannel, list[bytes]]:
    private = ec.generate_private_key(ec.SECP256R1())
    ephemeral = token.ephemeral()
    keys = software_keys(token, ephemeral.point, private, h2)
    return ephemeral.agree(transcript.encode_point(private.public_key()), h2), keys


def test_creating_again_keeps_the_token(folder: Path) -> None:
    with_keys = create_token(folder, PIN)
    assert create_token(folder, PIN) == with_keys
    assert isinstance(with_keys, TokenKeys)
    assert with_keys.public_point != with_keys.transport_point


def test_a_token_begun_and_not_finished_is_begun_again(tmp_path: Path) -> None:
    folder = tmp_path / "token"
    (tmp_path / "token.new" / "objects" / "half").mkdir(parents=True)
    keys = create_token(folder, PIN)
    assert create_token(folder, PIN) == keys
    assert not (tmp_path / "token.new").exists()


def test_a_wrong_pin_opens_nothing(folder: Path) -> None:
    with pytest.raises(pkcs11.PinIncorrect):
        HsmToken.open(folder, PIN + "0")


def test_a_token_that_was_moved_or_copied_is_that_of_its_own_folder(tmp_path: Path) -> None:
    """SoftHSM is told its folder in full: a copy must not lead to the token that it was made from."""
    keys = create_token(tmp_path / "made", PIN)
    (tmp_path / "made").rename(tmp_path / "moved")
    shutil.copytree(tmp_path / "moved", tmp_path / "copied")
    for folder in (tmp_path / "moved", tmp_path / "copied"):
        with closing(HsmToken.open(folder, PIN)) as token:
            assert token.public_point == keys.public_point
        token_files = folder / "objects"
        token_files.rename(tmp_path / "elsewhere")
        token_files.mkdir()
        with pytest.raises(pkcs11.PKCS11Error):
            HsmToken.open(folder, PIN)
        token_files.rmdir()
        (tmp_path / "elsewhere").rename(token_files)


def test_nobody_else_reads_its_files(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


def test_the_fleet_key_signs(token: HsmToken) -> None:
    signature = token.sign(DIGEST)
    assert len(signature) == 64
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    public, encoded = transcript.check_point(token.public_point), encode_dss_signature(r, s)
    public.verify(encoded, DIGEST, ec.ECDSA(Prehashed(SHA256())))
    with pytest.raises(InvalidSignature):
        public.verify(encoded, hashlib.sha256(DIGEST).digest(), ec.ECDSA(Prehashed(SHA256())))


def test_both_sides_derive_four_different_keys(token: HsmToken) -> None:
    channel, keys = agreed(token)
    c2v_mac, v2c_mac, c2v_wrap, v2c_wrap = keys
    assert len(set(keys)) == 4
    assert channel.mac_c2v(DIGEST) == hmac.digest(c2v_mac, DIGEST, "sha256")
    assert channel.mac_v2c(DIGEST) == hmac.digest(v2c_mac, DIGEST, "sha256")
    wrapped = channel.store(aes_key_wrap(c2v_wrap, KEY), token.storage_key_id, RECORD)
    assert aes_key_unwrap(v2c_wrap, channel.retrieve(wrapped, token.storage_key_id, RECORD)) == KEY
    channel.close()


def test_every_key_changes_with_any_bit_of_the_transcript(token: HsmToken) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    seen: set[bytes] = set()
    for bit in range(0, 256, 5):
        h2 = bytearray(H2)
        h2[bit // 8] ^= 1 << bit % 8
        ephemeral = token.ephemeral()
        channel = ephemeral.agree(transcript.encode_point(private.public_key()), bytes(h2))
        keys = software_keys(token, ephemeral.point, private, bytes(h2))
        seen.update(keys)
        before = software_keys(token, ephemeral.point, private, H2)
        assert not set(before) & set(keys)
        assert channel.mac_c2v(DIGEST) != hmac.digest(before[0], DIGEST, "sha256")
        assert channel.mac_v2c(DIGEST) != hmac.digest(before[1], DIGEST, "sha256")
        with pytest.raises(SessionRefused):
            channel.store(aes_key_wrap(before[2], KEY), token.storage_key_id, RECORD)
        wrapped = channel.store(aes_key_wrap(keys[2], KEY), token.storage_key_id, RECORD)
        assert channel.retrieve(wrapped, token.storage_key_id, RECORD) != aes_key_wrap(before[3], KEY)
        channel.close()
    assert len(seen) == 4 * len(range(0, 256, 5))


def test_a_record_moved_elsewhere_does_not_unwrap(token: HsmToken) -> None:
    channel, keys = agreed(token)
    place: dict[str, Any] = {
        "storage_key_id": token.storage_key_id,
        "account": b"a" * 32,
        "generation": 3,
        "store_id": b"s" * 16,
    }
    wrapped = channel.store(aes_key_wrap(keys[2], KEY), token.storage_key_id, transcript.record_digest(**place))
    moves: dict[str, Any] = {"storage_key_id": bytes(16), "account": b"b" * 32, "generation": 4, "store_id": b"t" * 16}
    for field, elsewhere in moves.items():
        with pytest.raises(SessionRefused) as refused:
            channel.retrieve(wrapped, token.storage_key_id, transcript.record_digest(**{**place, field: elsewhere}))
        assert refused.value.reason == "VAULT_RECORD_REFUSED"
    assert (
        aes_key_unwrap(keys[3], channel.retrieve(wrapped, token.storage_key_id, transcript.record_digest(**place)))
        == KEY
    )
    channel.close()


@pytest.mark.parametrize("size", [16, 24, 40])
def test_keys_of_other_lengths_are_refused(token: HsmToken, size: int) -> None:
    """Honestly wrapped ones, of 24, 32 and 48 bytes: the token would take the first two."""
    channel, keys = agreed(token)
    blob = aes_key_wrap(keys[2], bytes(size))
    assert len(blob) == size + 8
    with pytest.raises(SessionRefused) as refused:
        channel.store(blob, token.storage_key_id, RECORD)
    assert refused.value.reason == "VAULT_BLOB_REFUSED"
    channel.close()


def test_a_blob_wrapped_for_the_other_direction_is_refused(token: HsmToken) -> None:
    channel, keys = agreed(token)
    with pytest.raises(SessionRefused):
        channel.store(aes_key_wrap(keys[3], KEY), token.storage_key_id, RECORD)
    channel.close()


def test_all_that_a_session_made_is_destroyed(token: HsmToken, observed: Callable[[ObjectClass], list[Any]]) -> None:
    kinds = ObjectClass.SECRET_KEY, ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY
    before = [len(observed(kind)) for kind in kinds]
    assert before == [2, 2, 2]
    channel, keys = agreed(token)
    assert [len(observed(kind)) for kind in kinds] == [6, 2, 2]
    wrapped = channel.store(aes_key_wrap(keys[2], KEY), token.storage_key_id, RECORD)
    channel.retrieve(wrapped, token.storage_key_id, RECORD)
    for refused in (
        lambda: channel.store(bytes(40), token.storage_key_id, RECORD),
        lambda: channel.retrieve(bytes(40), token.storage_key_id, RECORD),
    ):
        with pytest.raises(SessionRefused):
            refused()
    assert [len(observed(kind)) for kind in kinds] == [6, 2, 2]
    channel.close()
    channel.close()
    unused = token.ephemeral()
    unused.close()
    failing = token.ephemeral()
    with pytest.raises(pkcs11.PKCS11Error):
        failing.agree(b"\x04" + bytes(64), H2)
    assert [len(observed(kind)) for kind in kinds] == before


def test_no_key_leaves_the_token(token: HsmToken, observed: Callable[[ObjectClass], list[Any]]) -> None:
    channel, _ = agreed(token)
    secrets, privates = observed(ObjectClass.SECRET_KEY), observed(ObjectClass.PRIVATE_KEY)
    assert len(secrets) == 6
    wrapping = next(key for key in secrets if key[Attribute.WRAP])
    for key in [*secrets, *privates]:
        assert key[Attribute.PRIVATE]
        assert key[Attribute.SENSITIVE]
        assert not key[Attribute.EXTRACTABLE]
        assert not key[Attribute.MODIFIABLE]
        with pytest.raises(pkcs11.AttributeSensitive):
            key[Attribute.VALUE]
        with pytest.raises(pkcs11.PKCS11Error):
            wrapping.wrap_key(key, mechanism=Mechanism.AES_KEY_WRAP)
        with pytest.raises(pkcs11.PKCS11Error):
            key[Attribute.EXTRACTABLE] = True
    channel.close()


def test_the_contact_key_is_sensitive_and_can_only_be_wrapped(token: HsmToken, monkeypatch: pytest.MonkeyPatch) -> None:
    wrap, seen = token_module._wrap, []

    def spy(wrapping: Any, key: Any) -> bytes:
        uses = Attribute.ENCRYPT, Attribute.DECRYPT, Attribute.SIGN, Attribute.WRAP, Attribute.UNWRAP, Attribute.DERIVE
        seen.append((key[Attribute.PRIVATE], key[Attribute.SENSITIVE], any(key[use] for use in uses)))
        with pytest.raises(pkcs11.AttributeSensitive):
            key[Attribute.VALUE]
        return wrap(wrapping, key)

    monkeypatch.setattr(token_module, "_wrap", spy)
    channel, keys = agreed(token)
    channel.retrieve(
        channel.store(aes_key_wrap(keys[2], KEY), token.storage_key_id, RECORD), token.storage_key_id, RECORD
    )
    channel.close()
    assert seen == [(True, True, False)] * 2


def test_each_key_serves_one_mechanism(token: HsmToken, observed: Callable[[ObjectClass], list[Any]]) -> None:
    by_label = {key.label: key for kind in (ObjectClass.SECRET_KEY, ObjectClass.PRIVATE_KEY) for key in observed(kind)}
    assert set(by_label) == {"fleet", "transport", "storage root", "log"}
    agree = (KDF.NULL, None, token.public_point)
    forbidden: list[Callable[[], object]] = [
        lambda: by_label["fleet"].derive_key(KeyType.AES, 256, mechanism=Mechanism.ECDH1_DERIVE, mechanism_param=agree),
        lambda: by_label["transport"].sign(DIGEST, mechanism=Mechanism.ECDSA),
        lambda: by_label["storage root"].encrypt(KEY, mechanism=Mechanism.AES_ECB),
        lambda: by_label["storage root"].derive_key(
            KeyType.AES, 256, mechanism=Mechanism.AES_ECB_ENCRYPT_DATA, mechanism_param=DIGEST
        ),
        lambda: by_label["log"].sign(DIGEST, mechanism=Mechanism.SHA512_HMAC),
    ]
    for use in forbidden:
        with pytest.raises((pkcs11.PKCS11Error, AttributeError)):  # the library has no method without its capability
            use()
    assert len(by_label["log"].sign(DIGEST, mechanism=Mechanism.SHA256_HMAC)) == 32


def test_of_two_that_write_the_anchor_at_once_one_finds_the_other(token: HsmToken) -> None:
    """Both have found what they expected; the other's is there before this one looks again."""
    token.replace_anchor(7, [], b"first")
    create = token._session.create_object

    class Meanwhile:
        """The session, in which another process of the token writes right before this one."""

        def __getattr__(self, name: str) -> Any:
            return getattr(session, name)

        def create_object(self, template: dict[Attribute, Any]) -> Any:
            create(template | {Attribute.VALUE: b"the other's"})
            return create(template)

    session, token._session = token._session, Meanwhile()
    with pytest.raises(SessionRefused) as refused:
        token.replace_anchor(7, [b"first"], b"this one's")
    token._session = session
    assert refused.value.reason == "VAULT_ANCHOR_MOVED"
    assert sorted(token.anchors(7)) == [b"first", b"the other's"]
