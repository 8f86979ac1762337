"""Reads of the directory as they cross the wire: the session that they are made in, and histories, whose proofs come in
pieces, since they may be longer than a message."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ipls.proto.directory.v1.directory_pb2 import HistoryRequest, HistoryResponse
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.rpc.channel import chunks

if TYPE_CHECKING:
    from ipls.proto.directory.v1.directory_pb2_grpc import DirectoryServiceAsyncStub

SESSION_METADATA = "ipls-session-bin"
"""The call's metadata that holds the session's token."""

MAX_VERSIONS = 10_000
"""In one history: about 50 MB, and more changes than anybody makes who does not mean to."""

MAX_PROOF = 64 << 20
"""Bytes of a proof that a reader takes."""


def history_responses(head: SignedHead, proof: bytes) -> Iterator[HistoryResponse]:
    """The messages that carry an encoded HistoryProof; the head is in the first."""
    for number, chunk in enumerate(chunks(proof)):
        yield HistoryResponse(head=None if number else head, chunk=chunk)


async def read_history(
    stub: "DirectoryServiceAsyncStub",
    request: HistoryRequest,
    *,
    timeout: float,
    metadata: tuple[tuple[str, bytes], ...] = (),
    limit: int = MAX_PROOF,
) -> tuple[SignedHead, bytes]:
    """The signed head and the encoded proof, both unchecked. Raises AioRpcError.

    What comes after `limit` bytes is left out: a proof that was cut does not hold.
    """
    head, proof = SignedHead(), bytearray()
    call = stub.History(request, timeout=timeout, metadata=metadata)
    async for response in call:
        if response.HasField("head"):
            head = response.head
        proof += response.chunk[: limit - len(proof)]
        if len(proof) == limit:
            call.cancel()
            break
    return head, bytes(proof)
