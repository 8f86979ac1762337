"""The contact store's service, version 2: an account's line of commits, its records and snapshots."""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from ipls.contacts.admission import Caller, admit, admit_first, check_snapshot, heal
from ipls.contacts.commits import SEED_BYTES, Link, Signed
from ipls.contacts.sealing import MAX_SNAPSHOT, NAME_BYTES, is_sealed_size, name_of
from ipls.crypto.encoding import u64
from ipls.crypto.keys import SIGNATURE_BYTES
from ipls.proto.contacts.v2 import contacts_pb2 as pb
from ipls.proto.contacts.v2.contacts_pb2_grpc import ContactsServiceServicer
from ipls.rpc.channel import CHUNK, chunks, cut
from ipls.rpc.errors import ServiceError
from ipls.server.contacts.calls import Method, SignedCalls, Upload, check_names, collect
from ipls.server.contacts.followers import Followers
from ipls.server.contacts.slots import LinkSlots, Said
from ipls.store.errors import StoreUnavailable
from ipls.store.line import Hidden, KeptBlob, KeptLine, LineStore, Place, View
from ipls.trust.limits import MAX_INT

_LINK_BYTES = 8 + NAME_BYTES
_KEPT = 5000
"""Of what is kept, in one message: half a MiB."""
_method = partial(Method, 2)


