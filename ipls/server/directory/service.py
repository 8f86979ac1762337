"""The directory's two gRPC services, over the store and the publisher's announcements."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Hashable, Sequence
from functools import partial
from typing import Any, NamedTuple

from ipls.akd import DirectoryKey, Version, make_absence, make_history, make_lookup, make_lookups
from ipls.crypto.errors import VerificationError
from ipls.proto.directory.v1 import directory_pb2 as pb
from ipls.proto.directory.v1.directory_pb2_grpc import DirectoryServiceServicer, UpdateServiceServicer
from ipls.proto.trust.v1.trust_pb2 import SignedTrustRoot
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.rpc.channel import CHUNK
from ipls.rpc.errors import ServiceError, refuse
from ipls.rpc.peer import Parted, peer_of
from ipls.rpc.reads import MAX_VERSIONS, history_responses
from ipls.runtime.executors import FairExecutor
from ipls.runtime.places import Places
from ipls.server.directory.adoption import known_versions
from ipls.server.directory.authorizer import ReadAuthorizer
from ipls.server.directory.cache import CacheKey, ProofCache
from ipls.server.directory.publisher import HeadNotifier
from ipls.store.directory import DirectoryStore, StoredHead
from ipls.store.errors import StoreRefused
from ipls.trust.chain import MAX_ANSWER
from ipls.trust.identity import check_label, decode_record
from ipls.trust.root import parse_trust_root

REQUEST_ID_BYTES = 16

MAX_BATCH = 64
"""Labels in one lookup: their proofs, absences included, stay below gRPC's 4 MiB a message."""

MAX_LONG_HISTORIES = 8
"""Histories over a message's size that are sent at once, each in memory until then."""

READ_THREADS = 2
"""More would take no more reads, since one interpreter runs them all, but what is left of it for epochs
(`bench/one_account.py`)."""
MAX_READS = 128
"""Reads that wait for a thread: some milliseconds each, so that the last waits for about a second."""
MAX_UPDATES = 128
MAX_LOOKS = 4096
"""Streams, of heads or of tickets, that look at once for what an epoch brought them: all that there can be."""


MAX_WATCHERS = 4
"""Of one ticket: its device, some of whose connections may have broken unseen."""


class _Wanted(NamedTuple):
    """How to make an answer; with an entry, one that may have been kept."""

    entry: CacheKey | None
    make: Callable[[], Any]


Plan = Callable[[StoredHead], _Wanted]
"""What is wanted, once the head is known that it is to be proved against."""

Read = Callable[..., Awaitable[Any]]
"""Has a thread make a call, in the caller's turn."""


