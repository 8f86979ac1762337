"""Files of evidence, judged as anyone would."""

from pathlib import Path

from ipls.store.evidence import EvidenceFolder
from ipls.trust.evidence import judge_evidence
from ipls.trust.root import TrustRoot

Proved = tuple[str, tuple[str, ...], int]


def proved(root: TrustRoot, folder: Path) -> list[Proved]:
    """(kind, whom it blames, epoch) of each file in the folder, sorted; every file proves something."""
    findings = [judge_evidence(root, file.read_bytes()) for file in EvidenceFolder(folder).files()]
    return sorted((found.kind, found.witnesses, found.epoch) for found in findings)
