"""`ipls client link`, `join` and `devices`: the devices that share an account's contacts.

Tested by tests/e2e/test_client_commands.py.
"""

import platform as system
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ipls.cli import qr
from ipls.cli.console import confirmed, emit, typed_line
from ipls.cli.opening import local, read, run, say
from ipls.cli.options import (
    HOME,
    Endpoints,
    Home,
    Json,
    Name,
    Patience,
    Verbose,
    check_placed,
    options_for,
    profile_folder,
)
from ipls.client.access import when
from ipls.client.calls import RETRY_FOR_S
from ipls.client.device import Device
from ipls.client.linked_devices import AccountDevice
from ipls.client.linking import Linking, NewDevice
from ipls.client.sync import SyncResult
from ipls.contacts.errors import LinkError
from ipls.contacts.linking import LinkCode
from ipls.store.files import read_bounded

app = typer.Typer(help="The devices that share this account's contacts. Alone, it lists them.")

Which = Annotated[str, typer.Argument(metavar="DEVICE", help="Its name, or the beginning of its key.")]

_MAX_CODE = 1024
_SHOWN = """\
Scan this with the device that you want to link, in your other hand; or there: ipls client join, and paste it.
Show it to nobody, and send it to nobody: it is for your own device alone, for ten minutes. Whoever asks you for it is
after your contacts."""
_ASKED = """\
A device has read the code, and asks to be linked to {label}. It calls itself
    {name}, on {platform}
It will read, change and remove all of your contacts, until you remove it. It gets neither the number nor the vault.
If you hold it in your hand, type the six digits that it shows. Nobody else ever needs them: if somebody told you
digits, or asked you to do this, press Ctrl-C."""


def link(
    profile: Name = "default",
    home: Home = HOME,
    patience: Patience = RETRY_FOR_S,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Link another device of yours to this account. This phone shows a code, the new device reads it (`ipls client
    join`), and you type here the six digits that it shows."""

    async def work(device: Device) -> NewDevice:
        linking = await device.link()
        print(_SHOWN, file=sys.stderr)
        if as_json:
            emit({"code": linking.code})
        else:
            qr.show(linking.code)
        sys.stdout.flush()
        new = await linking.arrived()
        print(_ASKED.format(label=device.account.label, **new._asdict()), file=sys.stderr)
        await _confirm(linking)
        return new

    new = run(profile_folder(home, profile), work, retry_for_s=patience, verbose=verbose)
    following = f"ipls client devices{options_for(profile, home)}"
    say(f"linked: {new.name}, {_key(new.key)}", _value(new), as_json, following)


async def _confirm(linking: Linking) -> None:
    while True:
        typed = (await typed_line("the six digits: ")).strip()
        try:
            await linking.confirm(typed)
            return
        except LinkError as error:
            if error.reason != "SHORT_CODE_WRONG" or not typed:
                raise
            print("those are not the digits that belong to this device; look again", file=sys.stderr)


def join(
    name: Annotated[str, typer.Option(help="What this device is to be called; else what the system calls it.")] = "",
    code_file: Annotated[
        Path | None, typer.Option(help="A file with the link code; without it, it is asked for here.")
    ] = None,
    endpoints: Endpoints = None,
    profile: Name = "default",
    home: Home = HOME,
    patience: Patience = RETRY_FOR_S,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Link this device to the account whose phone shows a link code (`ipls client link`), and bring its contacts
    here."""
    shown = name or system.node() or "this device"

    def show(digits: str) -> None:
        print(f"type these six digits into your phone, and tell them to nobody: {digits}", file=sys.stderr)
        if as_json:
            emit({"digits": digits})

    async def work(device: Device) -> SyncResult:
        if code_file:
            code = read_bounded(code_file, _MAX_CODE).decode(errors="replace")
        else:
            code = await typed_line("the link code that your phone shows: ")
        label, own = LinkCode.parse(code).label, device.status().contacts
        print(f"this device joins the account of {label}", file=sys.stderr)
        if own:  # whoever has a person join with another's code would get them
            answer = await typed_line(f"the {own} contacts of this profile go there too. Is that number yours? [y/N]: ")
            if answer.strip().lower() not in ("y", "yes"):
                raise typer.Exit(1)
        return await device.join(code, shown, system.system() or "unknown", show)

    joined = run(profile_folder(home, profile), work, endpoints, retry_for_s=patience, verbose=verbose)
    text = f"linked: this device is {shown}, with {joined.contacts} contacts"
    say(text, joined._asdict(), as_json, f"ipls client contacts list{options_for(profile, home)}")


@app.callback(invoke_without_command=True)
def show_all(context: typer.Context, profile: Name = "default", home: Home = HOME, as_json: Json = False) -> None:
    """The devices that share this account's contacts. Alone, it lists them."""
    if context.invoked_subcommand is None:
        list_(profile, home, as_json)
    else:
        check_placed(context)


@app.command("list")
def list_(profile: Name = "default", home: Home = HOME, as_json: Json = False) -> None:
    """Each with its name, since when it is linked, and when it last changed something. Asks nobody."""
    found = read(profile_folder(home, profile), lambda device: device.linked_devices.all())
    for each in found:
        say(_line(each), _value(each), as_json)
    if any(each.state == "waiting" for each in found):
        print("to confirm one that waits: ipls client link here, ipls client join there", file=sys.stderr)


@app.command()
def rename(
    device: Which,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is to be called.")],
    profile: Name = "default",
    home: Home = HOME,
    as_json: Json = False,
) -> None:
    """Give a linked device another name; the next `ipls client store` tells the others."""

    def work(opened: Device) -> AccountDevice:
        found = opened.linked_devices.find(device)
        opened.rename_device(found, name)
        return found._replace(name=name)

    renamed = local(profile_folder(home, profile), work)
    say(f"renamed: {_line(renamed)}", _value(renamed), as_json)


@app.command()
def remove(
    device: Which,
    yes: Annotated[bool, typer.Option("--yes", help="Without asking.")] = False,
    profile: Name = "default",
    home: Home = HOME,
    patience: Patience = RETRY_FOR_S,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Link a device no more, and make a new contact key: it reads nothing that is written from then on. What it has, it
    keeps."""
    folder = profile_folder(home, profile)
    found = read(folder, lambda opened: opened.linked_devices.find(device))
    if not yes and not confirmed(f"It keeps the contacts that it has, and gets no new ones. Remove {_line(found)}?"):
        raise typer.Exit(1)
    run(folder, lambda opened: opened.remove_device(found), retry_for_s=patience, verbose=verbose)
    say(f"removed: {found.name or _key(found.key)}; the contact key was made anew", _value(found), as_json)


def _line(device: AccountDevice) -> str:
    what = "the phone that holds the number" if device.state == "phone" else device.name or "(no name)"
    words = [f"{what}{f', {device.platform}' if device.platform else ''}, {_key(device.key)}"]
    words += ["WAITS TO BE CONFIRMED"] if device.state == "waiting" else []
    words += [f"linked {when(device.linked_ms)}"] if device.linked_ms else []
    words += [f"changed something {when(device.wrote_ms)}"] if device.wrote_ms else []
    return "  ".join([*words, *(["this device"] if device.here else [])])


def _key(key: bytes) -> str:
    return f"key {key.hex()[:8]}…"


def _value(device: AccountDevice | NewDevice) -> dict[str, Any]:
    return device._asdict() | {"key": device.key.hex()}
