"""What a store refuses. `reason` is stable (docs/protocol/errors.md); the message holds no secret, number or name."""


class StoreError(Exception):
    """The store is unchanged. `retry_after_s`: when the same call may succeed, where it may at all."""

    def __init__(self, reason: str, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after_s = retry_after_s


class DatabaseFailed(StoreError):
    """The database did not do what it was asked: a full disk, a lost connection, a file that is none. What was to be
    written is there or not. The message is the database's, and no secret."""

    def __init__(self, message: str) -> None:
        super().__init__("DATABASE_UNREADABLE", message)
