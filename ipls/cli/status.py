"""Exit statuses of the `ipls` command."""

from ipls._grpc import grpc
from ipls.config import ConfigError
from ipls.errors import IplsError
from ipls.rpc.errors import ServiceError
from ipls.rpc.reasons import EXIT_STATUSES

REFUSED = 1
"""Refused, or a verification failed."""
USAGE = 2
UNAVAILABLE = 3
"""Nothing is wrong that time may not mend: try again."""


def exit_status(error: IplsError) -> int:
    """By what kind of error it is, else by its reason."""
    from ipls.client import TryLaterError  # here: a service does without the client

    away = isinstance(error, ServiceError) and error.code is grpc.StatusCode.UNAVAILABLE
    if away or isinstance(error, TryLaterError):
        return UNAVAILABLE
    return USAGE if isinstance(error, ConfigError) else EXIT_STATUSES.get(error.reason, REFUSED)
