"""What is done for a witness by hand. Its signatures on documents: test_bundles.py and test_trust_roots.py."""

from contextlib import closing
from pathlib import Path

import pytest

from ipls.admin.witness import genesis, make_key
from ipls.config import ConfigError, WitnessConfig
from ipls.hsm.token.signing import SigningToken, make_token_key
from ipls.store.witness import open_witness_store
from tests.hsm.tokens import MODULES, PIN, bare_token, pin_file
from tests.trust.roots import make_root


@pytest.mark.parametrize("module", MODULES)
def test_no_pin_is_made_for_a_token_that_has_one(module: str, tmp_path: Path) -> None:
    """It would be the wrong one."""
    place, pin = bare_token(module, tmp_path / "token"), tmp_path / "pin"
    make_token_key(place, PIN, "first")
    with pytest.raises(ConfigError):
        make_key(place, pin, "third")
    assert not pin.exists()
    public = make_key(place, pin_file(tmp_path), "third")
    with closing(SigningToken(place, PIN)) as opened:
        assert opened.signer("third").public_key == public


def test_a_folder_without_a_token_gets_one_with_a_pin_for_its_owner_alone(tmp_path: Path) -> None:
    place, pin = tmp_path / "token", tmp_path / "pin"
    public = make_key(place, pin, "first")
    assert pin.stat().st_mode & 0o077 == 0
    with closing(SigningToken(place, pin.read_text().strip())) as opened:
        assert opened.signer("first").public_key == public


def test_a_witness_that_lost_its_state_gets_no_other(tmp_path: Path) -> None:
    root = make_root()
    witness = WitnessConfig(
        http_listen="127.0.0.1:0",
        name="w1",
        database=tmp_path / "w.db",
        watermark=tmp_path / "w.mark",
        key=tmp_path / "key",
    )
    for _ in range(2):  # once more changes nothing
        genesis(witness, root)
    open_witness_store(witness.database, root.namespace, witness.watermark).close()
    witness.watermark.touch()
    witness.database.unlink()
    with pytest.raises(ConfigError) as refused:
        genesis(witness, root)
    assert refused.value.reason == "WITNESS_RESTORED"
