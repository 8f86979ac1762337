"""Evidence kept as files, each named by its SHA-256: a folder to be published, mailed, copied.

Tested by tests/trust/test_evidence.py.
"""

import hashlib
from pathlib import Path

from google.protobuf.message import DecodeError

from ipls.proto.trust.v1.evidence_pb2 import Evidence
from ipls.store.errors import StoreRefused
from ipls.store.files import PUBLIC, replace, sync
from ipls.trust.evidence import EACH, Contradiction, contradiction, encode, says_more

MAX_FILES = 1000
MAX_BYTES = 32 << 20
"""What all of them may have: 64 witnesses' come to some 500 small ones."""


class EvidenceFolder:
    """Of any number of processes. Whoever keeps evidence has judged it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._about: dict[Path, Contradiction] = {}  # files don't change

    def keep(self, evidence: Evidence) -> Path:
        """The file `HEX.evidence` with the evidence, durable, or one that is there already and proves the same.

        Raises StoreRefused EVIDENCE_FULL where as many prove it of the same culprits as are kept, and at the limit of
        files or bytes; OSError.
        """
        data, about = encode(evidence), contradiction(evidence)
        path = self._folder / f"{hashlib.sha256(data).hexdigest()}.evidence"
        there = self._kept()
        for file in [path, *(file for file, other in there.items() if other == about)]:
            if file.exists():
                sync(self._folder)  # who wrote it may not have come to that
                return file
        if not says_more(about, there.values()):
            raise StoreRefused("EVIDENCE_FULL", f"{self._folder} holds {EACH} files that prove it of the same")
        self._write(path, data)
        return path

    def _kept(self) -> dict[Path, Contradiction]:
        self._about = {file: self._about.get(file) or _about(file) for file in self.files()}
        return self._about

    def _write(self, path: Path, data: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        sync(self._folder.parent)
        sizes = [file.stat().st_size for file in self._folder.iterdir()]  # what a crash left counts too
        if len(sizes) >= MAX_FILES or sum(sizes) + len(data) > MAX_BYTES:
            raise StoreRefused("EVIDENCE_FULL", f"{self._folder} holds {len(sizes)} files")
        replace(path, data, mode=PUBLIC)

    def files(self) -> list[Path]:
        """What is kept, by name."""
        return sorted(self._folder.glob("*.evidence"))


def _about(file: Path) -> Contradiction:
    try:
        return contradiction(Evidence.FromString(file.read_bytes()))
    except (DecodeError, OSError, ValueError):  # it is no evidence, or gone: of nobody
        return Contradiction((), frozenset())
