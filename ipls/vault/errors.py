"""What the session package raises, and nothing else:

SessionRefused          the session is over
└── OperationRefused    the vault refused one operation; the session goes on
"""

from collections.abc import Iterator
from contextlib import contextmanager

from ipls.trust.errors import TrustError


class SessionRefused(Exception):
    """Something that the other side said, or asked for, doesn't hold; nothing was changed by it.

    `reason` is an UPPER_SNAKE word for programs, the message a sentence for people. Neither holds a label or a key.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class OperationRefused(SessionRefused):
    """A client's session raises it for a refusal that the vault sealed."""


@contextmanager
def refusing() -> Iterator[None]:
    """Turns what the trust package refuses into SessionRefused, reason and all."""
    try:
        yield
    except TrustError as e:
        raise SessionRefused(e.reason, e.message) from e
