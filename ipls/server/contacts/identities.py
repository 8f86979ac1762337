"""Whose call it is: an account's newest key, proved by the directory at the newest head that the witnesses signed."""

import asyncio
import time
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakValueDictionary

import structlog

from ipls._grpc import grpc
from ipls.akd import AkdError, verify_absence, verify_history
from ipls.clock import system_now_ms
from ipls.crypto.errors import VerificationError
from ipls.proto.directory.v1.directory_pb2 import AbsenceRequest, HistoryRequest, WatchHeadsRequest
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.rpc.errors import ServiceError
from ipls.rpc.quota import PeerQuota, Recent
from ipls.rpc.reads import read_history
from ipls.trust.heads import Head, verify_head
from ipls.trust.identity import encode_record, verify_identity
from ipls.trust.root import TrustRoot

if TYPE_CHECKING:
    from ipls.proto.directory.v1.directory_pb2_grpc import DirectoryServiceAsyncStub

log = structlog.get_logger()

KNOWN = 100_000
"""Identities that were the newest when they last called."""
REFUSED = 10_000
"""Keys that were not."""
EARLIER = 32
"""Versions of an account in which a key is looked for, to say that there is a newer one."""
IN_VAIN = 60
"""Keys that are no account's newest, and that the directory is asked for in a minute for one caller's network."""
DIRECTORY_DEADLINE_S = 10.0
RETRY_AFTER_S = 0.5


class _Verdict(NamedTuple):
    """What a key was at an epoch, by the refusal's reason; "": the account's newest, of that version."""

    epoch: int
    reason: str
    version: int = 0

    def refusal(self) -> ServiceError:
        if self.reason == "IDENTITY_SUPERSEDED":
            return ServiceError("IDENTITY_SUPERSEDED", "the account has a newer identity key")
        message = f"the account does not have this key at epoch {self.epoch}"
        return ServiceError("IDENTITY_UNKNOWN", message, retry_after_s=RETRY_AFTER_S)


