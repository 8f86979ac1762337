"""How every process logs."""

import contextlib
import logging
import os
import sys
from typing import TextIO, cast

import structlog
from structlog.typing import Processor

_INHERITED = "IPLS_LOG_LEVEL"
_timestamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
_render = structlog.processors.JSONRenderer()


class _StandardError:
    """Lets go what can't be written, as the standard library's handlers do: a full disk under a log ends no service."""

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()


def configure_logging(level: str | None = None) -> None:
    """JSON lines on standard error at `level` and above; None: as the process that started this one."""
    level = level or os.environ.get(_INHERITED, "info")
    os.environ[_INHERITED] = level
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _timestamp,
    ]
    structlog.configure(
        processors=[*processors, _render],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _StandardError())),
    )
    libraries = logging.StreamHandler(sys.stderr)
    libraries.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*processors, structlog.processors.format_exc_info],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _render],
        )
    )
    logging.basicConfig(handlers=[libraries], level=level.upper())
