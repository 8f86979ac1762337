"""The auditable key directory's mathematics: labels, VRF, tree, proofs made and checked. Pure; no I/O."""

from ipls.akd.errors import AkdError, ProofRefused, PublishError
from ipls.akd.hashing import EMPTY_ROOT
from ipls.akd.keys import DirectoryKey
from ipls.akd.prove import make_absence, make_append_only, make_history, make_lookup, make_lookups
from ipls.akd.publish import Publication, Update, publish, republish
from ipls.akd.tiles import MemoryTiles, Row, TileReader
from ipls.akd.verify import (
    shown_leaves,
    verify_absence,
    verify_append_only,
    verify_history,
    verify_lookup,
    verify_membership,
    verify_non_membership,
)
from ipls.akd.versions import Version

__all__ = [
    "EMPTY_ROOT",
    "AkdError",
    "DirectoryKey",
    "MemoryTiles",
    "ProofRefused",
    "Publication",
    "PublishError",
    "Row",
    "TileReader",
    "Update",
    "Version",
    "make_absence",
    "make_append_only",
    "make_history",
    "make_lookup",
    "make_lookups",
    "publish",
    "republish",
    "shown_leaves",
    "verify_absence",
    "verify_append_only",
    "verify_history",
    "verify_lookup",
    "verify_membership",
    "verify_non_membership",
]
