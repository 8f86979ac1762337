"""Answers of a contact store that has no end, or shows what no line is.

Honest ones: tests/server/contacts/test_lines.py."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from ipls.client.errors import RefusedError
from ipls.client.line_store import MAX_RECORDS, LineStore
from ipls.contacts.sealing import name_of
from ipls.crypto.keys import SeedSigner
from ipls.proto.contacts.v2 import contacts_pb2 as pb
from ipls.proto.contacts.v2.contacts_pb2_grpc import (
    ContactsServiceServicer,
    ContactsServiceStub,
    add_ContactsServiceServicer_to_server,
)
from ipls.rpc.errors import ServiceError
from tests.server.loopback import loopback

HEAD = pb.ReadResponse(head=pb.LineHead(n=3))
LINKS = pb.ReadResponse(links=pb.Links(links=bytes(40 * 25_000)))


class Hostile:
    """Answers with these, `again` without end."""

    def __init__(self, *responses: Any, again: bool = False) -> None:
        self._responses = itertools.cycle(responses) if again else responses

    async def Read(self, request: Any, timeout: float) -> AsyncIterator[Any]:
        for response in self._responses:
            yield response

    GetRecords = Read


def store(*responses: Any, again: bool = False) -> LineStore:
    stub: Any = Hostile(*responses, again=again)
    return LineStore(stub, "test.ipls", "+491701234567", SeedSigner(bytes(32)), now_ms=lambda: 0, retry_for_s=0)


def commits(*sizes: int) -> pb.ReadResponse:
    placed = [pb.PlacedCommit(n=n, signed=pb.SignedCommit(commit=bytes(size))) for n, size in enumerate(sizes)]
    return pb.ReadResponse(commits=pb.PlacedCommits(commits=placed))


@pytest.mark.parametrize(
    "answers",
    [
        [HEAD, LINKS],
        [HEAD, commits(1 << 20)],
        [HEAD, commits(*[0] * 10_000)],
        [HEAD, commits(*[100_000] * 20)],
        [pb.ReadResponse(links=pb.Links(links=bytes(40)))] * 2,
    ],
    ids=["links", "a large commit", "many commits", "much", "no head"],
)
async def test_a_line_without_end_is_refused(answers: list[Any]) -> None:
    with pytest.raises(RefusedError, check=lambda e: e.reason == "STORE_ANSWER_INVALID"):
        await store(*answers, again=True).read(0)


@pytest.mark.parametrize(
    "answers",
    [
        [HEAD, pb.ReadResponse(links=pb.Links(links=bytes(39)))],
        [HEAD, pb.ReadResponse(links=pb.Links(links=bytes(160)))],
        [HEAD, commits((128 << 10) + 1)],
    ],
    ids=["a link cut off", "more links than commits", "a large commit"],
)
async def test_what_no_line_is_is_refused(answers: list[Any]) -> None:
    with pytest.raises(RefusedError, check=lambda e: e.reason == "STORE_ANSWER_INVALID"):
        await store(*answers).read(0)


class Waiting:
    """Answers the first call; the second has begun, or ended."""

    def __init__(self) -> None:
        self.begun, self.ended = asyncio.Event(), asyncio.Event()
        self._answers = iter([pb.GetRecordsResponse(sizes=[0] * MAX_RECORDS)])

    async def GetRecords(self, request: Any, timeout: float) -> AsyncIterator[Any]:
        for answer in self._answers:
            yield answer
            return
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.set()


async def test_the_next_records_are_asked_for_while_these_are_read_and_left_with_them() -> None:
    stub: Any = Waiting()
    waiting = LineStore(stub, "test.ipls", "+491701234567", SeedSigner(bytes(32)), now_ms=lambda: 0, retry_for_s=0)
    async with aclosing(waiting.get([n.to_bytes(32) for n in range(MAX_RECORDS + 1)])) as batches:
        assert await anext(batches) == {}
        await stub.begun.wait()
    assert stub.ended.is_set()


async def got(*answers: pb.GetRecordsResponse) -> list[dict[bytes, bytes]]:
    return [batch async for batch in store(*answers).get([name_of(b"a"), name_of(b"b")])]


@pytest.mark.parametrize(
    "answers",
    [
        [],
        [pb.GetRecordsResponse()],
        [pb.GetRecordsResponse(sizes=[1])],
        [pb.GetRecordsResponse(sizes=[1], chunk=b"ab")],
        [pb.GetRecordsResponse(sizes=[0, 0, 0])],
        [pb.GetRecordsResponse(sizes=[1 << 26])],
        [pb.GetRecordsResponse(sizes=[2**63])],
    ],
    ids=["nothing", "no sizes", "too little", "too much", "more than asked for", "too large", "far too large"],
)
async def test_records_that_are_not_as_announced_are_refused(answers: list[Any]) -> None:
    with pytest.raises(RefusedError, check=lambda e: e.reason == "STORE_ANSWER_INVALID"):
        await got(*answers)


async def test_bytes_of_another_name_are_left_out() -> None:
    assert await got(pb.GetRecordsResponse(sizes=[1, 1], chunk=b"xb")) == [{name_of(b"b"): b"b"}]


class EndingStreams(ContactsServiceServicer):
    """Each stream tells two heads, then ends for this reason; the next begins with the last of them."""

    def __init__(self, *reasons: str) -> None:
        self._reasons = iter(reasons)
        self._n = 0

    async def Follow(self, request: Any, context: Any) -> AsyncIterator[pb.FollowResponse]:
        yield pb.FollowResponse(n=self._n, chain=bytes(32))
        self._n += 1
        yield pb.FollowResponse(n=self._n, chain=bytes(32))
        raise ServiceError(next(self._reasons), "over")


async def test_a_stream_whose_time_is_over_is_followed_by_another(tmp_path: Path) -> None:
    servicer = EndingStreams("STREAM_OVER", "STREAM_OVER", "IDENTITY_SUPERSEDED")
    async with loopback(tmp_path, lambda server: add_ContactsServiceServicer_to_server(servicer, server)) as channel:
        signer = SeedSigner(bytes(32))
        line = LineStore(ContactsServiceStub(channel), "test.ipls", "+491701234567", signer, now_ms=lambda: 0)
        seen = []

        async def follow() -> None:
            async for n, _ in line.follow():
                seen.append(n)

        with pytest.raises(RefusedError, check=lambda e: e.reason == "IDENTITY_SUPERSEDED"):
            await follow()
    assert seen == [1, 2, 3]
