"""A witness's parts, as tests put them together."""

from collections.abc import Callable
from pathlib import Path

from ipls.crypto.keys import SeedSigner
from ipls.http.client import HttpClient, HttpTooLarge, HttpUnavailable
from ipls.http.public_log import PublicReader
from ipls.server.witness.keys import WitnessKeys
from ipls.server.witness.service import WitnessService
from ipls.store.evidence import EvidenceFolder
from ipls.store.witness import WitnessStore, open_witness_store
from ipls.trust.root import TrustRoot


class LogOnly(HttpClient):
    """A log as a witness reads it, without a network, as it is when asked; nobody else answers. `asked` has the names
    of what was asked for."""

    def __init__(self, root: TrustRoot, get: Callable[[str], bytes | None]) -> None:
        super().__init__()
        self._prefix = root.log_url.rstrip("/") + "/"
        self._get = get
        self.asked: list[str] = []

    def get(self, url: str, *, limit: int) -> tuple[int, bytes]:
        if not url.startswith(self._prefix) or "?" in url:
            raise HttpUnavailable(url)
        self.asked.append(url.removeprefix(self._prefix))
        try:
            blob = self._get(self.asked[-1])
        except OSError as e:
            raise HttpUnavailable(url) from e
        if blob is not None and len(blob) > limit:
            raise HttpTooLarge(limit)
        return (404, b"") if blob is None else (200, blob)


def reader(root: TrustRoot, http: HttpClient) -> PublicReader:
    """One that asks once: there is no network to be patient with."""
    public = PublicReader(root, http=http, silent_s=0)
    public.end()
    return public


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
