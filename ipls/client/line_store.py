"""Signed calls to the contact store about the account's line, and what comes back, in its shape: what it says, the
device judges.

Tested by tests/client/test_line_store.py.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from google.protobuf.message import Message

from ipls._grpc import grpc
from ipls.client.calls import CALL_S, RETRY_FOR_S, carrying, client_error, retrying, signed_call
from ipls.client.errors import ProfileError, RefusedError
from ipls.contacts.admission import MAX_COMMITS
from ipls.contacts.commits import MAX_COMMIT, Link, Signed
from ipls.contacts.line import LineRead
from ipls.contacts.sealing import MAX_SNAPSHOT, NAME_BYTES, OVERHEAD, name_of, padded_size
from ipls.crypto.encoding import u64
from ipls.crypto.keys import Signer
from ipls.proto.contacts.v2 import contacts_pb2 as pb
from ipls.rpc.channel import chunks, cut
from ipls.rpc.errors import remote_error
from ipls.runtime.tasks import TaskScope

if TYPE_CHECKING:
    from ipls.proto.contacts.v2.contacts_pb2_grpc import ContactsServiceAsyncStub

Result = TypeVar("Result")
Part = TypeVar("Part")
Went = Callable[[], None]

MAX_RECORDS = 1000
MAX_BYTES = 8 << 20
"""Of what one call carries."""
MAX_NAMES = 10_000
"""Of one question which are there."""

_AHEAD = 2
"""Calls for records at once: one is answered while another is asked."""
_REOPENED_AFTER_S = 0.1
"""So long, or longer each time, after a stream that did not last."""
_LASTING_S = 60.0
_LONGEST_PAUSE_S = 30.0
_LINK_BYTES = 8 + NAME_BYTES
_LARGEST = OVERHEAD + padded_size(MAX_SNAPSHOT)
_MOST_COMMITS = 64 << 20  # bytes that one reading may bring: compaction comes long before
_MOST_KEPT = 3_000_000  # as many as an account may hold
_EACH = 512  # bytes that a commit takes here besides its own


class KeptLine(NamedTuple):
    """The end of a line, as an identity version left it, that is hidden and kept: `LineStore.read_kept` reads it."""

    id: int
    line: bytes
    base_n: int
    n: int
    version: int
    hidden_by: int
    until_ms: int


class KeptRecord(NamedTuple):
    """A record or snapshot that is hidden and kept, and read as any other."""

    name: bytes
    size: int
    is_snapshot: bool
    version: int
    hidden_by: int
    until_ms: int


class Kept(NamedTuple):
    """What later commits hid, of whichever identity version, and the store still keeps."""

    lines: list[KeptLine]
    records: list[KeptRecord]


class LineStore:
    """One account's calls, by its identity or a linked device. Each may be repeated, and is, signed anew, while the
    store is UNAVAILABLE; by the store's clock where this one's is wrong.

    Raises RefusedError and TryLaterError.
    """

    def __init__(
        self,
        stub: "ContactsServiceAsyncStub",
        namespace: str,
        label: str,
        signer: Signer,
        *,
        now_ms: Callable[[], int],
        retry_for_s: float = RETRY_FOR_S,
        linked: bool = False,
    ) -> None:
        """`linked`: by a linked device. The line lists it, or nobody will."""
        self._stub = stub
        self._namespace = namespace
        self._label = label
        self._signer = signer
        self._linked = linked
        self._now_ms = now_ms
        self._behind_ms = 0
        self._retry_for_s = retry_for_s

    async def read(self, n: int, *, until: int = 0) -> LineRead | None:
        """What comes behind commit `n` of the account's line; None where the store shows none. `until`: as it was when
        that commit was its head, as far as that is kept: before a later identity wrote into it, say."""
        return await self._read(pb.ReadBody(n=n, until=until))

    async def links(self, line: bytes, first: int, last: int) -> list[Link]:
        """Of the commits first + 1 to last, of this line or one that was left; as far as the store has them."""
        found = await self._read(pb.ReadBody(n=first, line=line, until=last, links_only=True))
        return list(found.links) if found else []

    async def read_kept(self, kept: KeptLine) -> LineRead | None:
        """All links up to the end of what was kept, and its commits; None where it is not kept any more."""
        return await self._read(pb.ReadBody(kept=kept.id, until=kept.n))

    async def kept(self) -> Kept:
        """What is hidden and kept."""

        async def call(went: Went) -> Kept:
            kept = Kept([], [])
            request = pb.ListKeptRequest(call=self._sign("ListKept", pb.ListKeptBody()))
            async for response in self._stub.ListKept(request, timeout=CALL_S):
                went()
                for line in response.lines:
                    kept.lines.append(KeptLine(line.kept, line.line, line.base_n, line.n, *_hidden(line.hidden)))
                for record in response.records:
                    hidden = _hidden(record.hidden)
                    kept.records.append(KeptRecord(record.name, record.size, record.snapshot, *hidden))
                if len(kept.lines) + len(kept.records) > _MOST_KEPT:
                    raise _invalid()
            return kept

        return await self._retrying(call)

    async def delete_account(self) -> None:
        """Have the store let go of all that this identity version stored; what earlier ones did, it keeps for 90
        days."""
        body = pb.DeleteAccountBody()

        async def call(_: Went) -> None:
            await self._stub.DeleteAccount(
                pb.DeleteAccountRequest(call=self._sign("DeleteAccount", body)), timeout=CALL_S
            )

        await self._retrying(call)

    async def open_link(self, slot: bytes) -> None:
        """Have a slot for one device that is to be linked, for 10 minutes, in the place of the last one."""
        body = pb.OpenLinkBody(slot=slot)

        async def call(_: Went) -> None:
            await self._stub.OpenLink(pb.OpenLinkRequest(call=self._sign("OpenLink", body)), timeout=CALL_S)

        await self._retrying(call)

    async def answer(self, slot: bytes, sealed: bytes) -> None:
        """Say the answer to the new device's hello."""
        await self._answer(pb.AnswerBody(slot=slot, answer=sealed))

    async def give_package(self, slot: bytes, sealed: bytes) -> None:
        """Say the last thing: the package."""
        await self._answer(pb.AnswerBody(slot=slot, package=sealed))

    async def _answer(self, body: pb.AnswerBody) -> None:
        async def call(_: Went) -> None:
            await self._stub.Answer(pb.AnswerRequest(call=self._sign("Answer", body)), timeout=CALL_S)

        await self._retrying(call)

    async def _read(self, body: pb.ReadBody) -> LineRead | None:
        async def call(went: Went) -> LineRead | None:
            head, links, commits, size = None, bytearray(), dict[int, Signed](), 0
            async for response in self._stub.Read(pb.ReadRequest(call=self._sign("Read", body)), timeout=CALL_S):
                went()
                part = response.WhichOneof("part")
                if part == "head":
                    head = response.head
                elif part and head is None:
                    raise _invalid()
                links += response.links.links
                for placed in response.commits.commits:
                    commits[placed.n] = Signed(placed.signed.commit, placed.signed.author, placed.signed.write)
                    size += len(placed.signed.commit) + _EACH
                if len(links) > MAX_COMMITS * _LINK_BYTES or size > _MOST_COMMITS:
                    raise _invalid()
            if head is None:
                return None
            found = _links(bytes(links))
            if len(found) > max(0, head.n - body.n) or any(
                len(signed.commit) > MAX_COMMIT for signed in commits.values()
            ):
                raise _invalid()
            return LineRead(head.line, head.seed, head.n, head.chain, head.base_n, found, commits)

        return await self._retrying(call)

    async def commit(
        self, line: bytes, n: int, before: bytes, signed: Signed, records: Sequence[bytes], snapshot: bytes | None
    ) -> None:
        """The line's commit `n`, behind the chain `before`, with at most MAX_RECORDS records of MAX_BYTES; of a base
        the snapshot, unless that was put before. It stands when this returns; made again it is the same.

        Refused as LINE_CONFLICT where another one is the head, LINE_REPLACED where the line is not the account's.
        """
        body = pb.CommitBody(line=line, n=n, before=before, signed=_signed(signed), records=map(_sealed, records))
        if snapshot is not None:
            body.snapshot.CopyFrom(_sealed(snapshot))
        await self._upload("Commit", pb.CommitRequest, body, [*records, *([] if snapshot is None else [snapshot])])

    async def heal(
        self,
        line: bytes,
        seed: bytes,
        links: Sequence[Link],
        commits: Mapping[int, Signed],
        records: Iterable[bytes],
        snapshot: bytes,
    ) -> None:
        """Give back what the store lost: all links from the first, the commits from the newest base to the last, its
        snapshot, and the list's records. In as many calls as it takes; cut off, it is made again.

        Refused as LINE_CONFLICT where the links do not lead over what the store has, IDENTITY_ONLY where it has less
        than the base follows on and this is a linked device.
        """
        await self.put_records(records)
        await self.put_snapshot(snapshot)
        for first, batch in _runs(commits):
            shown = links[: first + len(batch) - 1]
            data = b"".join(u64(link.generation) + link.commit_hash for link in shown)
            data += b"".join(signed.commit + signed.author + signed.write for signed in batch)
            sizes = [len(signed.commit) for signed in batch]
            body = pb.HealBody(line=line, seed=seed, links=len(shown), first=first, commits=sizes, data=_sealed(data))
            await self._upload("Heal", pb.HealRequest, body, [data])

    async def follow(self) -> AsyncGenerator[tuple[int, bytes], None]:
        """Number and chain of the line's head, now, if there is one, and whenever it moves; by one stream after
        another, for as long as the store is there within the patience. One follower a device: a newer one ends this,
        RefusedError FOLLOW_REPLACED."""
        told, pause_s = pb.FollowResponse(), _REOPENED_AFTER_S
        while True:
            began_s = time.monotonic()
            call, heads = await self._retrying(self._opened_stream)
            try:
                async for head in heads:
                    if head != told and head.n:
                        yield head.n, head.chain
                    told = head
            except grpc.aio.AioRpcError as raised:
                error = remote_error(raised)
                if not error.passes:
                    raise client_error(error, "the contact store") from raised
            finally:
                call.cancel()
            lasted = time.monotonic() - began_s > _LASTING_S
            pause_s = _REOPENED_AFTER_S if lasted else min(2 * pause_s, _LONGEST_PAUSE_S)
            await asyncio.sleep(pause_s)

    async def _opened_stream(self, _: Went) -> tuple[Any, AsyncIterator[pb.FollowResponse]]:
        """The call, and its heads, the first of which has come."""
        call: Any = self._stub.Follow(pb.FollowRequest(call=self._sign("Follow", pb.FollowBody())))
        stream = aiter(call)
        try:
            first = await anext(stream, pb.FollowResponse())
        except BaseException:
            call.cancel()
            raise

        async def heads() -> AsyncIterator[pb.FollowResponse]:
            yield first
            async for head in stream:
                yield head

        return call, heads()

    async def begin(self, seed: bytes, signed: Signed, snapshot: bytes) -> None:
        """A new line, by the identity alone; its records were put before. Made again it is the same."""
        body = pb.BeginBody(seed=seed, signed=_signed(signed), snapshot=_sealed(snapshot))
        await self._upload("Begin", pb.BeginRequest, body, [snapshot])

    async def put_records(self, records: Iterable[bytes]) -> None:
        """Stage records for a base, and give back what the store lacks; in as many calls as it takes."""
        for batch in batches(records, len):
            body = pb.PutRecordsBody(records=map(_sealed, batch))
            await self._upload("PutRecords", pb.PutRecordsRequest, body, batch)

    async def put_snapshot(self, snapshot: bytes) -> None:
        """Stage a snapshot for a base."""
        body = pb.PutSnapshotBody(snapshot=_sealed(snapshot))
        await self._upload("PutSnapshot", pb.PutSnapshotRequest, body, [snapshot])

    async def get(self, names: Sequence[bytes]) -> AsyncGenerator[dict[bytes, bytes], None]:
        """Records and snapshots by their names, none of which comes twice, a call's worth at a time: MAX_BYTES, or one
        that is larger; the next are on their way meanwhile. What the store has not, or not with those bytes, is left
        out."""
        unasked = (names[at : at + MAX_RECORDS] for at in range(0, len(names), MAX_RECORDS))
        async with TaskScope() as scope:
            coming = deque((asked, scope.start("records", self._get(asked))) for asked in islice(unasked, _AHEAD))
            while coming:
                asked, answer = coming.popleft()
                found = await answer
                if rest := asked[len(found) :] or next(unasked, ()):
                    coming.append((rest, scope.start("records", self._get(rest))))
                yield {name: data for name, data in zip(asked, found, strict=False) if name_of(data) == name}

    async def _get(self, names: Sequence[bytes]) -> list[bytes]:
        """Of the first of these names, of one at least; b"" where there is none."""
        body = pb.GetRecordsBody(names=b"".join(names))

        async def call(went: Went) -> list[bytes]:
            sizes, data = list[int](), bytearray()
            request = pb.GetRecordsRequest(call=self._sign("GetRecords", body))
            async for response in self._stub.GetRecords(request, timeout=CALL_S):
                went()
                sizes += response.sizes
                data += response.chunk
                if len(sizes) > len(names) or sum(sizes) > MAX_BYTES + _LARGEST or len(data) > sum(sizes):
                    raise _invalid()
            if not sizes or len(data) != sum(sizes):
                raise _invalid()
            return list(cut(bytes(data), sizes))

        return await self._retrying(call)

    async def have(self, names: Sequence[bytes], *, staged: bool = False) -> set[bytes]:
        """Those of these names, none of which comes twice, whose records the store has and keeps (`staged`: or holds
        for a base)."""
        there: set[bytes] = set()
        for at in range(0, len(names), MAX_NAMES):
            asked = names[at : at + MAX_NAMES]
            body = pb.HaveBody(names=b"".join(asked), staged=staged)

            async def call(_: Went, body: pb.HaveBody = body) -> pb.HaveResponse:
                return await self._stub.Have(pb.HaveRequest(call=self._sign("Have", body)), timeout=CALL_S)

            missing = set((await self._retrying(call)).missing)
            there.update(name for place, name in enumerate(asked) if place not in missing)
        return there

    async def _upload(self, method: str, request: Any, body: Message, parts: Sequence[bytes]) -> None:
        data = b"".join(parts)

        async def call(went: Went) -> None:
            async def requests() -> AsyncIterator[Any]:
                yield request(call=self._sign(method, body))
                for chunk in chunks(data):
                    went()
                    yield request(chunk=chunk)

            await getattr(self._stub, method)(requests(), timeout=CALL_S)

        await self._retrying(call)

    async def _retrying(self, call: Callable[[Went], Awaitable[Result]]) -> Result:
        async def once() -> Result:
            async with carrying(self._retry_for_s) as went:
                return await call(went)

        async def attempt() -> Result:
            try:
                return await once()
            except grpc.aio.AioRpcError as raised:
                error = remote_error(raised)
                if self._linked and error.reason == "IDENTITY_UNKNOWN":
                    raise unlisted() from raised
                if error.reason != "CALL_STALE" or error.time_ms is None:
                    raise
                self._behind_ms = error.time_ms - self._now_ms()
            return await once()

        return await retrying(attempt, self._retry_for_s, service="the contact store")

    def _sign(self, method: str, body: Message) -> pb.SignedCall:
        time_ms = self._now_ms() + self._behind_ms
        return signed_call(pb.SignedCall, self._signer, self._namespace, self._label, method, body, time_ms, version=2)