class LinesServicer(ContactsServiceServicer):
    """See `SignedCalls`, for every method, and `ipls.contacts.admission` for what a line takes."""

    def __init__(self, store: LineStore, calls: SignedCalls, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._calls = calls
        self._limits = calls.limits
        self._followers = Followers()
        self._slots = LinkSlots(now_s)
        self._now_s = now_s

    async def Read(self, request: pb.ReadRequest, context: Any) -> AsyncIterator[pb.ReadResponse]:
        """BODY_INVALID."""
        label = request.call.label
        async with self._calls.admitted(context, _method("Read", reading=True), request.call, pb.ReadBody) as (_, body):
            if max(body.n, body.until, body.kept) > MAX_INT:
                raise ServiceError("BODY_INVALID", "a number is out of its bounds")
            view = await self._calls.read(label, self._store.view, label, body.kept or body.line, body.until)
            if view is None:
                yield pb.ReadResponse()
                return
            head = pb.LineHead(line=view.line, seed=view.seed, n=view.n, chain=view.chain, base_n=view.base_n)
            yield pb.ReadResponse(head=head)
            n = body.n
            while links := await self._calls.read(label, self._store.links, view, n, CHUNK // _LINK_BYTES):
                yield pb.ReadResponse(links=pb.Links(links=b"".join(u64(g) + digest for g, digest in links)))
                n += len(links)
            n = max(body.n, view.base_n - 1)
            while not body.links_only and (page := await self._page(label, view, n)):
                yield pb.ReadResponse(commits=pb.PlacedCommits(commits=page))
                n = page[-1].n

    async def _page(self, label: str, view: View, n: int) -> list[pb.PlacedCommit]:
        found = await self._calls.read(label, self._store.commits, view, n, CHUNK // 2)
        return [pb.PlacedCommit(n=n, signed=pb.SignedCommit(**signed._asdict())) for n, signed in found]

    async def Follow(self, request: pb.FollowRequest, context: Any) -> AsyncIterator[pb.FollowResponse]:
        """FOLLOW_REPLACED; what `SignedCalls.caller` refuses, also later. Of what other processes write it tells
        nothing."""
        call, method = request.call, _method("Follow", reading=True)
        caller = await self._calls.prove(context, method, call)
        sent: pb.FollowResponse | None = None
        with self._followers.joined(call.label, caller.key) as follower:
            while not follower.replaced:
                standing = await self._calls.read(call.label, self._store.standing, call.label)
                head = pb.FollowResponse(n=standing.n, chain=standing.chain) if standing else pb.FollowResponse()
                if head != sent:
                    if sent is not None:
                        await self._calls.caller(context, method, call)
                    sent = head
                    yield head
                await follower.woken()
        raise ServiceError("FOLLOW_REPLACED", "this device follows by a newer stream")

    async def Commit(self, request_iterator: Any, context: Any) -> pb.CommitResponse:
        """LINE_REPLACED, LINE_CONFLICT, IDENTITY_ONLY, SNAPSHOT_ABSENT, ACCOUNT_QUOTA, BODY_INVALID, and what an upload
        that is not as it should be is told."""
        upload = self._calls.upload(context, _method("Commit"), request_iterator, pb.CommitBody)
        async with upload as (label, caller, body):
            signed = _signed(body.signed)
            if not 1 <= body.n <= MAX_INT:
                raise ServiceError("BODY_INVALID", "the commit's number is out of its bounds")
            # First: a caller who is refused while it sends may be told so by gRPC alone, without the reason.
            records, snapshot = await self._sealed(label, request_iterator, body.records, _snapshot(body))
            standing = await self._calls.read(label, self._store.standing, label)
            if standing is None or standing.line != body.line:
                raise ServiceError("LINE_REPLACED", "the account has another line, or none")
            place = Place(body.line, body.n, body.before, name_of(signed.commit))
            if await self._calls.read(label, self._store.stands, label, place):
                return pb.CommitResponse()
            admitted = await self._calls.read(
                label, admit, self._calls.namespace, label, standing, caller, body.n, body.before, signed
            )
            if snapshot is not None:
                await self._calls.read(label, check_snapshot, admitted.commit, snapshot)
            await self._calls.write(
                label,
                self._store.append,
                label,
                standing,
                admitted,
                records,
                snapshot,
                quota=self._limits.line,
                now_ms=self._calls.now_ms(),
            )
        self._followers.announce(label)
        return pb.CommitResponse()

    async def Heal(self, request_iterator: Any, context: Any) -> pb.HealResponse:
        """LINE_REPLACED, LINE_CONFLICT, IDENTITY_ONLY, SNAPSHOT_ABSENT, ACCOUNT_QUOTA, BODY_INVALID; and what an upload
        is told."""
        upload = self._calls.upload(context, _method("Heal"), request_iterator, pb.HealBody)
        async with upload as (label, caller, body):
            links, commits = await self._given_back(label, request_iterator, body)
            standing = await self._calls.read(label, self._store.standing, label)
            healed = await self._calls.read(
                label, heal, self._calls.namespace, label, standing, caller, body.line, body.seed, links, commits
            )
            await self._calls.write(
                label,
                self._store.heal,
                label,
                standing,
                healed,
                caller.version,
                None,
                quota=self._limits.line,
                now_ms=self._calls.now_ms(),
            )
        self._followers.announce(label)
        return pb.HealResponse()

    async def _given_back(
        self, label: str, requests: AsyncIterator[Upload], body: pb.HealBody
    ) -> tuple[list[Link], dict[int, Signed]]:
        if len(body.commits) > self._limits.line_heal_commits or body.data.size > self._limits.line_heal:
            raise ServiceError("CALL_TOO_LARGE", "too many commits, or too large together, for one call")
        own = [part for size in body.commits for part in (size, SIGNATURE_BYTES, SIGNATURE_BYTES)]
        if body.first > MAX_INT or body.links * _LINK_BYTES + sum(own) != body.data.size:
            raise ServiceError("BODY_INVALID", "the data is not of so many links and commits")
        data = await collect(requests, body.data.size)
        await self._calls.read(label, check_names, [(body.data.name, data)])
        parts = list(cut(data, [_LINK_BYTES] * body.links + own))
        links = [Link(int.from_bytes(part[:8]), part[8:]) for part in parts[: body.links]]
        signed = iter(parts[body.links :])
        commits = {
            body.first + place: Signed(*each) for place, each in enumerate(zip(signed, signed, signed, strict=True))
        }
        return links, commits

    async def Begin(self, request_iterator: Any, context: Any) -> pb.BeginResponse:
        """As `Commit`."""
        upload = self._calls.upload(context, _method("Begin"), request_iterator, pb.BeginBody)
        async with upload as (label, caller, body):
            if len(body.seed) != SEED_BYTES:
                raise ServiceError("BODY_INVALID", f"a line is made of {SEED_BYTES} bytes")
            _, snapshot = await self._sealed(label, request_iterator, (), _snapshot(body))
            admitted = await self._calls.read(
                label, admit_first, self._calls.namespace, label, caller, body.seed, _signed(body.signed)
            )
            if snapshot is not None:
                await self._calls.read(label, check_snapshot, admitted.commit, snapshot)
            await self._calls.write(
                label,
                self._store.begin,
                label,
                admitted,
                snapshot,
                quota=self._limits.line,
                now_ms=self._calls.now_ms(),
            )
        self._followers.announce(label)
        return pb.BeginResponse()

    async def PutRecords(self, request_iterator: Any, context: Any) -> pb.PutRecordsResponse:
        """ACCOUNT_QUOTA, and what an upload is told."""
        upload = self._calls.upload(context, _method("PutRecords"), request_iterator, pb.PutRecordsBody)
        async with upload as (label, caller, body):
            records, _ = await self._sealed(label, request_iterator, body.records, None)
            await self._put(label, caller.version, records, None)
        return pb.PutRecordsResponse()

    async def PutSnapshot(self, request_iterator: Any, context: Any) -> pb.PutSnapshotResponse:
        """As `PutRecords`."""
        upload = self._calls.upload(context, _method("PutSnapshot"), request_iterator, pb.PutSnapshotBody)
        async with upload as (label, caller, body):
            _, snapshot = await self._sealed(label, request_iterator, (), body.snapshot)
            await self._put(label, caller.version, [], snapshot)
        return pb.PutSnapshotResponse()

    async def _put(self, label: str, version: int, records: Sequence[bytes], snapshot: bytes | None) -> None:
        now_ms = self._calls.now_ms()
        await self._calls.write(
            label, self._store.put, label, version, records, snapshot, quota=self._limits.line, now_ms=now_ms
        )

    async def GetRecords(self, request: pb.GetRecordsRequest, context: Any) -> AsyncIterator[pb.GetRecordsResponse]:
        """BODY_INVALID, CALL_TOO_LARGE."""
        label, ends_s = request.call.label, self._now_s() + self._limits.line_get_s
        method = _method("GetRecords", reading=True)
        async with self._calls.admitted(context, method, request.call, pb.GetRecordsBody) as (_, body):
            names = _names(body.names, self._limits.line_records)
            sizes = await self._calls.read(label, self._store.sizes, label, names)
            left, at = self._limits.line_call, 0
            while at < len(names) and (not at or (sizes[at] <= left and self._now_s() < ends_s)):
                group = _run(sizes, at, min(left, CHUNK))
                found = await self._calls.read(label, self._store.get, label, names[at : at + group])
                await self._note_damaged(label, names[at:], sizes[at:], found)
                for response in _answers(found):
                    yield response
                left -= sum(sizes[at : at + group])
                at += group

    async def ListKept(self, request: pb.ListKeptRequest, context: Any) -> AsyncIterator[pb.ListKeptResponse]:
        label, method = request.call.label, _method("ListKept", reading=True)
        async with self._calls.admitted(context, method, request.call, pb.ListKeptBody):
            lines = await self._calls.read(label, self._store.kept_lines, label)
            for at in range(0, len(lines), _KEPT):
                yield pb.ListKeptResponse(lines=[_kept_line(line) for line in lines[at : at + _KEPT]])
            blobs, place = await self._calls.read(label, self._store.kept_blobs, label, b"", _KEPT)
            while place:
                if blobs:
                    yield pb.ListKeptResponse(records=[_kept_record(blob) for blob in blobs])
                blobs, place = await self._calls.read(label, self._store.kept_blobs, label, place, _KEPT)

    async def DeleteAccount(self, request: pb.DeleteAccountRequest, context: Any) -> pb.DeleteAccountResponse:
        """IDENTITY_ONLY."""
        label, method = request.call.label, _method("DeleteAccount")
        async with self._calls.admitted(context, method, request.call, pb.DeleteAccountBody) as (caller, _):
            _check_identity(caller)
            await self._calls.write(label, self._store.delete, label, caller.version, self._calls.now_ms())
        self._followers.announce(label)
        return pb.DeleteAccountResponse()

    async def OpenLink(self, request: pb.OpenLinkRequest, context: Any) -> pb.OpenLinkResponse:
        """IDENTITY_ONLY, LINK_SLOT_TAKEN, BODY_INVALID."""
        method = _method("OpenLink")
        async with self._calls.admitted(context, method, request.call, pb.OpenLinkBody) as (caller, body):
            _check_identity(caller)
            self._slots.open(request.call.label, body.slot)
            return pb.OpenLinkResponse()

    async def PutHello(self, request: pb.PutHelloRequest, context: Any) -> pb.PutHelloResponse:
        """LINK_SLOT_ABSENT, LINK_SLOT_TAKEN, BODY_INVALID."""
        kind: Said = "hello" if request.WhichOneof("message") == "hello" else "opening"
        self._slots.say(request.slot, kind, getattr(request, kind), token=request.token)
        return pb.PutHelloResponse()

    async def Answer(self, request: pb.AnswerRequest, context: Any) -> pb.AnswerResponse:
        """IDENTITY_ONLY, LINK_SLOT_ABSENT, LINK_SLOT_TAKEN, BODY_INVALID."""
        async with self._calls.admitted(context, _method("Answer"), request.call, pb.AnswerBody) as (caller, body):
            _check_identity(caller)
            kind: Said = "answer" if body.WhichOneof("message") == "answer" else "package"
            self._slots.say(body.slot, kind, getattr(body, kind), label=request.call.label)
            return pb.AnswerResponse()

    async def Collect(self, request: pb.CollectRequest, context: Any) -> pb.CollectResponse:
        """LINK_SLOT_ABSENT."""
        return pb.CollectResponse(**await self._slots.collect(request.slot, request.have))

    async def _note_damaged(
        self, label: str, names: Sequence[bytes], sizes: Sequence[int], found: Sequence[bytes | None]
    ) -> None:
        damaged = [name for name, size, data in zip(names, sizes, found, strict=False) if size and data is None]
        with suppress(StoreUnavailable):  # a full disk: what is read goes on
            if damaged:
                await self._calls.write(label, self._store.mark_damaged, label, damaged)

    async def Have(self, request: pb.HaveRequest, context: Any) -> pb.HaveResponse:
        """BODY_INVALID, CALL_TOO_LARGE."""
        method = _method("Have", reading=True)
        async with self._calls.admitted(context, method, request.call, pb.HaveBody) as (_, body):
            names, label = _names(body.names, self._limits.call_keys), request.call.label
            missing = await self._calls.read(label, self._store.missing, label, names, staged=body.staged)
            return pb.HaveResponse(missing=missing)

    async def _sealed(
        self, label: str, requests: AsyncIterator[Upload], records: Sequence[pb.Sealed], snapshot: pb.Sealed | None
    ) -> tuple[list[bytes], bytes | None]:
        """What an upload brings, as it was signed. Raises ServiceError CALL_TOO_LARGE, RECORD_SIZE, and as `collect`
        and `check_names`."""
        sizes = [sealed.size for sealed in records]
        if len(sizes) > self._limits.line_records or sum(sizes) > self._limits.line_call:
            raise ServiceError("CALL_TOO_LARGE", "too many records, or too large together, for one call")
        if not all(map(is_sealed_size, sizes)):
            raise ServiceError("RECORD_SIZE", "a record is a sealed power of two from 256 bytes to 2 MiB")
        if snapshot is not None and not is_sealed_size(snapshot.size, MAX_SNAPSHOT):
            raise ServiceError("RECORD_SIZE", "a snapshot is a sealed power of two from 256 bytes to 16 MiB")
        announced = [*records, *([] if snapshot is None else [snapshot])]
        sizes = [sealed.size for sealed in announced]
        parts = list(cut(await collect(requests, sum(sizes)), sizes))
        named = [(sealed.name, part) for sealed, part in zip(announced, parts, strict=True)]
        await self._calls.read(label, check_names, named)
        return parts[: len(records)], parts[-1] if snapshot is not None else None


def _check_identity(caller: Caller) -> None:
    if not caller.is_identity:
        raise ServiceError("IDENTITY_ONLY", "only the account's identity may do this, none of its devices")


def _signed(signed: pb.SignedCommit) -> Signed:
    return Signed(signed.commit, signed.author, signed.write)


def _snapshot(body: pb.CommitBody | pb.BeginBody) -> pb.Sealed | None:
    return body.snapshot if body.HasField("snapshot") else None


def _hidden(hidden: Hidden) -> pb.Hidden:
    return pb.Hidden(**hidden._asdict())


def _kept_line(kept: KeptLine) -> pb.KeptLine:
    hidden = _hidden(kept.hidden)
    return pb.KeptLine(kept=kept.id, line=kept.line, base_n=kept.base_n, n=kept.n, hidden=hidden)


def _kept_record(kept: KeptBlob) -> pb.KeptRecord:
    return pb.KeptRecord(name=kept.name, size=kept.size, snapshot=kept.is_snapshot, hidden=_hidden(kept.hidden))


def _names(names: bytes, most: int) -> list[bytes]:
    """Raises ServiceError BODY_INVALID, CALL_TOO_LARGE."""
    cut_up = [names[at : at + NAME_BYTES] for at in range(0, len(names), NAME_BYTES)]
    if len(names) % NAME_BYTES or len(set(cut_up)) != len(cut_up):
        raise ServiceError("BODY_INVALID", f"names have {NAME_BYTES} bytes, and none comes twice")
    if not 1 <= len(cut_up) <= most:
        raise ServiceError("CALL_TOO_LARGE", f"1 to {most} names a call")
    return cut_up


def _run(sizes: Sequence[int], at: int, most: int) -> int:
    """How many of the next are read at once: one, or as many as `most` bytes hold."""
    count = total = 0
    for size in sizes[at:]:
        total += size
        if count and total > most:
            break
        count += 1
    return count


def _answers(found: Sequence[bytes | None]) -> list[pb.GetRecordsResponse]:
    """The sizes go with the first chunk."""
    first, *others = list(chunks(b"".join(data or b"" for data in found))) or [b""]
    sizes = [len(data or b"") for data in found]
    return [pb.GetRecordsResponse(sizes=sizes, chunk=first), *(pb.GetRecordsResponse(chunk=each) for each in others)]
