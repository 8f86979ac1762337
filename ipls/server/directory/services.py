"""The directory's two gRPC services, over the store and the publisher's announcements."""

from asyncio import to_thread
from collections.abc import AsyncIterator, Callable
from functools import lru_cache
from typing import Any, NoReturn

from grpc import StatusCode

from ipls.akd import DirectoryKey, make_history, make_lookup
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

MAX_WATCHERS = 500
"""Streams of heads at once: half of the calls that a server takes, so that reads and updates go on beside them."""

_CODES = {
    "REQUEST_ID_REUSED": StatusCode.ALREADY_EXISTS,
    "QUEUE_FULL": StatusCode.UNAVAILABLE,
    "QUOTA_EXCEEDED": StatusCode.RESOURCE_EXHAUSTED,
    "TICKET_UNKNOWN": StatusCode.NOT_FOUND,
    "EPOCH_PRUNED": StatusCode.OUT_OF_RANGE,
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
        self._lookup = lru_cache(HOT_PROOFS)(self._make_lookup)
        self._history = lru_cache(HOT_PROOFS)(self._make_history)

    async def Lookup(self, request: pb.LookupRequest, context: Any) -> pb.LookupResponse:
        """LABEL_NOT_FOUND, LABEL_INVALID, EPOCH_UNKNOWN, EPOCH_PRUNED, DIRECTORY_NOT_READY."""
        head, proof = await self._proved(self._lookup, _checked_label(request.label), request.epoch)
        return pb.LookupResponse(head=SignedHead.FromString(head.signed), proof=proof)

    async def History(self, request: pb.HistoryRequest, context: Any) -> pb.HistoryResponse:
        """LABEL_NOT_FOUND, LABEL_INVALID, EPOCH_UNKNOWN, EPOCH_PRUNED, DIRECTORY_NOT_READY."""
        label = _checked_label(request.label)
        head, proof = await self._proved(self._history, label, request.epoch, request.most_recent)
        return pb.HistoryResponse(head=SignedHead.FromString(head.signed), proof=proof)

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

    async def _proved(
        self, make: Callable[..., bytes], label: bytes, epoch: int, *more: int
    ) -> tuple[StoredHead, bytes]:
        """The head of `epoch` (0: the newest) and the proof that `make` makes against it, or has kept."""
        while True:
            head = await self._head(epoch)

            def prove(head: StoredHead = head) -> bytes:
                self._store.check_kept(head.epoch)
                return make(label, head.epoch, head.depth, *more)

            try:
                return head, await to_thread(prove)
            except StoreError as e:
                if epoch or e.reason != "EPOCH_PRUNED":  # else the newest was replaced meanwhile: there is a newer one
                    _refuse(e)

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

    def _make_lookup(self, label: bytes, epoch: int, depth: int) -> bytes:
        versions = self._store.versions(label, epoch, 1)
        if not versions:
            raise _not_found(epoch)
        return make_lookup(self._store, self._key, epoch, depth, label, versions[0])

    def _make_history(self, label: bytes, epoch: int, depth: int, most_recent: int) -> bytes:
        versions = self._store.versions(label, epoch, most_recent)
        if not versions:
            raise _not_found(epoch)
        return make_history(self._store, self._key, epoch, depth, label, versions)


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


def _checked_label(label: bytes) -> bytes:
    try:
        check_label(label.decode("ascii"))
    except (UnicodeDecodeError, TrustError) as e:
        raise _invalid("LABEL_INVALID", "an account label is + and 1 to 15 digits") from e
    return label


def _not_found(epoch: int) -> ServiceError:
    return ServiceError(StatusCode.NOT_FOUND, "LABEL_NOT_FOUND", f"no such label at epoch {epoch}")