def _runs(commits: Mapping[int, Signed]) -> Iterator[tuple[int, list[Signed]]]:
    """The first one's number, and commits that follow each other, as many as one call carries."""
    first = min(commits)
    for batch in batches((commits[n] for n in sorted(commits)), lambda signed: len(signed.commit)):
        yield first, batch
        first += len(batch)


def _sealed(data: bytes) -> pb.Sealed:
    return pb.Sealed(name=name_of(data), size=len(data))


def _hidden(hidden: pb.Hidden) -> tuple[int, int, int]:
    return hidden.version, hidden.hidden_by, hidden.until_ms


def _signed(signed: Signed) -> pb.SignedCommit:
    return pb.SignedCommit(**signed._asdict())


def _links(data: bytes) -> list[Link]:
    if len(data) % _LINK_BYTES:
        raise _invalid()
    cut_up = (data[at : at + _LINK_BYTES] for at in range(0, len(data), _LINK_BYTES))
    return [Link(int.from_bytes(each[:8], "big"), each[8:]) for each in cut_up]


def batches(records: Iterable[Part], size_of: Callable[[Part], int]) -> Iterator[list[Part]]:
    """Records in runs that fit into one call."""
    batch: list[Part] = []
    size = 0
    for record in records:
        if batch and (len(batch) == MAX_RECORDS or size + size_of(record) > MAX_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(record)
        size += size_of(record)
    if batch:
        yield batch


def unlisted() -> ProfileError:
    """The account of a linked device has no such device, or none any more."""
    return ProfileError(
        "DEVICE_UNLISTED",
        "the phone that holds the number lists this device no more, or was registered anew: what is here stays, and"
        " syncs again once it is confirmed",
    )


def _invalid() -> RefusedError:
    return RefusedError("STORE_ANSWER_INVALID", "the contact store sends more than it announced, or than it may hold")
