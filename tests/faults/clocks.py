"""A clock that is set while processes run: Debian's faketime, which leaves alone what nobody can set."""

from pathlib import Path

from tests.environment import BARE


class Clock:
    """How far the clock of the processes started with `environment` is from the machine's."""

    def __init__(self, folder: Path) -> None:
        (library,) = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")  # scripts/test installs it
        self._file = folder / "clock"
        self.environment = {
            **BARE,
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_RESET": "1",
        }
        self.set(0)

    def set(self, seconds: int) -> None:
        """From now on."""
        aside = self._file.with_suffix(".new")
        aside.write_text(f"{seconds:+d}\n")
        aside.rename(self._file)
