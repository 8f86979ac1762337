"""The directory, asked by an account of its own and by the messaging service."""

import asyncio
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError, Message

from ipls.akd import EMPTY_ROOT, DirectoryKey, verify_absence, verify_history, verify_lookup
from ipls.crypto.keys import public_key, sign
from ipls.proto.directory.v1 import directory_pb2 as pb
from ipls.rpc.errors import ServiceError
from ipls.rpc.reads import SESSION_METADATA
from ipls.server.directory.authorizer import ReadAuthorizer
from ipls.server.directory.cache import ProofCache
from ipls.server.directory.epochs import prepare
from ipls.server.directory.publisher import HeadNotifier
from ipls.server.directory.service import DirectoryService, UpdateService
from ipls.store.directory import DirectoryStore, StoredHead, open_directory_store
from ipls.store.readers import open_readers_store
from ipls.trust.calls import session_digest
from ipls.trust.heads import Head
from ipls.trust.identity import encode_record
from tests.fuzz.target import ID, LABEL, SEED, Target, folder, serialized, target
from tests.trust import chains
from tests.trust.roots import NAMESPACE, NOW, VRF, WITNESSES, seed, signed, three_of

KEY = DirectoryKey.from_seed(VRF)
SERVED_ROOT = three_of(vrf_public_key=KEY.public_key, start_root=EMPTY_ROOT)
OWN, OTHER, NOBODY = LABEL.encode(), b"+491700000001", b"+491700000002"
_EPOCHS = [[(OWN, 101)], [(OTHER, 102)], [(OWN, 0), (b"+491700000003", 103)]]


PINNED = chains.first(SERVED_ROOT)
_NEXT = chains.after(PINNED)
VERSIONS = [chains.signed(_NEXT, *WITNESSES), chains.signed(chains.after(_NEXT), *WITNESSES)]


def record(number: int) -> bytes:
    return encode_record(public_key(seed(number) if number else SEED))


class Served(NamedTuple):
    """A directory of three epochs, in the last of which the account that calls has got its key."""

    store: DirectoryStore
    reads: DirectoryService
    updates: UpdateService
    context: Any


def _serve() -> Served:
    place = folder()
    store = open_directory_store(place / "directory.db", NAMESPACE, KEY.public_key)
    term = store.take_lease(store.lease())
    start = signed(Head(0, EMPTY_ROOT), *WITNESSES).SerializeToString()
    store.commit_start(term, StoredHead(0, EMPTY_ROOT, 0, start))
    for updates in _EPOCHS:
        for label, number in updates:
            store.submit(bytes([number]) * 16, label, record(number), NOW, daily_quota=9, queue_max=9)
        prepared = prepare(store, KEY, term, len(updates))
        assert prepared
        step, made = prepared
        head = signed(Head(step.epoch, step.new_root), *WITNESSES)
        store.commit(term, step, made, head.SerializeToString())
    heads = HeadNotifier()
    readers = ReadAuthorizer(
        store,
        open_readers_store(place / "readers.db"),
        NAMESPACE,
        daily_labels=10**9,
        anonymous=False,
        now_ms=lambda: NOW,
    )
    reads = DirectoryService(store, KEY, heads, readers, ProofCache(None), VERSIONS)
    reads.level.set()
    updates = UpdateService(store, heads, lambda: None, daily_quota=10**9, queue_max=10**9, now_ms=lambda: NOW)
    digest = session_digest(NAMESPACE, LABEL, public_key(SEED), NOW, ID)
    opening = pb.OpenSessionRequest(
        label=LABEL, public_key=public_key(SEED), timestamp_ms=NOW, nonce=ID, signature=sign(SEED, digest)
    )
    token = asyncio.run(readers.open(opening, "192.0.2.1")).token
    context = SimpleNamespace(
        peer=lambda: "ipv4:192.0.2.1:7", auth_context=dict, invocation_metadata=lambda: ((SESSION_METADATA, token),)
    )
    return Served(store, reads, updates, context)


serving = cache(_serve)
"""One for those who only read."""


async def answers_of(answer: Any) -> list[Any]:
    """Of a stream's messages, or the one of another call."""
    return [each async for each in answer] if hasattr(answer, "__aiter__") else [await answer]


