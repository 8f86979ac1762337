"""The logic of `ipls verify vectors` and `ipls verify proofs`: conformance files of the directory, JSON a line.

A file holds one directory's story: a `key` line, then `epoch`, `lookup` and `history` lines. `replay_vectors` publishes
the story again and compares everything; `check_proofs` judges each line's proof by itself.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ipls.akd import (
    EMPTY_ROOT,
    AkdError,
    DirectoryKey,
    MemoryTiles,
    Update,
    Version,
    make_append_only,
    make_history,
    make_lookup,
    publish,
    verify_append_only,
    verify_history,
    verify_lookup,
)
from ipls.akd.messages import decode_append_only, decode_history
from ipls.errors import IplsError


class ConformanceError(IplsError):
    """The first difference between a vectors file and its replay: line number (from 1) and what differs."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__("VECTORS_DIFFER", f"line {line}: {what}")
        self.line = line
        self.what = what


class Counts(NamedTuple):
    """How much a replay compared and verified."""

    epochs: int
    updates: int
    append_only_proofs: int
    lookup_proofs: int
    history_proofs: int


class ProofReport(NamedTuple):
    """Line numbers (from 1) of accepted proofs, and of refused lines with their reasons."""

    accepted: list[int]
    refused: list[tuple[int, str]]


class _LineError(IplsError):
    """A line that cannot be read, or that claims something else than is so."""

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


class _Differs(IplsError):
    """A line that is not what comes here in the replay."""

    def __init__(self, what: str) -> None:
        super().__init__("VECTORS_DIFFER", what)


class _Line:
    """One line's fields, each checked for its type as it is read."""

    def __init__(self, text: bytes) -> None:
        try:
            fields = json.loads(text, object_pairs_hook=_distinct)
        except (ValueError, RecursionError):
            raise _LineError("MALFORMED", "not JSON") from None
        if not isinstance(fields, dict):
            raise _LineError("MALFORMED", "not a JSON object")
        self.fields: dict[str, Any] = fields

    def get(self, name: str) -> Any:
        if name not in self.fields:
            raise _LineError("MALFORMED", f"field '{name}' is missing")
        return self.fields[name]

    def text(self, name: str) -> str:
        value = self.get(name)
        if not isinstance(value, str):
            raise _LineError("MALFORMED", f"field '{name}' is not a string")
        return value

    def number(self, name: str) -> int:
        return _number(self.get(name), name)

    def octets(self, name: str) -> bytes:
        return _octets(self.get(name), name)

    def rows(self, name: str, *columns: Callable[[Any, str], Any]) -> list[tuple[Any, ...]]:
        """A list of lists, each with these columns."""
        rows = self.get(name)
        if not isinstance(rows, list):
            raise _LineError("MALFORMED", f"field '{name}' is not a list")
        for row in rows:
            if not isinstance(row, list) or len(row) != len(columns):
                raise _LineError("MALFORMED", f"field '{name}' does not hold rows of {len(columns)}")
        return [tuple(column(cell, name) for column, cell in zip(columns, row, strict=True)) for row in rows]


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object's fields; readers disagree on what a field that stands twice is."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise _LineError("MALFORMED", "a field stands twice")
    return fields


def _number(value: Any, name: str) -> int:
    if type(value) is not int or not 0 <= value < 2**64:
        raise _LineError("MALFORMED", f"field '{name}' is not a 64-bit number")
    return value


