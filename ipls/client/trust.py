"""Following the trust root: from the version that this profile has to the newest that the directory hands out.

Tested by tests/client/test_trust_rotation.py and tests/attack/test_trust_roots.py.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ipls.client.calls import RETRY_FOR_S, retrying, within
from ipls.client.errors import RefusedError
from ipls.client.events import Report, TrustRootFollowed
from ipls.client.profile import Profile
from ipls.crypto.errors import VerificationError
from ipls.proto.directory.v1.directory_pb2 import TrustRootsRequest, TrustRootsResponse
from ipls.proto.trust.v1.trust_pb2 import SignedTrustRoot
from ipls.trust.chain import follow_versions
from ipls.trust.root import TrustRoot

if TYPE_CHECKING:
    from ipls.proto.directory.v1.directory_pb2_grpc import DirectoryServiceAsyncStub


class TrustRoots:
    """The directory is not believed: each version is what the witnesses of the one before, and its own, signed."""

    def __init__(
        self,
        stub: "DirectoryServiceAsyncStub",
        profile: Profile,
        *,
        now_ms: Callable[[], int],
        report: Report,
        retry_for_s: float = RETRY_FOR_S,
    ) -> None:
        self._stub = stub
        self._profile = profile
        self._now_ms = now_ms
        self._report = report
        self._retry_for_s = retry_for_s

    async def follow(self) -> TrustRoot:
        """The newest version, kept for good: no lower one is ever used again. A directory that has none above the one
        kept is behind, or has nothing new; either way that one stays.

        Raises RefusedError TRUST_ROOT_…, also TRUST_ROOT_EXPIRED for a last version that has: then none is taken.
        """
        newest = self._profile.trust_root
        taken: list[SignedTrustRoot] = []
        while versions := await self._after(newest.root.number):
            try:
                newest = follow_versions(newest, versions, now_ms=self._now_ms())
            except VerificationError as error:
                raise _refused(error) from error
            taken += versions
        if taken:
            try:
                newest.root.check_expiry(self._now_ms())
            except VerificationError as error:
                raise _refused(error) from error
            self._profile.add_trust_roots(taken)
            self._report(TrustRootFollowed(newest.root.number))
        return newest.root

    async def _after(self, number: int) -> Sequence[SignedTrustRoot]:
        async def call() -> TrustRootsResponse:
            return await self._stub.TrustRoots(
                TrustRootsRequest(after_number=number), timeout=within(self._retry_for_s)
            )

        return (await retrying(call, self._retry_for_s, service="the directory")).versions


def _refused(error: VerificationError) -> RefusedError:
    return RefusedError(error.reason, f"the directory's version of the trust root was refused: {error.message}")
