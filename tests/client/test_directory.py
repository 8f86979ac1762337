"""What the device believes of a directory: heads by their witnesses and by what it saw before."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ipls.akd import EMPTY_ROOT, verify_lookup
from ipls.client.directory import DirectoryReader, History
from ipls.client.errors import ClientError, RefusedError, TryLaterError
from ipls.client.events import Event, EvidenceMet, HeadChecked
from ipls.client.profile import HeadSeen, KnownVersion, Profile, ProvedHistory
from ipls.crypto.keys import public_key
from ipls.proto.akd.v1.akd_pb2 import HistoryProof
from ipls.proto.directory.v1.directory_pb2 import (
    AbsenceResponse,
    HistoryRequest,
    HistoryResponse,
    OpenSessionRequest,
    OpenSessionResponse,
)
from ipls.proto.directory.v1.directory_pb2_grpc import (
    DirectoryServiceServicer,
    DirectoryServiceStub,
    add_DirectoryServiceServicer_to_server,
)
from ipls.rpc.errors import ServiceError
from ipls.trust.evidence import judge_evidence
from ipls.trust.heads import Head
from ipls.trust.identity import encode_record, verify_identity
from ipls.trust.root import TrustRoot
from tests.attack.directory import Directory
from tests.server.loopback import loopback
from tests.trust.roots import HOUR, NOW, THIEF, WITNESSES, seed, signed, three_of

ALICE = b"+491700000001"
OWN, THIEFS = encode_record(public_key(seed(100))), encode_record(public_key(THIEF))

SEEN, NEXT, FORK, BELOW = Head(5, b"5" * 32), Head(6, b"6" * 32), Head(5, b"f" * 32), Head(4, b"4" * 32)
QUORUM = WITNESSES[:2]


@pytest.fixture
def profile(tmp_path: Path) -> Iterator[Profile]:
    with closing(Profile(tmp_path / "phone")) as profile:
        yield profile


def reader(profile: Profile, events: list[Event]) -> DirectoryReader:
    nobody: Any = None  # heads are handed in
    return DirectoryReader(nobody, three_of(), profile, now_ms=lambda: NOW, report=events.append)


def test_a_head_is_remembered_with_its_signatures(profile: Profile) -> None:
    events: list[Event] = []
    for head in (SEEN, SEEN, NEXT):
        assert reader(profile, events).observe(signed(head, *QUORUM)) == head
    assert profile.head == signed(NEXT, *QUORUM)
    assert events[-1] == HeadChecked(6, NEXT.root_hash, {"w0": NOW, "w1": NOW})


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (signed(BELOW, *QUORUM), "HEAD_BELOW_HIGHEST"),
        (signed(FORK, *QUORUM), "HEAD_FORK"),
        (signed(NEXT, QUORUM[0]), "HEAD_NO_QUORUM"),
        (signed(NEXT, QUORUM[0], THIEF), "HEAD_KEY_UNPINNED"),
        (signed(NEXT, *QUORUM, namespace="elsewhere"), "HEAD_OTHER_NAMESPACE"),
        (signed(NEXT, *QUORUM, time=NOW - HOUR - 1), "HEAD_TOO_OLD"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_head_that_does_not_hold_changes_nothing(profile: Profile, head: Any, reason: str) -> None:
    reader(profile, []).observe(signed(SEEN, *QUORUM))
    with pytest.raises(RefusedError, check=lambda error: error.reason == reason):
        reader(profile, []).observe(head)
    assert profile.head == signed(SEEN, *QUORUM)


def proven(profile: Profile, root: TrustRoot) -> list[tuple[str, tuple[str, ...], int]]:
    """What the files that the device kept prove to a third party."""
    findings = [judge_evidence(root, file.read_bytes()) for file in profile.evidence.files()]
    return [(finding.kind, finding.witnesses, finding.epoch) for finding in findings]


@pytest.mark.parametrize(
    ("head", "found"),
    [
        (signed(FORK, *QUORUM), [("two_heads", ("w0", "w1"), 5)]),
        (signed(FORK, QUORUM[1], WITNESSES[2]), [("two_heads", ("w1",), 5)]),
        (signed(FORK, QUORUM[1], THIEF), [("two_signatures", ("w1",), 5)]),
        (signed(FORK, WITNESSES[2]), []),
        (signed(FORK, THIEF), []),
        (signed(BELOW, *QUORUM), []),
    ],
    ids=range(6),
)
def test_a_fork_that_the_device_meets_becomes_a_file(profile: Profile, head: Any, found: list[Any]) -> None:
    events: list[Event] = []
    reader(profile, events).observe(signed(SEEN, *QUORUM))
    for _ in range(2):
        with pytest.raises(RefusedError):
            reader(profile, events).observe(head)
    assert proven(profile, three_of()) == found
    assert {event.file for event in events if isinstance(event, EvidenceMet)} == set(profile.evidence.files())


def test_evidence_that_can_not_be_written_is_told_all_the_same(profile: Profile, tmp_path: Path) -> None:
    (tmp_path / "phone/evidence").write_bytes(b"in the way")
    events: list[Event] = []
    reader(profile, events).observe(signed(SEEN, *QUORUM))
    with pytest.raises(RefusedError, check=lambda error: error.reason == "HEAD_FORK"):
        reader(profile, events).observe(signed(FORK, *QUORUM))
    told = events[-1]
    assert isinstance(told, EvidenceMet)
    assert (told.file, told.text.startswith("two quorums signed epoch 5")) == (None, True)


def trust_root(server: Directory) -> TrustRoot:
    return three_of(vrf_public_key=server.public_key, start_root=EMPTY_ROOT)


class Liar(Directory):
    """Alice's device made version 1; the operator plants versions of its own, then others register until epoch 9."""

    def __init__(self, planted: Sequence[int], retired: Sequence[int] = ()) -> None:
        super().__init__(seed(1))
        self.publish([(ALICE, OWN)])
        for version in planted:
            self.plant(ALICE, version, THIEFS, 8)
        for version in retired:
            self.retire(ALICE, version, 8)
        for number in range(2, 10):
            self.publish([(b"+49%d" % number, OWN)])
        self.root_hash = self.tree().root()
        self.answers: dict[int, bytes] = {}  # by how many most recent versions

    def prove(self, versions: Sequence[int], future: Sequence[int] | None = None) -> bytes:
        return self.history(self.tree(), ALICE, versions, self.epoch, future=future).SerializeToString()

    async def OpenSession(self, request: OpenSessionRequest, **options: float) -> OpenSessionResponse:
        return OpenSessionResponse(token=b"token")

    async def History(self, request: HistoryRequest, **options: Any) -> AsyncIterator[HistoryResponse]:
        head = signed(Head(self.epoch, self.root_hash), *QUORUM)
        yield HistoryResponse(head=head, chunk=self.answers[request.most_recent])

    async def read(self, profile: Profile) -> tuple[int, ...]:
        """The versions that the owner's client takes from this directory."""
        return tuple(identity.version for identity in (await self.own_history(profile)).identities)

    async def own_history(self, profile: Profile) -> History:
        root = trust_root(self)
        stub: Any = self
        reader = DirectoryReader(stub, root, profile, now_ms=lambda: NOW, report=lambda event: None)
        return await reader.own_history(ALICE.decode(), seed(100))


