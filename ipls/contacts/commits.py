"""Commits and what they hold, byte for byte: contacts.md, The line (docs/protocol/contacts.md). Pure.

Each has one encoding: what decodes is encoded to the very same bytes. Whether a commit may stand where it does,
`ipls.contacts.line` decides.
"""

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from ipls.contacts.errors import LineError
from ipls.contacts.sealing import ID_BYTES, MAX_SNAPSHOT, NAME_BYTES
from ipls.crypto.encoding import lp, tagged_hash, u32, u64
from ipls.crypto.keys import KEY_BYTES, SIGNATURE_BYTES

MAX_ENTRIES = 1000
MAX_BODY = (1 << 16) - 4
"""Bytes of a body: an edit of MAX_ENTRIES fits, and with the length before it what is sealed is a power of two."""
MAX_COMMIT = 1 << 17
"""Bytes of a commit: MAX_ENTRIES and their drops, MAX_DEVICES and their keys fit."""
MAX_DEVICES = 16
MAX_LINES = 64
SEED_BYTES = 16
REMOVED = bytes(NAME_BYTES)
"""The name that takes a contact out."""
KEY_ENVELOPE_BYTES = 1120 + 48
"""HPKE's encapsulated key, and the contact key sealed to a device."""

_COMMIT, _EDIT, _BASE, _MOVED = b"\2", 1, 2, 3


class ListedDevice(NamedTuple):
    """A linked device: its Ed25519 key and the SHA-256 of its KEM key."""

    key: bytes
    kem_hash: bytes


class DeviceList(NamedTuple):
    """All linked devices from a commit on, by key; `signature` is the identity's over `devices_digest`."""

    devices: tuple[ListedDevice, ...]
    signature: bytes

    def encode(self) -> bytes:
        """As it stands in a commit."""
        listed = b"".join(device.key + device.kem_hash for device in self.devices)
        return bytes([len(self.devices)]) + listed + self.signature

    @classmethod
    def decode(cls, data: bytes) -> "DeviceList":
        """The inverse. Raises LineError COMMIT_REFUSED."""
        rest = _Bytes(data)
        count = rest.number(1)
        devices = tuple(ListedDevice(rest.take(KEY_BYTES), rest.take(32)) for _ in range(count))
        signature = rest.take(SIGNATURE_BYTES)
        rest.end()
        if count > MAX_DEVICES:
            raise _refused(f"it lists more than {MAX_DEVICES} devices")
        _check_sorted([device.key for device in devices])
        return cls(devices, signature)


class Base(NamedTuple):
    """What a commit begins anew with: the snapshot's name and size, the write key from then on, and for each listed
    device the contact key, sealed to it (HPKE enc || 48 bytes)."""

    snapshot: bytes
    size: int
    write_key: bytes
    keys: tuple[tuple[bytes, bytes], ...]


class Commit(NamedTuple):
    """One commit: `drops` are the names of the records that it replaces or removes, `sealed` its body."""

    identity_version: int
    generation: int
    author: bytes
    devices: DeviceList | None
    base: Base | None
    drops: tuple[bytes, ...]
    sealed: bytes

    def encode(self) -> bytes:
        """The bytes that the chain hashes."""
        devices = base = b""
        if self.devices is not None:
            devices = self.devices.encode()
        if self.base is not None:
            keys = b"".join(key + sealed for key, sealed in self.base.keys)
            base = self.base.snapshot + u64(self.base.size) + self.base.write_key + bytes([len(self.base.keys)]) + keys
        return (
            _COMMIT
            + u64(self.identity_version)
            + u64(self.generation)
            + self.author
            + lp(devices)
            + lp(base)
            + lp(b"".join(self.drops))
            + lp(self.sealed)
        )

    @classmethod
    def decode(cls, data: bytes) -> "Commit":
        """The inverse of `encode`. Raises LineError COMMIT_REFUSED: another format, or not the one encoding."""
        if len(data) > MAX_COMMIT:
            raise _refused(f"it is over {MAX_COMMIT} bytes")
        rest = _Bytes(data)
        if rest.take(1) != _COMMIT:
            raise _refused("it is of another format")
        version, generation, author = rest.number(8), rest.number(8), rest.take(KEY_BYTES)
        devices, base, drops, sealed = (rest.take(rest.number(8)) for _ in range(4))
        rest.end()
        return cls(
            version,
            generation,
            author,
            DeviceList.decode(devices) if devices else None,
            _decode_base(base) if base else None,
            _decode_drops(drops),
            sealed,
        )


