"""A witness's key in a real token, of two PKCS#11 modules: it signs, and nothing takes it out."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pkcs11
import pytest
from pkcs11 import Attribute, ObjectClass

from ipls.config import ConfigError, TokenConfig, WitnessConfig, WitnessTokenConfig
from ipls.crypto.keys import public_key, verify
from ipls.hsm.token import module, softhsm
from ipls.hsm.token.signing import SigningToken, make_token_key, witness_signers
from tests.hsm.tokens import MODULES, PIN, bare_token, pin_file, softhsm_token

FILE_SEED = bytes([7]) * 32


class Keys(NamedTuple):
    """A token with two keys: where it is, and the keys' public halves."""

    place: Path | TokenConfig
    public: dict[str, bytes]


@pytest.fixture(scope="module", params=MODULES)
def keys(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Keys:
    place = bare_token(request.param, tmp_path_factory.mktemp("token") / "token")
    return Keys(place, {label: make_token_key(place, PIN, label) for label in ("old", "new")})


@pytest.fixture
def token(keys: Keys) -> Iterator[SigningToken]:
    with closing(SigningToken(keys.place, PIN)) as token:
        yield token


def test_each_key_signs_for_itself_whoever_calls(token: SigningToken, keys: Keys) -> None:
    signers = {label: token.signer(label) for label in keys.public}
    assert {label: signer.public_key for label, signer in signers.items()} == keys.public
    messages = [b"message %d" % n for n in range(40)]
    with ThreadPoolExecutor(8) as pool:
        for label, signer in signers.items():
            for message, signature in zip(messages, pool.map(signer.sign, messages), strict=True):
                verify(keys.public[label], message, signature)


def test_the_private_half_is_sensitive_and_never_leaves(token: SigningToken, keys: Keys) -> None:
    def look() -> None:
        place = softhsm.token_at(keys.place, "ipls witness")
        with pkcs11.lib(str(place.module)).get_token(token_label=place.label).open(rw=True) as session:
            (private,) = module.find(session, ObjectClass.PRIVATE_KEY, "old")
            assert (private[Attribute.SENSITIVE], private[Attribute.EXTRACTABLE]) == (True, False)
            assert (private[Attribute.PRIVATE], private[Attribute.MODIFIABLE]) == (True, False)
            assert (private[Attribute.ALWAYS_SENSITIVE], private[Attribute.NEVER_EXTRACTABLE]) == (True, True)
            with pytest.raises(pkcs11.AttributeSensitive):
                private[Attribute.VALUE]
            with pytest.raises(pkcs11.PKCS11Error):
                private[Attribute.EXTRACTABLE] = True
            assert not private[Attribute.EXTRACTABLE]

    token.run(look)


def refused(place: Path | TokenConfig, pin: str, label: str) -> str:
    with pytest.raises(ConfigError) as e, closing(SigningToken(place, pin)) as token:
        token.signer(label)
    return e.value.reason


def test_what_can_t_be_used_is_named(keys: Keys) -> None:
    assert refused(keys.place, "wrong", "old") == "TOKEN_UNUSABLE"
    assert refused(keys.place, PIN, "other") == "TOKEN_KEY_MISSING"
    with pytest.raises(ConfigError) as e:
        make_token_key(keys.place, PIN, "old")
    assert e.value.reason == "TOKEN_KEY_EXISTS"


def test_a_token_that_is_not_there_is_named(tmp_path: Path) -> None:
    there = softhsm_token(tmp_path / "token")
    no_library = there.model_copy(update={"module": tmp_path / "none.so"})
    no_token = there.model_copy(update={"label": "none"})
    for place in (tmp_path / "none", no_library, no_token):
        assert refused(place, PIN, "old") == "TOKEN_UNUSABLE"
    with pytest.raises(ConfigError) as e:
        make_token_key(no_token, PIN, "old")
    assert e.value.reason == "TOKEN_UNUSABLE"


@pytest.mark.parametrize("point", [b"\x04\x41" + bytes(63), b"\x04\x20" + bytes(30)])
def test_a_point_is_read_with_its_header_and_without(point: bytes) -> None:
    """Also one that begins as a header does."""
    assert module.raw_point(point) == module.raw_point(bytes([4, len(point)]) + point) == point


def test_a_witness_signs_with_keys_in_a_file_and_in_the_token(keys: Keys, tmp_path: Path) -> None:
    (tmp_path / "key").touch(0o600)
    (tmp_path / "key").write_text(FILE_SEED.hex() + "\n")
    config = WitnessConfig(
        http_listen="127.0.0.1:0",
        name="w1",
        database=tmp_path / "w.db",
        watermark=tmp_path / "w.mark",
        key=tmp_path / "key",
        token=WitnessTokenConfig(place=keys.place, pin=pin_file(tmp_path), keys=("new", "old")),
    )
    with witness_signers(config) as signers:
        assert [s.public_key for s in signers] == [public_key(FILE_SEED), keys.public["new"], keys.public["old"]]
        for signer in signers:
            verify(signer.public_key, b"message", signer.sign(b"message"))
    (tmp_path / "pin").chmod(0o644)
    with pytest.raises(ConfigError) as e, witness_signers(config):
        pass
    assert e.value.reason == "KEY_FILE_OPEN"
