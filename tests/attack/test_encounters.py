"""Witnesses and a directory that say two things to a witness: it keeps a file that names who did, and nobody else."""

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from ipls.crypto.keys import public_key
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.trust.heads import Head
from tests.attack.catching_up import Victim, quorums
from tests.attack.log import answer, public_world
from tests.server.chains import Chain, proposal
from tests.trust.roots import NAMESPACE, THIEF, WITNESSES, signed

UNKNOWN = b"\xa2\x06\x04junk"
"""A field 100, which no message has."""


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Victim]:
    with public_world(0) as world:
        victim = Victim(world, tmp_path)
        yield victim
        victim.store.close()


async def test_a_second_proposal_for_an_epoch_is_evidence_whenever_it_comes(victim: Victim) -> None:
    fork = victim.world.chain.fork()
    assert await victim.live(victim.publish()) == "cosignature"
    assert await victim.live(victim.publish()) == "cosignature"
    forged = fork.step(b"victim")
    assert await victim.live(forged, seed=THIEF) == "PROPOSAL_UNSIGNED"
    assert victim.evidence() == []
    victim.restart()
    assert await victim.live(forged) == "WITNESS_BEHIND"
    assert await victim.live(forged) == "WITNESS_BEHIND"
    assert victim.evidence() == [("two_proposals", (), 1)]


@pytest.mark.parametrize("epoch", [1, 5])
async def test_two_proposals_for_an_epoch_are_evidence_though_it_signed_neither(victim: Victim, epoch: int) -> None:
    """It took the epoch from the log, or is far behind it."""
    victim.publish()
    assert victim.look() is None
    made = Chain().step(b"one")
    one, other = proposal(made, epoch=epoch), proposal(made, epoch=epoch, new_root=b"\x07" * 32)
    one.proposal.MergeFromString(UNKNOWN)
    refusal = {1: "WITNESS_FORK", 5: "WITNESS_GAP"}[epoch]
    for _ in range(2):
        assert await victim.propose(one) == refusal
    assert victim.evidence() == []
    for _ in range(2):
        assert await victim.propose(other) == refusal
        assert victim.evidence() == [("two_proposals", (), epoch)]


async def test_a_refused_proposal_stands_against_the_one_that_it_signs(victim: Victim) -> None:
    made = victim.publish()
    assert await victim.live(made, new_root=b"\x07" * 32) == "WITNESS_PROOF_REFUSED"
    assert victim.evidence() == []
    assert await victim.live(made) == "cosignature"
    assert victim.evidence() == [("two_proposals", (), 1)]


async def handed(victim: Victim, head: SignedHead) -> None:
    """By the directory, with an honest proposal."""
    assert await victim.live(victim.publish(), head) == "cosignature"


async def polled(victim: Victim, head: SignedHead) -> None:
    """From the witnesses that signed it."""
    keys = [cosignature.public_key for cosignature in head.cosignatures]
    for i, seed in enumerate(WITNESSES[:2]):
        if public_key(seed) in keys:
            victim.world.cosigned[i][head.epoch] = answer(seed, *Head(head.epoch, head.root_hash))
    assert victim.look() in ("AUDIT_FORK", None)


TOLD = {
    (handed, WITNESSES[:2]): [("two_heads", ("w0", "w1"), 1)],
    (handed, WITNESSES[1:2]): [("two_signatures", ("w1",), 1)],
    (polled, WITNESSES[:2]): [("two_heads", ("w0", "w1"), 1), *(("two_signatures", (w,), 1) for w in ("w0", "w1"))],
    (polled, WITNESSES[1:2]): [("two_signatures", ("w1",), 1)],
}


@pytest.mark.parametrize(("how", "seeds"), TOLD)
async def test_witnesses_that_signed_another_root_than_it_followed_are_convicted(
    victim: Victim, how: Callable[[Victim, SignedHead], Awaitable[None]], seeds: tuple[bytes, ...]
) -> None:
    followed = victim.publish()
    assert victim.look() is None
    assert victim.evidence() == []
    await how(victim, quorums(Chain().step(b"another"), *seeds))
    assert victim.evidence() == TOLD[how, seeds]
    assert victim.store.root_of(1) == followed.new_root


async def test_a_head_stuffed_so_that_no_file_could_prove_it_proves_all_the_same(victim: Victim) -> None:
    victim.publish()
    assert victim.look() is None
    head = quorums(Chain().step(b"another"))
    for n in range(60):
        head.cosignatures.add(message=bytes(10_000), public_key=bytes([n]) * 32, signature=bytes(64))
    for part in (head, *head.cosignatures):
        part.MergeFromString(UNKNOWN)
    await handed(victim, head)
    assert victim.evidence() == [("two_heads", ("w0", "w1"), 1)]


async def test_signatures_that_do_not_hold_convict_nobody_and_hide_nothing(victim: Victim) -> None:
    victim.publish()
    assert victim.look() is None
    another = Chain().step(b"another")
    framed = quorums(another)
    for cosignature in framed.cosignatures:
        cosignature.signature = bytes(64)
    await handed(victim, framed)
    await handed(victim, quorums(another, THIEF))
    elsewhere = Head(1, another.new_root)
    await handed(victim, signed(elsewhere, *WITNESSES[:2], namespace=f"{NAMESPACE}/fleet"))
    assert victim.evidence() == []
    await handed(victim, quorums(another))
    assert victim.evidence() == [("two_heads", ("w0", "w1"), 1)]
