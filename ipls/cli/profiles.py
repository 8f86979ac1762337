"""`ipls client profiles`: the profiles on this machine, and what is done with one as a whole."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from ipls.cli.console import confirmed, emit
from ipls.cli.options import HOME, Endpoints, Home, Json, check_placed, options_for, profile_folder, profiles_folder
from ipls.cli.unlocking import key_access
from ipls.client import profiles
from ipls.client.access import when
from ipls.client.device import Device
from ipls.client.profile_key import Kept

app = typer.Typer(help="The profiles on this machine: one for each account that this phone has. Alone, it lists them.")

Named = Annotated[str, typer.Argument(metavar="NAME", help="The profile's name.")]
Yes = Annotated[bool, typer.Option("--yes", help="Without asking.")]


@app.callback(invoke_without_command=True)
def show_all(context: typer.Context, home: Home = HOME, as_json: Json = False) -> None:
    """The profiles on this machine: one for each account that this phone has. Alone, it lists them."""
    if context.invoked_subcommand is None:
        list_(home, as_json)
    else:
        check_placed(context)


@app.command("list")
def list_(home: Home = HOME, as_json: Json = False) -> None:
    """Each with its number, contacts, last sync and state. Nobody is asked for a passphrase: a locked one is shown as
    that."""
    found = profiles.list_profiles(profiles_folder(home), key_access(asking=False))
    width = max((len(each.name) for each in found), default=0)
    for each in found:
        emit(each._asdict()) if as_json else print(f"{each.name:{width}}  {_line(each, home)}".rstrip())
    if not found and not as_json:
        print("no profile yet; next: ipls client register NUMBER --endpoints FILE")


def _line(found: profiles.ProfileSummary, home: Path) -> str:
    match found.state:
        case "locked":
            return f"locked [{found.reason}]"
        case "damaged":
            return f"can't be read [{found.reason}]; next: ipls client status{options_for(found.name, home)}"
    synced = f"synced {when(found.synced_ms)}" if found.synced_ms else "never synced"
    unsent = f", {found.unsent} only here" if found.unsent else ""
    return f"{found.number or 'no number'}  {found.contacts} contacts{unsent}  {synced}  {found.state}"


@app.command()
def add(name: Named, endpoints: Endpoints = None, home: Home = HOME, as_json: Json = False) -> None:
    """Make one, for a deployment; it has no account yet."""
    folder = _folder(home, name)
    profiles.check_free(folder)
    opened = Device.open(folder, endpoints, key=key_access())

    async def close() -> None:
        async with opened:
            pass

    asyncio.run(close())
    _say(f"made: {folder}; next: ipls client register NUMBER{options_for(name, home)}", {"added": name}, as_json)


@app.command()
def rename(
    name: Named,
    new: Annotated[str, typer.Argument(metavar="NEW", help="What it is to be called.")],
    home: Home = HOME,
    as_json: Json = False,
) -> None:
    """Give one another name."""
    profiles.rename_profile(_folder(home, name), _folder(home, new, hint="NEW").name)
    _say(f"renamed: {name} is {new} now", {"renamed": name, "name": new}, as_json)


@app.command()
def lock(name: Named, home: Home = HOME, as_json: Json = False) -> None:
    """Take its key from the keyring, or its file: from now on it takes the passphrase. If it has none it gets one."""
    profiles.lock_profile(_folder(home, name), key_access())
    _say(f"locked: {name} takes its passphrase from now on", {"locked": name}, as_json)


@app.command()
def unlock(
    name: Named,
    in_file: Annotated[
        bool, typer.Option("--in-file", help="Keep the key in a file beside the profile: without a keyring.")
    ] = False,
    home: Home = HOME,
    as_json: Json = False,
) -> None:
    """Take its passphrase once, and have the keyring open it from now on."""
    kept = Kept.FILE if in_file else Kept.KEYRING
    profiles.unlock_profile(_folder(home, name), key_access(), kept)
    _say(f"unlocked: the {kept} has the key of {name}", {"unlocked": name, "kept": kept}, as_json)


@app.command()
def passphrase(
    name: Named,
    new: Annotated[
        Path | None, typer.Option("--new-passphrase-file", help="A file with the new one; otherwise it is asked for.")
    ] = None,
    home: Home = HOME,
    as_json: Json = False,
) -> None:
    """Give it a new passphrase."""
    profiles.change_profile_passphrase(_folder(home, name), key_access(new_passphrase=new))
    _say(f"changed: {name} has a new passphrase", {"changed": name}, as_json)


@app.command()
def remove(name: Named, yes: Yes = False, home: Home = HOME, as_json: Json = False) -> None:
    """Delete one from this machine, after saying what goes and what stays."""
    folder, access = _folder(home, name), key_access()
    found = profiles.open_summary(folder, access)
    if not yes:
        print(_what_goes(found, folder))
    _delete(name, folder, yes, as_json)


@app.command()
def wipe(name: Named, yes: Yes = False, home: Home = HOME, as_json: Json = False) -> None:
    """Delete one that can't be opened: locked, its passphrase forgotten, or damaged."""
    folder = _folder(home, name)
    if not yes:
        print(f"this deletes all of {folder}, unread: whatever of it is not stored is lost")
    _delete(name, folder, yes, as_json)


def _what_goes(found: profiles.ProfileSummary, folder: Path) -> str:
    if found.number is None:
        account = "it has no account"
    else:
        account = f"the identity key of {found.number}, which is nowhere else: the number has to be registered anew"
    stored = found.contacts - found.unsent
    lines = [f"this deletes all of {folder}:", f"  {account}"]
    lines += [f"  {found.contacts} contacts, {found.unsent} of which are only here", "what stays:"]
    if stored:
        lines += [
            f"  the contact store has {stored} contacts, encrypted, and the vault their key:"
            " ipls client register, then restore, bring them back",
            "  to have the vault let the key go: ipls client vault delete, before this",
        ]
    else:
        lines += ["  nothing is stored"]
    return "\n".join(lines)


def _delete(name: str, folder: Path, yes: bool, as_json: bool) -> None:
    if not yes and not confirmed("Delete it for good?"):
        raise typer.Exit(1)
    gone = profiles.remove_profile(folder, key_access(asking=False))
    left = "" if gone else "; the keyring that has its key is not here: delete it there, under `ipls`"
    _say(f"deleted: {name}{left}", {"deleted": name, "key_left": not gone}, as_json)


def _folder(home: Path, name: str, *, hint: str = "NAME") -> Path:
    return profile_folder(home, name, hint=hint)


def _say(text: str, value: dict[str, object], as_json: bool) -> None:
    emit(value) if as_json else print(text)
