"""What can go wrong on the device, besides CardError (`ipls.contacts.errors`); no message holds anything of a contact.

ClientError
├── ProfileError    the profile on this machine is not in the state that this command needs
├── SideError       another address book of the person's is not as it must be to be synced with
├── RefusedError    a service refused, or its answer does not hold up
└── TryLaterError   a service can't be reached or asks to be asked again

Tested by tests/client/test_device.py and tests/client/addressbook/test_sync.py.
"""

from ipls.errors import IplsError


class ClientError(IplsError):
    """The base."""


class ProfileError(ClientError):
    """The local profile does not allow this now: not registered, busy, already restored."""


class SideError(ClientError):
    """A side can't be synced with now; nothing was changed there or here."""


class RefusedError(ClientError):
    """A service said no for good, or said what its proof does not carry."""


class TryLaterError(ClientError):
    """Nothing is wrong that time may not mend."""
