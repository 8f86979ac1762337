"""That an account's identity lists a device: what the device shows of it where nobody sees the line. Pure.

Tested by tests/attack/test_reads.py.
"""

from typing import NamedTuple

from ipls.contacts.commits import DeviceList, devices_digest
from ipls.contacts.errors import LineError
from ipls.crypto.errors import SignatureRefused
from ipls.crypto.keys import verify


class Listing(NamedTuple):
    """A list of devices as commit `n` of the account's line has it (`DeviceList.encode`), and whose list it is."""

    identity_key: bytes
    n: int
    devices: bytes

    def check(self, namespace: str, label: str, device: bytes) -> None:
        """That this identity of the account listed the device of this Ed25519 key. Whether it still does, the line's
        head alone says. Raises LineError DEVICE_UNLISTED."""
        try:
            listed = DeviceList.decode(self.devices)
            digest = devices_digest(namespace, label, self.n, self.identity_key, listed.devices)
            verify(self.identity_key, digest, listed.signature)
        except (LineError, SignatureRefused) as error:
            raise _unlisted(f"its list of devices does not hold: {error.message}") from error
        if device not in {each.key for each in listed.devices}:
            raise _unlisted("the list of devices has another key")


def _unlisted(why: str) -> LineError:
    return LineError("DEVICE_UNLISTED", f"the account does not list this device: {why}")
