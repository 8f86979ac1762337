"""`ipls client contacts`: the address book on the command line, thin over `ipls.client.address_book`.

Tested by tests/cli/test_contacts.py.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.cells import cell_len, set_cell_size

from ipls.cli.opening import deliver, is_stream, local, read, run_both, say
from ipls.cli.options import HOME, Endpoints, Home, Json, Name, Patience, Verbose, options_for, profile_folder
from ipls.cli.pictures import drawn
from ipls.client.access import when
from ipls.client.address_book import PLACED, Listed, OpenConflict, Settlement
from ipls.client.calls import RETRY_FOR_S
from ipls.client.device import Device
from ipls.client.errors import ProfileError
from ipls.contacts.cards.editing import Changes
from ipls.contacts.cards.reading import describe_card, pictures
from ipls.contacts.contact_code import ContactCode
from ipls.contacts.envelope import Placement

app = typer.Typer(
    no_args_is_help=True,
    help="The contacts of this profile. All of it works offline; `ipls client store` sends what was changed.",
)

Id = Annotated[str, typer.Argument(help="The id, or as many of its first digits as are unique.")]
Numbers = Annotated[list[str] | None, typer.Option("--add-number", help="A number more; may be given several times.")]
Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="As `list` shows them, or their first digits.")]
To = Annotated[str, typer.Option("--to", metavar="PROFILE", help="The other profile's name.")]
OnlyIpls = Annotated[
    bool | None, typer.Option("--only-ipls/--address-book", help="Only in IPLS, or also in the phone's address book.")
]
Emails = Annotated[list[str] | None, typer.Option("--add-email", help="An address more.")]


_HOW: tuple[Settlement, ...] = ("keep", "take", "both")


class Layout(StrEnum):
    """What an export is read by."""

    VCARD = "vcard"
    GOOGLE = "google"
    OUTLOOK = "outlook"


@app.command("import")
def import_(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE...", help="Exported address books, .vcf or .csv; - for standard input."),
    ] = None,
    endpoints: Endpoints = None,
    again: Annotated[bool, typer.Option("--again", help="Take also what was removed here since.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would become of the cards.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Take back the newest import, and read no file.")] = False,
    profile: Name = "default",
    home: Home = HOME,
    as_json: Json = False,
) -> None:
    """Take in address books, all or none: vCards 2.1, 3.0 and 4.0, and the CSV of Google, Outlook and Thunderbird.

    A card with the UID of a contact changes that one; what is no card is reported with its line, and the rest goes on.
    Exit status 1 if a file has no readable card. `--undo` takes all of it back.
    """
    if undo == bool(files) or (undo and (again or dry_run)):
        raise typer.BadParameter("say one or more FILE, or --undo alone")
    if undo:
        _undo(profile_folder(home, profile), as_json, "import")
        return
    files = files or []
    books = [sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes() for file in files]

    outcomes = local(
        profile_folder(home, profile),
        lambda device: device.address_book.import_cards(*books, again=again, dry_run=dry_run),
        endpoints,
    )
    empty = False
    for file, one in zip(files, outcomes, strict=True):
        for bad in one.bad:
            print(f"{file}:{bad.line}: bad, {bad.reason}", file=sys.stderr)
        for line in one.large:
            print(
                f"{file}:{line}: its largest values stay on this device: they are more than is stored", file=sys.stderr
            )
        for line in one.shared_uids:
            print(f"{file}:{line}: another person has this card's UID; it got one of its own", file=sys.stderr)
        if not one.readable:
            empty = True
            print(f"{file}: no card found; is it an exported address book (.vcf, .csv)?", file=sys.stderr)
    counts = {name: sum(getattr(one, name) for one in outcomes) for name in ("new", "changed", "same", "removed")}
    rejected = [
        {"file": str(file), "line": bad.line, "reason": bad.reason}
        for file, one in zip(files, outcomes, strict=True)
        for bad in one.bad
    ]
    conflicts = sum(one.conflicts for one in outcomes)
    if conflicts:
        print(f"{conflicts} contacts had changes here that gave way: ipls client contacts conflicts", file=sys.stderr)
    text = f"{'would import' if dry_run else 'imported'}: {counts['new']} new, {counts['changed']} changed,"
    text += f" {counts['same']} the same, {counts['removed']} removed here before, {len(rejected)} bad"
    sent_by = f"ipls client store{options_for(profile, home)}"
    following = sent_by if not dry_run and counts["new"] + counts["changed"] else ""
    say(text, counts | {"bad": rejected, "conflicts": conflicts, "dry_run": dry_run}, as_json, following)
    if empty:
        raise typer.Exit(1)


@app.command("list")
def list_(profile: Name = "default", home: Home = HOME, as_json: Json = False) -> None:
    """Everybody, by name: id, name, numbers; and who of them is known to be on the service: `contacts keys`."""

    def at_work(device: Device) -> tuple[list[Listed], Placement, dict[str, int]]:
        contacts = device.address_book.contacts()
        return contacts, device.address_book.placement, device.on_service(contacts)

    contacts, placement, on_service = read(profile_folder(home, profile), at_work)
    for contact in contacts:
        _show(contact, as_json, on_service.get(contact.id, 0))
    if not as_json:
        print(f"new contacts are {PLACED[placement]}", file=sys.stderr)


@app.command()
def find(
    text: Annotated[str, typer.Argument(help="Parts of a name, number, address, organisation, nickname or note.")],
    profile: Name = "default",
    home: Home = HOME,
    as_json: Json = False,
) -> None:
    """Whom this finds, best first: in any order, case and script, with or without accents; a number in any spelling."""
    for contact in read(profile_folder(home, profile), lambda device: device.address_book.find(text)):
        _show(contact, as_json)


@app.command()
def show(
    id: Id,
    raw: Annotated[bool, typer.Option("--raw", help="The card byte for byte.")] = False,
    profile: Name = "default",
    home: Home = HOME,
    as_json: Json = False,
) -> None:
    """One contact: all that its card says, what a terminal would not show made visible, pictures drawn if it can."""

    def at_work(device: Device) -> tuple[bytes, Listed, list[OpenConflict]]:
        book = device.address_book
        return book.card(id), book.contact(id), book.conflicts(id)

    card, contact, conflicts = read(profile_folder(home, profile), at_work)
    if raw:
        sys.stdout.buffer.write(card + b"\n")
        return
    lines = describe_card(card)
    width = max((len(label) for label, _ in lines), default=0)
    text = [f"{label:<{width}}  {value}" for label, value in lines]
    text += [f"conflict {each.number}: {_gave_way(each)}" for each in conflicts]
    value = {
        "lines": [{"label": label, "value": value} for label, value in lines],
        "conflicts": [_conflict(each) for each in conflicts],
        "only_ipls": contact.only_ipls,
    }
    say("\n".join([*text, *(["only in IPLS"] if contact.only_ipls else [])]), value, as_json)
    if sys.stdout.isatty() and not as_json:
        print("".join(drawn(picture, os.environ) for picture in pictures(card)), end="")


@app.command()
def add(
    name: Annotated[str | None, typer.Argument(help="The name, where a code does not give it.")] = None,
    code: Annotated[str | None, typer.Option(help="A contact code: a name and a number.")] = None,
    number: Annotated[list[str] | None, typer.Option(help="A number; may be given several times.")] = None,
    email: Annotated[list[str] | None, typer.Option(help="An address.")] = None,
    only_ipls: OnlyIpls = None,
    endpoints: Endpoints = None,
    profile: Name = "default",
    home: Home = HOME,
    as_json: Json = False,
) -> None:
    """A new contact; only in IPLS, or also in the phone's address book, as `contacts place` has it for new ones."""
    numbers = number or []
    if code is not None:
        read_code = ContactCode.parse(code)
        name, numbers = name or read_code.name, [read_code.label, *numbers]
    changes = Changes(_filled(name or ""), add_numbers=numbers, add_emails=email or ())
    placement = None if only_ipls is None else _placement(only_ipls)
    added = local(profile_folder(home, profile), lambda device: device.address_book.add(changes, placement), endpoints)
    _show(added, as_json)
    if not as_json:
        print(f"it is {PLACED[_placement(added.only_ipls)]}", file=sys.stderr)