class DirectoryService(DirectoryServiceServicer):
    """Proved reads. Each answer is for one head, the newest or the one asked for, and carries it.

    What asks for a label raises, besides what is named there: READ_SESSION_REQUIRED, READ_SESSION_INVALID,
    READ_SESSION_EXPIRED, IDENTITY_SUPERSEDED, HISTORY_OF_ANOTHER, LABEL_QUOTA. Reads have threads of their own, in turn
    by account, or by network where nobody says who asks: epochs don't wait for them, nor one account for another's. The
    deployment's own parts have threads apart from everybody else's.
    """

    def __init__(
        self,
        store: DirectoryStore,
        key: DirectoryKey,
        heads: HeadNotifier,
        readers: ReadAuthorizer,
        proofs: ProofCache,
        versions: Sequence[SignedTrustRoot] = (),
    ) -> None:
        """`versions` are those of the trust root after the pinned one."""
        self.level = asyncio.Event()
        """Set it once the database is level with the log: nothing is read from it before."""
        self._store = store
        self._key = key
        self._heads = heads
        self._readers = readers
        self._proofs = proofs
        self._trust_roots = {parse_trust_root(version.file).number: version for version in versions}
        self._reading = Parted(partial(FairExecutor, "reads", READ_THREADS, MAX_READS))
        self._looking = Parted(partial(FairExecutor, "looks for heads", 1, MAX_LOOKS))
        self._long_histories = Parted(partial(Places, MAX_LONG_HISTORIES))

    def close(self) -> None:
        """End its threads; no call may follow."""
        for parted in (self._reading, self._looking):
            parted.strangers.close()
            parted.roles.close()

    async def OpenSession(self, request: pb.OpenSessionRequest, context: Any) -> pb.OpenSessionResponse:
        """LABEL_INVALID, BODY_INVALID, KEY_INVALID, SIGNATURE_LENGTH, SIGNATURE_INVALID; READER_UNKNOWN,
        READER_PENDING, DIRECTORY_NOT_READY; CALL_STALE, CALL_REPLAYED, CALL_QUOTA.
        """
        self._check_level()
        return await self._readers.open(request, peer_of(context))

    async def Lookup(self, request: pb.LookupRequest, context: Any) -> pb.LookupResponse:
        """LABEL_NOT_FOUND, VALUE_AWAITED, VALUE_ERASED, LABEL_INVALID; EPOCH_UNKNOWN, EPOCH_PRUNED,
        DIRECTORY_NOT_READY."""
        label = _checked_label(request.label)
        head, proof = await self._proved(context, [label], partial(self._lookup, label), request.epoch)
        return pb.LookupResponse(head=SignedHead.FromString(head.signed), proof=proof)

    async def History(self, request: pb.HistoryRequest, context: Any) -> AsyncIterator[pb.HistoryResponse]:
        """LABEL_NOT_FOUND, VALUE_AWAITED, VALUE_ERASED, LABEL_INVALID; EPOCH_UNKNOWN, EPOCH_PRUNED,
        DIRECTORY_NOT_READY; HISTORY_TOO_LONG, SERVICE_BUSY.
        """
        label = _checked_label(request.label)
        plan = partial(self._history, label, request.most_recent)
        head, proof = await self._proved(context, [label], plan, request.epoch, complete=request.most_recent != 1)
        signed = SignedHead.FromString(head.signed)
        if len(proof) <= CHUNK:
            yield pb.HistoryResponse(head=signed, chunk=proof)
            return
        with self._long_histories.of(context).place(peer_of(context)):
            for response in history_responses(signed, proof):
                yield response

    async def BatchLookup(self, request: pb.BatchLookupRequest, context: Any) -> pb.BatchLookupResponse:
        """BATCH_SIZE, VALUE_AWAITED, VALUE_ERASED, LABEL_INVALID, EPOCH_UNKNOWN, EPOCH_PRUNED, DIRECTORY_NOT_READY."""
        if not 1 <= len(request.labels) <= MAX_BATCH:
            raise ServiceError("BATCH_SIZE", f"1 to {MAX_BATCH} labels at once")
        labels = [_checked_label(label) for label in request.labels]
        head, results = await self._proved(context, labels, partial(self._batch, labels), request.epoch)
        return pb.BatchLookupResponse(head=SignedHead.FromString(head.signed), results=results)

    async def Absence(self, request: pb.AbsenceRequest, context: Any) -> pb.AbsenceResponse:
        """LABEL_PRESENT, VALUE_AWAITED, LABEL_INVALID, EPOCH_UNKNOWN, EPOCH_PRUNED, DIRECTORY_NOT_READY."""
        label = _checked_label(request.label)
        head, proof = await self._proved(context, [label], partial(self._absence, label), request.epoch)
        return pb.AbsenceResponse(head=SignedHead.FromString(head.signed), proof=proof)

    async def GetHead(self, request: pb.GetHeadRequest, context: Any) -> pb.GetHeadResponse:
        """EPOCH_UNKNOWN, DIRECTORY_NOT_READY. Only the newest head's signatures are kept young."""
        _, head = await self._heads_at(self._read(context, peer_of(context)), request.epoch)
        return pb.GetHeadResponse(head=SignedHead.FromString(head.signed))

    async def WatchHeads(self, request: pb.WatchHeadsRequest, context: Any) -> AsyncIterator[pb.WatchHeadsResponse]:
        """The newest head, then each newer or renewed one; a reader slower than the epochs skips to the newest."""
        sent: bytes | None = None
        await self.level.wait()
        while True:
            announced = self._heads.next
            head = await self._looking.of(context).run(context, self._store.head)
            if head and head.signed != sent:
                sent = head.signed
                yield pb.WatchHeadsResponse(head=SignedHead.FromString(sent))
            await announced.wait()

    async def TrustRoots(self, request: pb.TrustRootsRequest, context: Any) -> pb.TrustRootsResponse:
        """What the witnesses signed, for anyone to check; a directory that was not restarted knows no newer ones."""
        later = [version for number, version in self._trust_roots.items() if number > request.after_number]
        return pb.TrustRootsResponse(versions=later[:MAX_ANSWER])

    async def _proved(
        self, context: Any, labels: Collection[bytes], plan: Plan, epoch: int, *, complete: bool = False
    ) -> tuple[StoredHead, Any]:
        """The head of `epoch` (0: the newest) and the answer against it, kept or made, if the caller may have it."""
        reader = self._readers.reader(context)
        read = self._read(context, reader.label if reader and reader.label else peer_of(context))
        while True:
            newest, head = await self._heads_at(read, epoch)

            def admit(newest: StoredHead = newest, head: StoredHead = head) -> _Wanted:
                self._readers.allow(reader, labels, newest=newest.epoch, epoch=head.epoch, complete=complete)
                self._store.check_kept(head.epoch)
                return plan(head)

            try:
                return head, await self._answer(read, await read(admit))
            except StoreRefused as e:
                if epoch or e.reason != "EPOCH_PRUNED":  # else the newest was replaced meanwhile: there is a newer one
                    refuse(e)

    def _read(self, context: Any, whose: Hashable) -> Read:
        return partial(self._reading.of(context).run, whose)

    async def _heads_at(self, read: Read, epoch: int) -> tuple[StoredHead, StoredHead]:
        """The newest head, and that of `epoch` (0: the newest)."""
        self._check_level()
        newest = await read(self._store.head)
        if newest is None:
            raise ServiceError("DIRECTORY_NOT_READY", "the witnesses have not signed the first head yet")
        if epoch > newest.epoch:
            raise _epoch_unknown(epoch)
        # The start is the one epoch that 0 can't name while others follow; nothing is in it.
        return newest, await self._past_head(read, epoch) if 0 < epoch < newest.epoch else newest

    def _check_level(self) -> None:
        if not self.level.is_set():
            raise ServiceError("DIRECTORY_NOT_READY", "the directory is catching up with its log")

    async def _past_head(self, read: Read, epoch: int) -> StoredHead:
        """A head that a newer one follows: it does not change any more."""

        def make() -> bytes:
            head = self._store.head(epoch)
            if head is None:
                raise _epoch_unknown(epoch)
            return head.encode()

        return StoredHead.decode(await self._answer(read, _Wanted(CacheKey("head", epoch, b"", b"", ()), make)))

    def _answer(self, read: Read, wanted: _Wanted) -> Awaitable[Any]:
        def make() -> Awaitable[Any]:
            return read(wanted.make)

        return self._proofs.get(wanted.entry, make) if wanted.entry else make()

    def _lookup(self, label: bytes, head: StoredHead) -> _Wanted:
        versions = self._versions(label, head.epoch, 1)
        make = partial(make_lookup, self._store, self._key, head.epoch, head.depth, label, versions[0])
        return _Wanted(CacheKey("lookup", head.epoch, head.root_hash, label, versions), make)

    def _history(self, label: bytes, most_recent: int, head: StoredHead) -> _Wanted:
        versions = self._versions(label, head.epoch, min(most_recent, MAX_VERSIONS + 1) or MAX_VERSIONS + 1)
        if len(versions) > MAX_VERSIONS:
            raise ServiceError("HISTORY_TOO_LONG", f"over {MAX_VERSIONS} versions: ask for fewer")
        make = partial(make_history, self._store, self._key, head.epoch, head.depth, label, versions)
        # What decides on an identity is asked for again and again; longer ones are large, and few ask for the same.
        entry = CacheKey("history", head.epoch, head.root_hash, label, versions) if most_recent == 1 else None
        return _Wanted(entry, make)

    def _batch(self, labels: Sequence[bytes], head: StoredHead) -> _Wanted:
        wanted = [(label, next(iter(self._shown(label, head.epoch, 1)), None)) for label in labels]

        def make() -> list[pb.LookupResult]:
            proofs = make_lookups(self._store, self._key, head.epoch, head.depth, wanted)
            return [
                pb.LookupResult(lookup=proof) if current else pb.LookupResult(absence=proof)
                for (_, current), proof in zip(wanted, proofs, strict=True)
            ]

        return _Wanted(None, make)

    def _absence(self, label: bytes, head: StoredHead) -> _Wanted:
        if known_versions(self._store, self._key, label, head.epoch, 1):
            raise ServiceError("LABEL_PRESENT", f"there is one at epoch {head.epoch}")
        make = partial(make_absence, self._store, self._key, head.epoch, head.depth, label)
        return _Wanted(CacheKey("absence", head.epoch, head.root_hash, label, ()), make)

    def _versions(self, label: bytes, epoch: int, most_recent: int) -> tuple[Version, ...]:
        versions = self._shown(label, epoch, most_recent)
        if not versions:
            raise ServiceError("LABEL_NOT_FOUND", f"no such label at epoch {epoch}")
        return versions

    def _shown(self, label: bytes, epoch: int, most_recent: int) -> tuple[Version, ...]:
        """Newest first. At an epoch before its successor's an erased version is the newest: no checker takes that."""
        versions = tuple(known_versions(self._store, self._key, label, epoch, most_recent))
        if versions and not versions[0].value:
            message = f"the value that was the newest at epoch {epoch} is erased: ask for a later epoch"
            raise ServiceError("VALUE_ERASED", message)
        return versions


