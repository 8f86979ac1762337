"""The exit status of a command that fails."""

import pytest

from ipls.auditlog.errors import AuditFault, AuditUnavailable
from ipls.cli.status import exit_status
from ipls.client.errors import ProfileError, RefusedError, TryLaterError
from ipls.config import ConfigError
from ipls.contacts.errors import CardError
from ipls.errors import IplsError
from ipls.rpc.errors import ServiceError


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RefusedError("LINE_REPLACED", "no"), 1),
        (CardError("RECORD_INVALID", "no"), 1),
        (ServiceError("CALL_SLOW", "no"), 1),
        (AuditFault("AUDIT_HOLE", "no"), 1),
        (ProfileError("PROFILE_ABSENT", "no"), 2),
        (ConfigError("no", "WITNESS_KEY_UNPINNED"), 2),
        (ProfileError("PROFILE_BUSY", "no"), 3),
        (TryLaterError("A_NEWER_REASON", "no"), 3),
        (ServiceError("VAULT_AWAY", "no"), 3),
        (AuditUnavailable("AUDIT_STOPPED", "no"), 3),
    ],
)
def test_the_exit_status_is_that_of_the_kind_of_error_or_of_its_reason(error: IplsError, status: int) -> None:
    assert exit_status(error) == status
