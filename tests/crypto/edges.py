"""Makes tests/vectors/ed25519.json: signatures and keys on which Ed25519 verifiers in the field differ.

    python -m tests.crypto.edges > tests/vectors/ed25519.json

Whoever holds a secret scalar makes a signature with any R: S = r + k a. Under R = [r]B + T, T of small order, the
equation holds in a checker that multiplies by the cofactor; under the identity R it holds in every one that does not
look at R (RFC 8032, 5.1.7).
"""

import hashlib
import json
import sys
from collections.abc import Iterator

from nacl.bindings import (
    crypto_core_ed25519_add,
    crypto_core_ed25519_scalar_add,
    crypto_core_ed25519_scalar_mul,
    crypto_core_ed25519_scalar_reduce,
    crypto_scalarmult_ed25519_base_noclamp,
)

from ipls.crypto.keys import public_key, sign
from tests.trust.points import NON_CANONICAL, SMALL_ORDER

SEED = bytes(range(32))
MESSAGE = b"epoch 7"
ORDER = 2**252 + 27742317777372353535851937790883648493
IDENTITY = SMALL_ORDER[0]


def _scalar(number: int) -> bytes:
    return number.to_bytes(32, "little")


def _secret() -> bytes:
    """The secret scalar of SEED (RFC 8032, 5.1.5), reduced."""
    clamped = int.from_bytes(hashlib.sha512(SEED).digest()[:32], "little") & (1 << 254) - 8 | 1 << 254
    return _scalar(clamped % ORDER)


def _signed(point: bytes, r: int, key: bytes | None = None) -> bytes:
    """A signature with this R whose S is r + k a."""
    hashed = hashlib.sha512(point + (key or public_key(SEED)) + MESSAGE).digest()
    k = crypto_core_ed25519_scalar_reduce(hashed)
    return point + crypto_core_ed25519_scalar_add(_scalar(r), crypto_core_ed25519_scalar_mul(k, _secret()))


def cases() -> Iterator[tuple[str, bytes, bytes, str]]:
    """What it is, the key, the signature over MESSAGE, the reason of its refusal or nothing."""
    key, honest = public_key(SEED), sign(SEED, MESSAGE)
    base = crypto_scalarmult_ed25519_base_noclamp(_scalar(7))
    yield "honest", key, honest, ""
    yield "R made with a chosen r", key, _signed(base, 7), ""
    yield (
        "S + the group order",
        key,
        honest[:32] + _scalar(int.from_bytes(honest[32:], "little") + ORDER),
        "SIGNATURE_INVALID",
    )
    for number, point in enumerate(SMALL_ORDER):
        yield f"R of small order, {number}", key, _signed(point, 0), "SIGNATURE_INVALID"
        if point != IDENTITY:
            mixed = crypto_core_ed25519_add(base, point)
            yield f"R of mixed order, {number}", key, _signed(mixed, 7), "SIGNATURE_INVALID"
            twisted = crypto_core_ed25519_add(key, point)
            yield f"a key of mixed order, {number}", twisted, _signed(base, 7, twisted), "KEY_INVALID"
        yield f"a key of small order, {number}", point, IDENTITY + bytes(32), "KEY_INVALID"
    for number, point in enumerate(NON_CANONICAL):
        yield f"R not canonical, {number}", key, _signed(point, 0), "SIGNATURE_INVALID"
        yield f"a key not canonical, {number}", point, IDENTITY + bytes(32), "KEY_INVALID"


def main() -> None:
    """Prints the vectors."""
    rows = [
        {
            "what": what,
            "public_key": key.hex(),
            "message": MESSAGE.hex(),
            "signature": signature.hex(),
            "refused": reason,
        }
        for what, key, signature, reason in cases()
    ]
    json.dump(rows, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
