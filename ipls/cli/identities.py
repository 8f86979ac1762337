"""Whose key is whose, on the command line: the own identity, contact codes, contacts' keys. Thin over `ipls.client`.

Tested by tests/cli/test_contacts.py and tests/e2e/test_client_commands.py.
"""

import sys
from typing import Annotated, Any

import typer

from ipls.cli import qr
from ipls.cli.console import confirmed, emit
from ipls.cli.contacts import app as contacts_app
from ipls.cli.opening import local, read, run, say
from ipls.cli.options import HOME, Home, Json, Name, Patience, Verbose, options_for, profile_folder
from ipls.client.access import when
from ipls.client.calls import RETRY_FOR_S
from ipls.client.contact_identities import DISCOVERED_A_DAY
from ipls.client.device import Device
from ipls.client.profile import ContactIdentity
from ipls.contacts.contact_code import ContactCode
from ipls.trust.safety import Comparison, SafetyNumber

Version = Annotated[int | None, typer.Option(min=1, metavar="VERSION")]

_SAYS = {
    Comparison.MATCHES: "it matches: this is the key that the other one has",
    Comparison.DIFFERS: "IT DIFFERS: one of you has a key that is not the other's; tell nothing that matters",
    Comparison.OTHER_PAIR: "that is the safety number of two others, or of another service: it says nothing",
}


def identity(
    that_was_me: Version = None,
    not_me: Version = None,
    profile: Name = "default",
    home: Home = HOME,
    as_json: Json = False,
) -> None:
    """The versions of the own identity, as far as they were proved here; say of one that was not made here whether it
    was you. `monitor` asks the directory."""
    folder = profile_folder(home, profile)
    if that_was_me is not None:
        local(folder, lambda device: device.acknowledge_version(that_was_me))
    if not_me is not None:
        following = local(folder, lambda device: device.disown_version(not_me))
        if not as_json:
            print(f"next: ipls client {following}, which makes a new key for the contacts", file=sys.stderr)
    for v in read(folder, Device.versions):
        value = {"version": v.version, "epoch": v.epoch, "public_key": v.public_key.hex(), "origin": v.origin}
        say(f"version {v.version}, epoch {v.epoch}: {v.origin}", value, as_json)


@contacts_app.command()
def code(
    name: Annotated[str, typer.Argument(help="What you are called: others see it.")],
    profile: Name = "default",
    home: Home = HOME,
    as_json: Json = False,
) -> None:
    """Your number and name as a QR, and as a text to paste: `contacts add --code` takes it."""
    label = read(profile_folder(home, profile), lambda device: device.account.label)
    text = ContactCode(label, name).text
    emit({"code": text}) if as_json else qr.show(text)


@contacts_app.command()
def verify(
    who: Annotated[str, typer.Argument(help="A number, or what finds one contact.")],
    scanned: Annotated[str | None, typer.Option(help="The text of the QR that the other one's device shows.")] = None,
    profile: Name = "default",
    home: Home = HOME,
    patience: Patience = RETRY_FOR_S,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Compare safety numbers with a contact: both see the same 60 digits where each has the other's key.

    Exit status 1 if they are not the same. Asking tells the directory the number.
    """
    theirs = None if scanned is None else SafetyNumber.parse(scanned)

    async def compare(device: Device) -> tuple[str, SafetyNumber, Comparison | None]:
        label = device.number_of(who)
        mine = await device.contact_identities.safety_number(label)
        if theirs is None and not as_json:
            for at in range(0, len(mine.groups), 4):
                print("  ".join(mine.groups[at : at + 4]))
            qr.show(mine.text)
        other = theirs
        if other is None and sys.stdin.isatty() and confirmed("Does the other one's device show the same digits?"):
            other = mine
        return label, mine, other and device.contact_identities.compare(label, other)

    label, mine, found = run(profile_folder(home, profile), compare, retry_for_s=patience, verbose=verbose)
    value = {"number": label, "digits": mine.digits, "text": mine.text, "found": found and found.value}
    if found or as_json:
        say(_SAYS[found] if found else "", value, as_json)
    if found not in (None, Comparison.MATCHES):
        raise typer.Exit(1)


@contacts_app.command()
def keys(
    acknowledge: Annotated[str | None, typer.Option(metavar="NUMBER", help="You know of this one's new key.")] = None,
    discover: Annotated[
        bool | None,
        typer.Option(
            "--discover/--no-discover",
            help="Have syncs find out who of all contacts is on the service: the directory then learns their numbers.",
        ),
    ] = None,
    profile: Name = "default",
    home: Home = HOME,
    as_json: Json = False,
) -> None:
    """Contacts' keys as they were proved last: which changed, and which had no proof for a week."""

    def at_work(device: Device) -> list[tuple[str, dict[str, Any]]]:
        identities = device.contact_identities
        if discover is not None:
            identities.discover(discover)
        overdue = {each.label for each in identities.overdue()}
        shown = []
        for each in identities.known():
            if each.label == acknowledge:
                identities.acknowledge(each.label, each.version)
                each = each._replace(acknowledged=each.version)
            shown.append(_shown(each, identities.verified(each.label), each.label in overdue))
        return shown

    folder = profile_folder(home, profile)
    changing = acknowledge is not None or discover is not None
    for text, value in (local if changing else read)(folder, at_work):
        say(text, value, as_json)
    if discover and not as_json:
        print(
            f"each store now asks the directory for contacts' numbers, {DISCOVERED_A_DAY} a day at most, and so tells"
            " it whom you know; --no-discover ends that",
            file=sys.stderr,
        )


@contacts_app.command()
def forget(
    who: Annotated[str, typer.Argument(help="A number, or what finds one contact.")],
    profile: Name = "default",
    home: Home = HOME,
    as_json: Json = False,
) -> None:
    """Let go of what is known of a contact's key, and that it was compared, on all of the account's devices: where one
    of them kept a false one. The contact itself stays."""

    def at_work(device: Device) -> tuple[str, bool]:
        label = device.number_of(who)
        return label, device.contact_identities.forget(label)

    label, known = local(profile_folder(home, profile), at_work)
    text = f"forgotten: the key of {label}" if known else f"of {label} no key was known"
    say(
        text,
        {"number": label, "known": known},
        as_json,
        f"ipls client store{options_for(profile, home)}" if known else "",
    )


def _shown(identity: ContactIdentity, compared: bool, overdue: bool) -> tuple[str, dict[str, Any]]:
    value = {
        "number": identity.label,
        "public_key": identity.public_key.hex(),
        "version": identity.version,
        "epoch": identity.epoch,
        "proved_ms": identity.proved_ms,
        "in_use": identity.in_use,
        "changed": identity.changed,
        "compared": compared,
        "overdue": overdue,
    }
    what = f"version {identity.version}, epoch {identity.epoch}" if identity.version else "not on the service"
    words = [f"proved {when(identity.proved_ms)}" if identity.proved_ms else "never proved"]
    words += [word for word, holds in (("CHANGED", identity.changed), ("compared", compared)) if holds]
    words += ["NO PROOF FOR A WEEK"] if overdue else []
    return f"{identity.label}  {what if identity.proved_ms else ''}  {', '.join(words)}", value
