"""Evidence kept as files, each named by its SHA-256: a folder to be published, mailed, copied.

Tested by tests/trust/test_evidence.py.
"""

import hashlib
from pathlib import Path

from ipls.proto.trust.v1.evidence_pb2 import Evidence
from ipls.store.errors import StoreRefused
from ipls.store.files import PUBLIC, replace, sync
from ipls.trust.evidence import encode

MAX_FILES = 1000
"""A dishonest witness can sign without end; each of these proves it as well as all."""


class EvidenceFolder:
    """Of any number of processes. Whoever keeps evidence has judged it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, evidence: Evidence) -> Path:
        """The file `HEX.evidence` with the evidence, durable; nothing changes if it is there already.

        Raises StoreRefused EVIDENCE_FULL at the limit of files, OSError.
        """
        data = encode(evidence)
        path = self._folder / f"{hashlib.sha256(data).hexdigest()}.evidence"
        if path.exists():
            sync(self._folder)  # who wrote it may not have come to that
        else:
            self._write(path, data)
        return path

    def _write(self, path: Path, data: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        sync(self._folder.parent)
        if len(list(self._folder.iterdir())) >= MAX_FILES:  # what a crash left counts too
            raise StoreRefused("EVIDENCE_FULL", f"{self._folder} holds {MAX_FILES} files")
        replace(path, data, mode=PUBLIC)

    def files(self) -> list[Path]:
        """What is kept, by name."""
        return sorted(self._folder.glob("*.evidence"))
