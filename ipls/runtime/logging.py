"""How every process logs."""

import atexit
import contextlib
import logging
import os
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

LINES = 120
"""Written in a minute of lines that say the same: whoever can have one written can have it written without end."""
KINDS = 1000
"""Of lines that are told apart; of more the one that is not seen for longest begins anew."""

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


class _Kind(NamedTuple):
    """What lines that say the same have in common."""

    event: str
    reason: str
    level: str


class RepeatedLines:
    """Lets LINES lines of a kind through in a minute. What is left out is counted, and the count written, in a line of
    its own, with the next line of any kind after that minute, or at the process's end. For any thread."""

    def __init__(self, write: Callable[[str], object], now_s: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._now_s = now_s
        self._begun: OrderedDict[_Kind, tuple[float, int]] = OrderedDict()
        """When the kind's minute began, and the lines since."""
        self._over = set[_Kind]()
        self._lock = threading.Lock()

    def process(self, logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
        """structlog's processor."""
        if not self._admits(_Kind(str(event.get("event")), str(event.get("reason", "")), name)):
            raise structlog.DropEvent
        return event

    def filter(self, record: logging.LogRecord) -> bool:
        """The standard library's, which knows a line by its text without what is put into it."""
        return self._admits(_Kind(str(record.msg), record.name, record.levelname.lower()))

    def flush(self) -> None:
        """Write the counts there are now."""
        with self._lock:
            for kind in list(self._over):
                self._end(kind)

    def _admits(self, kind: _Kind) -> bool:
        with self._lock:
            now_s = self._now_s()
            for over in [each for each in self._over if now_s >= self._begun[each][0] + 60]:
                self._end(over)
            began_s, lines = self._begun.get(kind, (now_s, 0))
            if now_s >= began_s + 60:
                began_s, lines = now_s, 0
            self._begun[kind] = began_s, lines + 1
            self._begun.move_to_end(kind)
            if len(self._begun) > KINDS:
                self._end(next(iter(self._begun)))
            if lines >= LINES:
                self._over.add(kind)
            return lines < LINES

    def _end(self, kind: _Kind) -> None:
        _, lines = self._begun.pop(kind)
        if kind in self._over:
            self._over.remove(kind)
            line = {"event": kind.event, "reason": kind.reason, "level": kind.level, "left_out": lines - LINES}
            self._write(cast(str, _render(None, "", _timestamp(None, "", line))) + "\n")


def configure_logging(level: str | None = None) -> None:
    """JSON lines on standard error at `level` and above; None: as the process that started this one."""
    level = level or os.environ.get(_INHERITED, "info")
    os.environ[_INHERITED] = level
    repeated = RepeatedLines(_StandardError().write)
    atexit.register(repeated.flush)
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _timestamp,
    ]
    structlog.configure(
        processors=[repeated.process, *processors, _render],
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
    libraries.addFilter(repeated.filter)
    logging.basicConfig(handlers=[libraries], level=level.upper())
