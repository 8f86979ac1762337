"""What a process does whose log can't be written."""

import subprocess
import sys

import pytest

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