class Signed(NamedTuple):
    """A commit's bytes, its author's signature over `author_digest`, and the write key's over `write_digest`."""

    commit: bytes
    author: bytes
    write: bytes


class Link(NamedTuple):
    """What the chain needs of a commit: the key generation, and the SHA-256 of its bytes."""

    generation: int
    commit_hash: bytes


class Edit(NamedTuple):
    """The body of an edit: for each contact its record's new name, or REMOVED."""

    time_ms: int
    entries: tuple[tuple[bytes, bytes], ...]


class Left(NamedTuple):
    """The body of a base: the lines that come before this one, oldest first, and where the last of them was left."""

    time_ms: int
    lines: tuple[bytes, ...] = ()
    n: int = 0
    chain: bytes = bytes(32)


class Moved(NamedTuple):
    """The body of a line's last commit: where the account went."""

    time_ms: int
    label: str
    line: bytes
    identity_key: bytes


Body = Edit | Left | Moved


def encode_body(body: Body) -> bytes:
    """What is sealed in a commit."""
    match body:
        case Edit(time_ms, entries):
            return bytes([_EDIT]) + u64(time_ms) + u32(len(entries)) + b"".join(id + name for id, name in entries)
        case Left(time_ms, lines, n, chain):
            return bytes([_BASE]) + u64(time_ms) + bytes([len(lines)]) + b"".join(lines) + u64(n) + chain
        case Moved(time_ms, label, line, identity_key):
            return bytes([_MOVED]) + u64(time_ms) + lp(label.encode()) + line + identity_key


def decode_body(data: bytes) -> Body:
    """The inverse of `encode_body`. Raises LineError COMMIT_REFUSED."""
    rest = _Bytes(data)
    kind, time_ms = rest.number(1), rest.number(8)
    body: Body
    if kind == _EDIT:
        count = rest.number(4)
        if count > MAX_ENTRIES:
            raise _refused(f"an edit has {MAX_ENTRIES} entries at most")
        entries = tuple((rest.take(ID_BYTES), rest.take(NAME_BYTES)) for _ in range(count))
        if len(dict(entries)) != count:
            raise _refused("an edit names a contact twice")
        body = Edit(time_ms, entries)
    elif kind == _BASE:
        count = rest.number(1)
        if count > MAX_LINES:
            raise _refused(f"a base names {MAX_LINES} lines at most")
        body = Left(time_ms, tuple(rest.take(32) for _ in range(count)), rest.number(8), rest.take(32))
    elif kind == _MOVED:
        label = rest.take(rest.number(8))
        if not label.isascii():
            raise _refused("a number is ASCII")
        body = Moved(time_ms, label.decode(), rest.take(32), rest.take(KEY_BYTES))
    else:
        raise _refused("its body is of an unknown kind")
    rest.end()
    return body


def encode_snapshot(state: Mapping[bytes, bytes]) -> bytes:
    """What is sealed in a snapshot: the list in its order. Raises LineError LIST_TOO_LONG."""
    content = u32(len(state)) + b"".join(id + name for id, name in state.items())
    if len(content) > MAX_SNAPSHOT:
        raise LineError("LIST_TOO_LONG", f"a list of {len(state)} contacts and parts is longer than a line can hold")
    return content


def decode_snapshot(data: bytes) -> dict[bytes, bytes]:
    """The inverse of `encode_snapshot`. Raises LineError COMMIT_REFUSED."""
    size = ID_BYTES + NAME_BYTES
    count = int.from_bytes(data[:4], "big")
    if len(data) != 4 + count * size:
        raise _refused("its snapshot is cut off or too long")
    state = {data[at : at + ID_BYTES]: data[at + ID_BYTES : at + size] for at in range(4, len(data), size)}
    if len(state) != count or REMOVED in state.values():
        raise _refused("its snapshot names a contact twice, or one that is removed")
    return state