def _octets(value: Any, name: str) -> bytes:
    try:
        octets = bytes.fromhex(value)
    except (TypeError, ValueError):
        octets = None
    if octets is None or octets.hex() != value.lower():
        raise _LineError("MALFORMED", f"field '{name}' is not hex")
    return octets


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that hold anything, with their numbers."""
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            if text.strip():
                yield number, text


# --- ipls verify proofs ---------------------------------------------------------------------------------------------


def check_proofs(path: Path) -> ProofReport:
    """Checks each line's proof by itself against the line's own root and epoch; goes on after a refusal.

    A proof must also show what its line says it shows: versions, epochs and values, counts where given. A `key` line
    sets the VRF key for the lines after it. `key` lines and epoch 0, which holds no proof, are not counted as
    accepted, but refused where they are wrong. Raises OSError where the file cannot be read.
    """
    report = ProofReport([], [])
    vrf_public_key: bytes | None = None
    for number, text in _lines(path):
        try:
            line = _Line(text)
            kind = line.text("kind")
            if kind == "key":
                vrf_public_key = line.octets("vrf_public_key")
            elif kind == "epoch":
                if _check_epoch(line):
                    report.accepted.append(number)
            elif kind not in ("lookup", "history"):
                raise _LineError("MALFORMED", "unknown kind")
            elif vrf_public_key is None:
                raise _LineError("KEY_MISSING", "no key line stands before this proof")
            else:
                (_check_lookup if kind == "lookup" else _check_history)(line, vrf_public_key)
                report.accepted.append(number)
        except (_LineError, AkdError) as error:
            report.refused.append((number, str(error)))
    return report


def _claim(what: str, said: object, shown: object) -> None:
    if said != shown:
        raise _LineError("CLAIM", f"the proof does not show the line's {what}")


def _claim_count(line: _Line, name: str, shown: int) -> None:
    if name in line.fields:
        _claim(f"'{name}'", line.number(name), shown)


def _check_epoch(line: _Line) -> bool:
    """Whether the line holds a proof, checked; epoch 0 holds none."""
    epoch, root = line.number("epoch"), line.octets("root")
    if epoch == 0:
        _claim("root of the empty tree", root, EMPTY_ROOT)
        if "append_only" in line.fields:
            raise _LineError("MALFORMED", "no step leads to epoch 0")
        return False
    parts = line.text("name").split("/")
    if len(parts) != 3 or parts[0] != str(epoch) or parts[2] != root.hex():
        raise _LineError("CLAIM", "'name' is not epoch/old root/root")
    proof = line.octets("append_only")
    verify_append_only(_octets(parts[1], "name"), root, epoch, proof)
    step = decode_append_only(proof)
    _claim_count(line, "inserted", len(step.inserted))
    _claim_count(line, "unchanged", len(step.unchanged))
    return True


def _check_lookup(line: _Line, vrf_public_key: bytes) -> None:
    claimed = Version(line.number("version"), line.number("value_epoch"), line.octets("value"))
    shown = verify_lookup(
        line.octets("root"), line.number("epoch"), vrf_public_key, line.octets("label"), line.octets("proof")
    )
    _claim("version, value_epoch and value", claimed, shown)


def _check_history(line: _Line, vrf_public_key: bytes) -> None:
    claimed = line.rows("versions", _number, _number, _octets)
    proof = line.octets("proof")
    shown = verify_history(
        line.octets("root"),
        line.number("epoch"),
        vrf_public_key,
        line.octets("label"),
        proof,
        most_recent=line.number("most_recent"),
    )
    _claim("versions", claimed, list(shown))
    history = decode_history(proof)
    _claim_count(line, "past_markers", len(history.past_markers))
    _claim_count(line, "future_markers", len(history.future_markers))


# --- ipls verify vectors --------------------------------------------------------------------------------------------


def replay_vectors(path: Path) -> Counts:
    """Publishes a vectors file's updates into a fresh directory made from its seed and compares every field.

    Lookup and history proofs are compared byte for byte, append-only proofs as sets, and every proof is verified.
    Raises ConformanceError at the first difference, OSError where the file cannot be read.
    """
    replay: _Replay | None = None
    number = 0
    for number, text in _lines(path):
        try:
            line = _Line(text)
            kind = line.text("kind")
            if replay is None:
                if kind != "key":
                    raise _Differs("the first line is not the key")
                replay = _Replay(line)
            elif kind == "epoch":
                replay.epoch(line)
            elif kind == "lookup":
                replay.lookup(line)
            elif kind == "history":
                replay.history(line)
            elif kind == "key":
                raise _Differs("a second key")
            else:
                raise _LineError("MALFORMED", "unknown kind")
        except (_LineError, _Differs, AkdError) as error:
            raise ConformanceError(number, str(error)) from None
    if replay is None or not replay.roots:
        raise ConformanceError(number + 1, "the file ends before epoch 0")
    return Counts(len(replay.roots), replay.updates, len(replay.roots) - 1, replay.lookups, replay.histories)


class _Replay:
    """The directory published again as the file goes on."""

    def __init__(self, line: _Line) -> None:
        self._key = DirectoryKey.from_seed(line.octets("vrf_seed"))
        self._tiles = MemoryTiles()
        self._depth = 0
        self._versions: dict[bytes, list[Version]] = {}  # newest first
        self.roots: list[bytes] = []
        self.updates = self.lookups = self.histories = 0
        _compare(line, vrf_seed=line.get("vrf_seed"), vrf_public_key=self._key.public_key.hex())

    def epoch(self, line: _Line) -> None:
        epoch = len(self.roots)
        if line.number("epoch") != epoch:
            raise _Differs(f"'epoch' differs: {epoch} comes here")
        if epoch == 0:
            _compare(line, epoch=0, root=EMPTY_ROOT.hex())
            self.roots.append(EMPTY_ROOT)
            return
        updates = [
            Update(label, value, next(iter(self._versions.get(label, [])), None))
            for label, value in line.rows("updates", _octets, _octets)
        ]
        publication = publish(self._tiles, self._key, epoch - 1, self.roots[-1], self._depth, updates)
        if publication is None:
            raise _Differs("'updates' change nothing, so they make no epoch")
        self._tiles.write(publication.rows)
        theirs = decode_append_only(line.octets("append_only"))
        for blob in (publication.blob, make_append_only(self._tiles, epoch)):
            ours = decode_append_only(blob)
            if sorted(ours.inserted) != sorted(theirs.inserted) or sorted(ours.unchanged) != sorted(theirs.unchanged):
                raise _Differs("'append_only' differs")
        _compare(
            line,
            epoch=epoch,
            root=publication.new_root.hex(),
            updates=line.get("updates"),
            name=f"{epoch}/{publication.old_root.hex()}/{publication.new_root.hex()}",
            append_only=line.get("append_only"),
            inserted=len(ours.inserted),
            unchanged=len(ours.unchanged),
        )
        _check_epoch(line)
        self._depth = publication.depth
        self.roots.append(publication.new_root)
        self.updates += len(updates)
        for label, version in publication.versions:
            self._versions.setdefault(label, []).insert(0, version)

    def lookup(self, line: _Line) -> None:
        epoch, label, versions = self._asked(line)
        current = versions[0]
        proof = make_lookup(self._tiles, self._key, epoch, self._depth, label, current)
        _compare(
            line,
            epoch=epoch,
            root=self.roots[epoch].hex(),
            label=label.hex(),
            value=current.value.hex(),
            version=current.version,
            value_epoch=current.epoch,
            proof=proof.hex(),
        )
        _check_lookup(line, self._key.public_key)
        self.lookups += 1

    def history(self, line: _Line) -> None:
        epoch, label, versions = self._asked(line)
        most_recent = line.number("most_recent")
        shown = versions[:most_recent] if most_recent else versions
        proof = make_history(self._tiles, self._key, epoch, self._depth, label, shown)
        decoded = decode_history(proof)
        _compare(
            line,
            epoch=epoch,
            root=self.roots[epoch].hex(),
            label=label.hex(),
            most_recent=most_recent,
            versions=[[version.version, version.epoch, version.value.hex()] for version in shown],
            past_markers=len(decoded.past_markers),
            future_markers=len(decoded.future_markers),
            proof=proof.hex(),
        )
        _check_history(line, self._key.public_key)
        self.histories += 1

    def _asked(self, line: _Line) -> tuple[int, bytes, list[Version]]:
        epoch, label = line.number("epoch"), line.octets("label")
        if epoch >= len(self.roots):
            raise _Differs("'epoch' is one that the file has not reached")
        versions = [version for version in self._versions.get(label, []) if version.epoch <= epoch]
        if not versions:
            raise _Differs("'label' has no version at this epoch")
        return epoch, label, versions


def _compare(line: _Line, **expected: object) -> None:
    """Every field of the line is as expected, none is missing, none is there besides."""
    for name, value in expected.items():
        if json.dumps(line.get(name)) != json.dumps(value):  # as JSON, so that true is not 1
            raise _Differs(f"'{name}' differs")
    for name in line.fields.keys() - expected.keys() - {"kind"}:
        raise _Differs(f"{name!a} is not a field of this line")