@app.command()
def edit(
    id: Id,
    name: Annotated[str | None, typer.Option(help="Another name.")] = None,
    add_number: Numbers = None,
    remove_number: Annotated[list[str] | None, typer.Option(help="A number to take out, in any spelling.")] = None,
    add_email: Emails = None,
    remove_email: Annotated[list[str] | None, typer.Option(help="An address to take out.")] = None,
    profile: Name = "default",
    home: Home = HOME,
    as_json: Json = False,
) -> None:
    """Change a contact: these lines of its card, and no other byte. Without options, its card opens in $EDITOR."""
    folder = profile_folder(home, profile)
    changes = Changes(
        None if name is None else _filled(name),
        add_number or (),
        remove_number or (),
        add_email or (),
        remove_email or (),
    )
    if changes != Changes():
        contact = local(folder, lambda device: device.address_book.edit(id, changes))
    else:
        before = read(folder, lambda device: device.address_book.card(id))
        after = _in_editor(before)
        contact = local(folder, lambda device: device.address_book.replace(id, before, after))
    _show(contact, as_json)


@app.command()
def place(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID...]", help="Whom; without one: the contacts that are new.")
    ] = None,
    only_ipls: OnlyIpls = None,
    profile: Name = "default",
    home: Home = HOME,
    as_json: Json = False,
) -> None:
    """Have contacts only in IPLS, or also in the phone's address book: what `sync` and `serve-dav` give out.

    Without ID it is said of new contacts; without an option, told. Who is to be only in IPLS is taken out of each
    folder at its next `sync`, and of what `serve-dav` shows; what was changed there last is kept here.
    """
    folder = profile_folder(home, profile)
    if only_ipls is None:
        if ids:
            raise typer.BadParameter("say --only-ipls or --address-book")
        placement = read(folder, lambda device: device.address_book.placement)
    else:
        placement = _placement(only_ipls)
        if ids:
            for contact in local(folder, lambda device: device.address_book.place(ids, placement)):
                _show(contact, as_json)
            return
        local(folder, lambda device: device.address_book.place_new(placement))
    only = placement == Placement.IPLS_ONLY
    say(f"new contacts are {PLACED[placement]}", {"only_ipls": only}, as_json)