class UpdateService(UpdateServiceServicer):
    """The queue's door. The server lets in the role `messaging-service` alone."""

    def __init__(
        self,
        store: DirectoryStore,
        heads: HeadNotifier,
        submitted: Callable[[], None],
        *,
        daily_quota: int,
        queue_max: int,
        now_ms: Callable[[], int],
    ) -> None:
        self._store = store
        self._heads = heads
        self._submitted = submitted
        self._daily_quota = daily_quota
        self._queue_max = queue_max
        self._now_ms = now_ms
        self._writing = FairExecutor("updates", 1, MAX_UPDATES)
        self._looking = FairExecutor("looks for tickets", 1, MAX_LOOKS)
        self._watching = Places(MAX_LOOKS, MAX_WATCHERS)

    def close(self) -> None:
        """End its threads; no call may follow."""
        self._writing.close()
        self._looking.close()

    async def SubmitUpdate(self, request: pb.SubmitUpdateRequest, context: Any) -> pb.SubmitUpdateResponse:
        """REQUEST_ID_INVALID, LABEL_INVALID, IDENTITY_RECORD_INVALID; REQUEST_ID_REUSED, QUEUE_FULL."""
        if len(request.request_id) != REQUEST_ID_BYTES:
            raise ServiceError("REQUEST_ID_INVALID", f"a request id has {REQUEST_ID_BYTES} bytes")
        label = _checked_label(request.label)
        try:
            decode_record(request.value)
        except VerificationError as e:
            refuse(e)
        try:
            ticket = await self._writing.run(
                label,
                self._store.submit,
                request.request_id,
                label,
                request.value,
                self._now_ms(),
                daily_quota=self._daily_quota,
                queue_max=self._queue_max,
            )
        except StoreRefused as e:
            refuse(e)
        self._submitted()
        return pb.SubmitUpdateResponse(ticket=ticket)

    async def WatchUpdate(self, request: pb.WatchUpdateRequest, context: Any) -> AsyncIterator[pb.WatchUpdateResponse]:
        """QUEUED at once while that is so, then PUBLISHED with the epoch, and the end. TICKET_UNKNOWN, SERVICE_BUSY."""
        queued = False
        with self._watching.place(request.ticket):
            while True:
                announced = self._heads.next
                try:
                    epoch = await self._looking.run(context, self._store.published_at, request.ticket)
                except StoreRefused as e:
                    refuse(e)
                if epoch is not None:
                    yield pb.WatchUpdateResponse(state=pb.WatchUpdateResponse.STATE_PUBLISHED, epoch=epoch)
                    return
                if not queued:
                    queued = True
                    yield pb.WatchUpdateResponse(state=pb.WatchUpdateResponse.STATE_QUEUED)
                await announced.wait()

    async def EraseValues(self, request: pb.EraseValuesRequest, context: Any) -> pb.EraseValuesResponse:
        """Durable when it returns. VERSION_NEWEST, LABEL_INVALID."""
        label = _checked_label(request.label)
        try:
            return pb.EraseValuesResponse(
                erased=await self._writing.run(label, self._store.erase_values, label, request.through_version)
            )
        except StoreRefused as e:
            refuse(e)


def _epoch_unknown(epoch: int) -> ServiceError:
    return ServiceError("EPOCH_UNKNOWN", f"no head of epoch {epoch} here")


def _checked_label(label: bytes) -> bytes:
    try:
        check_label(label.decode("ascii"))
    except (UnicodeDecodeError, VerificationError) as e:
        raise ServiceError("LABEL_INVALID", "an account label is + and 1 to 15 digits") from e
    return label
