"""Answers of a contact store that has no end, or promises more than it may."""

import itertools
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ipls.client.contact_store import ContactStore, RecordKey
from ipls.client.errors import RefusedError
from ipls.client.profile import Account
from ipls.proto.contacts.v1 import contacts_pb2 as pb


class Stream:
    """A server's answers, without end."""

    def __init__(self, *responses: Any) -> None:
        self._responses = itertools.cycle(responses)

    async def __aiter__(self) -> AsyncIterator[Any]:
        for response in self._responses:
            yield response

    def cancel(self) -> None:
        pass


class Hostile:
    def __init__(self, *responses: Any) -> None:
        self._responses = responses

    def _answer(self, request: Any, timeout: float) -> Stream:
        return Stream(*self._responses)

    GetRecords = ListRecords = GetManifest = _answer


def store(*responses: Any) -> ContactStore:
    account = Account("+491701234567", bytes(32), 1, 1)
    stub: Any = Hostile(*responses)
    return ContactStore(stub, "test.ipls", account, now_ms=lambda: 0, retry_for_s=0)


async def test_a_listing_without_end_is_refused() -> None:
    pages = [
        pb.ListRecordsResponse(
            records=[pb.RecordSize(key=pb.RecordKey(generation=page, id=n.to_bytes(16))) for n in range(50_000)]
        )
        for page in range(21)
    ]
    with pytest.raises(RefusedError, check=lambda e: e.reason == "STORE_ANSWER_INVALID"):
        await store(*pages).list()


@pytest.mark.parametrize("header", [pb.ManifestHeader(size=1 << 20), pb.ManifestHeader(size=2**64 - 1), None])
async def test_a_manifest_without_end_is_refused(header: pb.ManifestHeader | None) -> None:
    chunk = pb.GetManifestResponse(chunk=bytes(1 << 20))
    answers = [pb.GetManifestResponse(header=header), chunk, chunk] if header else [chunk]
    with pytest.raises(RefusedError, check=lambda e: e.reason == "STORE_ANSWER_INVALID"):
        await store(*answers).manifest()


@pytest.mark.parametrize("sizes", [[2**63], [], [0], [284], [284, 284], [284] * 3], ids=str)
async def test_records_that_were_not_asked_for_are_refused(sizes: list[int]) -> None:
    answers = [pb.GetRecordsResponse(sizes=pb.RecordSizes(sizes=sizes)), pb.GetRecordsResponse(chunk=bytes(284))]
    with pytest.raises(RefusedError, check=lambda e: e.reason == "RECORD_MISMATCH"):
        await store(*answers).get([RecordKey(1, os.urandom(16), os.urandom(32))])
