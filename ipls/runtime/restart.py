"""When to start again what died: soon, and ever later while it keeps dying early."""

PAUSES_S = (0.1, 0.2, 0.5, 1.0, 2.0)
"""Before the restart after the first death, the second, …; the last stays."""
RESET_S = 60.0
"""The deaths before a life longer than this no longer count."""


class RestartPolicy:
    """The deaths of one service, and the pause after each."""

    def __init__(self) -> None:
        self._deaths = 0

    def pause_s(self, lived_s: float) -> float:
        """Take note that it died after so many seconds; how many to wait before it is started again."""
        self._deaths = 1 if lived_s > RESET_S else self._deaths + 1
        return PAUSES_S[min(self._deaths, len(PAUSES_S)) - 1]
