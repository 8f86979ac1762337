"""The registration service: a code to the number, the device's signed request, and the messaging service's
certificate at the directory's update port."""

import hashlib
import hmac
import os
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from ipls._grpc import StatusCode, grpc
from ipls.crypto.encoding import tagged_hash
from ipls.crypto.errors import VerificationError
from ipls.crypto.keys import verify
from ipls.proto.directory.v1.directory_pb2 import SubmitUpdateRequest, WatchUpdateRequest, WatchUpdateResponse
from ipls.proto.directory.v1.directory_pb2_grpc import UpdateServiceStub
from ipls.proto.registration.v1 import registration_pb2 as pb
from ipls.proto.registration.v1.registration_pb2_grpc import (
    RegistrationServiceServicer,
)
from ipls.rpc.errors import ServiceError, refuse, remote_error
from ipls.rpc.peer import network_of
from ipls.runtime.executors import FairExecutor
from ipls.store.errors import StoreRefused
from ipls.store.files import append
from ipls.store.registration import CODE_LIFE_MS, CodeHash, RegistrationStore
from ipls.trust.identity import check_label, decode_record

if TYPE_CHECKING:
    from ipls.proto.directory.v1.directory_pb2_grpc import UpdateServiceAsyncStub

log = structlog.get_logger()

REQUEST_ID_BYTES = 16
CODE_DIGITS = 8
"""100 guesses an hour and number are one chance in a million: 4 peers' 5 codes of 5 attempts, by default."""
CODES_IPV6_PREFIX = 48
"""Of the network that a number's codes are counted for: who has a site has 65,536 lines."""
SUBMIT_TIMEOUT_S = 10.0
MAX_HASHING = 32
"""Calls of one kind that wait for a code's hash, some 50 ms each: the last of them waits for less than 2 s."""
OUTBOX_BYTES = 1 << 20
"""Of the development verifier's file, which begins anew beyond: some 20,000 codes, of which nobody has so many hashed
before they expire."""
MAX_LOOKS = 128
"""Calls that wait for the database alone."""


class CodeSender(Protocol):
    """Shows that a person holds a number, by what only the number's holder will read."""

    async def deliver(self, request_id: bytes, label: str, code: str) -> str:
        """Send the code to the number, and say where to look for it, with no more of the number than `masked` leaves.

        Raises OSError if it can't be sent now.
        """
        ...


def masked(label: str) -> str:
    """Of a number what its holder knows it by: how it begins, and the last two digits where it has more than six."""
    return f"{label[:3]}…{label[-2:]}" if len(label) > 7 else "your number"


class FileCodeSender:
    """The development verifier: sends nothing, but shows each code on the terminal and in a file of mode 0600.

    A line is the request id in hex and the code; the number stands nowhere.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    async def deliver(self, request_id: bytes, label: str, code: str) -> str:
        """Append the line, then print it."""
        line = f"{request_id.hex()} {code}\n"
        if self._path.exists() and self._path.stat().st_size > OUTBOX_BYTES:
            os.truncate(self._path, 0)
        append(self._path, line.encode())
        print(f"registration code: {line}", end="", flush=True)
        return f"{masked(label)} (development: it stands in the service's {self._path.name}, and in its log)"


def _hash(code: str, salt: bytes) -> CodeHash:
    """scrypt, some 50 ms: who reads the database doesn't run through all the codes before they expire."""
    return CodeHash(salt, hashlib.scrypt(code.encode(), salt=salt, n=1 << 14, r=8, p=1, dklen=32))