async def test_a_lone_planted_version_is_no_newest_one(profile: Profile) -> None:
    """(fresh, 8) alone: a lookup would answer it, and the owner's complete history still ends at 1."""
    liar = Liar([8])
    liar.answers = {0: liar.prove([1]), 1: liar.prove([1])}
    assert await liar.read(profile) == (1,)
    head = Head(liar.epoch, liar.root_hash)
    root = three_of(vrf_public_key=liar.public_key, start_root=EMPTY_ROOT)
    assert verify_lookup(*reversed(head), root.vrf_public_key, ALICE, lookup(liar, 8)).value == THIEFS
    with pytest.raises(LookupError):  # most recent 1 needs leaves that are not there
        liar.prove([8])


async def test_a_planted_version_that_passes_most_recent_1_is_seen_by_the_owner(profile: Profile) -> None:
    """(fresh, 8) with (stale, 7) and (fresh, 4): vault and store would take it; the owner's client refuses it all."""
    liar = Liar([4, 8], [7])
    root = three_of(vrf_public_key=liar.public_key, start_root=EMPTY_ROOT)
    head = Head(liar.epoch, liar.root_hash)
    assert verify_identity(root, head, ALICE.decode(), liar.prove([8])).public_key == THIEFS[1:]
    for versions, future in (([1], [2]), ([1], [2, 2]), ([8], None)):  # (fresh, 4) can't be shown to be absent
        liar.answers = {0: liar.prove(versions, future), 1: liar.prove([8])}
        with pytest.raises(RefusedError):
            await liar.read(profile)


def lookup(liar: Liar, version: int) -> bytes:
    return liar.lookup(liar.tree(), ALICE, version).SerializeToString()


# Absence


