"""The derivation profiles: the same keys by software and in tokens, and by OpenSSL's command line (the vectors)."""

import hmac
import json
from pathlib import Path
from typing import Any

import pytest
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass

from ipls.config import ConfigError
from ipls.hsm.token import module
from ipls.hsm.token.derivation import by_profile
from ipls.hsm.token.pkcs11 import create_keys
from ipls.vault.errors import SessionRefused
from ipls.vault.session import transcript
from ipls.vault.session.profiles import HKDF_SHA256, SOFTHSM_AES_CBC, derive
from ipls.vault.state.journal import account_key
from tests.hsm.tokens import PIN, kryoptic_token, softhsm_token

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "vectors/vault_profiles.json").read_text())
SECRET, H2 = bytes.fromhex(VECTORS["secret"]), bytes.fromhex(VECTORS["h2"])
INPUTS = {name: bytes.fromhex(data) for name, data in VECTORS["inputs"].items()}


def test_the_vectors_inputs_are_the_transcripts() -> None:
    ids = bytes.fromhex(VECTORS["root_id"]), bytes.fromhex(VECTORS["store_id"])
    made = {name: transcript.session_key_input(name, H2) for name in transcript.SESSION_KEYS}
    made["record"] = transcript.record_digest(ids[0], account_key(VECTORS["label"]), VECTORS["generation"], ids[1])
    assert made == INPUTS


@pytest.mark.parametrize("profile", [HKDF_SHA256, SOFTHSM_AES_CBC])
def test_software_derives_the_vectors(profile: str) -> None:
    assert {name: derive(profile, SECRET, data).hex() for name, data in INPUTS.items()} == VECTORS["keys"][profile]


def test_no_two_keys_are_equal() -> None:
    keys = [key for profile in VECTORS["keys"].values() for key in profile.values()]
    assert len(set(keys)) == len(keys) == 10


@pytest.mark.parametrize("profile", ["", "raw", "HKDF-SHA256", "hkdf-sha256 "])
def test_another_name_is_no_profile(profile: str) -> None:
    with pytest.raises(SessionRefused) as refused:
        derive(profile, SECRET, H2)
    assert refused.value.reason == "VAULT_PROFILE_UNKNOWN"


@pytest.mark.parametrize(
    ("name", "profile"),
    [("softhsm", SOFTHSM_AES_CBC), ("kryoptic", SOFTHSM_AES_CBC), ("kryoptic", HKDF_SHA256)],
)
def test_a_token_derives_the_vectors(name: str, profile: str, kryoptic: Path, tmp_path: Path) -> None:
    """What it derives can't be read: each key shows by the HMAC that it makes."""
    folder = tmp_path / "token"
    place = softhsm_token(folder) if name == "softhsm" else kryoptic_token(kryoptic, folder)
    derivation = by_profile(profile)
    library = module.initialise(place)
    with module.open_session(place, library, PIN) as session:
        secret = session.create_object(
            {
                Attribute.CLASS: ObjectClass.SECRET_KEY,
                Attribute.KEY_TYPE: derivation.base,
                Attribute.TOKEN: False,
                Attribute.DERIVE: True,
                Attribute.VALUE: SECRET,
            }
        )
        for key, data in INPUTS.items():
            made = derivation.derive(secret, data, KeyType.GENERIC_SECRET, MechanismFlag.SIGN, Mechanism.SHA256_HMAC)
            expected = hmac.digest(bytes.fromhex(VECTORS["keys"][profile][key]), b"message", "sha256")
            assert made.sign(b"message", mechanism=Mechanism.SHA256_HMAC) == expected, key
    library.finalize()


def test_a_tokens_keys_are_made_once(kryoptic: Path, tmp_path: Path) -> None:
    """Neither the same again nor another profile's beside them."""
    place = kryoptic_token(kryoptic, tmp_path / "token")
    assert create_keys(place, PIN, HKDF_SHA256).profile == HKDF_SHA256
    for profile in (HKDF_SHA256, SOFTHSM_AES_CBC):
        with pytest.raises(ConfigError) as refused:
            create_keys(place, PIN, profile)
        assert refused.value.reason == "TOKEN_KEY_EXISTS"