class RegistrationService(RegistrationServiceServicer):
    """Lets a number's holder put one identity record into the directory per request id."""

    def __init__(
        self,
        store: RegistrationStore,
        namespace: str,
        verifier: CodeSender,
        directory: grpc.aio.Channel,
        *,
        codes_per_hour: int,
        now_ms: Callable[[], int],
    ) -> None:
        self._store = store
        self._namespace = namespace
        self._verifier = verifier
        self._updates: UpdateServiceAsyncStub = UpdateServiceStub(directory)
        self._codes_per_hour = codes_per_hour
        self._now_ms = now_ms
        # Each kind of call that hashes has a thread of its own: a flood of it takes that and 16 MiB, and no other's.
        self._asked = FairExecutor("codes that are asked for", 1, MAX_HASHING)
        self._shown = FairExecutor("codes that are shown", 1, MAX_HASHING)
        self._looking = FairExecutor("registrations", 1, MAX_LOOKS)

    def close(self) -> None:
        """End its threads; no call may follow."""
        for executor in (self._asked, self._shown, self._looking):
            executor.close()

    async def RequestCode(self, request: pb.RequestCodeRequest, context: Any) -> pb.RequestCodeResponse:
        """LABEL_INVALID, REQUEST_ID_INVALID; REQUEST_ID_REUSED, CODE_RATE, CODE_NOT_SENT."""
        _check_names(request.label, request.request_id)
        code = f"{secrets.randbelow(10**CODE_DIGITS):0{CODE_DIGITS}}"
        label, request_id = request.label, request.request_id
        peer, per_hour, now_ms = network_of(context, CODES_IPV6_PREFIX), self._codes_per_hour, self._now_ms()

        def begin() -> CodeHash:
            hashed = _hash(code, secrets.token_bytes(16))
            self._store.begin(request_id, label, peer, now_ms, codes_per_hour=per_hour)
            return hashed

        try:
            await self._looking.run(peer, self._store.check_rate, label, peer, now_ms, codes_per_hour=per_hour)
            hashed = await self._asked.run(peer, begin)
            try:
                sent_to = await self._verifier.deliver(request_id, label, code)
            except OSError as e:
                await self._looking.run(peer, self._store.not_sent, label, peer, now_ms)
                raise ServiceError("CODE_NOT_SENT", "the code could not be sent") from e
            await self._looking.run(peer, self._store.sent, request_id, label, hashed, self._now_ms())
        except StoreRefused as e:
            refuse(e)
        return pb.RequestCodeResponse(sent_to=sent_to, valid_s=CODE_LIFE_MS // 1000)

    async def Register(self, request: pb.RegisterRequest, context: Any) -> pb.RegisterResponse:
        """Idempotent by request id: once the code was right, the same record again gets the same ticket.

        LABEL_INVALID, REQUEST_ID_INVALID, IDENTITY_RECORD_INVALID, SIGNATURE_LENGTH, SIGNATURE_INVALID;
        CODE_NOT_REQUESTED, CODE_EXPIRED, CODE_ATTEMPTS, CODE_WRONG, REQUEST_ID_REUSED; what the directory refuses. No
        attempt is used up by who is refused as SERVICE_BUSY.
        """
        _check_names(request.label, request.request_id)
        label, request_id, record = request.label, request.request_id, request.identity_record
        try:
            digest = tagged_hash("ipls/registration/v1 request", self._namespace, label, record, request_id)
            verify(decode_record(record), digest, request.signature)
        except VerificationError as e:
            refuse(e, code=StatusCode.INVALID_ARGUMENT)
        peer = network_of(context)

        def is_the_code() -> bool:
            expected = self._store.attempt(request_id, label, self._now_ms())
            return hmac.compare_digest(_hash(request.code, expected.salt).digest, expected.digest)

        try:
            known = await self._looking.run(peer, self._store.approved, request_id, label) is not None
            if not known and not await self._shown.run(peer, is_the_code):
                raise ServiceError("CODE_WRONG", "this is not the code")
            await self._looking.run(peer, self._store.approve, request_id, record)
        except StoreRefused as e:
            refuse(e)
        update = SubmitUpdateRequest(request_id=request_id, label=label.encode(), value=record)
        try:
            response = await self._updates.SubmitUpdate(update, timeout=SUBMIT_TIMEOUT_S)
        except grpc.aio.AioRpcError as e:
            raise _of_directory(e) from e
        return pb.RegisterResponse(ticket=response.ticket)

    async def WatchRegistration(
        self, request: pb.WatchRegistrationRequest, context: Any
    ) -> AsyncIterator[pb.WatchRegistrationResponse]:
        """What the directory says of the ticket, until its epoch is signed and public. TICKET_UNKNOWN;
        SERVICE_BUSY for who watches a ticket too often."""
        try:
            async for response in self._updates.WatchUpdate(WatchUpdateRequest(ticket=request.ticket)):
                published = response.state == WatchUpdateResponse.STATE_PUBLISHED
                yield pb.WatchRegistrationResponse(published=published, epoch=response.epoch)
        except grpc.aio.AioRpcError as e:
            raise _of_directory(e) from e


def _of_directory(failed: grpc.aio.AioRpcError) -> ServiceError:
    error = remote_error(failed)
    if error.unanswered:
        return ServiceError("DIRECTORY_UNAVAILABLE", "the directory does not answer; try again")
    return error


def _check_names(label: str, request_id: bytes) -> None:
    try:
        check_label(label)
    except VerificationError as e:
        refuse(e)
    if len(request_id) != REQUEST_ID_BYTES:
        message = f"a request id has {REQUEST_ID_BYTES} bytes"
        raise ServiceError("REQUEST_ID_INVALID", message)
