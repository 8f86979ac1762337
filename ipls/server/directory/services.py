"""The directory's two gRPC services, over the store and the publisher's announcements."""

from asyncio import to_thread
from collections.abc import AsyncIterator, Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NoReturn

from grpc import StatusCode

from ipls.akd import DirectoryKey, Version, make_absence, make_history, make_lookup, make_lookups
from ipls.proto.directory.v1 import directory_pb2 as pb
from ipls.proto.directory.v1.directory_pb2_grpc import DirectoryServiceServicer, UpdateServiceServicer
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.rpc.errors import ServiceError
from ipls.server.directory.publisher import Announcements
from ipls.store.directory import DirectoryStore, StoredHead
from ipls.store.errors import StoreError
from ipls.trust.errors import TrustError
from ipls.trust.identity import check_label, decode_record

REQUEST_ID_BYTES = 16

HOT_PROOFS = 1024
"""Proofs kept in memory; one for an epoch never changes."""

MAX_BATCH = 64
"""Labels in one lookup: their proofs, absences included, stay below gRPC's 4 MiB a message."""

MAX_WATCHERS = 500
"""Streams of heads at once: half of the calls that a server takes, so that reads and updates go on beside them."""

_CODES = {
    "REQUEST_ID_REUSED": StatusCode.ALREADY_EXISTS,
    "QUEUE_FULL": StatusCode.UNAVAILABLE,
    "QUOTA_EXCEEDED": StatusCode.RESOURCE_EXHAUSTED,
    "TICKET_UNKNOWN": StatusCode.NOT_FOUND,
    "VERSION_NEWEST": StatusCode.FAILED_PRECONDITION,
}


def _refuse(error: StoreError) -> NoReturn:
    if error.reason not in _CODES:
        raise error
    code = _CODES[error.reason]
    raise ServiceError(code, error.reason, str(error), retry_after_s=error.retry_after_s) from error


def _invalid(reason: str, message: str) -> ServiceError:
    return ServiceError(StatusCode.INVALID_ARGUMENT, reason, message)


class DirectoryService(DirectoryServiceServicer):
    """Proved reads. Each answer is for one head, the newest or the one asked for, and carries it."""

    def __init__(self, store: DirectoryStore, key: DirectoryKey, heads: Announcements) -> None:
        self._store = store
        self._key = key
        self._heads = heads
        self._watchers = 0
        # The versions, values included, are among the keys: what was erased is not found any more.
        self._make_lookup = lru_cache(HOT_PROOFS)(partial(make_lookup, store, key))
        self._make_history = partial(make_history, store, key)
        self._make_newest = lru_cache(HOT_PROOFS)(self._make_history)

    async def Lookup(self, request: pb.LookupRequest, context: Any) -> pb.LookupResponse:
        """LABEL_NOT_FOUND, VALUE_ERASED, LABEL_INVALID, EPOCH_UNKNOWN, DIRECTORY_NOT_READY."""
        label, head = _checked_label(request.label), await self._head(request.epoch)
        proof = await to_thread(self._lookup, label, head)
        return pb.LookupResponse(head=SignedHead.FromString(head.signed), proof=proof)

    async def History(self, request: pb.HistoryRequest, context: Any) -> pb.HistoryResponse:
        """LABEL_NOT_FOUND, VALUE_ERASED, LABEL_INVALID, EPOCH_UNKNOWN, DIRECTORY_NOT_READY."""
        label, head = _checked_label(request.label), await self._head(request.epoch)
        proof = await to_thread(self._history, label, head, request.most_recent)
        return pb.HistoryResponse(head=SignedHead.FromString(head.signed), proof=proof)

    async def BatchLookup(self, request: pb.BatchLookupRequest, context: Any) -> pb.BatchLookupResponse:
        """BATCH_SIZE, VALUE_ERASED, LABEL_INVALID, EPOCH_UNKNOWN, DIRECTORY_NOT_READY."""
        if not 1 <= len(request.labels) <= MAX_BATCH:
            raise _invalid("BATCH_SIZE", f"1 to {MAX_BATCH} labels at once")
        labels, head = [_checked_label(label) for label in request.labels], await self._head(request.epoch)
        results = await to_thread(self._batch, labels, head)
        return pb.BatchLookupResponse(head=SignedHead.FromString(head.signed), results=results)

    async def Absence(self, request: pb.AbsenceRequest, context: Any) -> pb.AbsenceResponse:
        """LABEL_PRESENT, LABEL_INVALID, EPOCH_UNKNOWN, DIRECTORY_NOT_READY."""
        label, head = _checked_label(request.label), await self._head(request.epoch)
        proof = await to_thread(self._absence, label, head)
        return pb.AbsenceResponse(head=SignedHead.FromString(head.signed), proof=proof)

    async def GetHead(self, request: pb.GetHeadRequest, context: Any) -> pb.GetHeadResponse:
        """EPOCH_UNKNOWN, DIRECTORY_NOT_READY. Only the newest head's signatures are kept young."""
        head = await self._head(request.epoch)
        return pb.GetHeadResponse(head=SignedHead.FromString(head.signed))

    async def WatchHeads(self, request: pb.WatchHeadsRequest, context: Any) -> AsyncIterator[pb.WatchHeadsResponse]:
        """The newest head, then each newer or renewed one; a reader slower than the epochs skips to the newest.

        WATCHERS_FULL.
        """
        if self._watchers >= MAX_WATCHERS:
            message = f"{MAX_WATCHERS} others watch: ask for the head instead"
            raise ServiceError(StatusCode.RESOURCE_EXHAUSTED, "WATCHERS_FULL", message, retry_after_s=5)
        self._watchers += 1
        try:
            sent: bytes | None = None
            while True:
                announced = self._heads.next
                head = await to_thread(self._store.head)
                if head and head.signed != sent:
                    sent = head.signed
                    yield pb.WatchHeadsResponse(head=SignedHead.FromString(sent))
                await announced.wait()
        finally:
            self._watchers -= 1

    async def _head(self, epoch: int) -> StoredHead:
        newest = await to_thread(self._store.head)
        if newest is None:
            raise ServiceError(
                StatusCode.UNAVAILABLE, "DIRECTORY_NOT_READY", "the witnesses have not signed the first head yet"
            )
        # The start is the one epoch that 0 can't name while others follow; nothing is in it.
        head = await to_thread(self._store.head, epoch) if 0 < epoch < newest.epoch else newest
        if head is None or epoch > newest.epoch:
            raise ServiceError(StatusCode.NOT_FOUND, "EPOCH_UNKNOWN", f"no head of epoch {epoch} here")
        return head

    def _lookup(self, label: bytes, head: StoredHead) -> bytes:
        return self._make_lookup(head.epoch, head.depth, label, self._versions(label, head.epoch, 1)[0])

    def _history(self, label: bytes, head: StoredHead, most_recent: int) -> bytes:
        # What decides on an identity is asked for again and again; longer ones are large, and few ask for the same.
        make = self._make_newest if most_recent == 1 else self._make_history
        return make(head.epoch, head.depth, label, self._versions(label, head.epoch, most_recent))

    def _batch(self, labels: Sequence[bytes], head: StoredHead) -> list[pb.LookupResult]:
        wanted = [(label, next(iter(self._shown(label, head.epoch, 1)), None)) for label in labels]
        proofs = make_lookups(self._store, self._key, head.epoch, head.depth, wanted)
        return [
            pb.LookupResult(lookup=proof) if current else pb.LookupResult(absence=proof)
            for (_, current), proof in zip(wanted, proofs, strict=True)
        ]

    def _absence(self, label: bytes, head: StoredHead) -> bytes:
        if self._store.versions(label, head.epoch, 1):
            raise ServiceError(StatusCode.FAILED_PRECONDITION, "LABEL_PRESENT", f"there is one at epoch {head.epoch}")
        return make_absence(self._store, self._key, head.epoch, head.depth, label)

    def _versions(self, label: bytes, epoch: int, most_recent: int) -> tuple[Version, ...]:
        versions = self._shown(label, epoch, most_recent)
        if not versions:
            raise ServiceError(StatusCode.NOT_FOUND, "LABEL_NOT_FOUND", f"no such label at epoch {epoch}")
        return versions

    def _shown(self, label: bytes, epoch: int, most_recent: int) -> tuple[Version, ...]:
        """Newest first. At an epoch before its successor's an erased version is the newest: no checker takes that."""
        versions = tuple(self._store.versions(label, epoch, most_recent))
        if versions and not versions[0].value:
            message = f"the value that was the newest at epoch {epoch} is erased: ask for a later epoch"
            raise ServiceError(StatusCode.FAILED_PRECONDITION, "VALUE_ERASED", message)
        return versions