def fold(state: MutableMapping[bytes, bytes], entries: Iterable[tuple[bytes, bytes]]) -> None:
    """Change the list as an edit says: what is there keeps its place, what is new goes to the end."""
    for id, name in entries:
        if name == REMOVED:
            state.pop(id, None)
        else:
            state[id] = name


# Hashes


def line_id(namespace: str, label: str, seed: bytes) -> bytes:
    """chain_0; `seed`: the 16 random bytes that stay with it."""
    return tagged_hash("ipls/contacts/v2 line", namespace, label, seed)


def chain_link(n: int, before: bytes, link: Link) -> bytes:
    """chain_n, of chain_{n-1} and what stands at n."""
    return tagged_hash("ipls/contacts/v2 commit", n, before, link.generation, link.commit_hash)


def chain_digits(chain: bytes) -> str:
    """Eight digits of a chain, in two groups, that people compare: devices that show other ones for one commit were
    shown two lines by the store (contacts.md, What this can't give)."""
    number = f"{int.from_bytes(chain[:8]) % 10**8:08}"
    return f"{number[:4]} {number[4:]}"


def author_digest(chain: bytes) -> bytes:
    """What a commit's author signs, of its chain_n."""
    return tagged_hash("ipls/contacts/v2 author", chain)


def write_digest(chain: bytes) -> bytes:
    """What the write key signs, of the commit's chain_n."""
    return tagged_hash("ipls/contacts/v2 write", chain)


def devices_digest(namespace: str, label: str, n: int, identity_key: bytes, devices: Sequence[ListedDevice]) -> bytes:
    """What the identity signs of the list that commit n sets."""
    keys, hashes = (device.key for device in devices), (device.kem_hash for device in devices)
    return tagged_hash("ipls/contacts/v2 devices", namespace, label, n, identity_key, *keys, *hashes)


# What the sealed parts are bound to


def commit_aad(n: int, before: bytes) -> bytes:
    """Of the body of commit n, which follows chain_{n-1}."""
    return lp(b"commit") + u64(n) + before


def snapshot_aad(n: int, before: bytes) -> bytes:
    """Of the snapshot of base n: the list before it, at chain_{n-1}."""
    return lp(b"snapshot") + u64(n - 1) + before


def key_info(before: bytes, generation: int) -> bytes:
    """HPKE's info of a contact key that the base behind chain_{n-1} seals to a device."""
    return b"ipls/contacts/v2 key" + before + u64(generation)


# Decoding


class _Bytes:
    """What is left of an encoding."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, size: int) -> bytes:
        taken = self._data[self._at : self._at + size]
        if len(taken) != size:
            raise _refused("it is cut off")
        self._at += size
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def end(self) -> None:
        if self._at != len(self._data):
            raise _refused("something follows its end")


def _decode_base(data: bytes) -> Base:
    rest = _Bytes(data)
    snapshot, size, write_key, count = rest.take(NAME_BYTES), rest.number(8), rest.take(KEY_BYTES), rest.number(1)
    keys = tuple((rest.take(KEY_BYTES), rest.take(KEY_ENVELOPE_BYTES)) for _ in range(count))
    rest.end()
    _check_sorted([key for key, _ in keys])
    return Base(snapshot, size, write_key, keys)


def _decode_drops(data: bytes) -> tuple[bytes, ...]:
    rest = _Bytes(data)
    drops = [rest.take(NAME_BYTES) for _ in range(len(data) // NAME_BYTES)]
    rest.end()
    _check_sorted(drops)
    return tuple(drops)


def _check_sorted(values: Sequence[bytes]) -> None:
    if any(a >= b for a, b in pairwise(values)):
        raise _refused("its lists are not sorted, or hold something twice")


def _refused(what: str) -> LineError:
    return LineError("COMMIT_REFUSED", f"a commit is not what it must be: {what}")
