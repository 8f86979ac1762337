"""Who may read what: sessions opened by a signed call, own and others' labels, the quota of distinct ones.

Tested by tests/attack/test_reads.py.
"""

import hmac
import struct
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from ipls._grpc import StatusCode
from ipls.contacts.errors import LineError
from ipls.contacts.listing import Listing
from ipls.crypto.errors import VerificationError
from ipls.crypto.keys import verify
from ipls.proto.directory.v1 import directory_pb2 as pb
from ipls.rpc.errors import ServiceError, refuse
from ipls.rpc.peer import peer_roles
from ipls.rpc.reads import SESSION_METADATA
from ipls.runtime.executors import FairExecutor
from ipls.store.directory import DirectoryStore
from ipls.store.errors import StoreRefused
from ipls.store.readers import ReadersStore
from ipls.trust.calls import CALL_WINDOW_MS, NONCE_BYTES, is_timely, session_digest
from ipls.trust.identity import check_label, encode_record
from ipls.trust.limits import MAX_INT

READER_ROLE = "reader"

SESSION_MS = 10 * 60 * 1000
MAX_OPENINGS = 64
"""Signed calls that wait for their turn: one thread checks signatures, so a flood of them takes no more than that."""
MAX_SESSIONS = 60
"""Sessions that one account may open within the window of a signed call, about four minutes."""

_CLAIMS = struct.Struct(">QQ?")
_TAG_BYTES = 32


class Reader(NamedTuple):
    """Who asks: the account's label and its identity's version; of nobody in particular (b"", 0). `device`: one that
    this identity lists, or listed.

    Its list may be an old one. So that a device that was removed shuts the account's phone out of nothing, all devices
    together have sessions of their own, and half of the labels that the account may ask for.
    """

    label: bytes
    version: int
    device: bool = False


NOBODY = Reader(b"", 0)


