"""`ipls client`: the device on the command line.

Tested by tests/e2e/test_client_commands.py.
"""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ipls.cli import accounts, background, contacts, devices, identities, profiles, serve_dav, sides
from ipls.cli.codes import Code, Outbox, code_source, trying
from ipls.cli.console import confirmed
from ipls.cli.opening import local, read, run, say, write_file
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
from ipls.client.access import WARNING, days, describe, when
from ipls.client.approvals import Approval, ApprovalRequest, parse_approver
from ipls.client.calls import RETRY_FOR_S
from ipls.client.device import Device, Difference, Status
from ipls.client.profile import Account
from ipls.client.sync import Recovery, SyncResult
from ipls.contacts.cards.reading import read_card
from ipls.units import DAY_MS

app = typer.Typer()


@app.callback(invoke_without_command=True)
def overview(context: typer.Context, profile: Name = "default", home: Home = HOME, as_json: Json = False) -> None:
    """The device: one profile is one account on one phone. Alone, it says how that is, as `status`.

    It is encrypted: the system's keyring keeps its key, or a passphrase seals it (asked for, or in the file that
    IPLS_PASSPHRASE_FILE names); where there is neither, the key is in a file beside the profile, for its owner alone
    (0600).
    """
    if context.invoked_subcommand is None:
        status(profile, home, as_json)
    else:
        check_placed(context)


app.add_typer(profiles.app, name="profiles")
app.add_typer(contacts.app, name="contacts")
app.command()(identities.identity)
app.command()(accounts.number)
app.command("export-all")(accounts.export_all)
app.command("delete-account")(accounts.delete_account)
app.command()(devices.link)
app.command()(devices.join)
app.add_typer(devices.app, name="devices")
vault_app = typer.Typer(
    no_args_is_help=True, help="What the vault holds of this account, and how long a new identity has to wait for it."
)
app.add_typer(vault_app, name="vault")
app.command()(sides.sync)
app.command("serve-dav")(serve_dav.serve_dav)
app.command()(background.background)


