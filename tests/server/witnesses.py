"""A witness's parts, as tests put them together."""

from collections.abc import Callable
from pathlib import Path

from ipls.crypto.keys import SeedSigner
from ipls.http.client import HttpClient
from ipls.http.public_log import PublicReader
from ipls.server.witness.keys import WitnessKeys
from ipls.server.witness.service import WitnessService
from ipls.store.evidence import EvidenceFolder
from ipls.store.witness import WitnessStore, open_witness_store
from ipls.trust.root import TrustRoot


def open_store(path: Path, namespace: str) -> WitnessStore:
    """Its watermark lies beside it."""
    return open_witness_store(path, namespace, path.with_suffix(".mark"))


def make_service(
    root: TrustRoot,
    name: str,
    seeds: bytes | tuple[bytes, ...],
    store: WitnessStore,
    now_ms: Callable[[], int],
    evidence: Path,
    *,
    follower: bool = False,
    public: PublicReader | None = None,
) -> WitnessService:
    """With keys in memory; what it meets goes to `evidence`. `public` is how it reads the log and other witnesses."""
    signers = [SeedSigner(seed) for seed in ((seeds,) if isinstance(seeds, bytes) else seeds)]
    keys = (WitnessKeys.unpinned if follower else WitnessKeys.pinned)(root, name, signers)
    public = public or PublicReader(root, http=HttpClient(5), now_ms=now_ms, silent_s=0)
    return WitnessService(root, keys, store, public, EvidenceFolder(evidence), now_ms, follower=follower)
