"""`ipls client background`: a profile and its account's line kept the same while it runs; `serve-dav` does it, too."""

import asyncio
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from ipls.cli.advice import NEXT
from ipls.cli.console import emit, printable
from ipls.cli.opening import Reporter
from ipls.cli.options import HOME, Home, Json, Name, Verbose, profile_folder
from ipls.cli.unlocking import key_access
from ipls.client import events
from ipls.client.errors import ClientError
from ipls.client.following import follow
from ipls.client.profile_key import KeyAccess, open_key

_NOT_YET = {"NOT_REGISTERED", "PROFILE_FOLLOWED"}
_AGAIN_S = 10.0


def background(profile: Name = "default", home: Home = HOME, verbose: Verbose = False, as_json: Json = False) -> None:
    """Send what is changed here and take in what other devices change, as it happens, until Ctrl-C or SIGTERM.

    Other commands go on beside it. What is in the way, a service that is away for one, is said once, and when it is
    over. Exit status 0 when it is ended; 1 where the person has to do something first; 3 if another one follows this
    profile already.
    """
    from ipls.runtime.service import Service, run  # it takes a moment, which no other command waits for

    folder = profile_folder(home, profile)
    access = unattended(folder)
    with Reporter(verbose=verbose) as reporter:
        told = teller(reporter, verbose=verbose, as_json=as_json)

        async def start(service: Service) -> None:
            await follow(folder, key=access, report=told)

        run("background", start)


def unattended(folder: Path) -> KeyAccess:
    """What opens the profile from now on without a person; who has to be asked is asked now. Raises as `open_key`."""
    return replace(key_access(asking=False), opened=open_key(folder, key_access()) or b"")


def teller(reporter: events.Report, *, verbose: bool, as_json: bool) -> events.Report:
    """Has a person know how the following goes; of the rest `reporter` does."""

    def tell(event: events.Event) -> None:
        match event:
            case events.FollowBegun():
                _line("following: what is changed here is sent, what other devices change comes", {}, event, as_json)
            case events.CaughtUp():
                value = {"received": event.received, "sent": event.sent, "unread": event.unread}
                if as_json or verbose:
                    _line(f"synced: {event.received} received, {event.sent} sent", value, event, as_json)
            case events.FollowTrouble(reason, message):
                text = f"{message}; it goes on trying [{reason}]"
                if (step := NEXT.get(reason)) != NEXT["UNREACHABLE"]:
                    text += f"; next: {step}"
                _line(text, event.__dict__, event, as_json)
            case events.FollowMended(reason, message):
                _line(f"over: {message.partition(':')[0]} [{reason}]", event.__dict__, event, as_json)
            case _:
                reporter(event)

    return tell


_NAMES = {
    events.FollowBegun: "following",
    events.CaughtUp: "synced",
    events.FollowTrouble: "trouble",
    events.FollowMended: "mended",
}


def _line(text: str, value: dict[str, Any], event: events.Event, as_json: bool) -> None:
    """Flushed: who reads it is another program, perhaps."""
    if as_json:
        emit({"event": _NAMES[type(event)], **value})
    else:
        print(printable(text), flush=True)


async def follow_beside(folder: Path, access: KeyAccess, report: events.Report) -> None:
    """Follow the profile beside something else, which goes on without it; as soon as there is an account, and nobody
    else does it. That it goes well is not told."""

    def tell(event: events.Event) -> None:
        if not isinstance(event, events.FollowBegun):
            report(event)

    while True:
        try:
            await follow(folder, key=access, report=tell)
        except ClientError as error:
            if error.reason not in _NOT_YET:
                line = f"ipls: {error}; nothing is sent or received any more [{error.reason}]"
                print(printable(line), file=sys.stderr, flush=True)
                return
        await asyncio.sleep(_AGAIN_S)