class UpdateService(UpdateServiceServicer):
    """The queue's door. The server lets in the role `messaging-service` alone."""

    def __init__(
        self,
        store: DirectoryStore,
        heads: Announcements,
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

    async def SubmitUpdate(self, request: pb.SubmitUpdateRequest, context: Any) -> pb.SubmitUpdateResponse:
        """REQUEST_ID_INVALID, LABEL_INVALID, IDENTITY_RECORD_INVALID; REQUEST_ID_REUSED, QUEUE_FULL, QUOTA_EXCEEDED."""
        if len(request.request_id) != REQUEST_ID_BYTES:
            raise _invalid("REQUEST_ID_INVALID", f"a request id has {REQUEST_ID_BYTES} bytes")
        label = _checked_label(request.label)
        try:
            decode_record(request.value)
        except TrustError as e:
            raise _invalid(e.reason, e.message) from e
        try:
            ticket = await to_thread(
                self._store.submit,
                request.request_id,
                label,
                request.value,
                self._now_ms(),
                daily_quota=self._daily_quota,
                queue_max=self._queue_max,
            )
        except StoreError as e:
            _refuse(e)
        self._submitted()
        return pb.SubmitUpdateResponse(ticket=ticket)

    async def WatchUpdate(self, request: pb.WatchUpdateRequest, context: Any) -> AsyncIterator[pb.WatchUpdateResponse]:
        """QUEUED at once while that is so, then PUBLISHED with the epoch, and the end. TICKET_UNKNOWN."""
        queued = False
        while True:
            announced = self._heads.next
            try:
                epoch = await to_thread(self._store.published_at, request.ticket)
            except StoreError as e:
                _refuse(e)
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
                erased=await to_thread(self._store.erase_values, label, request.through_version)
            )
        except StoreError as e:
            _refuse(e)


def _checked_label(label: bytes) -> bytes:
    try:
        check_label(label.decode("ascii"))
    except (UnicodeDecodeError, TrustError) as e:
        raise _invalid("LABEL_INVALID", "an account label is + and 1 to 15 digits") from e
    return label
