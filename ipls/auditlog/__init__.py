"""What an outsider, holding only the trust root, checks of a public log and its witnesses. Pure: it is handed bytes."""

from ipls.auditlog.chain import Position, beginning, check_proof
from ipls.auditlog.cosignatures import (
    MAX_ANSWER,
    VerifiedCosignature,
    count_cosignatures,
    parse_cosignature,
    parse_epoch,
    quorum_head,
    signed_heads,
)
from ipls.auditlog.equivocation import EquivocationDetector
from ipls.auditlog.errors import AuditError, AuditFault, AuditUnavailable, CosignatureInvalid
from ipls.auditlog.listing import MAX_PAGE, Listing, LogObject, Page, parse_name, parse_page
from ipls.auditlog.names import object_name

__all__ = [
    "MAX_ANSWER",
    "MAX_PAGE",
    "AuditError",
    "AuditFault",
    "AuditUnavailable",
    "CosignatureInvalid",
    "EquivocationDetector",
    "Listing",
    "LogObject",
    "Page",
    "Position",
    "VerifiedCosignature",
    "beginning",
    "check_proof",
    "count_cosignatures",
    "object_name",
    "parse_cosignature",
    "parse_epoch",
    "parse_name",
    "parse_page",
    "quorum_head",
    "signed_heads",
]
