"""A device, answered by a directory that is honest but for what is bent on the way."""

import asyncio
import io
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from google.protobuf.message import Message

from ipls._grpc import grpc
from ipls.akd import Version
from ipls.client.directory import DirectoryReader, History
from ipls.client.errors import RefusedError, TryLaterError
from ipls.client.profile import Account, Pinned, Profile, ProvedHistory
from ipls.client.trust import TrustRoots
from ipls.crypto.keys import public_key
from ipls.proto.directory.v1 import directory_pb2 as pb
from ipls.proto.trust.v1.proof_pb2 import LabelProof
from ipls.rpc.errors import ServiceError, to_status
from ipls.trust.chain import TrustRootVersion
from ipls.trust.heads import Head
from tests.fuzz.answers import answering, answering_once, framed, frames
from tests.fuzz.target import LABEL, SEED, Target, folder, target
from tests.fuzz.targets.directory import NOBODY, OTHER, OWN, PINNED, SERVED_ROOT, VERSIONS, answers_of, record, serving
from tests.trust.roots import NOW


def _honest(method: str, request: Message) -> list[Any]:
    served = serving()
    return asyncio.run(answers_of(getattr(served.reads, method)(request, served.context)))


def _reading(
    ask: Callable[[DirectoryReader], Any], expected: Callable[[Any], object], seed: bytes, **methods: Any
) -> Target:
    """A device that has seen its account's history asks. `seed` has a session's opening, then the answers in it; a
    stream ends with an empty frame. Whatever is taken is as `expected`, and nobody is accused.
    """
    profile = Profile(folder() / "phone")
    profile.put(Account(LABEL, SEED, 2, 3))
    history = _honest("History", pb.HistoryRequest(label=OWN))[0]
    proof = LabelProof(label=OWN, head=history.head, history=history.chunk)
    profile.put(ProvedHistory(proof.SerializeToString()))

    def run(data: bytes) -> None:
        stream = io.BytesIO(data)
        offered = {
            "OpenSession": answering_once(pb.OpenSessionResponse, stream),
            "Lookup": answering_once(pb.LookupResponse, stream),
            "Absence": answering_once(pb.AbsenceResponse, stream),
            "History": answering(pb.HistoryResponse, stream),
        }
        stub: Any = SimpleNamespace(**{**offered, **methods})
        reader = DirectoryReader(stub, SERVED_ROOT, profile, now_ms=lambda: NOW, report=lambda _: None, retry_for_s=0)
        try:
            expected(asyncio.run(ask(reader)))
        finally:
            assert profile.evidence.files() == []

    return Target(run, (RefusedError, TryLaterError), (seed,), weight=8)


_OPENED = frames(pb.OpenSessionResponse(token=b"token", expires_ms=NOW + 1))


@target("device: history")
def _() -> Target:
    whole, newest = [_honest("History", pb.HistoryRequest(label=OWN, most_recent=n)) for n in (0, 1)]
    halves = [
        pb.HistoryResponse(head=whole[0].head, chunk=whole[0].chunk[:99]),
        pb.HistoryResponse(chunk=whole[0].chunk[99:]),
    ]

    def expected(history: History) -> None:
        assert history.head == Head(3, whole[0].head.root_hash)
        assert [(each.version, each.epoch) for each in history.identities] == [(2, 3), (1, 1)]
        assert history.identities[0].public_key == public_key(SEED)

    return _reading(
        lambda reader: reader.own_history(LABEL, SEED),
        expected,
        _OPENED + frames(*halves) + framed(b"") + frames(*newest),
    )


@target("device: lookup")
def _() -> Target:
    def expected(found: tuple[Version, bytes]) -> None:
        assert found[0] == Version(1, 2, record(102))

    [answer] = _honest("Lookup", pb.LookupRequest(label=OTHER))
    return _reading(lambda reader: reader.lookup(OTHER.decode()), expected, _OPENED + frames(answer))


@target("device: absence")
def _() -> Target:
    """The directory says that there is no such account, and must prove it."""
    code = grpc.StatusCode.NOT_FOUND
    error = ServiceError("LABEL_NOT_FOUND", "no such label")
    trailers = grpc.aio.Metadata(*to_status(error).trailing_metadata)

    class NotFound:
        async def __aiter__(self) -> Any:
            raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailers, details="no such label")
            yield

    async def ask(reader: DirectoryReader) -> str:
        try:
            await reader.own_history(NOBODY.decode(), SEED)
        except RefusedError as error:
            if error.reason == "LABEL_NOT_FOUND":
                return error.reason
            raise
        raise AssertionError("a history out of nothing")

    [answer] = _honest("Absence", pb.AbsenceRequest(label=NOBODY))
    return _reading(ask, lambda _: None, _OPENED + frames(answer), History=lambda *_, **__: NotFound())


@target("device: trust roots")
def _() -> Target:
    honest, kept = [PINNED.root, *(TrustRootVersion.parse(version.file).root for version in VERSIONS)], list[Profile]()

    def run(data: bytes) -> None:
        if not kept:
            kept.append(Profile(folder() / "phone"))
            kept[0].put(Pinned(PINNED.file, b"", "{}"))
        stub: Any = SimpleNamespace(TrustRoots=answering_once(pb.TrustRootsResponse, io.BytesIO(data)))
        roots = TrustRoots(stub, kept[0], now_ms=lambda: NOW, report=lambda _: None, retry_for_s=0)
        try:
            assert asyncio.run(roots.follow()) in honest
        finally:
            followed = kept[0].trust_root
            if followed != PINNED:
                kept.pop().close()
        assert followed.root in honest

    one, other = (pb.TrustRootsResponse(versions=[version]) for version in VERSIONS)
    none = framed(b"")
    seeds = frames(pb.TrustRootsResponse(versions=VERSIONS)) + none, frames(one, other) + none
    return Target(run, (RefusedError, TryLaterError), seeds, weight=8)
