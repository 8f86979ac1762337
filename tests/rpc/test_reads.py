"""Histories as they cross the wire: in pieces, put together within a bound."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from ipls.proto.directory.v1.directory_pb2 import HistoryRequest, HistoryResponse
from ipls.proto.directory.v1.directory_pb2_grpc import (
    DirectoryServiceServicer,
    DirectoryServiceStub,
    add_DirectoryServiceServicer_to_server,
)
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.rpc.channel import CHUNK
from ipls.rpc.reads import history_responses, read_history
from tests.server.loopback import loopback

PROOF = bytes(range(256)) * (5 << 12)
"""5 MiB: more than gRPC takes in one message."""
HEAD = SignedHead(epoch=7, root_hash=bytes(32))


class Sender(DirectoryServiceServicer):
    def __init__(self) -> None:
        self.endless = False

    async def History(self, request: Any, context: Any) -> AsyncIterator[HistoryResponse]:
        for response in history_responses(HEAD, PROOF):
            assert len(response.chunk) <= CHUNK
            yield response
        while self.endless:
            yield HistoryResponse(chunk=bytes(CHUNK))


async def test_a_long_proof_comes_as_it_was_and_an_endless_one_is_cut(tmp_path: Path) -> None:
    sender = Sender()
    async with loopback(tmp_path, lambda s: add_DirectoryServiceServicer_to_server(sender, s)) as channel:
        stub = DirectoryServiceStub(channel)
        assert await read_history(stub, HistoryRequest(), timeout=60) == (HEAD, PROOF)
        sender.endless = True
        limit = len(PROOF) + 3
        assert await read_history(stub, HistoryRequest(), timeout=60, limit=limit) == (HEAD, PROOF + bytes(3))