@app.command()
def register(
    number: Annotated[str, typer.Argument(help="The phone number, E.164: + and digits.")],
    endpoints: Endpoints = None,
    code: Code = None,
    outbox: Outbox = None,
    profile: Name = "default",
    home: Home = HOME,
    patience: Patience = RETRY_FOR_S,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Make an identity key and have it published under the number; returns once the directory proves it.

    The number's holder is sent a code, which is asked for here, three times at most. A code that was sent holds for a
    while: this may be ended, and run again with --code.
    """
    folder = profile_folder(home, profile)

    async def work(device: Device) -> tuple[Account, bool]:
        continuing = code is not None
        account = await trying(
            code_source(code, outbox), lambda source: device.register(number, source, continuing=continuing)
        )
        return account, device.status().contacts > 0

    account, has_contacts = run(folder, work, endpoints, retry_for_s=patience, verbose=verbose)
    value = {"version": account.version, "epoch": account.epoch}
    where = options_for(profile, home)
    if account.version > 1:
        following = f"ipls client restore{where}, which brings back what is stored for the number"
    elif has_contacts:
        following = f"ipls client store{where}"
    else:
        following = f"ipls client contacts import FILE.vcf{where}, then ipls client store{where}"
    text = f"registered: {account.label}, identity version {account.version}, published in epoch {account.epoch};"
    say(f"{text} its key is in {folder} and nowhere else", value, as_json, following)


@app.command()
def store(
    profile: Name = "default",
    home: Home = HOME,
    patience: Patience = RETRY_FOR_S,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """This device and the contact store to the same: what was changed here is sent, what others changed is taken in."""
    stored = run(profile_folder(home, profile), Device.store, retry_for_s=patience, verbose=verbose)
    received = f", {stored.received} received" if stored.received else ""
    text = f"stored: {stored.contacts} contacts, {stored.sent} of them sent now{received}{_unread(stored)}"
    say(text, stored._asdict(), as_json, _healed(stored))


@app.command()
def restore(
    profile: Name = "default",
    home: Home = HOME,
    patience: Patience = RETRY_FOR_S,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Everything back on a newly registered device; then the contact key is rotated."""
    restored = run(profile_folder(home, profile), Device.restore, retry_for_s=patience, verbose=verbose)
    rotated = "; the contact key was rotated" if restored.rotated else ""
    following = f"ipls client history{options_for(profile, home)} shows who used your keys: was each of them you?"
    text = f"restored: {restored.contacts} contacts{rotated}{_unread(restored)}"
    say(text, restored._asdict(), as_json, _healed(restored) or (following if restored.rotated else ""))


@app.command()
def recover(
    anew: Annotated[bool, typer.Option("--anew", help="Begin a new line from this phone's contacts.")] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Go over to the new line: it is yours.")] = False,
    before: Annotated[
        int | None,
        typer.Option(metavar="VERSION", help="With --anew: from before this identity wrote, which was not you."),
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Only show what the contact store has otherwise than this phone.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    profile: Name = "default",
    home: Home = HOME,
    patience: Patience = RETRY_FOR_S,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Put right what the contact store shows of your contacts, from what this phone has. Nothing on it is lost."""
    if show:
        for each in run(profile_folder(home, profile), Device.differences, retry_for_s=patience, verbose=verbose):
            _tell_difference(each, as_json)
        return
    if before is not None and not anew:
        raise typer.BadParameter("it says from when to begin anew: give --anew too", param_hint="--before")
    how: Recovery = "anew" if anew else "follow" if follow else "give back"
    if how != "give back" and not yes and not confirmed(_BACK if before else _ASKED[how]):
        raise typer.Exit(1)
    result = run(
        profile_folder(home, profile),
        lambda device: device.recover(how, before),
        retry_for_s=patience,
        verbose=verbose,
    )
    text = f"recovered: {result.contacts} contacts{_unread(result)}"
    say(text, result._asdict(), as_json, _healed(result))


_ASKED = {
    "anew": "Your other devices go by this phone's contacts then, and add what they have besides. Begin anew?",
    "follow": "Was the new line begun by another phone of yours?",
}
_BACK = (
    "The contacts are what they were before that identity wrote; what was changed since is not in them, but for what"
    " ipls client contacts undo brings back. Begin anew?"
)


def _tell_difference(each: Difference, as_json: bool) -> None:
    here, there = (None if card is None else read_card(card).name for card in (each.here, each.there))
    if there is None:
        text = f"removed there: {here}"
    elif here is None:
        text = f"added there: {there}"
    else:
        text = f"changed there: {here}" + (f", now {there}" if there != here else "")
    say(text, {"id": each.id, "here": here, "there": there}, as_json)


def _unread(result: SyncResult) -> str:
    return f"; {result.unread} can't be read in the contact store" if result.unread else ""


def _healed(result: SyncResult) -> str:
    return "ipls client store on a device that has those, which puts them back" if result.unread else ""


@app.command()
def monitor(
    profile: Name = "default",
    home: Home = HOME,
    patience: Patience = RETRY_FOR_S,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Check the own complete identity history; exit 1 if a version in it is not this device's doing."""
    versions = run(profile_folder(home, profile), Device.monitor, retry_for_s=patience, verbose=verbose)
    for v in versions:
        value = {"version": v.version, "epoch": v.epoch, "public_key": v.public_key.hex(), "origin": v.origin}
        key = f"key {v.public_key.hex()[:16]}…" if v.public_key else "key erased"
        say(f"version {v.version}, epoch {v.epoch}, {key}: {v.origin}", value, as_json)
    if any(version.origin == "foreign" for version in versions):
        print(
            "a key that is not yours stood in the directory: whoever holds it could retrieve your key", file=sys.stderr
        )
        raise typer.Exit(1)


@app.command()
def history(
    profile: Name = "default",
    home: Home = HOME,
    save: Annotated[
        Path | None, typer.Option(help="Also write the proof of the own identities, for `ipls verify history`.")
    ] = None,
    patience: Patience = RETRY_FOR_S,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Every use of the account's keys in the vault, whoever's; exit 1 if an identity that is not ours had one."""
    uses = run(profile_folder(home, profile), Device.uses, retry_for_s=patience, verbose=verbose)
    if save:
        write_file(save, read(profile_folder(home, profile), Device.history_proof))
    for use in uses:
        say(describe(use), asdict(use) | {"approver": use.approver.hex()}, as_json)
    if any(use.origin == "foreign" and use.operation == "retrieve" for use in uses):
        print(WARNING, file=sys.stderr)
        raise typer.Exit(1)


@app.command()
def lookup(
    number: Annotated[str, typer.Argument(help="Any account's phone number, E.164.")],
    save: Annotated[Path | None, typer.Option(help="The file to write, for `ipls verify lookup`.")] = None,
    profile: Name = "default",
    home: Home = HOME,
    patience: Patience = RETRY_FOR_S,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """What a lookup of an account shows. It is no proof that there is no newer key: decide on nothing by it."""
    version, proof = run(
        profile_folder(home, profile), lambda device: device.lookup(number), retry_for_s=patience, verbose=verbose
    )
    if save:
        write_file(save, proof)
    value = {"version": version.version, "epoch": version.epoch, "value": version.value.hex()}
    say(f"version {version.version}, epoch {version.epoch}: {version.value.hex()}", value, as_json)


@app.command()
def status(profile: Name = "default", home: Home = HOME, as_json: Json = False) -> None:
    """What this profile knows by itself, without asking anybody."""
    found = read(profile_folder(home, profile), Device.status)
    value = found._asdict() | {
        "identity": found.identity and found.identity.version,
        "foreign": [version.version for version in found.foreign],
    }
    where = options_for(profile, home)
    lines = {
        "label": found.label or "none yet",
        "identity": _identity(found),
        "devices": f"{found.devices}: ipls client devices{where}" if found.devices > 1 else "this one alone",
        "contacts": f"{found.contacts}{f', {found.unsent} with changes not sent yet' if found.unsent else ''}",
        "new ones": found.new_contacts,
        "last sync": when(found.synced_ms) if found.synced_ms else "never",
        "line": _line(found),
        "head": _head(found),
        "deployment": f"{found.namespace}, version {found.trust_root} of its trust root",
    }
    if found.foreign:
        lines["WARNING"] = f"identity version {', '.join(str(v.version) for v in found.foreign)} was not made here"
    if found.unreadable:
        lines["damaged"] = f"{found.unreadable} contacts on this device"
    text = "\n".join(f"{name:<12}{content}" for name, content in lines.items())
    say(text, value, as_json, _to_do(found, where))


def _identity(found: Status) -> str:
    return f"version {found.identity.version} of epoch {found.identity.epoch}" if found.identity else "none yet"


def _line(found: Status) -> str:
    if not found.commit:
        return "none yet"
    compared = f", digits {found.commit_digits}" + (" (your other devices show the same)" if found.devices > 1 else "")
    return f"commit {found.commit}{compared}, contact key generation {found.generation}"


def _head(found: Status) -> str:
    if not found.head_epoch:
        return "none seen yet"
    by = f", signed by {', '.join(found.signers)}, {when(found.head_ms)}" if found.signers else ""
    return f"epoch {found.head_epoch}{by}"


def _to_do(found: Status, where: str) -> str:
    if found.label is None:
        return f"ipls client register NUMBER{where}"
    if found.foreign:
        return f"ipls client identity{where} shows it: was it you?"
    if found.unsent or found.unreadable or found.unfinished or not found.synced_ms:
        return f"ipls client store{where}"
    return ""


@vault_app.command("show")
def show_vault(
    profile: Name = "default",
    home: Home = HOME,
    patience: Patience = RETRY_FOR_S,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """The generations that are kept, the change delay, and the devices that may approve."""
    held = run(profile_folder(home, profile), Device.vault_settings, retry_for_s=patience, verbose=verbose)
    numbers = [g.generation for g in held.generations]
    value = {
        "generations": numbers,
        "last_generation": held.last_generation,
        "change_delay_ms": held.change_delay_ms,
        "next_change_delay_ms": held.next_change_delay_ms,
        "next_change_delay_from_ms": held.next_change_delay_from_ms,
        "approvers": [key.hex() for key in held.approvers],
        "waits_until_ms": held.waits_until_ms,
    }
    lines = [f"generations kept: {', '.join(map(str, numbers)) or 'none'}"]
    lines += [f"a new identity waits {days(held.change_delay_ms)}"]
    if held.next_change_delay_from_ms:
        lines += [f"from {when(held.next_change_delay_from_ms)} on, {days(held.next_change_delay_ms)}"]
    lines += [f"may approve: {key.hex()}" for key in held.approvers]
    if held.waits_until_ms:
        lines += [
            f"this device waits until {when(held.waits_until_ms)}, or for an approval (`ipls client vault request`)"
        ]
    say("\n".join(lines), value, as_json)


@vault_app.command()
def delay(
    wait: Annotated[float, typer.Argument(metavar="DAYS", min=0, max=30, help="0 to 30; parts of days too.")],
    profile: Name = "default",
    home: Home = HOME,
    patience: Patience = RETRY_FOR_S,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Have whoever registers this number next wait so long for the key. Longer is at once, shorter when the present
    delay has passed."""
    delay_ms = round(wait * DAY_MS)
    folder = profile_folder(home, profile)
    effective_ms = run(folder, lambda device: device.set_change_delay(delay_ms), retry_for_s=patience, verbose=verbose)
    value = {"change_delay_ms": delay_ms, "effective_ms": effective_ms}
    say(f"a new identity waits {days(delay_ms)}, as of {when(effective_ms)}", value, as_json)


@vault_app.command()
def delete(
    profile: Name = "default",
    home: Home = HOME,
    patience: Patience = RETRY_FOR_S,
    verbose: Verbose = False,
    yes: Annotated[bool, typer.Option("--yes", help="Without asking.")] = False,
    as_json: Json = False,
) -> None:
    """Have the vault let this account's keys go. This phone keeps its contacts; no other one can restore them."""
    if not yes and not confirmed("What is stored can't be restored then. Let all keys go?"):
        raise typer.Exit(1)
    run(profile_folder(home, profile), Device.delete_keys, retry_for_s=patience, verbose=verbose)
    following = f"ipls client store{options_for(profile, home)}, which begins anew"
    say("the keys are let go", {"deleted": True}, as_json, following)


@vault_app.command()
def key(endpoints: Endpoints = None, profile: Name = "default", home: Home = HOME, as_json: Json = False) -> None:
    """This device's key for approving: name it in the vault from the phone that has the account."""
    own = local(profile_folder(home, profile), Device.approver_key, endpoints).hex()
    say(own, {"key": own}, as_json, "ipls client vault trust, and this line, on the phone that has the account")


@vault_app.command()
def trust(
    key: Annotated[str, typer.Argument(help="The line that `vault key` shows on the other device.")],
    profile: Name = "default",
    home: Home = HOME,
    patience: Patience = RETRY_FOR_S,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Let a device approve later identities of this number. Only a device that you hold: it takes the delay's place."""
    approver = parse_approver(key)
    run(
        profile_folder(home, profile),
        lambda device: device.add_approver(approver),
        retry_for_s=patience,
        verbose=verbose,
    )
    say("this device may approve from now on", {"trusted": approver.hex()}, as_json)


@vault_app.command()
def distrust(
    key: Annotated[str, typer.Argument(help="As `vault show` lists it.")],
    profile: Name = "default",
    home: Home = HOME,
    patience: Patience = RETRY_FOR_S,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Let a device approve no more."""
    approver = parse_approver(key)
    run(
        profile_folder(home, profile),
        lambda device: device.remove_approver(approver),
        retry_for_s=patience,
        verbose=verbose,
    )
    say("this device may not approve any more", {"distrusted": approver.hex()}, as_json)


@vault_app.command()
def request(
    profile: Name = "default",
    home: Home = HOME,
    patience: Patience = RETRY_FOR_S,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """On the device that waits: the line for a device that may approve."""
    asked = str(run(profile_folder(home, profile), Device.approval_request, retry_for_s=patience, verbose=verbose))
    say(asked, {"request": asked}, as_json, "ipls client vault sign, and this line, on a device that may approve")


@vault_app.command()
def sign(
    request: Annotated[str, typer.Argument(help="The line that `vault request` shows on the device that waits.")],
    profile: Name = "default",
    home: Home = HOME,
    as_json: Json = False,
) -> None:
    """On a device that may approve: sign for a device that waits, which you hold in your other hand."""
    asked = ApprovalRequest.parse(request)
    signed = str(local(profile_folder(home, profile), lambda device: device.sign_approval(asked)))
    say(signed, {"approval": signed}, as_json, "ipls client vault approve, and this line, on the device that waits")


@vault_app.command()
def approve(
    approval: Annotated[str, typer.Argument(help="The line that `vault sign` shows on the device that approves.")],
    profile: Name = "default",
    home: Home = HOME,
    patience: Patience = RETRY_FOR_S,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """On the device that waits: hand the approval to the vault, then `restore`."""
    signed = Approval.parse(approval)
    run(profile_folder(home, profile), lambda device: device.approve(signed), retry_for_s=patience, verbose=verbose)
    following = f"ipls client restore{options_for(profile, home)}"
    say("approved: this device need not wait any longer", {"approved": True}, as_json, following)
