"""Proofs that are not exactly their own re-encoding; fields left out."""

from collections.abc import Callable
from typing import Any

import pytest

from ipls.akd import (
    verify_absence,
    verify_append_only,
    verify_history,
    verify_lookup,
)
from ipls.akd.errors import ProofRefused
from ipls.akd.labels import Node, leaf_label
from ipls.akd.messages import decode_absence, decode_append_only, decode_history, encode_label, encode_node
from ipls.proto.akd.v1 import akd_pb2 as pb
from tests.attack.victim import (
    EPOCH,
    NOBODY,
    VICTIM,
    refuses,
    victims_server,
)

Check = Callable[[bytes], object]


def proofs() -> list[tuple[type, bytes, Check]]:
    """An honest proof of each kind, with its check."""
    server, tree = victims_server(), victims_server().tree()
    root, old = tree.root(), server.tree(EPOCH - 1).root()
    return [
        (
            pb.LookupProof,
            server.lookup(tree, VICTIM, 3).SerializeToString(),
            lambda proof: verify_lookup(root, EPOCH, server.public_key, VICTIM, proof),
        ),
        (
            pb.HistoryProof,
            server.history(tree, VICTIM, [3, 2, 1], EPOCH).SerializeToString(),
            lambda proof: verify_history(root, EPOCH, server.public_key, VICTIM, proof),
        ),
        (
            pb.SingleAppendOnlyProof,
            server.append_only(EPOCH).SerializeToString(),
            lambda proof: verify_append_only(old, root, EPOCH, proof),
        ),
        (
            pb.AbsenceProof,
            server.absence(tree, NOBODY, [1, 2, 4, 8]).SerializeToString(),
            lambda proof: verify_absence(root, EPOCH, server.public_key, NOBODY, proof),
        ),
    ]


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited field."""
    size, length = len(payload), b""
    while size >= 128:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + payload


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_encoding(kind: int) -> None:
    message, proof, check = proofs()[kind]
    check(proof)
    cases = [
        proof + b"\xf8\x01\x00",  # field 31, unknown
        proof + field(15, b"unknown"),
        proof[:-1],
        proof + b"\0",
        b"",
        b"\xff" * 40,
        b"\x0b" * 5000,  # groups, deep
    ]
    first = message.FromString(proof)
    if kind == 0:
        cases += [
            proof + b"\x08\x07",  # epoch a second time, as it is
            proof[2:] + proof[:2],  # fields out of order
            proof[:1] + b"\x87\x00" + proof[2:],  # epoch 7, in two bytes
            proof[:1] + b"\x87\x80\x80\x80\x80\x80\x80\x80\x80\x00" + proof[2:],
            proof + field(5, b""),  # a message field merged with nothing
        ]
    else:
        one, *rest = first.update_proofs if kind == 1 else first.inserted
        for nested in (b"\xf8\x01\x00", field(2, bytes(32)) if kind == 2 else b"\x08\x07"):
            lie = message()
            lie.CopyFrom(first)
            lie.ClearField("update_proofs" if kind == 1 else "inserted")
            tail = b"".join(field(1, other.SerializeToString()) for other in rest) + lie.SerializeToString()
            assert field(1, one.SerializeToString()) + tail == proof
            cases.append(field(1, one.SerializeToString() + nested) + tail)
    for case in cases:
        if kind == 2 and case == b"":
            refuses("NOTHING_INSERTED", lambda case=case: check(case))
        elif kind == 1 and case == b"":
            refuses("NO_VERSIONS", lambda case=case: check(case))
        elif kind == 0 and case == b"":
            refuses("FIELD_MISSING", lambda case=case: check(case))
        else:
            refuses("ENCODING", lambda case=case: check(case))


def edits(message) -> list[tuple[str, Callable[[], None]]]:
    """Every way to leave a field out, and to bend a label, hash or direction, anywhere in a message."""
    found: list[tuple[str, Callable[[], None]]] = []
    for descriptor, value in message.ListFields():
        name = descriptor.name
        if not descriptor.is_repeated:
            found.append(("FIELD_MISSING", lambda name=name: message.ClearField(name)))
        if descriptor.message_type:
            for inner in value if descriptor.is_repeated else [value]:
                found.extend(edits(inner))
        if name in ("hash_val", "commitment_nonce") or (name == "value" and isinstance(message, pb.AzksElement)):
            for lie in (value[:31], value + b"\0", b""):
                found.append(("HASH_LENGTH", lambda name=name, lie=lie: setattr(message, name, lie)))
        if name == "label_val":
            found.append(
                (
                    "ENCODING",
                    lambda value=value: setattr(
                        message, "label_val", value.ljust(32, b"\0") if len(value) < 32 else value[:31] + b"\0"
                    ),
                )
            )
            found.append(("LABEL_LENGTH", lambda value=value: setattr(message, "label_val", value.ljust(33, b"\1"))))
        if name == "label_len":
            found.append(("LABEL_LENGTH", lambda: setattr(message, "label_len", 257)))
        if name == "direction":
            found.append(("DIRECTION", lambda value=value: setattr(message, "direction", value + 2)))
        if name == "siblings":
            found.append(("SIBLING_COUNT", lambda: message.ClearField("siblings")))
            found.append(("SIBLING_COUNT", lambda value=value: message.siblings.append(value[0])))
    return found


@pytest.mark.parametrize("kind", [0, 1, 2, 3])
def test_every_field_of_every_message(kind: int) -> None:
    """Left out, too short, too long, untrimmed, out of range: refused by the rule, wherever in the proof."""
    message, proof, check = proofs()[kind]
    total = len(edits(message.FromString(proof)))
    assert total > 50
    for index in range(total):
        bent = message.FromString(proof)
        reason, edit = edits(bent)[index]
        edit()
        refuses(reason, lambda bent=bent: check(bent.SerializeToString()))


@pytest.mark.parametrize(
    ("decode", "parts"),
    [
        (decode_history, b"\x0a\x00"),
        (decode_history, field(1, b"\x08\x07" + field(5, field(3, b"") * 50))),  # behind an epoch
        (decode_history, field(2, b"")),
        (decode_absence, field(2, field(3, b"") * 50)),
        (decode_append_only, field(2, b"")),
    ],
    ids=["updates", "siblings of updates", "VRF proofs", "children", "nodes"],
)
def test_many_empty_parts_are_refused_before_they_are_decoded(decode: Callable[[bytes], Any], parts: bytes) -> None:
    """Decoded they take up to 64 times their bytes."""
    with pytest.raises(ProofRefused, match="more parts than its bytes"):
        decode(parts * (2**20 // len(parts)))


def test_a_large_proof_is_taken_whole_and_nowhere_cut() -> None:
    """From 64 KiB on its parts are counted first."""
    first, second, *_ = pb.HistoryProof.FromString(proofs()[1][1]).update_proofs
    steps = first.existence_proof.sibling_proofs
    while first.ByteSize() <= 2**16:
        steps.extend(steps[:])
    proof = pb.HistoryProof(update_proofs=[first, second]).SerializeToString()
    assert len(decode_history(proof).updates[0].proved.membership.steps) == len(steps)
    for end in range(len(proof) - second.ByteSize() - 2, len(proof)):
        with pytest.raises(ProofRefused):
            decode_history(proof[:end])


def test_a_long_history_in_a_directory_of_billions_is_no_such_thing() -> None:
    """Leaves stand 32 steps below the root, and a step near the root has the fewest bytes."""
    update = pb.HistoryProof.FromString(proofs()[1][1]).update_proofs[0]
    for membership in (update.existence_proof, update.previous_version_proof):
        leaf = leaf_label(membership.label.label_val.ljust(32, b"\0"))
        del membership.sibling_proofs[:]
        for depth in range(32):
            flipped = leaf_label((leaf.bits ^ 1 << 255 - depth).to_bytes(32, "big")).cut(depth + 1)
            membership.sibling_proofs.add(
                label=encode_label(leaf.cut(depth)),
                siblings=[encode_node(Node(flipped, bytes(32)))],
                direction=leaf.bit(depth),
            )
    versions = decode_history(pb.HistoryProof(update_proofs=[update] * 20).SerializeToString()).updates
    assert [len(version.proved.membership.steps) for version in versions] == [32] * 20


def test_a_long_tag_hides_no_parts() -> None:
    with pytest.raises(ProofRefused, match="not a message of its kind"):
        decode_history(b"\x8a\x00\x00" * 2**19)
