"""Registering an account: a code to the number, a signed request, and then the directory's own proof that it is in.

Tested by tests/client/test_device.py.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from ipls.client.calls import RETRY_FOR_S, plain, retrying, within
from ipls.client.directory import DirectoryReader, History
from ipls.client.errors import ProfileError, RefusedError, TryLaterError
from ipls.client.events import CodeAwaited, JourneyStep, Report
from ipls.client.profile import Account, CodeSent, KnownVersion, Profile, ProvedHistory, Registration
from ipls.crypto.encoding import tagged_hash
from ipls.crypto.errors import VerificationError
from ipls.crypto.keys import public_key, sign
from ipls.proto.registration.v1 import registration_pb2 as pb
from ipls.trust.identity import Identity, check_label, encode_record

if TYPE_CHECKING:
    from ipls.proto.registration.v1.registration_pb2_grpc import RegistrationServiceAsyncStub

Answer = TypeVar("Answer")

CodeSource = Callable[[bytes], Awaitable[str]]
"""Gives the code that was sent to the number, or nothing to have another one sent; it is handed the request's id (16
bytes). Where it was sent to an event CodeAwaited says before."""

_CODE_OVER = ("CODE_EXPIRED", "CODE_NOT_REQUESTED", "CODE_ATTEMPTS")
_CODE_HOLDS_S = 600
"""Where a service, an older one, does not say."""
_LAGGING_S = 0.2


class Registrar:
    """One registration at a time, the profile's; each step is kept before it is sent, so one cut off goes on."""

    def __init__(
        self,
        stub: "RegistrationServiceAsyncStub",
        namespace: str,
        profile: Profile,
        directory: DirectoryReader,
        *,
        report: Report,
        now_ms: Callable[[], int],
        retry_for_s: float = RETRY_FOR_S,
    ) -> None:
        self._stub = stub
        self._namespace = namespace
        self._profile = profile
        self._directory = directory
        self._report = report
        self._now_ms = now_ms
        self._retry_for_s = retry_for_s

    async def register(self, label: str, code_source: CodeSource, *, continuing: bool = False) -> Account:
        """Put a new key into the directory under `label`; returns when the own complete history ends in it.

        A code that was sent is not sent again, by a later call either, until it is over. After CODE_WRONG the next call
        asks for the same one again; with `continuing` none is sent.

        Raises ProfileError LABEL_INVALID, REGISTRATION_UNDER_WAY (for another number), CODE_NOT_REQUESTED (where it
        should continue); RefusedError; TryLaterError.
        """
        request = self._request(label)
        if continuing and not request.code and self._profile.get(CodeSent) is None:
            raise ProfileError("CODE_NOT_REQUESTED", "no code was asked for yet, or it is over: register without one")
        if not request.ticket:
            request = await self._send(request, code_source)
        epoch = await self._published(request.ticket)
        history = await self._proved(request, epoch)
        return self._adopt(request, history)

    def _request(self, label: str) -> Registration:
        try:
            check_label(label)
        except VerificationError as error:
            raise ProfileError(error.reason, error.message) from error
        request = self._profile.get(Registration)
        if request is None or (request.label != label and not request.code):  # a mistyped number binds to nothing
            request = Registration(label, os.urandom(32), os.urandom(16), "", b"")
            self._profile.remove(CodeSent)
            self._profile.put(request)
        if request.label != label:
            raise ProfileError("REGISTRATION_UNDER_WAY", "this profile is already registering another number")
        return request

    async def _send(self, request: Registration, code_source: CodeSource) -> Registration:
        if not request.code:
            request = request._replace(code=await self._code(request, code_source))
            self._profile.put(request)
        record = encode_record(public_key(request.seed))
        digest = tagged_hash("ipls/registration/v1 request", self._namespace, request.label, record, request.request_id)
        try:
            response = await self._call(
                self._stub.Register,
                pb.RegisterRequest(
                    label=request.label,
                    request_id=request.request_id,
                    code=request.code,
                    identity_record=record,
                    signature=sign(request.seed, digest),
                ),
            )
        except RefusedError as error:
            if error.reason in ("CODE_WRONG", *_CODE_OVER):
                self._profile.put(request._replace(code=""))
            if error.reason in _CODE_OVER:
                self._profile.remove(CodeSent)  # the next attempt asks for a new one
            raise
        request = request._replace(ticket=response.ticket)
        self._profile.put(request)
        self._report(JourneyStep("registration sent"))
        return request

    async def _code(self, request: Registration, code_source: CodeSource) -> str:
        sent = self._profile.get(CodeSent)
        while True:
            if sent is None or self._now_ms() >= sent.expires_ms:
                asked = pb.RequestCodeRequest(label=request.label, request_id=request.request_id)
                response = await self._call(self._stub.RequestCode, asked)
                holds_ms = (response.valid_s or _CODE_HOLDS_S) * 1000
                sent = CodeSent(plain(response.sent_to), self._now_ms() + holds_ms)
                self._profile.put(sent)
            self._report(CodeAwaited(sent.sent_to, (sent.expires_ms - self._now_ms()) // 1000))
            if code := (await code_source(request.request_id)).strip():
                return code
            sent = None

    async def _call(self, method: Callable[..., Awaitable[Answer]], message: object) -> Answer:
        async def call() -> Answer:
            return await method(message, timeout=within(self._retry_for_s))

        return await retrying(call, self._retry_for_s, service="registration")

    async def _published(self, ticket: bytes) -> int:
        """The epoch that the ticket's update came in, once it is signed and public."""

        async def watch() -> int | None:
            async for response in self._stub.WatchRegistration(
                pb.WatchRegistrationRequest(ticket=ticket), timeout=within(self._retry_for_s)
            ):
                if response.published:
                    return response.epoch
            return None

        try:
            epoch = await retrying(watch, self._retry_for_s, service="registration")
        except TryLaterError as error:
            if error.reason != "DEADLINE_EXCEEDED":
                raise
            epoch = None
        if epoch is None:
            raise TryLaterError("REGISTRATION_PENDING", "the registration is queued; its epoch is not signed yet")
        return epoch

    async def _proved(self, request: Registration, epoch: int) -> History:
        end = time.monotonic() + self._retry_for_s
        while (history := await self._directory.own_history(request.label, request.seed)).head.epoch < epoch:
            if time.monotonic() > end:
                raise TryLaterError("REGISTRATION_PENDING", "the directory's newest head is below the promised epoch")
            await asyncio.sleep(_LAGGING_S)
        if history.identities[0].public_key != public_key(request.seed):
            self._profile.remove(Registration)  # it is over; the next attempt is a new one
            self._profile.remove(CodeSent)
            raise RefusedError("REGISTRATION_NOT_PROVED", "the directory's proved history does not end in this key")
        return history

    def _adopt(self, request: Registration, history: History) -> Account:
        newest, *earlier = history.identities
        known = {version.version for version in self._profile.versions()}
        # What came since this profile had an account, and was not made here, is a theft unless the person knows it.
        origin = "earlier" if self._profile.get(Account) is None else "foreign"
        account = Account(request.label, request.seed, newest.version, newest.epoch)
        with self._profile.transaction():
            self._profile.add_versions(known_version(i, origin) for i in earlier if i.version not in known)
            self._profile.add_versions([known_version(newest, "own")])
            self._profile.add_leaves(history.leaves)
            self._profile.put(ProvedHistory(history.proof))
            self._profile.put(account)
            self._profile.remove(Registration)
            self._profile.remove(CodeSent)
        self._report(JourneyStep("registered"))
        return account


def known_version(identity: Identity, origin: str) -> KnownVersion:
    """A proved version, as a profile keeps it."""
    return KnownVersion(identity.version, identity.epoch, identity.public_key, origin)
