"""Why an epoch does not come about.

PublisherError          `reason` is one of docs/protocol/errors.md
├── NoQuorum            fewer than k witnesses signed; tried again, reads go on meanwhile
└── PublisherStopped    the database contradicts itself or the witnesses; an operator must look
"""


class PublisherError(Exception):
    """The epoch was not signed; nothing of it is visible."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class NoQuorum(PublisherError):
    """Witnesses are down or refuse; `reason` is the first refusal's, or WITNESS_UNREACHABLE."""


class PublisherStopped(PublisherError):
    """Going on could fork the directory: STEP_DIFFERS, TREE_CORRUPT, DIRECTORY_BEHIND_WITNESS, START_NOT_EMPTY,
    LOG_EPOCH_TAKEN, LOG_OBJECT_EXISTS."""