@app.command()
def copy(ids: Ids, to: To, profile: Name = "default", home: Home = HOME, as_json: Json = False) -> None:
    """Have contacts in another profile's account, too. What that has of them already stays; what differs is a conflict
    there. Its next `store` sends them."""

    async def at_work(device: Device, other: Device) -> list[Listed]:
        return device.copy_contacts(ids, other)

    folder, beside = _both(home, profile, to)
    for contact in run_both(folder, beside, at_work):
        say(f"copied to {to}: {_line(contact)}", contact._asdict() | {"to": to}, as_json)


@app.command()
def move(
    ids: Ids,
    to: To,
    profile: Name = "default",
    home: Home = HOME,
    patience: Patience = RETRY_FOR_S,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Have contacts in another profile's account, and not in this one: stored there before they are removed here.

    What was cut off goes on when it is run again. `ipls client store` sends the removal.
    """

    async def at_work(device: Device, other: Device) -> list[Listed]:
        return await device.move_contacts(ids, other)

    folder, beside = _both(home, profile, to)
    for contact in run_both(folder, beside, at_work, retry_for_s=patience, verbose=verbose):
        say(f"moved to {to}: {_line(contact)}", contact._asdict() | {"to": to}, as_json)


@app.command()
def remove(
    ids: Ids,
    profile: Name = "default",
    home: Home = HOME,
    as_json: Json = False,
) -> None:
    """Remove contacts; `contacts undo` brings them back for 30 days."""
    for contact in local(profile_folder(home, profile), lambda device: device.address_book.remove(ids)):
        say(f"removed: {_line(contact)}", contact._asdict(), as_json)


@app.command()
def groups(profile: Name = "default", home: Home = HOME, as_json: Json = False) -> None:
    """The groups and who is in them. None is a person: not in `list` and `find`; `show` and `remove` take its id."""
    for group in read(profile_folder(home, profile), lambda device: device.address_book.groups()):
        absent = f" ({group.absent} more are not in the list)" if group.absent else ""
        lines = [f"{group.id[:8]}  {group.name}{absent}", *(f"  {_line(member)}" for member in group.members)]
        say("\n".join(lines), group._asdict() | {"members": [each._asdict() for each in group.members]}, as_json)


@app.command()
def duplicates(profile: Name = "default", home: Home = HOME, as_json: Json = False) -> None:
    """Pairs that may be one person; nothing is merged unasked. `contacts merge` or `contacts apart` settles one."""
    for pair in read(profile_folder(home, profile), lambda device: device.address_book.duplicates()):
        first, second = _line(pair.first), _line(pair.second)
        value = {"first": pair.first._asdict(), "second": pair.second._asdict(), "why": pair.why}
        say(f"{first}\n{second}\n  the same {pair.why}", value, as_json)


@app.command()
def merge(
    id: Id,
    other: Annotated[str, typer.Argument(help="The other's id.")],
    profile: Name = "default",
    home: Home = HOME,
    as_json: Json = False,
) -> None:
    """Make one contact of two: the first, with all that the second says besides."""
    _show(local(profile_folder(home, profile), lambda device: device.address_book.merge(id, other)), as_json)


@app.command()
def apart(
    id: Id,
    other: Annotated[str, typer.Argument(help="The other's id.")],
    profile: Name = "default",
    home: Home = HOME,
    as_json: Json = False,
) -> None:
    """Say that two contacts are two people: `duplicates` proposes them no more."""
    local(profile_folder(home, profile), lambda device: device.address_book.keep_apart(id, other))
    say(f"apart: {id} and {other} are proposed as one person no more", {"first": id, "second": other}, as_json)


@app.command()
def conflicts(
    id: Annotated[str | None, typer.Argument(help="Of this contact alone.")] = None,
    profile: Name = "default",
    home: Home = HOME,
    as_json: Json = False,
) -> None:
    """What two devices, or a device and an address book, changed alike: what stands, and what gave way, from where."""
    last = ""
    for each in read(profile_folder(home, profile), lambda device: device.address_book.conflicts(id)):
        heading = "" if each.contact.id == last else f"{_line(each.contact)}\n"
        last = each.contact.id
        here = " | ".join(each.here) or "nothing"
        text = f"{heading}  {each.number}  {each.property}: {here}\n     gave way: {_gave_way(each)}"
        say(text, {"id": each.contact.id, "name": each.contact.name} | _conflict(each), as_json)
    if last and not as_json:
        print("next: ipls client contacts settle ID [NUMBER...] --keep | --take | --both", file=sys.stderr)


@app.command()
def settle(
    id: Id,
    numbers: Annotated[
        list[int] | None, typer.Argument(metavar="[NUMBER...]", help="As `conflicts` has them; all, if none is named.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="What the contact says stays.")] = False,
    take: Annotated[bool, typer.Option("--take", help="What gave way stands in its place.")] = False,
    both: Annotated[
        bool, typer.Option("--both", help="Both stand in the contact, where a card can have both.")
    ] = False,
    profile: Name = "default",
    home: Home = HOME,
    as_json: Json = False,
) -> None:
    """Settle conflicts of a contact; `contacts undo` takes it back, and `ipls client store` tells the other devices."""
    given: list[Settlement] = [how for how, is_given in zip(_HOW, (keep, take, both), strict=True) if is_given]
    if len(given) != 1:
        raise typer.BadParameter("say one of --keep, --take and --both")
    folder = profile_folder(home, profile)
    _show(local(folder, lambda device: device.address_book.settle(id, given[0], numbers or ())), as_json)


@app.command()
def undo(profile: Name = "default", home: Home = HOME, as_json: Json = False) -> None:
    """Take back what was newest done to contacts in the last 30 days: an import, sync, edit, removal and so on."""
    _undo(profile_folder(home, profile), as_json)


def _undo(folder: Path, as_json: bool, what: str | None = None) -> None:
    undone = local(folder, lambda device: device.address_book.undo(what))
    kept = f"; {undone.kept} were changed since and stay" if undone.kept else ""
    say(f"undone: the {undone.what} of {when(undone.ms)}, {undone.contacts} contacts{kept}", undone._asdict(), as_json)


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="The file to write; - for standard output.")],
    layout: Annotated[
        Layout, typer.Option("--format", help="vCards, or a table for Google or Outlook.")
    ] = Layout.VCARD,
    force: Annotated[bool, typer.Option("--force", help="Also over a file that is no address book.")] = False,
    profile: Name = "default",
    home: Home = HOME,
    as_json: Json = False,
) -> None:
    """All cards as one address book, byte for byte, in the order in which they came."""
    if as_json and (str(file) == "-" or is_stream(file)):
        raise typer.BadParameter("the cards go to standard output", param_hint="--json")
    if not force and file.is_file() and file.stat().st_size and not _is_book(file):
        raise ProfileError("FILE_EXISTS", f"{file} is there, and is no address book")
    data, count = read(
        profile_folder(home, profile),
        lambda device: (device.address_book.export(layout.value), len(device.address_book.cards())),
    )
    value = {"contacts": count, "file": str(file)}
    deliver(file, data, f"exported: {count} contacts to {file}", value, as_json)


def _show(contact: Listed, as_json: bool, epoch: int = 0) -> None:
    """`epoch`: that of its key, where it is known to be on the service."""
    line = _line(contact, epoch)
    if not as_json and sys.stdout.isatty():
        columns = shutil.get_terminal_size().columns
        if cell_len(line) > columns:  # letters of East Asia take two
            line = set_cell_size(line, columns - 1) + "…"
    say(line, contact._asdict() | ({"on_service_epoch": epoch} if epoch else {}), as_json)


def _line(contact: Listed, epoch: int = 0) -> str:
    if contact.unreadable:
        return f"{contact.id[:8]}  (damaged on this device; store brings back what is stored, remove lets it go)"
    notes = [f"on the service, epoch {epoch}"] if epoch else []
    notes += ["only in IPLS"] * contact.only_ipls
    notes += [f"{contact.conflicts} to settle: contacts conflicts"] if contact.conflicts else []
    said = f"{contact.id[:8]}  {contact.name}  {', '.join(contact.numbers)}".rstrip()
    return f"{said}  ({'; '.join(notes)})" if notes else said


def _gave_way(conflict: OpenConflict) -> str:
    return f"{conflict.other} (from {conflict.wrote}, {when(conflict.ms)})"


def _conflict(conflict: OpenConflict) -> dict[str, Any]:
    value = conflict._asdict()
    del value["contact"]
    return value


def _both(home: Path, profile: str, to: str) -> tuple[Path, Path]:
    if profile == to:
        raise typer.BadParameter("that is the profile that they are in", param_hint="--to")
    return profile_folder(home, profile), profile_folder(home, to, hint="--to")


def _placement(only_ipls: bool) -> Placement:
    return Placement.IPLS_ONLY if only_ipls else Placement.ADDRESS_BOOK


def _filled(name: str) -> str:
    if not name.strip():
        raise typer.BadParameter("a name has letters")
    return name


def _in_editor(card: bytes) -> bytes:
    """The card as the person leaves it. It lies in a folder of the person's own meanwhile, in memory where there is
    such a one."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    with tempfile.TemporaryDirectory(dir=os.environ.get("XDG_RUNTIME_DIR") or None) as folder:
        file = Path(folder) / "contact.vcf"
        file.write_bytes(card + b"\r\n")
        try:
            ended = subprocess.run([*shlex.split(editor), file])
        except OSError as error:
            raise ProfileError("EDITOR_FAILED", f"{editor}: {error.strerror}") from error
        if ended.returncode:
            raise ProfileError("EDITOR_FAILED", f"{editor} ended with status {ended.returncode}: nothing is changed")
        return file.read_bytes()


def _is_book(file: Path) -> bool:
    with file.open("rb") as opened:
        start = opened.read(1 << 20)
    return b"BEGIN:VCARD" in start.upper()