class Denier(DirectoryServiceServicer):
    """Says that it has no such account; `absence` is what it proves it by, a refusal if None."""

    def __init__(self, server: Directory) -> None:
        self.server = server
        self.absence: bytes | None = None

    async def OpenSession(self, request: Any, context: Any) -> OpenSessionResponse:
        return OpenSessionResponse(token=b"token")

    async def History(self, request: Any, context: Any) -> AsyncIterator[HistoryResponse]:
        raise ServiceError("LABEL_NOT_FOUND", "no such label")
        yield HistoryResponse()

    async def Absence(self, request: Any, context: Any) -> AbsenceResponse:
        if self.absence is None:
            raise ServiceError("LABEL_PRESENT", "it is there")
        head = Head(self.server.epoch, self.server.tree().root())
        return AbsenceResponse(head=signed(head, *QUORUM), proof=self.absence)

    async def refusal(self, folder: Path, profile: Profile) -> ClientError:
        """What the owner's client makes of it."""
        root = three_of(vrf_public_key=self.server.public_key, start_root=EMPTY_ROOT)
        async with loopback(folder, lambda s: add_DirectoryServiceServicer_to_server(self, s)) as channel:
            stub = DirectoryServiceStub(channel)
            reader = DirectoryReader(stub, root, profile, now_ms=lambda: NOW, report=lambda event: None, retry_for_s=0)
            with pytest.raises(ClientError) as caught:
                await reader.own_history(ALICE.decode(), seed(100))
        return caught.value


def of_others(*, alice: bool) -> Directory:
    """Three epochs of other people's, in which Alice's device may have published."""
    server = Directory(seed(1))
    for number in range(2, 5):
        server.publish([(b"+49%d" % number, OWN), *([(ALICE, OWN)] if alice and number == 2 else [])])
    return server


async def test_an_account_is_not_there_only_where_that_is_proved(tmp_path: Path, profile: Profile) -> None:
    denier = Denier(of_others(alice=False))
    denier.absence = denier.server.absence(denier.server.tree(), ALICE, [1, 2]).SerializeToString()
    refusal = await denier.refusal(tmp_path, profile)
    assert (type(refusal), refusal.reason) == (RefusedError, "LABEL_NOT_FOUND")
    assert profile.head is not None
    assert profile.head.epoch == 3
    profile.add_versions([KnownVersion(1, 1, public_key(seed(100)), "own")])
    refusal = await denier.refusal(tmp_path, profile)
    assert (type(refusal), refusal.reason) == (RefusedError, "HISTORY_REWRITTEN")
    assert proven(profile, trust_root(denier.server)) == []  # the device says it; nothing shows it


async def test_a_denied_account_that_was_proved_before_is_evidence(tmp_path: Path, profile: Profile) -> None:
    honest = Erasing()
    remember(profile, await honest.own_history(profile))
    denier = Denier(of_others(alice=False))
    for number in range(5, 15):
        denier.server.publish([(b"+49%d" % number, OWN)])
    denier.absence = denier.server.absence(denier.server.tree(), ALICE, [1, 2, 4, 8]).SerializeToString()
    assert (await denier.refusal(tmp_path, profile)).reason == "HISTORY_REWRITTEN"
    assert proven(profile, trust_root(honest)) == [("rewrite", (), 13)]


async def test_an_account_that_is_there_is_not_denied(tmp_path: Path, profile: Profile) -> None:
    denier = Denier(of_others(alice=True))
    refusal = await denier.refusal(tmp_path, profile)
    assert (type(refusal), refusal.reason) == (TryLaterError, "ABSENCE_UNPROVEN")
    server, tree = denier.server, denier.server.tree()
    for label, markers, reason in (
        (ALICE, [], "ABSENCE_MARKERS"),
        (ALICE, [2], "ABSENCE_MARKERS"),
        (ALICE, [2, 4], "VRF_PROOF"),
        (b"+4999", [1, 2], "VRF_PROOF"),
    ):
        denier.absence = server.absence(tree, label, markers).SerializeToString()
        refusal = await denier.refusal(tmp_path, profile)
        assert (type(refusal), refusal.reason) == (RefusedError, reason)


# Erased values


class Erasing(Liar):
    """Alice's device made versions 1 to 3, in epochs 1, 10 and 11; the values of some are erased."""

    def __init__(self, *erased: int, second: bytes = OWN, later: int = 0) -> None:
        super().__init__([])
        self.publish([(ALICE, second)])
        self.publish([(ALICE, THIEFS)])
        for number in range(later):
            self.publish([(b"+48%d" % number, OWN)])
        for version in erased:
            self.erase(ALICE, version)
        self.root_hash = self.tree().root()
        self.answers = {0: self.prove([3, 2, 1]), 1: self.prove([3])}


