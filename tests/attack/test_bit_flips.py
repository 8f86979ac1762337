"""Any proof of any small directory, by the real prover, with one bit flipped."""

from collections.abc import Callable, Iterable
from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ipls.akd import (
    EMPTY_ROOT,
    DirectoryKey,
    MemoryTiles,
    ProofRefused,
    Update,
    Version,
    make_absence,
    make_history,
    make_lookup,
    publish,
    verify_absence,
    verify_append_only,
    verify_history,
    verify_lookup,
)

KEY = DirectoryKey.from_seed(b"\x07" * 32)
LABELS, NOBODY = [b"+1", b"+2", b"+3", b"+4"], b"+9"
PICKED = 400
"""Bits of a proof, where not all are flipped."""
KINDS = ["append-only", "absence", "lookup", "history", "newest of a history"]

Proof = tuple[bytes, Callable[[bytes], object]]


def proofs(story: list[set[int]], label: bytes) -> dict[str, Proof]:
    """Those of the last epoch: each kind's proof, and its check. A label that is not there has the first two only."""
    tiles, depth, versions = MemoryTiles(), 0, dict[bytes, list[Version]]()
    old = root = EMPTY_ROOT
    for epoch, numbers in enumerate(story, 1):
        updates = [
            Update(LABELS[n], b"%d" % epoch, next(iter(versions.get(LABELS[n], [])), None)) for n in sorted(numbers)
        ]
        made = publish(tiles, KEY, epoch - 1, root, depth, updates)
        assert made
        tiles.write(made.rows)
        old, root, depth = root, made.new_root, made.depth
        for name, version in made.versions:
            versions.setdefault(name, []).insert(0, version)
    epoch, key = len(story), KEY.public_key
    found: list[Proof] = [
        (made.blob, lambda proof: verify_append_only(old, root, epoch, proof)),
        (
            make_absence(tiles, KEY, epoch, depth, NOBODY),
            lambda proof: verify_absence(root, epoch, key, NOBODY, proof),
        ),
    ]
    if shown := versions.get(label):
        found += [
            (
                make_lookup(tiles, KEY, epoch, depth, label, shown[0]),
                lambda proof: verify_lookup(root, epoch, key, label, proof),
            ),
            (
                make_history(tiles, KEY, epoch, depth, label, shown),
                lambda proof: verify_history(root, epoch, key, label, proof),
            ),
            (
                make_history(tiles, KEY, epoch, depth, label, shown[:1]),
                lambda proof: verify_history(root, epoch, key, label, proof, most_recent=1),
            ),
        ]
    return dict(zip(KINDS, found, strict=False))


def flip(made: Proof, pick: Callable[[range], Iterable[int]]) -> None:
    """The proof is taken as it is, and refused with any one of the bits that are picked flipped."""
    proof, check = made
    check(proof)
    for bit in pick(range(8 * len(proof))):
        flipped = bytearray(proof)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            check(bytes(flipped))
        except ProofRefused:
            continue
        raise AssertionError(f"bit {bit} of {8 * len(proof)} makes no difference")


@pytest.mark.parametrize("kind", ["append-only", "absence", "lookup", "newest of a history"])
def test_every_bit_of_a_proof_of_each_kind(kind: str) -> None:
    """Of an account that has changed its key, alone in the directory."""
    flip(proofs([{0}, {0}], LABELS[0])[kind], lambda bits: bits)


@settings(max_examples=12)
@given(
    st.lists(st.sets(st.integers(0, 3), min_size=1), min_size=1, max_size=5),
    st.sampled_from(LABELS),
    st.sampled_from(KINDS),
    st.integers(0, 2**32),
)
def test_no_flipped_bit_of_any_proof_is_taken(story: list[set[int]], label: bytes, kind: str, seed: int) -> None:
    made = proofs(story, label)
    assume(kind in made)
    flip(made[kind], lambda bits: Random(seed).sample(bits, min(PICKED, len(bits))))
