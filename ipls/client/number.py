"""Another number for the account: registered beside the old one, its line says what the old line does, which then ends
with where the account went; the old account is let go last (contacts.md, The account's life).

Each step is durable, and repeated it changes nothing: what was cut off is run again.

Tested by tests/client/test_number.py.
"""

from typing import NamedTuple

from ipls.client.errors import TryLaterError
from ipls.client.events import JourneyStep, Report
from ipls.client.line.line import ROUNDS
from ipls.client.profile import Profile
from ipls.client.sync import Sync
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


async def go_over(profile: Profile, old: Sync, new: Sync, report: Report) -> None:
    """From the profile's account, `old`, to the second one in it, `new`, which is registered: this is the profile's
    account then, and the other one the second.

    Raises ClientError's kinds and ContactsError's.
    """
    second = profile.aside()
    for _ in range(ROUNDS):
        await old.settle()
        await new.continue_from(profile.line)
        report(JourneyStep("contacts brought over"))
        state = second.line.state
        assert state is not None
        if await old.end(second.account.label, state.line, public_key(second.account.seed)):
            break
    else:
        raise TryLaterError("LINE_BUSY", "other devices of the account wrote all the while; try again")
    report(JourneyStep("line ended"))
    profile.swap()
    report(JourneyStep("number changed"))


def still_needed(old: Profile) -> tuple[int, int]:
    """How many linked devices have to be shown the end of the old line, and how many contacts could not be read."""
    state = old.line.state
    return len(state.devices) if state else 0, len(old.line.unreadable())
