"""What the core and its workers tell each other, pickled."""

from typing import Literal, NamedTuple

from ipls.session.effects import Effect


class Command(NamedTuple):
    """From the core. `value` is what is sent or, a SessionRefused's (reason, message), thrown into the session."""

    session: int
    kind: Literal["open", "send", "throw", "close"]
    value: object = None


class Opened(NamedTuple):
    """The token is open; the worker takes sessions."""

    hsm_key_id: bytes


class Ended(NamedTuple):
    """The session is over and forgotten."""

    reason: str
    message: str


class Report(NamedTuple):
    """To the core: what a session asks for next, or its end. `Opened` comes once, under session 0."""

    session: int
    content: Effect | Opened | Ended
