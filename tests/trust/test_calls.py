"""What a device signs to open a session of reads, the known answer of docs/protocol/directory.md, and when."""

import hashlib

import pytest
from nacl.signing import SigningKey

from ipls.crypto.keys import public_key, sign
from ipls.trust.calls import is_timely, session_digest

SEED, NONCE, TIME = bytes(range(32)), bytes(range(16)), 1_700_000_000_000
DIGEST = "7606d487517616abf232f7f4c3864d596fbf6c3ad799eb6f624e115da513741a"
SIGNATURE = (
    "c66ef22a6ffca36049c189d80814da3cf23f60f6f2f1d22e86fbddfdf07d5315"
    "a7729bca7fa6bd1daabcfdf17d4145aa530b952bc10e19c25dd4f0bbe07ab307"
)


def test_the_known_answer_from_the_primitives_alone() -> None:
    key = bytes(SigningKey(SEED).verify_key)
    fields = [b"ipls/directory/v1 session", b"example.org", b"+12025550123", key, TIME.to_bytes(8, "big"), NONCE]
    digest = hashlib.sha256(b"".join(len(field).to_bytes(8, "big") + field for field in fields)).digest()
    assert digest.hex() == DIGEST
    assert SigningKey(SEED).sign(digest).signature.hex() == SIGNATURE
    assert session_digest("example.org", "+12025550123", public_key(SEED), TIME, NONCE) == digest
    assert sign(SEED, digest).hex() == SIGNATURE


@pytest.mark.parametrize("way", [-1, 1])
def test_a_call_is_timely_two_minutes_either_way(way: int) -> None:
    assert is_timely(TIME + way * 120_000, TIME)
    assert not is_timely(TIME + way * 120_001, TIME)
