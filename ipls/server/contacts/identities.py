"""Whose call it is: an account's newest key, proved by the directory at the newest head that the witnesses signed."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import structlog

from ipls._grpc import grpc
from ipls.akd import AkdError, verify_absence, verify_history
from ipls.clock import system_now_ms
from ipls.crypto.errors import VerificationError
from ipls.proto.directory.v1.directory_pb2 import AbsenceRequest, HistoryRequest, WatchHeadsRequest
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.rpc.errors import ServiceError
from ipls.rpc.reads import read_history
from ipls.trust.heads import Head, verify_head
from ipls.trust.identity import encode_record, verify_identity
from ipls.trust.root import TrustRoot

if TYPE_CHECKING:
    from ipls.proto.directory.v1.directory_pb2_grpc import DirectoryServiceAsyncStub

log = structlog.get_logger()

CACHED_ACCOUNTS = 100_000
DIRECTORY_DEADLINE_S = 10.0
RETRY_AFTER_S = 0.5


class _Known(NamedTuple):
    """What was proved of one account at `epoch`: the newest key, and keys that were it before (once asked for)."""

    epoch: int
    newest: bytes
    earlier: frozenset[bytes] | None


class Identities:
    """Decides whether a key is an account's identity at the newest head. Run `follow` beside it.

    Decided by a history proof, most recent 1 (never a lookup), or an absence proof, and kept while that head is the
    newest.
    """

    def __init__(
        self, directory: "DirectoryServiceAsyncStub", root: TrustRoot, *, now_ms: Callable[[], int] = system_now_ms
    ) -> None:
        self._directory = directory
        self._root = root
        self._now_ms = now_ms
        self._signed: SignedHead | None = None
        self._arrived = asyncio.Event()
        self._known: OrderedDict[str, _Known] = OrderedDict()

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

    async def check(self, label: str, public_key: bytes) -> None:
        """Return if `public_key` is the account's identity now.

        Raises ServiceError: UNAVAILABLE IDENTITY_UNKNOWN (with RetryInfo) for a key that the head does not hold,
        which may be on its way; PERMISSION_DENIED IDENTITY_SUPERSEDED for one that was it before; UNAVAILABLE
        DIRECTORY_UNAVAILABLE.
        """
        head = await self.newest()
        known = self._known.get(label)
        if known is None or known.epoch != head.epoch:
            known = await self._prove_newest(head, label)
        if known.newest != public_key and known.newest and known.earlier is None:
            known = await self._prove_earlier(head, label, known)
        self._known[label] = known
        self._known.move_to_end(label)
        if len(self._known) > CACHED_ACCOUNTS:
            self._known.popitem(last=False)
        if public_key == known.newest:
            return
        if public_key in (known.earlier or ()):
            raise ServiceError("IDENTITY_SUPERSEDED", "the account has a newer identity key")
        raise ServiceError(
            "IDENTITY_UNKNOWN",
            f"the account does not have this key at epoch {head.epoch}",
            retry_after_s=RETRY_AFTER_S,
        )

    async def newest(self) -> Head:
        """The newest head, of accepted age, once there is one. Raises ServiceError DIRECTORY_UNAVAILABLE."""
        try:
            async with asyncio.timeout(DIRECTORY_DEADLINE_S):
                await self._arrived.wait()
            assert self._signed is not None
            return verify_head(self._root, self._signed, now_ms=self._now_ms())
        except (TimeoutError, VerificationError) as error:
            raise _unavailable("no fresh head from the directory") from error

    async def _prove_newest(self, head: Head, label: str) -> _Known:
        proof = await self._history(head, label, most_recent=1)
        if proof is None:
            await self._prove_absent(head, label)
            return _Known(head.epoch, b"", None)
        try:
            return _Known(head.epoch, verify_identity(self._root, head, label, proof).public_key, None)
        except VerificationError as error:
            raise _refused(error) from error

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

    async def _prove_earlier(self, head: Head, label: str, known: _Known) -> _Known:
        proof = await self._history(head, label, most_recent=0)
        if proof is None:
            raise _unavailable("the directory withholds a history")
        try:
            versions = verify_history(head.root_hash, head.epoch, self._root.vrf_public_key, label.encode(), proof)
        except AkdError as error:
            raise _refused(error) from error
        if versions[0].value != encode_record(known.newest):
            raise _unavailable("the directory's histories contradict each other")
        return known._replace(earlier=frozenset(version.value[1:] for version in versions[1:]))

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
