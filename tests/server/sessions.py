"""Sessions of reads, opened as devices and thieves would."""

import itertools
from typing import Any

import pytest

from ipls._grpc import grpc
from ipls.contacts.commits import DeviceList, ListedDevice, devices_digest
from ipls.crypto.keys import SeedSigner, public_key, sign
from ipls.proto.directory.v1 import directory_pb2 as pb
from ipls.rpc.errors import RemoteError, remote_error
from ipls.rpc.reads import SESSION_METADATA, read_history
from ipls.trust.calls import session_digest
from tests.server.directories import NOW, Client, seed

_nonces = itertools.count(1)


def opening(
    label: bytes, secret: bytes, now_ms: int = NOW, *, namespace: str = "test.ipls", listing: pb.Listing | None = None
) -> pb.OpenSessionRequest:
    """The signed call of the key of `secret`, with a nonce of its own. `listing`: of a linked device."""
    nonce, key = next(_nonces).to_bytes(16, "big"), public_key(secret)
    digest = session_digest(namespace, label.decode(), key, now_ms, nonce)
    return pb.OpenSessionRequest(
        label=label.decode(),
        public_key=key,
        timestamp_ms=now_ms,
        nonce=nonce,
        signature=sign(secret, digest),
        listing=listing,
    )


def key(number: int) -> bytes:
    """The seed of `directories.record(number)`."""
    return seed(100 + number)


def listing_of(label: bytes, number: int, *devices: bytes, n: int = 7, namespace: str = "test.ipls") -> pb.Listing:
    """The list of the devices with these seeds that the identity of this number signs in commit `n`."""
    identity = SeedSigner(key(number))
    listed = tuple(sorted(ListedDevice(public_key(secret), bytes(32)) for secret in devices))
    digest = devices_digest(namespace, label.decode(), n, identity.public_key, listed)
    encoded = DeviceList(listed, identity.sign(digest)).encode()
    return pb.Listing(identity_key=identity.public_key, n=n, devices=encoded)


class Session:
    """Reads on the public port under one token; without one they are anonymous."""

    def __init__(self, client: Client, token: bytes | None) -> None:
        self.client = client
        self.token = token
        self.metadata = ((SESSION_METADATA, token),) if token is not None else ()

    @classmethod
    async def open(cls, client: Client, label: bytes, number: int, now_ms: int = NOW) -> "Session":
        return cls(client, (await client.public.OpenSession(opening(label, key(number), now_ms))).token)

    async def lookup(self, label: bytes, epoch: int = 0) -> pb.LookupResponse:
        return await self.client.public.Lookup(pb.LookupRequest(label=label, epoch=epoch), metadata=self.metadata)

    async def absence(self, label: bytes, epoch: int = 0) -> pb.AbsenceResponse:
        return await self.client.public.Absence(pb.AbsenceRequest(label=label, epoch=epoch), metadata=self.metadata)

    async def batch(self, labels: list[bytes]) -> pb.BatchLookupResponse:
        return await self.client.public.BatchLookup(pb.BatchLookupRequest(labels=labels), metadata=self.metadata)

    async def history(self, label: bytes, epoch: int = 0, most_recent: int = 1) -> tuple[Any, bytes]:
        request = pb.HistoryRequest(label=label, epoch=epoch, most_recent=most_recent)
        return await read_history(self.client.public, request, timeout=60, metadata=self.metadata)


async def refusal(call: Any) -> RemoteError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return remote_error(caught.value)
