"""A folder of vCards as a side, as khard and vdirsyncer keep one: any file with a card in it, and several cards in one.

What is hidden, ends in .tmp or is a folder is passed over. The href of a card that is alone in its file is the file's
name; of several, that, a slash and its UID, or the name that is shown of it where it has none.
"""

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ipls.client.addressbook.shadows import Shadow
from ipls.client.addressbook.side import Bad, ChangedMeanwhile, Listing, Seen, Side
from ipls.client.errors import SideError
from ipls.contacts.cards.lines import Card, Skipped, split_cards, utf8
from ipls.contacts.cards.reading import read_card, read_person
from ipls.contacts.whole import unkeepable
from ipls.crypto.encoding import u64
from ipls.store.files import read_bounded, replace, sync, write_new

MARKER = ".ipls"
"""Tells the folder from another in its place: one that is empty from one that is not mounted."""
MAX_FILE = 1 << 28
"""Bytes; a larger one is no file of cards."""
NO_CARD = "no card in it"
TWICE = "the same UID, or name, stands twice in the file"
_RACY_NS = 2_000_000_000
"""What was changed so lately may be changed again and look the same: file systems count time in steps."""
_AS_IT_WAS = 0o777  # a file that is there keeps its mode


class Folder(Side):
    """Other programs write there at any time. Who replaces a file in the instant between our last look at it and our
    replacement of it loses that write, as with any two programs that keep such a folder."""

    def __init__(self, path: Path, clock_ns: Callable[[], int] = time.time_ns) -> None:
        """`clock_ns`: the file system's."""
        self.path = path.resolve()
        self._clock_ns = clock_ns
        self.id = f"folder:{_text(os.fsencode(self.path))}"

    def listing(self, token: str, shadows: Mapping[str, Shadow]) -> Listing:
        """See `Side`. No file is read that looks as it did."""
        known: dict[str, list[Shadow]] = defaultdict(list)
        for shadow in shadows.values():
            known[shadow.href.partition("/")[0]].append(shadow)
        try:
            with os.scandir(self.path) as entries:
                there = {entry.name: entry for entry in entries}
        except OSError as error:
            raise SideError("SIDE_AWAY", f"{self.path} can't be read: {error.strerror}") from error
        if token and self._token() != token:
            raise SideError("SIDE_AWAY", f"{self.path} is not the folder that was synced with: its {MARKER} is missing")
        found, now_ns = Listing({}, [], set(), set(there)), self._clock_ns()
        for name in sorted(there):
            if name.startswith(".") or name.lower().endswith(".tmp"):
                continue
            try:
                if there[name].is_file():
                    self._look(name, _stamp(there[name].stat(), now_ns), known[name], found)
            except FileNotFoundError:  # it went after the listing
                continue
            except (OSError, UnicodeEncodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "its name is not UTF-8"
                found.bad.append(Bad(_text(os.fsencode(name)), 0, reason or ""))
                found.held.update(shadow.href for shadow in known[name])
        return found

    def adopt(self, token: str) -> None:
        """See `Side`."""
        replace(self.path / MARKER, f"{token}\n".encode())

    def write(self, href: str, card: bytes, there: bytes | None) -> None:
        """See `Side`."""
        path = self._path(href)
        if there is not None:
            before, after = _around(path, there)
            replace(path, before + card + after, mode=_AS_IT_WAS)
            return
        try:
            write_new(path, card + b"\r\n")
        except FileExistsError:
            raise ChangedMeanwhile from None

    def remove(self, href: str, there: bytes) -> None:
        """See `Side`."""
        path = self._path(href)
        before, after = _around(path, there)
        if rest := before + after.lstrip(b"\r\n"):
            replace(path, rest, mode=_AS_IT_WAS)
        else:
            path.unlink()
            sync(self.path)

    def _path(self, href: str) -> Path:
        return self.path / href.partition("/")[0]

    def _token(self) -> str | None:
        try:
            return _text(read_bounded(self.path / MARKER, 100)).strip()
        except OSError:
            return None

    def _look(self, name: str, stamp: bytes, known: list[Shadow], found: Listing) -> None:
        """Add what is in a file. Raises OSError, UnicodeEncodeError: its name is none that can be kept."""
        name.encode()
        if known and stamp and all(shadow.mark == u64(len(known)) + stamp for shadow in known):
            found.seen.update({shadow.href: Seen(shadow.card, shadow.mark) for shadow in known})
            return
        parts = [_keepable(part) for part in split_cards(read_bounded(self.path / name, MAX_FILE))]
        mark = u64(len(parts)) + stamp if stamp else b""
        for part in parts:
            if not isinstance(part, Card):
                found.bad.append(Bad(name, part.line, part.reason))
                continue
            href = name if len(parts) == 1 else f"{name}/{read_person(part.data).uid or read_card(part.data).name}"
            if href in found.seen:
                found.bad.append(Bad(name, part.line, TWICE))
            else:
                found.seen[href] = Seen(part.data, mark)
        if not parts and name.lower().endswith(".vcf"):
            found.bad.append(Bad(name, 0, NO_CARD))
        if not parts or not all(isinstance(part, Card) for part in parts):
            # What is missing may be in what can't be read.
            found.held.update({shadow.href for shadow in known} - found.seen.keys())


def _keepable(part: Card | Skipped) -> Card | Skipped:
    reason = unkeepable(part.data) if isinstance(part, Card) else ""
    return Skipped(part.line, reason) if reason else part


def _stamp(status: os.stat_result, now_ns: int) -> bytes:
    """Other bytes for other contents; empty where it is too early to tell."""
    if max(status.st_mtime_ns, status.st_ctime_ns) > now_ns - _RACY_NS:
        return b""
    return b"".join(map(u64, (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)))


def _around(path: Path, card: bytes) -> tuple[bytes, bytes]:
    """What stands before and after a card in its file. Raises ChangedMeanwhile, OSError."""
    try:
        data = utf8(read_bounded(path, MAX_FILE))
    except FileNotFoundError:
        raise ChangedMeanwhile from None
    end = 0
    for each in _cards(data):
        start = data.index(each, end)
        end = start + len(each)
        if each == card:
            return data[:start], data[end:]
    raise ChangedMeanwhile


def _cards(data: bytes) -> Iterator[bytes]:
    return (part.data for part in split_cards(data) if isinstance(part, Card))


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")
