"""What a process does whose log can't be written, and what it writes of lines without end."""

import json
import subprocess
import sys
from contextlib import suppress

import pytest
import structlog

from ipls.runtime.logging import LINES, RepeatedLines

PROCESS = """
import logging
import structlog
from ipls.runtime.logging import configure_logging
configure_logging()
for n in range(2000):
    structlog.get_logger().warning("of ours", n=n)
    logging.getLogger("a library").warning("of theirs")
print("went on")
"""


@pytest.mark.parametrize("buffered", [True, False])
def test_a_full_disk_under_the_log_stops_nobody(buffered: bool) -> None:
    command = [sys.executable, *([] if buffered else ["-u"]), "-c", PROCESS]
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=full, text=True)
    assert ended.stdout == "went on\n"


class Written:
    """What comes of lines that are logged at times."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.counts = list[dict[str, object]]()
        self.lines = RepeatedLines(lambda line: self.counts.append(json.loads(line)), lambda: self.now_s)

    def log(self, event: str, **more: object) -> bool:
        """Whether it is written."""
        with suppress(structlog.DropEvent):
            self.lines.process(None, "warning", {"event": event, **more})
            return True
        return False


def test_lines_that_say_the_same_are_counted_beyond_a_rate() -> None:
    written = Written()
    assert sum(written.log("refused", reason="A", epoch=n) for n in range(LINES + 50)) == LINES
    assert written.log("refused", reason="B")
    assert written.log("another")
    assert written.counts == []
    written.now_s = 60
    assert written.log("another")  # any line brings out the count
    (count,) = written.counts
    assert count.pop("timestamp")
    assert count == {"event": "refused", "reason": "A", "level": "warning", "left_out": 50}
    assert sum(written.log("refused", reason="A") for _ in range(LINES + 1)) == LINES
    written.lines.flush()
    assert [each["left_out"] for each in written.counts] == [50, 1]


def test_kinds_of_lines_without_end_take_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipls.runtime.logging.KINDS", 2)
    written = Written()
    for _ in range(LINES + 1):
        written.log("first")
    for number in range(9):
        assert written.log(f"other {number}")
    assert [(each["event"], each["left_out"]) for each in written.counts] == [("first", 1)]
    assert written.log("first")
