"""The devices of an account: its phone, and those that are linked, as their records and the line's list say.

Tested by tests/client/test_linked_devices.py.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from ipls.client.errors import ProfileError
from ipls.client.line.parts import Linked
from ipls.client.profile import Profile
from ipls.contacts import kem
from ipls.contacts.commits import ListedDevice
from ipls.contacts.device_record import DeviceRecord
from ipls.contacts.envelope import Envelope, Kind, kind_in
from ipls.contacts.errors import LinkError
from ipls.contacts.linking import MAX_NAME
from ipls.contacts.names import is_shown_as_it_is
from ipls.contacts.sealing import ID_BYTES, name_of
from ipls.crypto.keys import public_key


class AccountDevice(NamedTuple):
    """A device of the account, by its Ed25519 key. `name` and `platform` are empty where nobody said them, of the phone
    too; times are 0 where they are not known.

    `state`: `phone`, which holds the number; `linked`; or `waiting` to be confirmed, where the number was registered
    anew since, or its linking was cut off. `wrote_ms`: when it last changed a contact, as far as the newest commits
    say, by its own clock.
    """

    key: bytes
    name: str
    platform: str
    state: str
    linked_ms: int
    wrote_ms: int
    here: bool


class LinkedDevices:
    """Of one profile; asks nobody."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile

    def all(self) -> list[AccountDevice]:
        """The phone first, then the others by the time at which they were linked. Raises ProfileError
        NOT_REGISTERED."""
        profile, state = self._profile, self._profile.line.state
        account, phone = profile.account, profile.identity_key
        here, wrote = public_key(account.seed), state.wrote if state else {}
        listed = state.devices if state and state.identity_version == account.version else ()
        records = {record.key: (record, envelope) for _, envelope, record in self._records()}
        devices = [AccountDevice(phone, "", "", "phone", 0, wrote.get(phone, 0), phone == here)]
        for key in {*records, *(device.key for device in listed)} - {phone}:
            record, envelope = records.get(key, (DeviceRecord(key, b"", "", ""), Envelope()))
            stands = "linked" if key in {device.key for device in listed} else "waiting"
            times = envelope.created_ms, wrote.get(key, 0)
            devices.append(AccountDevice(key, record.name, record.platform, stands, *times, key == here))
        return sorted(devices, key=lambda each: (each.state != "phone", each.linked_ms, each.key))

    def find(self, begin: str) -> AccountDevice:
        """The linked device whose key begins with these hexadecimal digits, or that has this name. Raises ProfileError
        DEVICE_UNKNOWN."""
        linked = [device for device in self.all() if device.state != "phone"]
        found = [each for each in linked if begin and (each.key.hex().startswith(begin.lower()) or each.name == begin)]
        if len(found) != 1:
            raise ProfileError("DEVICE_UNKNOWN", "no linked device, or more than one, is found by this")
        return found[0]

    def put(self, record: DeviceRecord, now_ms: int) -> None:
        """Have the account's devices know this; the next sync sends it."""
        new = os.urandom(ID_BYTES), Envelope(kind=Kind.DEVICE, created_ms=now_ms)
        there = ((id, envelope) for id, envelope, known in self._records() if known.key == record.key)
        id, envelope = next(there, new)
        self._profile.line.put({id: replace(envelope, card=record.encode(), changed_ms=now_ms).encode()})

    def rename(self, device: AccountDevice, name: str, now_ms: int) -> None:
        """Call it so from now on; the next sync sends it. Raises LinkError DEVICE_NAME_INVALID."""
        if not is_shown_as_it_is(name, MAX_NAME):
            message = f"a device's name has 1 to {MAX_NAME} bytes, without control characters"
            raise LinkError("DEVICE_NAME_INVALID", message)
        known = {record.key: record for _, _, record in self._records()}
        record = known.get(device.key, DeviceRecord(device.key, b"", "", device.platform))
        self.put(record._replace(name=name), now_ms)

    def drop(self, key: bytes) -> None:
        """Forget what is known of it."""
        self._profile.line.put({id: None for id, _, record in self._records() if record.key == key})

    def sealing(self, listed: Sequence[ListedDevice]) -> list[Linked]:
        """These devices, as a base needs them. One whose KEM key nobody has any more is left out: it is linked anew.

        What this phone was told when it linked them comes first: another device can have replaced the record.
        """
        known = [device.kem_key for device in self._profile.known_devices()]
        kem_keys = {name_of(key): key for key in (*known, *(record.kem_key for _, _, record in self._records()))}
        return [
            Linked(device, partial(_seal, kem_keys[device.kem_hash]))
            for device in listed
            if device.kem_hash in kem_keys
        ]

    def _records(self) -> Iterator[tuple[bytes, Envelope, DeviceRecord]]:
        for id, data in self._profile.line.entries().items():
            if kind_in(data) == Kind.DEVICE:
                envelope = Envelope.decode(data)
                if record := DeviceRecord.decode(envelope.card):
                    yield id, envelope, record


def _seal(kem_key: bytes, secret: bytes, info: bytes) -> bytes:
    return kem.seal_to(kem_key, info, secret)
