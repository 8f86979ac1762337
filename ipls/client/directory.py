"""Reading the directory: every answer is checked against the pinned trust root and what this device saw before."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from ipls.akd import AkdError, Version, shown_leaves, verify_absence, verify_history, verify_lookup
from ipls.client.calls import RETRY_FOR_S
from ipls.client.errors import ClientError, RefusedError, TryLaterError
from ipls.client.events import EvidenceMet, HeadChecked, HistoryChecked, Report
from ipls.client.profile import HeadSeen, Profile, ProvedHistory
from ipls.client.read_session import Credentials, Metadata, ReadSession
from ipls.contacts.listing import Listing
from ipls.crypto.errors import VerificationError
from ipls.proto.directory.v1.directory_pb2 import (
    AbsenceRequest,
    AbsenceResponse,
    HistoryRequest,
    LookupRequest,
    LookupResponse,
)
from ipls.proto.trust.v1.evidence_pb2 import Evidence
from ipls.proto.trust.v1.proof_pb2 import LabelProof
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.rpc.reads import MAX_PROOF, read_history
from ipls.store.errors import StoreError
from ipls.trust.evidence import encode, from_heads, from_histories, judge_evidence
from ipls.trust.heads import Head, signers, verify_head
from ipls.trust.identity import Identity, decode_record, verify_identity
from ipls.trust.root import TrustRoot

if TYPE_CHECKING:
    from ipls.proto.directory.v1.directory_pb2_grpc import DirectoryServiceAsyncStub


class History(NamedTuple):
    """A label's versions, newest first, complete at `head`.

    An old one whose value was erased has the key that this device saw in its leaf (version -> leaf hash in `leaves`),
    or the empty key, if it never saw any. Of an erased version 1 the epoch is the directory's word. `proof` is an
    encoded LabelProof.
    """

    head: Head
    proof: bytes
    identities: tuple[Identity, ...]
    leaves: dict[int, bytes]


class Newest(NamedTuple):
    """Another account's identity at `head`; None where it is proved to have none. `proof` is an encoded LabelProof,
    empty for an absence."""

    head: Head
    identity: Identity | None
    proof: bytes


MAX_NEWEST = 1 << 20
"""Bytes of the proof of one version: more than any account's has."""


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
        retry_for_s: float = RETRY_FOR_S,
    ) -> None:
        self._stub = stub
        self._root = root
        self._profile = profile
        self._now_ms = now_ms
        self._report = report
        self._session = ReadSession(stub, root.namespace, now_ms=now_ms, retry_for_s=retry_for_s)

    def observe(self, signed: SignedHead) -> Head:
        """Check a head, never below the highest seen nor another root for its epoch; remember it as the highest."""
        seen = self._profile.head
        now_ms = self._now_ms()
        try:
            head = verify_head(
                self._root, signed, now_ms=now_ms, at_least=Head(seen.epoch, seen.root_hash) if seen else None
            )
            names = signers(self._root, signed, now_ms=now_ms)
        except VerificationError as error:
            if seen:
                self._keep(from_heads(self._root, seen, signed))
            raise RefusedError(error.reason, f"the directory's head was refused: {error.message}") from error
        self._profile.put(HeadSeen(signed.SerializeToString()))
        self._report(HeadChecked(head.epoch, head.root_hash, names))
        return head

    async def own_history(self, label: str, seed: bytes, listing: Listing | None = None) -> History:
        """The complete history at the newest head, which most recent 1 (what vault and store judge by) must agree with.

        `seed` is that of a key which is the account's identity, or was, or waits for its epoch; or of a device of such
        a one, which shows its `listing`. The complete history alone shows versions planted between the markers of a
        most recent one, and the other way round (the directory spec, Known weakness). Where the directory proves that
        there is no such account: RefusedError LABEL_NOT_FOUND, or HISTORY_REWRITTEN if versions were proved before;
        where it only says so, TryLaterError ABSENCE_UNPROVEN.
        """
        owner = Credentials(label, seed, listing)
        try:
            signed, proof = await self._fetch(owner, label, 0)
        except RefusedError as error:
            if error.reason == "LABEL_NOT_FOUND":
                _, absent = await self._check_absent(owner, label)
                if self._profile.versions():
                    self._accuse(self._proved, absent.head, absence=absent.proof)
                    raise RefusedError(
                        "HISTORY_REWRITTEN", "the account that the directory proved before is not there any more"
                    ) from error
            raise
        head = self.observe(signed)
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
                proof,
                allow_missing=True,
                known_leaves=leaves,
            )
            identities = tuple(_identity(version, seen) for version in versions)
        except (AkdError, VerificationError) as error:
            self._accuse(self._proved, signed, history=proof)
            raise RefusedError(error.reason, f"the directory's history proof was refused: {error.message}") from error
        self._report(HistoryChecked("complete", head.epoch, head.root_hash, identities[0].version))
        newest = await self._newest(owner, head)
        if newest != identities[0]:
            raise RefusedError("IDENTITY_SPLIT", "the directory proves two different newest keys for this account")
        self._report(HistoryChecked("most recent 1", head.epoch, head.root_hash, newest.version))
        shown = shown_leaves(proof)
        return History(
            head,
            LabelProof(label=label.encode(), head=signed, history=proof).SerializeToString(),
            identities,
            {version.version: shown[version.version] for version in versions if version.value},
        )

    async def newest_of(self, label: str, before: bytes) -> Newest:
        """Another account's identity, by history, most recent 1, at the newest head; the directory learns the number.

        `before`: the `proof` of last time, or nothing, for evidence where the two contradict each other. Raises
        RefusedError, TryLaterError, as `own_history`; ABSENCE_UNPROVEN also where it registered meanwhile.
        """
        reader = self._reader
        try:
            signed, proof = await self._fetch(reader, label, 1, limit=MAX_NEWEST)
        except RefusedError as error:
            if error.reason != "LABEL_NOT_FOUND":
                raise
            head, absent = await self._check_absent(reader, label)
            self._accuse(before, absent.head, absence=absent.proof)
            return Newest(head, None, b"")
        head = self.observe(signed)
        shown = LabelProof(label=label.encode(), head=signed, history=proof, most_recent=1).SerializeToString()
        try:
            return Newest(head, verify_identity(self._root, head, label, proof), shown)
        except VerificationError as error:
            self.contradicted(before, shown)
            raise RefusedError(error.reason, f"the directory's identity proof was refused: {error.message}") from error

    def rewritten(self, history: History) -> None:
        """As `contradicted`, of the own history that held before."""
        self.contradicted(self._proved, history.proof)

    def contradicted(self, before: bytes, now: bytes) -> None:
        """Keep the evidence that a history is not the one of before, if the two give it: encoded LabelProofs, `before`
        possibly empty."""
        proof = LabelProof.FromString(now)
        self._accuse(before, proof.head, history=proof.history)

    @property
    def _reader(self) -> Credentials:
        account = self._profile.account
        return Credentials(account.label, account.seed, self._profile.listing)

    @property
    def _proved(self) -> bytes:
        """The last own history that held, an encoded LabelProof, or nothing."""
        kept = self._profile.get(ProvedHistory)
        return kept.proof if kept else b""

    def _accuse(self, proved: bytes, head: SignedHead, *, history: bytes = b"", absence: bytes = b"") -> None:
        if proved:
            before = LabelProof.FromString(proved)
            self._keep(
                from_heads(self._root, before.head, head)
                or from_histories(self._root, before.head, before.history, head, history=history, absence=absence)
            )

    def _keep(self, met: list[Evidence]) -> None:
        for evidence in met:
            file = None
            with suppress(OSError, StoreError):  # that it could not be written is told; the refusal comes next
                file = self._profile.evidence.keep(evidence)
            self._report(EvidenceMet(judge_evidence(self._root, encode(evidence)).text, file))

    async def lookup(self, label: str) -> tuple[Version, bytes]:
        """What a lookup of an account shows, and its encoded LabelProof. It decides nothing: see `verify_lookup`."""
        reader = self._reader
        request = LookupRequest(label=label.encode())

        async def call(metadata: Metadata) -> LookupResponse:
            return await self._stub.Lookup(request, timeout=self._session.call_s, metadata=metadata)

        response = await self._session.ask(reader, call)
        head = self.observe(response.head)
        try:
            version = verify_lookup(
                head.root_hash, head.epoch, self._root.vrf_public_key, label.encode(), response.proof
            )
        except AkdError as error:
            raise RefusedError(error.reason, f"the directory's lookup proof was refused: {error.message}") from error
        return version, LabelProof(label=label.encode(), head=response.head, lookup=response.proof).SerializeToString()

    async def _check_absent(self, reader: Credentials, label: str) -> tuple[Head, AbsenceResponse]:
        """An answer that proves that there is no such account, and the head that it does so under."""
        request = AbsenceRequest(label=label.encode())

        async def call(metadata: Metadata) -> AbsenceResponse:
            return await self._stub.Absence(request, timeout=self._session.call_s, metadata=metadata)

        try:
            response = await self._session.ask(reader, call)
        except ClientError as error:
            raise TryLaterError(
                "ABSENCE_UNPROVEN", "the directory says that it has no such account, and does not prove it"
            ) from error
        head = self.observe(response.head)
        try:
            verify_absence(head.root_hash, head.epoch, self._root.vrf_public_key, request.label, response.proof)
        except AkdError as error:
            raise RefusedError(error.reason, f"the directory's absence proof was refused: {error.message}") from error
        return head, response

    async def _newest(self, owner: Credentials, head: Head) -> Identity:
        _, proof = await self._fetch(owner, owner.label, 1, head.epoch)
        try:
            return verify_identity(self._root, head, owner.label, proof)
        except VerificationError as error:
            raise RefusedError(error.reason, f"the directory's identity proof was refused: {error.message}") from error

    async def _fetch(
        self, reader: Credentials, label: str, most_recent: int, epoch: int = 0, limit: int = MAX_PROOF
    ) -> tuple[SignedHead, bytes]:
        request = HistoryRequest(label=label.encode(), epoch=epoch, most_recent=most_recent)

        async def call(metadata: Metadata) -> tuple[SignedHead, bytes]:
            return await read_history(self._stub, request, timeout=self._session.call_s, metadata=metadata, limit=limit)

        return await self._session.ask(reader, call)


def _identity(version: Version, seen: Mapping[int, bytes]) -> Identity:
    key = decode_record(version.value) if version.value else seen.get(version.version, b"")
    return Identity(key, version.version, version.epoch)
