"""How every process logs."""

import logging
import os
import sys

import structlog

_INHERITED = "IPLS_LOG_LEVEL"


def configure_logging(level: str | None = None) -> None:
    """JSON lines on standard error at `level` and above; None: as the process that started this one."""
    level = level or os.environ.get(_INHERITED, "info")
    os.environ[_INHERITED] = level
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    logging.basicConfig(stream=sys.stderr, level=level.upper())
