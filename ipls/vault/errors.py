"""What the vault package raises, and nothing else:

SessionRefused          the session is over
└── OperationRefused    the vault refused one operation; the session goes on

Tested by tests/vault/session/test_session.py.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from ipls.crypto.errors import VerificationError
from ipls.errors import IplsError


class SessionRefused(IplsError):
    """Something that the other side said, or asked for, doesn't hold; nothing was changed by it.

    Its text holds no label and no key.
    """


class OperationRefused(SessionRefused):
    """A client's session raises it for a refusal that the vault sealed."""


@contextmanager
def refusing() -> Iterator[None]:
    """Turns what the crypto and trust packages refuse into SessionRefused, reason and all."""
    try:
        yield
    except VerificationError as e:
        raise SessionRefused(e.reason, e.message) from e
