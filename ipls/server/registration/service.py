"""The registration service: a code to the number, the device's signed request, and the messaging service's
certificate at the directory's update port."""

import asyncio
import hashlib
import hmac
import secrets
from asyncio import to_thread
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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
from ipls.store.errors import StoreRefused
from ipls.store.files import append
from ipls.store.registration import CodeHash, RegistrationStore
from ipls.trust.identity import check_label, decode_record

if TYPE_CHECKING:
    from ipls.proto.directory.v1.directory_pb2_grpc import UpdateServiceAsyncStub

log = structlog.get_logger()

REQUEST_ID_BYTES = 16
CODE_DIGITS = 8
"""100 guesses an hour and number are one chance in a million: 4 peers' 5 codes of 5 attempts, by default."""
SUBMIT_TIMEOUT_S = 10.0
MAX_HASHING = 32
"""Calls of one kind that hash a code or wait for it, some 50 ms each: the last of them waits for less than 2 s."""


class CodeSender(Protocol):
    """Shows that a person holds a number, by what only the number's holder will read."""

    async def deliver(self, request_id: bytes, label: str, code: str) -> None:
        """Send the code to the number. Raises OSError if it can't be sent now."""
        ...


class FileCodeSender:
    """The development verifier: sends nothing, but shows each code on the terminal and in a file of mode 0600.

    A line is the request id in hex and the code; the number stands nowhere.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    async def deliver(self, request_id: bytes, label: str, code: str) -> None:
        """Append the line, then print it."""
        line = f"{request_id.hex()} {code}\n"
        append(self._path, line.encode())
        print(f"registration code: {line}", end="", flush=True)


def _hash(code: str, salt: bytes) -> CodeHash:
    """scrypt, some 50 ms: who reads the database doesn't run through all the codes before they expire."""
    return CodeHash(salt, hashlib.scrypt(code.encode(), salt=salt, n=1 << 14, r=8, p=1, dklen=32))


class _Hasher:
    """Hashes codes one at a time, for one kind of call: a flood of these takes a thread and 16 MiB, and no other's."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._taken = 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """For a call that is going to hash. Raises ServiceError REGISTRATIONS_BUSY if too many do."""
        if self._taken >= MAX_HASHING:
            raise ServiceError("REGISTRATIONS_BUSY", f"{MAX_HASHING} such calls are under way")
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    async def hash(self, code: str, salt: bytes) -> CodeHash:
        return await asyncio.get_running_loop().run_in_executor(self._thread, _hash, code, salt)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()


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
        self._asked, self._shown = _Hasher(), _Hasher()

    def close(self) -> None:
        """End its threads."""
        self._asked.close()
        self._shown.close()

    async def RequestCode(self, request: pb.RequestCodeRequest, context: Any) -> pb.RequestCodeResponse:
        """LABEL_INVALID, REQUEST_ID_INVALID; REQUEST_ID_REUSED, CODE_RATE, REGISTRATIONS_BUSY, CODE_NOT_SENT."""
        _check_names(request.label, request.request_id)
        code = f"{secrets.randbelow(10**CODE_DIGITS):0{CODE_DIGITS}}"
        peer, per_hour = network_of(context), self._codes_per_hour
        try:
            await to_thread(self._store.check_rate, request.label, peer, self._now_ms(), codes_per_hour=per_hour)
            with self._asked.place():
                hashed = await self._asked.hash(code, secrets.token_bytes(16))
            await to_thread(
                self._store.begin,
                request.request_id,
                request.label,
                peer,
                hashed,
                self._now_ms(),
                codes_per_hour=per_hour,
            )
            await self._verifier.deliver(request.request_id, request.label, code)
        except StoreRefused as e:
            refuse(e)
        except OSError as e:
            raise ServiceError("CODE_NOT_SENT", "the code could not be sent") from e
        return pb.RequestCodeResponse()

    async def Register(self, request: pb.RegisterRequest, context: Any) -> pb.RegisterResponse:
        """Idempotent by request id: once the code was right, the same record again gets the same ticket.

        LABEL_INVALID, REQUEST_ID_INVALID, IDENTITY_RECORD_INVALID, SIGNATURE_LENGTH, SIGNATURE_INVALID;
        REGISTRATIONS_BUSY (no attempt is used up), CODE_NOT_REQUESTED, CODE_EXPIRED, CODE_ATTEMPTS, CODE_WRONG,
        REQUEST_ID_REUSED; what the directory refuses.
        """
        _check_names(request.label, request.request_id)
        label, request_id, record = request.label, request.request_id, request.identity_record
        try:
            digest = tagged_hash("ipls/registration/v1 request", self._namespace, label, record, request_id)
            verify(decode_record(record), digest, request.signature)
        except VerificationError as e:
            refuse(e, code=StatusCode.INVALID_ARGUMENT)
        try:
            if await to_thread(self._store.approved, request_id, label) is None:
                with self._shown.place():
                    expected = await to_thread(self._store.attempt, request_id, label, self._now_ms())
                    given = await self._shown.hash(request.code, expected.salt)
                if not hmac.compare_digest(given.digest, expected.digest):
                    raise ServiceError("CODE_WRONG", "this is not the code")
            await to_thread(self._store.approve, request_id, record)
        except StoreRefused as e:
            refuse(e)
        update = SubmitUpdateRequest(request_id=request_id, label=label.encode(), value=record)
        try:
            response = await self._updates.SubmitUpdate(update, timeout=SUBMIT_TIMEOUT_S)
        except grpc.aio.AioRpcError as e:
            raise remote_error(e) from e
        return pb.RegisterResponse(ticket=response.ticket)

    async def WatchRegistration(
        self, request: pb.WatchRegistrationRequest, context: Any
    ) -> AsyncIterator[pb.WatchRegistrationResponse]:
        """What the directory says of the ticket, until its epoch is signed and public. TICKET_UNKNOWN."""
        try:
            async for response in self._updates.WatchUpdate(WatchUpdateRequest(ticket=request.ticket)):
                published = response.state == WatchUpdateResponse.STATE_PUBLISHED
                yield pb.WatchRegistrationResponse(published=published, epoch=response.epoch)
        except grpc.aio.AioRpcError as e:
            raise remote_error(e) from e


def _check_names(label: str, request_id: bytes) -> None:
    try:
        check_label(label)
    except VerificationError as e:
        refuse(e)
    if len(request_id) != REQUEST_ID_BYTES:
        message = f"a request id has {REQUEST_ID_BYTES} bytes"
        raise ServiceError("REQUEST_ID_INVALID", message)
