"""Reading the directory: every answer is checked against the pinned trust root and what this device saw before."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from ipls.akd import AkdError, Version, shown_leaves, verify_absence, verify_history
from ipls.client.calls import CALL_S, PATIENCE_S, retrying
from ipls.client.errors import ClientError, RefusedError, TryLaterError
from ipls.client.events import HeadChecked, HistoryChecked, Report
from ipls.client.profile import Profile
from ipls.proto.directory.v1.directory_pb2 import AbsenceRequest, AbsenceResponse, HistoryRequest, HistoryResponse
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.trust.errors import TrustError
from ipls.trust.heads import Head, signers, verify_head
from ipls.trust.identity import Identity, decode_record, verify_identity
from ipls.trust.root import TrustRoot

if TYPE_CHECKING:
    from ipls.proto.directory.v1.directory_pb2_grpc import DirectoryServiceAsyncStub


class History(NamedTuple):
    """A label's versions, newest first, complete at `head`.

    An old one whose value was erased has the key that this device saw in its leaf (version -> leaf hash in `leaves`),
    or the empty key, if it never saw any. Of an erased version 1 the epoch is the directory's word.
    """

    head: Head
    identities: tuple[Identity, ...]
    leaves: dict[int, bytes]


class DirectoryReader:
    """Raises RefusedError for an answer that does not hold, TryLaterError while there is none."""

    def __init__(
        self,
        stub: "DirectoryServiceAsyncStub",
        root: TrustRoot,
        profile: Profile,
        *,
        now_ms: Callable[[], int],
        report: Report,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._stub = stub
        self._root = root
        self._profile = profile
        self._now_ms = now_ms
        self._report = report
        self._patience_s = patience_s

    def observe(self, signed: SignedHead) -> Head:
        """Check a head, never below the highest seen nor another root for its epoch; remember it as the highest."""
        seen = self._profile.head
        now_ms = self._now_ms()
        try:
            head = verify_head(
                self._root, signed, now_ms=now_ms, at_least=Head(seen.epoch, seen.root_hash) if seen else None
            )
            names = signers(self._root, signed, now_ms=now_ms)
        except TrustError as error:
            raise RefusedError(error.reason, f"the directory's head was refused: {error.message}") from error
        self._profile.put(self._profile.progress._replace(head=signed.SerializeToString()))
        self._report(HeadChecked(head.epoch, head.root_hash, names))
        return head

    async def own_history(self, label: str) -> History:
        """The complete history at the newest head, which most recent 1 (what vault and store judge by) must agree with.

        The complete history alone shows versions planted between the markers of a most recent one, and the other way
        round (the directory spec, Known weakness). Where the directory proves that there is no such account:
        RefusedError LABEL_NOT_FOUND, or HISTORY_REWRITTEN if versions were proved before; where it only says so,
        TryLaterError ABSENCE_UNPROVEN.
        """
        try:
            response = await self._fetch(label, 0)
        except RefusedError as error:
            if error.reason == "LABEL_NOT_FOUND":
                await self._check_absent(label)
            raise
        head = self.observe(response.head)
        leaves = self._profile.leaves()
        seen = {
            version.version: version.public_key for version in self._profile.versions() if version.version in leaves
        }
        try:
            versions = verify_history(
                head.root_hash,
                head.epoch,
                self._root.vrf_public_key,
                label.encode(),
                response.proof,
                allow_missing=True,
                known_leaves=leaves,
            )
            identities = tuple(_identity(version, seen) for version in versions)
        except (AkdError, TrustError) as error:
            raise RefusedError(error.reason, f"the directory's history proof was refused: {error.message}") from error
        self._report(HistoryChecked("complete", head.epoch, head.root_hash, identities[0].version))
        newest = await self._newest(label, head)
        if newest != identities[0]:
            raise RefusedError("IDENTITY_SPLIT", "the directory proves two different newest keys for this account")
        self._report(HistoryChecked("most recent 1", head.epoch, head.root_hash, newest.version))
        shown = shown_leaves(response.proof)
        return History(
            head, identities, {version.version: shown[version.version] for version in versions if version.value}
        )

    async def _check_absent(self, label: str) -> None:
        async def call() -> AbsenceResponse:
            return await self._stub.Absence(AbsenceRequest(label=label.encode()), timeout=CALL_S)

        try:
            response = await retrying(call, self._patience_s)
        except ClientError as error:
            raise TryLaterError(
                "ABSENCE_UNPROVEN", "the directory says that it has no such account, and does not prove it"
            ) from error
        head = self.observe(response.head)
        try:
            verify_absence(head.root_hash, head.epoch, self._root.vrf_public_key, label.encode(), response.proof)
        except AkdError as error:
            raise RefusedError(error.reason, f"the directory's absence proof was refused: {error.message}") from error
        if self._profile.versions():
            raise RefusedError(
                "HISTORY_REWRITTEN", "the account that the directory proved before is not there any more"
            )

    async def _newest(self, label: str, head: Head) -> Identity:
        response = await self._fetch(label, 1, head.epoch)
        try:
            return verify_identity(self._root, head, label, response.proof)
        except TrustError as error:
            raise RefusedError(error.reason, f"the directory's identity proof was refused: {error.message}") from error

    async def _fetch(self, label: str, most_recent: int, epoch: int = 0) -> HistoryResponse:
        request = HistoryRequest(label=label.encode(), epoch=epoch, most_recent=most_recent)

        async def call() -> HistoryResponse:
            return await self._stub.History(request, timeout=CALL_S)

        return await retrying(call, self._patience_s)


def _identity(version: Version, seen: Mapping[int, bytes]) -> Identity:
    key = decode_record(version.value) if version.value else seen.get(version.version, b"")
    return Identity(key, version.version, version.epoch)