class Identities:
    """Decides whether a key is an account's identity at the newest head. Run `follow` beside it.

    Decided by a history proof, most recent 1 (never a lookup), or an absence proof, and kept for that very key while
    that head is the newest. Two questions to the directory for a key that is not the newest, whatever account it names
    (registered, not registered, erased) and whoever called for it before; and of a caller's network only so many.
    """

    def __init__(
        self,
        directory: "DirectoryServiceAsyncStub",
        root: TrustRoot,
        *,
        now_ms: Callable[[], int] = system_now_ms,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._root = root
        self._now_ms = now_ms
        self._signed: SignedHead | None = None
        self._arrived = asyncio.Event()
        self._known = Recent[tuple[str, bytes], _Verdict](KNOWN)
        self._refused = Recent[tuple[str, bytes], _Verdict](REFUSED)
        self._turns = WeakValueDictionary[tuple[str, bytes], asyncio.Lock]()
        """Of each key that is being judged, for as long as a call holds it or waits for it."""
        self._in_vain = PeerQuota(IN_VAIN, now_s=now_s)

    async def follow(self) -> None:
        """Keep the newest head, for ever; a directory that is away or lies changes nothing but the head's age."""
        while True:
            try:
                async for response in self._directory.WatchHeads(WatchHeadsRequest()):
                    self.accept(response.head)
            except grpc.aio.AioRpcError as error:
                log.warning("no heads from the directory", code=error.code().name)
            except VerificationError as error:
                log.error("head refused", reason=error.reason)
            await asyncio.sleep(RETRY_AFTER_S)

    def accept(self, signed: SignedHead) -> None:
        """Take a head that is not below the newest, nor another root for its epoch. Raises VerificationError."""
        highest = None if self._signed is None else Head(self._signed.epoch, self._signed.root_hash)
        verify_head(self._root, signed, now_ms=self._now_ms(), at_least=highest)
        self._signed = signed
        self._arrived.set()

    async def check(self, label: str, public_key: bytes, holder: Hashable) -> int:
        """The identity's version, if `public_key` is the account's now. `holder`: whose quota a question to the
        directory is taken from, unless this was the account's key when it was asked last: the peer's who says so.

        Raises ServiceError: UNAVAILABLE IDENTITY_UNKNOWN (with RetryInfo) for a key that the head does not hold,
        which may be on its way; PERMISSION_DENIED IDENTITY_SUPERSEDED for one that was it before; UNAVAILABLE
        DIRECTORY_UNAVAILABLE; SERVICE_BUSY for a holder that asks in vain too often.
        """
        head, key = await self.newest(), (label, public_key)
        turn = self._turns.setdefault(key, asyncio.Lock())
        async with turn:
            verdict = self._known.get(key) or self._refused.get(key)
            if verdict is None or verdict.epoch < head.epoch:
                verdict = await self._judge(head, label, public_key, holder)
        if verdict.reason:
            raise verdict.refusal()
        return verdict.version

    async def newest(self) -> Head:
        """The newest head, of accepted age, once there is one. Raises ServiceError DIRECTORY_UNAVAILABLE."""
        try:
            async with asyncio.timeout(DIRECTORY_DEADLINE_S):
                await self._arrived.wait()
            assert self._signed is not None
            return verify_head(self._root, self._signed, now_ms=self._now_ms())
        except (TimeoutError, VerificationError) as error:
            raise _unavailable("no fresh head from the directory") from error

    async def _judge(self, head: Head, label: str, public_key: bytes, holder: Hashable) -> _Verdict:
        """Ask the directory, within a quota: of its own for a key that was its account's newest, else the holder's.
        What comes to nothing counts, whoever ended it."""
        key = (label, public_key)
        if key in self._known:
            holder = key
        self._in_vain.take(holder)
        verdict = _Verdict(head.epoch, *await self._found(head, label, public_key))
        found, other = (self._refused, self._known) if verdict.reason else (self._known, self._refused)
        found.put(key, verdict)
        other.drop(key)
        if not verdict.reason:
            self._in_vain.give_back(holder)
        return verdict

    async def _found(self, head: Head, label: str, public_key: bytes) -> tuple[str, int]:
        """A verdict's reason and version."""
        proof = await self._history(head, label, most_recent=1)
        if proof is None:
            await self._prove_absent(head, label)
            return "IDENTITY_UNKNOWN", 0
        try:
            newest = verify_identity(self._root, head, label, proof)
        except VerificationError as error:
            raise _refused(error) from error
        if newest.public_key == public_key:
            return "", newest.version
        earlier = await self._earlier(head, label, newest.public_key)
        return ("IDENTITY_SUPERSEDED" if public_key in earlier else "IDENTITY_UNKNOWN"), 0

    async def _prove_absent(self, head: Head, label: str) -> None:
        proof = b""  # of epoch 0, where nothing is
        if head.epoch:
            request = AbsenceRequest(label=label.encode(), epoch=head.epoch)
            try:
                proof = (await self._directory.Absence(request, timeout=DIRECTORY_DEADLINE_S)).proof
            except grpc.aio.AioRpcError as error:
                raise _unavailable("the directory does not prove that the account is not there") from error
        try:
            verify_absence(head.root_hash, head.epoch, self._root.vrf_public_key, label.encode(), proof)
        except AkdError as error:
            raise _refused(error) from error

    async def _earlier(self, head: Head, label: str, newest: bytes) -> set[bytes]:
        """Keys that were the account's before, as far as they are not erased."""
        proof = await self._history(head, label, most_recent=EARLIER)
        if proof is None:
            raise _unavailable("the directory withholds a history")
        vrf_key = self._root.vrf_public_key
        try:
            versions = verify_history(
                head.root_hash,
                head.epoch,
                vrf_key,
                label.encode(),
                proof,
                most_recent=EARLIER,
                allow_missing=True,  # what an erased one was decides nothing here
            )
        except AkdError as error:
            raise _refused(error) from error
        if versions[0].value != encode_record(newest):
            raise _unavailable("the directory's histories contradict each other")
        return {version.value[1:] for version in versions[1:]}

    async def _history(self, head: Head, label: str, *, most_recent: int) -> bytes | None:
        """The encoded proof at the head's epoch; None where the directory says that it has no such label."""
        if head.epoch == 0:  # an empty directory; and 0 would ask for the newest epoch
            return None
        request = HistoryRequest(label=label.encode(), epoch=head.epoch, most_recent=most_recent)
        try:
            _, proof = await read_history(self._directory, request, timeout=DIRECTORY_DEADLINE_S)
            return proof
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise _unavailable("the directory does not answer") from error


def _refused(error: AkdError | VerificationError) -> ServiceError:
    log.error("identity proof refused", reason=error.reason)
    return _unavailable("the directory's proof does not hold")


def _unavailable(message: str) -> ServiceError:
    return ServiceError("DIRECTORY_UNAVAILABLE", message, retry_after_s=2 * RETRY_AFTER_S)
