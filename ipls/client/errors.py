"""What can go wrong on the device. `reason` is UPPER_SNAKE and stable (docs/protocol/errors.md); no message holds a
key, a number, a name or anything else of a contact.

ClientError
├── CardError       a card, record or manifest that can't be read or does not hold up
├── ProfileError    the profile on this machine is not in the state that this command needs
├── RefusedError    a service refused, or its answer does not hold up
└── TryLaterError   a service can't be reached or asks to be asked again
"""


class ClientError(Exception):
    """The base; `str(error)` is one line for a person."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class CardError(ClientError):
    """A card, a record or a manifest that can't be read or fails its check."""


class ProfileError(ClientError):
    """The local profile does not allow this now: not registered, busy, already restored."""


class RefusedError(ClientError):
    """A service said no for good, or said what its proof does not carry."""


class TryLaterError(ClientError):
    """Nothing is wrong that time may not mend."""
