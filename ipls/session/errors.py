"""The one error of the vault session."""


class SessionRefused(Exception):
    """The session, or one of its operations, is refused; nothing was changed by what was refused.

    `reason` is an UPPER_SNAKE word for programs, the message a sentence for people. Neither holds a label or a key.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
