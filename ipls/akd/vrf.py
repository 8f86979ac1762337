"""ECVRF-EDWARDS25519-SHA512-TAI of RFC 9381 on libsodium's group operations.

One of the two modules that a native kernel can replace: callers hand over whole batches.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import nacl.exceptions
from nacl.bindings import (
    crypto_core_ed25519_add,
    crypto_core_ed25519_is_valid_point,
    crypto_core_ed25519_scalar_add,
    crypto_core_ed25519_scalar_mul,
    crypto_core_ed25519_scalar_reduce,
    crypto_core_ed25519_sub,
    crypto_scalarmult_ed25519_base_noclamp,
    crypto_scalarmult_ed25519_noclamp,
)

from ipls.akd.errors import AkdError, ProofRefused

PROOF_BYTES = 80
_ORDER = 2**252 + 27742317777372353535851937790883648493
_FIELD = 2**255 - 19
_SUITE = b"\x03"
_IDENTITY = b"\x01" + bytes(31)
_EIGHT = b"\x08" + bytes(31)

_WORTH_THREADS = 64
"""Inputs of a batch that is shared out: some milliseconds of work."""

Result = TypeVar("Result")


def _sha512(*parts: bytes) -> bytes:
    return hashlib.sha512(b"".join(parts)).digest()


def _eightfold(point: bytes) -> bytes:
    """The point times the cofactor, by doublings: libsodium multiplies only points of the prime subgroup."""
    for _ in range(3):
        point = crypto_core_ed25519_add(point, point)
    return point


def _hash_to_curve(public_key: bytes, alpha: bytes) -> bytes:
    """Try-and-increment (RFC 9381, 5.4.1.1): a candidate counts if it decodes to a point of any order."""
    head = _SUITE + b"\x01" + public_key + alpha
    for counter in range(256):
        candidate = hashlib.sha512(head + bytes((counter, 0))).digest()[:32]
        if int.from_bytes(candidate, "little") & (2**255 - 1) >= _FIELD:
            continue
        try:
            point = _eightfold(candidate)
        except nacl.exceptions.RuntimeError:
            continue
        if point != _IDENTITY:
            return point
    raise AkdError("VRF_INPUT", "no point of the curve was found for this input")  # chance 2^-256


def _challenge(*points: bytes) -> bytes:
    return _sha512(_SUITE, b"\x02", *points, b"\x00")[:16]


def _output(eightfold_gamma: bytes) -> bytes:
    return _sha512(_SUITE, b"\x03", eightfold_gamma, b"\x00")


def _each(work: Callable[[bytes], Result], alphas: Sequence[bytes]) -> list[Result]:
    """`work` on each input; on all cores where there are many, since libsodium runs without the interpreter's lock."""
    if len(alphas) < _WORTH_THREADS:
        return [work(alpha) for alpha in alphas]
    cores = len(os.sched_getaffinity(0))
    share = -(-len(alphas) // cores)
    with ThreadPoolExecutor(cores) as threads:
        parts = [alphas[start : start + share] for start in range(0, len(alphas), share)]
        return [result for part in threads.map(lambda part: [work(alpha) for alpha in part], parts) for result in part]


class SecretKey:
    """A VRF secret key; scalar and nonce prefix come from SHA-512 of the 32-byte seed as in RFC 8032."""

    def __init__(self, seed: bytes) -> None:
        if len(seed) != 32:
            raise AkdError("VRF_SEED", "a VRF seed has 32 bytes")
        expanded = bytearray(hashlib.sha512(seed).digest())
        expanded[0] &= 248
        expanded[31] = expanded[31] & 127 | 64
        self._scalar = bytes(expanded[:32])
        self._prefix = bytes(expanded[32:])
        self._eightfold_scalar = crypto_core_ed25519_scalar_mul(self._scalar, _EIGHT)
        self.public_key: bytes = crypto_scalarmult_ed25519_base_noclamp(self._scalar)

    def outputs(self, alphas: Sequence[bytes]) -> list[bytes]:
        """The 64-byte VRF output of each input, without the proofs (a third of their work)."""
        return _each(self._output, alphas)

    def prove(self, alphas: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
        """For each input its 64-byte output and 80-byte proof, `Gamma(32) || c(16) || s(32)`."""
        return _each(self._prove, alphas)

    def _output(self, alpha: bytes) -> bytes:
        point = _hash_to_curve(self.public_key, alpha)
        return _output(crypto_scalarmult_ed25519_noclamp(self._eightfold_scalar, point))

    def _prove(self, alpha: bytes) -> tuple[bytes, bytes]:
        point = _hash_to_curve(self.public_key, alpha)
        gamma = crypto_scalarmult_ed25519_noclamp(self._scalar, point)
        nonce = crypto_core_ed25519_scalar_reduce(_sha512(self._prefix, point))
        nonce_base = crypto_scalarmult_ed25519_base_noclamp(nonce)
        nonce_point = crypto_scalarmult_ed25519_noclamp(nonce, point)
        challenge = _challenge(self.public_key, point, gamma, nonce_base, nonce_point)
        blinded = crypto_core_ed25519_scalar_mul(challenge + bytes(16), self._scalar)
        response = crypto_core_ed25519_scalar_add(nonce, blinded)
        return _output(_eightfold(gamma)), gamma + challenge + response


@lru_cache(maxsize=8)
def _key_is_valid(public_key: bytes) -> bool:
    return len(public_key) == 32 and crypto_core_ed25519_is_valid_point(public_key)


def verify(public_key: bytes, alpha: bytes, proof: bytes) -> bytes:
    """The 64-byte output that `proof` proves for `alpha`.

    Raises ProofRefused: VRF_KEY (not a canonical point of the prime subgroup), VRF_LENGTH, VRF_SCALAR (s >= group
    order), VRF_PROOF. Gamma must lie in the prime subgroup, as an honest one does.
    """
    if not _key_is_valid(public_key):
        raise ProofRefused("VRF_KEY", "the VRF public key is of small order or not a point of the group")
    if len(proof) != PROOF_BYTES:
        raise ProofRefused("VRF_LENGTH", "a VRF proof has 80 bytes")
    gamma, challenge, response = proof[:32], proof[32:48], proof[48:]
    if int.from_bytes(response, "little") >= _ORDER:
        raise ProofRefused("VRF_SCALAR", "the VRF proof's s is not below the group order")
    try:
        point = _hash_to_curve(public_key, alpha)
        u = crypto_core_ed25519_sub(
            crypto_scalarmult_ed25519_base_noclamp(response),
            crypto_scalarmult_ed25519_noclamp(challenge + bytes(16), public_key),
        )
        v = crypto_core_ed25519_sub(
            crypto_scalarmult_ed25519_noclamp(response, point),
            crypto_scalarmult_ed25519_noclamp(challenge + bytes(16), gamma),
        )
    except nacl.exceptions.RuntimeError:
        raise ProofRefused("VRF_PROOF", "the VRF proof holds no valid point") from None
    if _challenge(public_key, point, gamma, u, v) != challenge:
        raise ProofRefused("VRF_PROOF", "the VRF proof does not hold for this input")
    return _output(_eightfold(gamma))
