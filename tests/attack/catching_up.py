"""A witness that looks at a public world, and what tests let happen to it."""

from pathlib import Path

from ipls.akd import Publication
from ipls.auditlog.errors import AuditError
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.proto.witness.v1.witness_pb2 import ProposeRequest, SignedProposal
from ipls.store.errors import StoreError
from ipls.store.witness import State, init_witness_state
from ipls.trust.heads import Head
from tests.attack.log import World, name
from tests.server.chains import Chain, proposal
from tests.server.witnesses import make_service, open_store
from tests.trust.evidence import Proved, proved
from tests.trust.roots import NAMESPACE, NOW, WITNESSES, signed

OWN = 2
"""Ours is w2 of w0, w1, w2; two make a quorum."""


class Victim:
    """The witness w2 and the public world it looks at."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        self.folder = folder
        self.now = NOW
        init_witness_state(folder / "w.db", world.root)
        self.start()

    def start(self) -> None:
        self.store = open_store(self.folder / "w.db", NAMESPACE)
        self.service = make_service(
            self.world.root, "w2", WITNESSES[OWN], self.store, lambda: self.now, self.folder / "evidence"
        )

    def restart(self) -> None:
        self.store.close()
        self.start()

    def publish(self, *labels: bytes, chain: Chain | None = None) -> Publication:
        """One more epoch of the world's, which the two others sign."""
        made = (chain or self.world.chain).step(*labels)
        self.world.put(made.epoch, made.old_root, made.new_root, made.blob)
        del self.world.cosigned[OWN][made.epoch]
        self.world.newest[OWN] = 0
        return made

    async def propose(self, asked: SignedProposal, head: SignedHead | None = None) -> str:
        """How the witness answers: `cosignature`, or the reason of its refusal."""
        answer = await self.service.Propose(ProposeRequest(proposal=asked, head=head), None)
        return answer.refusal.reason or str(answer.WhichOneof("result"))

    async def live(self, made: Publication, head: SignedHead | None = None, **changes: object) -> str:
        """As the directory proposes it, in time; an object that is not the log's own the log shows for once."""
        asked = proposal(made, **{"time_ms": self.now, **changes})
        shown = "/log/" + name(made.epoch, asked.proposal.old_root, asked.proposal.new_root)
        if shown.removeprefix("/log/") in self.world.objects:
            return await self.propose(asked, head)
        self.world.answers[shown] = (200, made.blob)
        try:
            return await self.propose(asked, head)
        finally:
            del self.world.answers[shown]

    def look(self, hint: SignedHead | None = None) -> str | None:
        """Once at the public world; the reason why it did not come through."""
        try:
            self.service.follower.poll(hint)
        except (AuditError, StoreError) as e:
            return e.reason
        return None

    def state(self) -> State:
        return self.store.state()

    def evidence(self) -> list[Proved]:
        """What it has kept proves, each file judged as anyone would."""
        return proved(self.world.root, self.folder / "evidence")


def quorums(made: Publication, *seeds: bytes) -> SignedHead:
    return signed(Head(made.epoch, made.new_root), *(seeds or WITNESSES[:2]))