def _asked(method: str, kind: type[Any], check: Callable[[Any, list[Any]], object], *seeds: Message) -> Target:
    """`check` is given a request and its answers: whatever is asked, what is proved holds."""
    served = serving()

    def run(data: bytes) -> None:
        request = kind.FromString(data)
        check(request, asyncio.run(answers_of(getattr(served.reads, method)(request, served.context))))

    return Target(run, (ServiceError, DecodeError), serialized(*seeds), weight=4)


@target("directory: lookup")
def _() -> Target:
    def check(request: pb.LookupRequest, answers: list[pb.LookupResponse]) -> None:
        head, proof = answers[0].head, answers[0].proof
        verify_lookup(head.root_hash, head.epoch, KEY.public_key, request.label, proof)

    seeds = [pb.LookupRequest(label=OTHER), pb.LookupRequest(label=OWN, epoch=1)]
    return _asked("Lookup", pb.LookupRequest, check, *seeds)


@target("directory: history")
def _() -> Target:
    def check(request: pb.HistoryRequest, answers: list[pb.HistoryResponse]) -> None:
        head, proof = answers[0].head, b"".join(answer.chunk for answer in answers)
        key, most_recent = KEY.public_key, request.most_recent
        verify_history(head.root_hash, head.epoch, key, request.label, proof, most_recent=most_recent)

    seeds = [pb.HistoryRequest(label=OWN, epoch=1), pb.HistoryRequest(label=OTHER, most_recent=1)]
    return _asked("History", pb.HistoryRequest, check, *seeds)


@target("directory: batch")
def _() -> Target:
    def check(request: pb.BatchLookupRequest, answers: list[pb.BatchLookupResponse]) -> None:
        head, results = answers[0].head, answers[0].results
        for label, result in zip(request.labels, results, strict=True):
            verify = verify_lookup if result.lookup else verify_absence
            verify(head.root_hash, head.epoch, KEY.public_key, label, result.lookup or result.absence)

    seeds = [pb.BatchLookupRequest(labels=[OWN, NOBODY, OTHER, OWN])]
    return _asked("BatchLookup", pb.BatchLookupRequest, check, *seeds)


@target("directory: absence")
def _() -> Target:
    def check(request: pb.AbsenceRequest, answers: list[pb.AbsenceResponse]) -> None:
        head, proof = answers[0].head, answers[0].proof
        verify_absence(head.root_hash, head.epoch, KEY.public_key, request.label, proof)

    return _asked("Absence", pb.AbsenceRequest, check, pb.AbsenceRequest(label=NOBODY, epoch=2))


@target("directory: update")
def _() -> Target:
    served = _serve()
    seed = pb.SubmitUpdateRequest(request_id=ID, label=OTHER, value=record(104))

    def run(data: bytes) -> None:
        request = pb.SubmitUpdateRequest.FromString(data)
        ticket = asyncio.run(served.updates.SubmitUpdate(request, None)).ticket
        assert served.store.published_at(ticket) is None
        assert served.store.is_queued(request.label, request.value)

    return Target(run, (ServiceError, DecodeError), serialized(seed), weight=4)


@target("directory: ticket")
def _() -> Target:
    served = serving()
    ticket = served.store.submit(bytes([101]) * 16, OWN, record(101), NOW, daily_quota=9, queue_max=9)

    def run(data: bytes) -> None:
        answers = asyncio.run(answers_of(served.updates.WatchUpdate(pb.WatchUpdateRequest.FromString(data), None)))
        assert [answer.epoch for answer in answers] == [1]

    return Target(run, (ServiceError, DecodeError), serialized(pb.WatchUpdateRequest(ticket=ticket)), weight=4)


@target("directory: erasure")
def _() -> Target:
    served = _serve()
    seed = pb.EraseValuesRequest(label=OWN, through_version=1)

    def run(data: bytes) -> None:
        asyncio.run(served.updates.EraseValues(pb.EraseValuesRequest.FromString(data), None))
        assert [version.value for version in served.store.versions(OWN, 3, 1)] == [record(0)]

    return Target(run, (ServiceError, DecodeError), serialized(seed), weight=4)
