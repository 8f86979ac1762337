"""Another number for the account: registered beside the old one, its line says what the old line does, which then ends
with where the account went; linked devices follow by that; the old account is let go last (contacts.md, The account's
life).

Each step is durable, and repeated it changes nothing: what was cut off is run again.

Tested by tests/client/test_number.py.
"""

from typing import NamedTuple

from ipls.client.directory import History
from ipls.client.errors import TryLaterError
from ipls.client.events import JourneyStep, Report
from ipls.client.line.line import ROUNDS
from ipls.client.line.parts import Checkpoint
from ipls.client.linking import be_listed
from ipls.client.profile import DeviceKeys, Profile
from ipls.client.sync import Sync, line_moved
from ipls.contacts.commits import Moved
from ipls.contacts.errors import LineError
from ipls.contacts.listing import Listing
from ipls.crypto.keys import public_key


class NumberChanged(NamedTuple):
    """The account's number now, with `contacts`; `old_number` is the one before where its account is still kept: for
    `devices` that have not followed it, as far as is known here, and for `unread` contacts, which could not be read."""

    number: str
    version: int
    epoch: int
    contacts: int
    old_number: str | None
    devices: int = 0
    unread: int = 0
    taken: str | None = None
    """The number before, where another has it by now: what was stored under it stays there, encrypted."""
    untold: int = 0
    """Linked devices that can't follow then: they are linked anew."""


async def go_over(profile: Profile, old: Sync | None, new: Sync, report: Report) -> None:
    """From the profile's account, `old`, to the second one in it, `new`, which is registered: this is the profile's
    account then, and the other one the second. Without `old`, whose number another has by now, from what is here of it.

    Once the old line has ended, linked devices write into the new one: what is brought over is merged with that. Where
    another has the old number before that, none could be removed any more: none goes along. Raises ClientError's kinds
    and ContactsError's.
    """
    second, here = profile.aside(), profile.line.state
    devices = old is not None or (here is not None and here.moved is not None)
    for _ in range(ROUNDS):
        if old is None or not await old.settle():
            await new.continue_from(profile.line, devices=devices)
            report(JourneyStep("contacts brought over"))
        state = second.line.state
        if state is None:  # it has ended for another number, from a copy of this profile
            raise line_moved()
        if old is None:
            break
        if await old.end(second.account.label, state.line, public_key(second.account.seed)):
            report(JourneyStep("line ended"))
            break
    else:
        raise TryLaterError("LINE_BUSY", "other devices of the account wrote all the while; try again")
    with profile.transaction():
        new.carry(profile.line, second.line.carried(), devices=devices)  # also what was edited while this waited
        profile.swap()
    report(JourneyStep("number changed"))


def follow(profile: Profile, moved: Moved, keys: DeviceKeys, listing: Listing, history: History) -> None:
    """The profile's second account is a linked device's of the number that the account went over to.

    Raises LineError MOVE_UNPROVED where that number's history does not end in the key that the old line names.
    """
    if history.identities[0].public_key != moved.identity_key:
        raise LineError("MOVE_UNPROVED", "the number that the account is said to have gone to has another key")
    second = profile.aside()
    second.forget()  # what a try before left
    be_listed(second, keys, listing, Checkpoint(moved.line, 0, moved.line), history)


def still_needed(old: Profile) -> tuple[int, int]:
    """How many linked devices have to be shown the end of the old line, and how many contacts could not be read: of
    some an older version may be here."""
    line = old.line
    return len(line.state.devices) if line.state else 0, len(line.unreadable() | line.unread())