def remember(profile: Profile, history: History) -> None:
    """What the device keeps of a history that it took."""
    profile.add_versions(KnownVersion(i.version, i.epoch, i.public_key, "own") for i in history.identities)
    profile.add_leaves(history.leaves)
    profile.put(ProvedHistory(history.proof))


async def test_an_erased_version_is_the_one_that_was_seen_before(profile: Profile) -> None:
    before = await Erasing().own_history(profile)
    assert sorted(before.leaves) == [1, 2, 3]
    remember(profile, before)
    for erased in ((1,), (2,), (1, 2)):
        after = await Erasing(*erased).own_history(profile)
        assert after.identities == before.identities
        assert sorted(after.leaves) == sorted({1, 2, 3} - set(erased))


async def test_a_new_device_does_not_learn_an_erased_key(profile: Profile) -> None:
    history = await Erasing(1, 2).own_history(profile)
    assert [identity.public_key for identity in history.identities] == [public_key(THIEF), b"", b""]
    remember(profile, history)
    assert (await Erasing(1, 2).own_history(profile)).identities == history.identities


@pytest.mark.parametrize(
    ("erased", "second", "reason"),
    [((3,), OWN, "VALUE_MISSING"), ((2,), THIEFS, "LEAF_CHANGED"), ((), THIEFS, "LEAF_CHANGED")],
)
async def test_what_is_not_the_erasure_of_an_old_value_is_refused(
    profile: Profile, erased: tuple[int, ...], second: bytes, reason: str
) -> None:
    """The newest value is missing; version 2 was another once, whether its new value is shown or not."""
    remember(profile, await Erasing().own_history(profile))
    forged = Erasing(*erased, second=second)
    profile.put(HeadSeen(b""))  # the witnesses signed both trees
    with pytest.raises(RefusedError, check=lambda error: error.reason == reason):
        await forged.own_history(profile)


async def test_a_version_that_became_another_is_evidence(profile: Profile) -> None:
    remember(profile, await Erasing().own_history(profile))
    forged = Erasing(second=THIEFS, later=2)
    with pytest.raises(RefusedError, check=lambda error: error.reason == "LEAF_CHANGED"):
        await forged.own_history(profile)
    assert proven(profile, trust_root(forged)) == [("rewrite", (), 13)]


async def test_a_version_that_is_left_out_is_evidence(profile: Profile) -> None:
    """A history that holds, and ends below what was proved."""
    honest = Erasing()
    remember(profile, await honest.own_history(profile))
    shorter = Liar([])
    shorter.publish([(ALICE, OWN)])
    for number in range(3):
        shorter.publish([(b"+48%d" % number, OWN)])
    shorter.root_hash = shorter.tree().root()
    shorter.answers = {0: shorter.prove([2, 1]), 1: shorter.prove([2])}
    history = await shorter.own_history(profile)
    assert proven(profile, trust_root(honest)) == []
    DirectoryReader(
        None,
        trust_root(honest),
        profile,
        now_ms=lambda: NOW,
        report=lambda event: None,
    ).rewritten(history)
    assert proven(profile, trust_root(honest)) == [("rewrite", (), 13)]


async def test_a_lie_is_found_among_any_number_of_repeated_versions(profile: Profile) -> None:
    remember(profile, await Erasing().own_history(profile))
    forged = Erasing(second=THIEFS, later=2)
    proof = HistoryProof.FromString(forged.answers[0])
    for _ in range(2000):
        bent = proof.update_proofs.add()
        bent.CopyFrom(proof.update_proofs[1])
    forged.answers[0] = proof.SerializeToString()
    with pytest.raises(RefusedError):
        await forged.own_history(profile)
    assert proven(profile, trust_root(forged)) == [("rewrite", (), 13)]


async def test_a_history_that_goes_on_is_no_evidence(profile: Profile) -> None:
    """Also with values erased, with a proof that does not hold, and with one that can't be read."""
    honest = Erasing()
    remember(profile, await honest.own_history(profile))
    later = Erasing(1, 2, later=2)
    history = await later.own_history(profile)
    assert history.head.epoch == 13
    for answer in (b"\xff", later.prove([2, 1]), b""):
        later.answers[0] = answer
        with pytest.raises(RefusedError):
            await later.own_history(profile)
    assert proven(profile, trust_root(honest)) == []
