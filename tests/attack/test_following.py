"""A pull-only witness: it verifies the whole log by itself, and its signatures are never fresher than the quorum's."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ipls.akd import EMPTY_ROOT, Publication
from ipls.auditlog.errors import AuditError
from ipls.crypto.keys import public_key
from ipls.proto.witness.v1.head_pb2 import Cosignature, SignedHead
from ipls.server.witness.http import auditor_app
from ipls.store.witness import init_witness_state
from ipls.trust.errors import HeadRefused
from ipls.trust.heads import signers, timestamp
from ipls.trust.root import Witness, WitnessKey
from tests.attack.log import World, answer, name, public_world
from tests.server.chains import Chain
from tests.server.witnesses import make_service, open_store
from tests.trust.evidence import Proved, proved
from tests.trust.roots import HOUR, NAMESPACE, NOW, WITNESSES, seed

OUTSIDER = seed(40)


class Follower:
    """Of a world whose three witnesses sign at times that the test sets."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        self.folder = folder
        self.now = NOW + 10 * HOUR
        init_witness_state(folder / "f.db", world.root)
        self.store = open_store(folder / "f.db", NAMESPACE)
        self.service = make_service(
            world.root, "f", OUTSIDER, self.store, lambda: self.now, folder / "evidence", follower=True
        )

    def publish(self, *times: int) -> Publication:
        """An epoch that the three witnesses sign at these times."""
        made = self.world.chain.step()
        self.world.put(made.epoch, made.old_root, made.new_root, made.blob)
        self.sign(made, *times)
        return made

    def sign(self, made: Publication, *times: int) -> None:
        for i, time in enumerate(times):
            self.world.cosigned[i][made.epoch] = answer(WITNESSES[i], made.epoch, made.new_root, time=time)

    def look(self) -> str | None:
        try:
            self.service.follower.poll()
        except AuditError as e:
            return e.reason
        return None

    def signed(self, epoch: int) -> Cosignature:
        row = self.store.signed(epoch)
        assert row is not None
        assert row.cosignature is not None
        return Cosignature.FromString(row.cosignature)

    def evidence(self) -> list[Proved]:
        """What it has kept proves, each file judged as anyone would."""
        return proved(self.world.root, self.folder / "evidence")


@pytest.fixture
def follower(tmp_path: Path) -> Iterator[Follower]:
    with public_world(0) as world:
        follower = Follower(world, tmp_path)
        yield follower
        follower.store.close()


def test_its_time_is_what_a_quorum_has_reached_however_late_it_looks(follower: Follower) -> None:
    for n in range(4):
        made = follower.publish(NOW + n, NOW + 10 + n, NOW + 5 * HOUR)
    assert follower.look() is None
    assert follower.store.state().root_hash == made.new_root
    assert timestamp(follower.signed(4)) == NOW + 13  # two of three
    assert [timestamp(follower.signed(epoch)) for epoch in (1, 2, 3)] == [0, 0, 0]
    follower.sign(made, NOW + HOUR, NOW + HOUR + 7, NOW + 5 * HOUR)
    assert follower.look() is None
    assert timestamp(follower.signed(4)) == NOW + HOUR + 7
    assert follower.look() is None
    assert timestamp(follower.signed(4)) == NOW + HOUR + 7


def test_its_times_never_fall_it_waits_instead(follower: Follower) -> None:
    follower.publish(NOW + 100, NOW + 100, NOW + 100)
    assert follower.look() is None
    made = follower.publish(NOW + 50, NOW + 50, NOW)
    assert follower.look() is None
    assert follower.store.state().epoch == 1
    follower.sign(made, NOW + 200, NOW + 300)
    assert follower.look() is None
    assert (follower.store.state().epoch, timestamp(follower.signed(2))) == (2, NOW + 200)


def test_it_does_not_count_toward_a_quorum(follower: Follower) -> None:
    made = follower.publish(NOW, NOW, NOW)
    assert follower.look() is None
    head = SignedHead(epoch=1, root_hash=made.new_root, cosignatures=[follower.signed(1)])
    head.cosignatures.add().CopyFrom(follower.signed(1))
    with pytest.raises(HeadRefused) as e:
        signers(follower.world.root, head, now_ms=NOW)
    assert e.value.reason == "HEAD_KEY_UNPINNED"


def test_what_no_quorum_signed_or_no_proof_bears_out_it_does_not_sign(follower: Follower) -> None:
    first = follower.publish(NOW, NOW, NOW)
    assert follower.look() is None
    forged = follower.world.chain.fork().step(b"outsider")
    follower.world.objects[name(2, forged.old_root, forged.new_root)] = forged.blob
    follower.world.cosigned[0][2], follower.world.newest[0] = answer(WITNESSES[0], 2, forged.new_root), 2
    assert follower.look() is None
    assert follower.store.state().root_hash == first.new_root
    follower.world.objects.popitem()
    made = follower.publish(NOW + 1, NOW + 1, NOW + 1)
    found = follower.world.name_of(2)
    follower.world.answers["/log/" + found] = (200, made.blob[:-1] + bytes([made.blob[-1] ^ 1]))
    assert follower.look() == "AUDIT_PROOF_REFUSED"
    assert follower.store.state().root_hash == first.new_root


def test_it_convicts_witnesses_that_show_it_another_root_than_it_followed(follower: Follower) -> None:
    followed = follower.publish(NOW, NOW, NOW)
    assert follower.look() is None
    another = Chain().step(b"another")
    follower.sign(another, NOW + 1)
    for _ in range(2):
        assert follower.look() is None
        assert follower.evidence() == [("two_signatures", ("w0",), 1)]
    follower.sign(another, NOW + 2, NOW + 1)
    for _ in range(2):
        assert follower.look() == "AUDIT_FORK"
        quorums, *alone = follower.evidence()
        assert quorums == ("two_heads", ("w0", "w1"), 1)
        assert alone == [("two_signatures", ("w0",), 1), ("two_signatures", ("w1",), 1)]
    assert follower.store.state().root_hash == followed.new_root


async def test_it_serves_the_auditors_interface_with_its_own_key(follower: Follower) -> None:
    follower.publish(NOW, NOW, NOW)
    follower.service.sign_start()
    assert follower.look() is None
    own = Witness("f", "", (WitnessKey(public_key(OUTSIDER), 0, 2**62),))
    app = auditor_app(follower.world.root, own, follower.store, lambda name: name in follower.world.objects)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://auditor") as http:
        info = (await http.get("/info")).json()
        audits = [(await http.get(f"/namespaces/{NAMESPACE}/audits/{epoch}")).json() for epoch in (0, 1)]
    assert [key["public_key"] for key in info["keys"]] == [public_key(OUTSIDER).hex()]
    assert [audit["digest"] for audit in audits] == [EMPTY_ROOT.hex(), follower.world.chain.root.hex()]
    assert {audit["key_id"] for audit in audits} == {public_key(OUTSIDER)[-1]}
