"""The account's life on the command line: another number, and the end. Thin over `ipls.client`.

Tested by tests/e2e/test_client_commands.py and tests/cli/test_accounts.py.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ipls.cli.codes import Code, Outbox, code_source, trying
from ipls.cli.console import confirmed
from ipls.cli.opening import deliver, read, run, say
from ipls.cli.options import HOME, Home, Json, Name, Patience, Verbose, options_for, profile_folder
from ipls.cli.unlocking import key_access
from ipls.client import profiles
from ipls.client.calls import RETRY_FOR_S
from ipls.client.device import Device, Status
from ipls.client.errors import ProfileError
from ipls.client.number import NumberChanged

Yes = Annotated[bool, typer.Option("--yes", help="Without asking.")]


def number(
    new: Annotated[str | None, typer.Argument(metavar="[NEW]", help="The new number, E.164: + and digits.")] = None,
    let_go: Annotated[
        bool, typer.Option("--let-go", help="Delete the account of the number before, or of one never gone over to.")
    ] = False,
    code: Code = None,
    outbox: Outbox = None,
    yes: Yes = False,
    profile: Name = "default",
    home: Home = HOME,
    patience: Patience = RETRY_FOR_S,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Go over to another number, with all contacts. Alone it says which number the account has.

    The new number is registered, its contacts are stored under it, the old number's are deleted. Do it while you still
    have the old number: whoever has that next could register it.
    """
    folder = profile_folder(home, profile)
    if let_go:
        if not yes and not confirmed("Delete the account of the number that is kept beside this one?"):
            raise typer.Exit(1)
        deleted = run(folder, Device.let_number_go, retry_for_s=patience, verbose=verbose)
        text = "deleted: you may give that number up"
        kept = "that number is another's, or its key is lost: what is stored under it stays there, encrypted"
        say(text if deleted else kept, {"deleted": deleted}, as_json)
        return
    if new is not None:
        if not yes and not confirmed(f"Have all contacts under {new}, and delete the account of the number before?"):
            raise typer.Exit(1)

        async def work(device: Device) -> NumberChanged:
            continuing = code is not None
            return await trying(
                code_source(code, outbox), lambda source: device.change_number(new, source, continuing=continuing)
            )

        found = run(folder, work, retry_for_s=patience, verbose=verbose)
    else:
        found = read(folder, Device.number_changed)
    following = f"before you give that number up, ipls client number --let-go{options_for(profile, home)}"
    text = f"{'changed: the number is' if new else 'number:'} {found.number}, {found.contacts} contacts{beside(found)}"
    say(text, found._asdict(), as_json, following if found.old_number else "")


def beside(found: NumberChanged) -> str:
    """What is left of the number before, for a person."""
    text = ""
    if found.old_number is not None:
        needs = [
            needed
            for count, needed in (
                (found.devices, f"{found.devices} linked devices learn of the change by it"),
                (found.unread, f"{found.unread} contacts in it can't be read"),
            )
            if count
        ]
        text += f"; kept beside it: the account of {found.old_number}" + (f" ({', '.join(needs)})" if needs else "")
    if found.taken:
        text += f"; another has {found.taken} by now: what is stored under it stays, encrypted"
    if found.untold:
        text += f"; {found.untold} linked devices have to be linked anew"
    return text


def export_all(
    file: Annotated[Path, typer.Argument(metavar="FILE.zip", help="The file to write; - for standard output.")],
    with_keys: Annotated[
        bool, typer.Option("--with-keys", help="Also the secret keys: whoever has them is you, and reads all.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Also over a file that is there.")] = False,
    profile: Name = "default",
    home: Home = HOME,
    as_json: Json = False,
) -> None:
    """All that is held of the account, in a ZIP: contacts, devices, the identity's history with its proof, who used the
    keys, settings. No secret keys. It asks nobody: `store` and `history` bring it up to date."""
    if not force and file.is_file() and file.stat().st_size:
        raise ProfileError("FILE_EXISTS", f"{file} is there")
    found = read(profile_folder(home, profile), lambda device: device.take_out(keys=with_keys))
    damaged = f"; {found.unreadable} are damaged on this phone: ipls client store" if found.unreadable else ""
    value = {"contacts": found.contacts, "unreadable": found.unreadable, "bytes": len(found.data)}
    text = f"exported: {found.contacts} contacts, and all about the account, to {file}{damaged}"
    deliver(file, found.data, text, value, as_json)


def delete_account(
    yes: Yes = False,
    profile: Name = "default",
    home: Home = HOME,
    patience: Patience = RETRY_FOR_S,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Delete the account: in the vault, in the contact store, and on this phone, in this order.

    Says first what goes and what stays. Cut off, run it again: the phone's part goes last.
    """
    folder = profile_folder(home, profile)
    found = read(folder, Device.status)
    label = read(folder, lambda device: device.account.label)
    if not yes:
        print(_what_goes(found, folder))
        print("Type the number to delete it for good: ", end="", flush=True)
        if "".join(sys.stdin.readline().split()) != label:
            print("that is not the number: nothing was deleted", file=sys.stderr)
            raise typer.Exit(1)
    run(folder, Device.delete_account, retry_for_s=patience, verbose=verbose)
    gone = profiles.remove_profile(folder, key_access(asking=False))
    left = "" if gone else "; the keyring that has the profile's key is not here: delete it there, under `ipls`"
    say(f"deleted: the account of {label}, and {folder}{left}", {"deleted": label, "key_left": not gone}, as_json)


def _what_goes(found: Status, folder: Path) -> str:
    lines = [
        f"this deletes the account of {found.label}:",
        "  in the vault: its contact keys; nothing that is stored can be read then",
        f"  in the contact store: {found.contacts - found.unsent} contacts, encrypted, and the line of their changes",
        f"  on this phone: {folder}, with the identity key and {found.contacts} contacts, {found.unsent} of which are"
        " only here",
        "what stays:",
        "  in the directory and its public log: that the number had this key, and since when",
        "  in the vault: when the keys were used, without them",
        "  on other phones, and in address books that were synced: what they have",
    ]
    if found.identity is not None and found.identity.version > 1:
        lines += [
            "  for 90 days, in vault and contact store: what earlier phones of the number stored; whoever has the"
            " number within them can read that",
        ]
    return "\n".join([*lines, "to keep it: ipls client export-all FILE.zip, before this"])