class ReadAuthorizer:
    """The rules of reading. Any process over the same database takes a session that another has opened.

    A token is the account's label, the version of the identity that opened it, or lists the device that did, and the
    end of its time, under a MAC whose key lies beside the database: it needs no state, and no look-up but that of the
    label's newest version, which is what ends the rights of a superseded key at once.
    """

    def __init__(
        self,
        directory: DirectoryStore,
        readers: ReadersStore,
        namespace: str,
        *,
        daily_labels: int,
        anonymous: bool,
        now_ms: Callable[[], int],
        submit_again: Callable[[bytes, bytes], bool] = lambda label, record: False,
    ) -> None:
        """`submit_again`: queue the record as its label's, if it is one that was lost with a database."""
        self._directory = directory
        self._readers = readers
        self._namespace = namespace
        self._daily_labels = daily_labels
        self._anonymous = anonymous
        self._now_ms = now_ms
        self._submit_again = submit_again
        self._token_key = readers.derived_key("sessions, also of devices")  # another name for other claims
        self._checker = FairExecutor("openings of sessions", 1, MAX_OPENINGS)

    def close(self) -> None:
        """End the thread; no call may follow."""
        self._checker.close()

    async def open(self, request: pb.OpenSessionRequest, peer: str) -> pb.OpenSessionResponse:
        """A session for the identity that signed the call, now or before the account's, or for a device of it. Raises
        ServiceError; Busy, if too much of the peer's waits."""
        return await self._checker.run(peer, self._open, request)

    def _open(self, request: pb.OpenSessionRequest) -> pb.OpenSessionResponse:
        now_ms = self._now_ms()
        try:
            label = check_label(request.label).encode()
            if len(request.nonce) != NONCE_BYTES or request.timestamp_ms > MAX_INT:
                raise ServiceError("BODY_INVALID", f"a nonce has {NONCE_BYTES} bytes")
            if not is_timely(request.timestamp_ms, now_ms):
                raise ServiceError("CALL_STALE", "the call's time is more than two minutes from the service's clock")
            digest = session_digest(
                self._namespace, request.label, request.public_key, request.timestamp_ms, request.nonce
            )
            verify(request.public_key, digest, request.signature)
            identity_key, device = request.public_key, request.HasField("listing")
            if device:
                listing = Listing(request.listing.identity_key, request.listing.n, request.listing.devices)
                listing.check(self._namespace, request.label, request.public_key)
                identity_key = listing.identity_key
        except (VerificationError, LineError) as e:
            refuse(e, code=StatusCode.UNAUTHENTICATED)
        version = self._version(label, encode_record(identity_key))
        try:
            self._readers.admit(
                f"{request.label} devices" if device else request.label,
                request.nonce,
                request.timestamp_ms,
                now_ms=now_ms,
                window_ms=CALL_WINDOW_MS,
                max_calls=MAX_SESSIONS,
                reading=True,
            )
        except StoreRefused as e:
            refuse(e)
        expires_ms = now_ms + SESSION_MS
        claims = _CLAIMS.pack(expires_ms, version, device) + label
        return pb.OpenSessionResponse(token=self._tag(claims) + claims, expires_ms=expires_ms)

    def _version(self, label: bytes, record: bytes) -> int:
        """The newest of the label's published versions that is this record. One that was lost with a database comes
        back: it is queued again."""
        if version := self._directory.version_of(label, record):
            return version
        try:
            if self._directory.is_queued(label, record) or self._submit_again(label, record):
                raise ServiceError("READER_PENDING", "the key waits for its epoch")
        except StoreRefused as e:
            refuse(e)
        if self._directory.head() is None:
            raise ServiceError("DIRECTORY_NOT_READY", "the witnesses have not signed the first head yet")
        raise ServiceError("READER_UNKNOWN", "this key is not one of the account's")

    def reader(self, context: Any) -> Reader | None:
        """Who calls; None is a service, which may read everything. Raises ServiceError."""
        if READER_ROLE in peer_roles(context):
            return None
        tokens = [value for key, value in context.invocation_metadata() or () if key == SESSION_METADATA]
        if tokens:
            return self._claimed(tokens[0])
        if self._anonymous:
            return NOBODY
        raise ServiceError("READ_SESSION_REQUIRED", "open a session first")

    def _claimed(self, token: bytes) -> Reader:
        claims = token[_TAG_BYTES:]
        if len(claims) < _CLAIMS.size or not hmac.compare_digest(token[:_TAG_BYTES], self._tag(claims)):
            raise ServiceError("READ_SESSION_INVALID", "not a session of this directory")
        expires_ms, version, device = _CLAIMS.unpack_from(claims)
        if not 0 < expires_ms - self._now_ms() <= SESSION_MS + CALL_WINDOW_MS:  # longer: by a clock that was ahead
            raise ServiceError("READ_SESSION_EXPIRED", "the session is over: open another")
        return Reader(claims[_CLAIMS.size :], version, device)

    def allow(
        self, reader: Reader | None, labels: Collection[bytes], *, newest: int, epoch: int, complete: bool
    ) -> None:
        """Return if `reader` may be shown these labels at `epoch`, `newest` being the head's. Blocks.

        Of another's label that is its newest version alone: at no epoch what it had before, nor that it was absent.
        Raises ServiceError.
        """
        others = set(labels) - {reader.label} if reader else set()
        if reader is None or not others:
            return
        if complete:
            raise _others_history()
        if reader.label:
            self._count(reader, others, newest)
        for label in others if epoch < newest else ():
            versions = self._directory.versions(label, newest, 1)
            if versions and versions[0].epoch > epoch:
                raise _others_history()

    def _count(self, reader: Reader, labels: Collection[bytes], newest: int) -> None:
        current = self._directory.versions(reader.label, newest, 1)
        if not current or current[0].version != reader.version:
            message = "the account has a newer identity key: this one may read its own history only"
            raise ServiceError("IDENTITY_SUPERSEDED", message)
        daily_labels = self._daily_labels // 2 if reader.device else self._daily_labels
        try:
            self._readers.count(reader.label, labels, self._now_ms(), daily_labels=daily_labels)
        except StoreRefused as e:
            refuse(e)

    def _tag(self, claims: bytes) -> bytes:
        return hmac.digest(self._token_key, claims, "sha256")


def _others_history() -> ServiceError:
    return ServiceError("HISTORY_OF_ANOTHER", "only its owner is shown what a label was before")
