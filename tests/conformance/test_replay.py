"""The files of `ipls verify vectors` and `ipls verify proofs`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ipls.conformance.replay import ConformanceError, check_proofs, replay_vectors

VECTORS = Path(__file__).parent.parent / "vectors" / "whatsapp_v1.jsonl"
LINES: list[dict[str, Any]] = [json.loads(line) for line in VECTORS.read_text().splitlines()]
KEY, GENESIS = LINES[0], LINES[1]
EPOCH = next(line for line in LINES if line["kind"] == "epoch" and line["epoch"] == 5)
LOOKUP = next(line for line in LINES if line["kind"] == "lookup" and line["version"] > 2)
HISTORY = next(line for line in LINES if line["kind"] == "history" and len(line["versions"]) > 2)


def file_of(directory: Path, lines: list[Any]) -> Path:
    path = directory / "file.jsonl"
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))
    return path


# --- vectors ----------------------------------------------------------------------------------------------------------


def test_the_published_vectors_agree() -> None:
    counts = replay_vectors(VECTORS)
    assert counts.epochs == 41
    assert (counts.append_only_proofs, counts.lookup_proofs, counts.history_proofs) == (40, 67, 124)


def test_elements_of_a_step_may_stand_in_any_order(tmp_path: Path) -> None:
    from ipls.proto.akd.v1.akd_pb2 import SingleAppendOnlyProof

    lines = [dict(line) for line in LINES if line["kind"] in ("key", "epoch")]
    for line in lines[2:]:
        proof = SingleAppendOnlyProof.FromString(bytes.fromhex(line["append_only"]))
        turned = SingleAppendOnlyProof(
            inserted=reversed(proof.inserted), unchanged_nodes=reversed(proof.unchanged_nodes)
        )
        line["append_only"] = turned.SerializeToString().hex()
    assert replay_vectors(file_of(tmp_path, lines)).append_only_proofs == 40


def bent(value: Any) -> Any:
    if isinstance(value, list):
        return value[1:]
    if isinstance(value, int):
        return value + 1
    return ("0" if value[0] != "0" else "1") + value[1:]


@pytest.mark.parametrize("kind", ["key", "epoch", "lookup", "history"])
def test_the_first_difference_ends_the_replay(kind: str, tmp_path: Path) -> None:
    number = max(number for number, line in enumerate(LINES[:40]) if line["kind"] == kind)
    line = LINES[number]
    for name in line:
        for lines in (
            [*LINES[:number], {**line, name: bent(line[name])}, *LINES[number + 1 : 40]],
            [*LINES[:number], {key: line[key] for key in line if key != name}, *LINES[number + 1 : 40]],
        ):
            with pytest.raises(ConformanceError) as error:
                replay_vectors(file_of(tmp_path, lines))
            assert error.value.line == number + 1


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        ([], 1),
        ([KEY], 2),
        ([GENESIS], 1),
        ([KEY, KEY], 2),
        ([KEY, EPOCH], 2),
        ([KEY, GENESIS, LOOKUP], 3),
        ([KEY, GENESIS, {**GENESIS, "extra": 1}], 3),
        ([KEY, {**GENESIS, "extra": 1}], 2),
        ([KEY, {**GENESIS, "epoch": False}], 2),
        ([KEY, GENESIS, b"{"], 3),
        ([KEY, GENESIS, {"kind": "other"}], 3),
        ([{**KEY, "vrf_seed": "00"}], 1),
    ],
)
def test_files_that_are_no_vectors(lines: list[Any], line: int, tmp_path: Path) -> None:
    with pytest.raises(ConformanceError) as error:
        replay_vectors(file_of(tmp_path, lines))
    assert error.value.line == line


def test_a_strangers_field_does_not_reach_the_terminal(tmp_path: Path) -> None:
    with pytest.raises(ConformanceError) as error:
        replay_vectors(file_of(tmp_path, [{**KEY, "\x1b[2J\ud800": 1}]))
    assert error.value.what.isprintable()
    assert error.value.what.isascii()


def test_updates_that_make_no_epoch(tmp_path: Path) -> None:
    first = LINES[2]
    for updates in ([], [*first["updates"], *first["updates"]]):
        with pytest.raises(ConformanceError):
            replay_vectors(file_of(tmp_path, [KEY, GENESIS, {**first, "updates": updates}]))


# --- proofs -----------------------------------------------------------------------------------------------------------


def test_every_proof_of_the_vectors_is_accepted() -> None:
    report = check_proofs(VECTORS)
    assert report.refused == []
    assert len(report.accepted) == 231
    assert report.accepted == [
        number for number, line in enumerate(LINES, 1) if line["kind"] != "key" and line != GENESIS
    ]


def test_lines_stand_alone(tmp_path: Path) -> None:
    report = check_proofs(file_of(tmp_path, [KEY, HISTORY, b"", LOOKUP, EPOCH]))
    assert (report.accepted, report.refused) == ([2, 4, 5], [])


def test_it_goes_on_after_a_refusal(tmp_path: Path) -> None:
    root = LINES[2]["root"]
    report = check_proofs(file_of(tmp_path, [KEY, {**LOOKUP, "root": root}, HISTORY, {**EPOCH, "proof": ""}]))
    assert report.accepted == [3, 4]
    ((line, reason),) = report.refused
    assert line == 2
    assert reason.startswith("ROOT_HASH: ")


CLAIMS: list[tuple[dict[str, Any], str]] = [
    *((LOOKUP, name) for name in ("label", "value", "version", "value_epoch", "root", "proof")),
    *((HISTORY, name) for name in ("label", "versions", "root", "proof", "past_markers", "future_markers")),
    *((EPOCH, name) for name in ("epoch", "root", "name", "append_only", "inserted", "unchanged")),
    (GENESIS, "root"),
]


@pytest.mark.parametrize(("line", "name"), CLAIMS)
def test_a_line_claims_what_its_proof_shows(line: dict[str, Any], name: str, tmp_path: Path) -> None:
    report = check_proofs(file_of(tmp_path, [KEY, {**line, name: bent(line[name])}]))
    assert report.accepted == []
    assert [number for number, _ in report.refused] == [2]


@pytest.mark.parametrize("change", [lambda v: [*v, 1], lambda v: [v[0], v[1] + 1, v[2]], lambda v: [v[0], v[1], "00"]])
def test_each_version_of_a_history_is_compared(change: Callable[[list[Any]], list[Any]], tmp_path: Path) -> None:
    versions = [*HISTORY["versions"][:-1], change(HISTORY["versions"][-1])]
    report = check_proofs(file_of(tmp_path, [KEY, {**HISTORY, "versions": versions}]))
    assert len(report.refused) == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"not json", "MALFORMED"),
        (b"[" * 100000, "MALFORMED"),
        (b"\xff\xfe", "MALFORMED"),
        (b"[]", "MALFORMED"),
        (b"null", "MALFORMED"),
        (json.dumps(LOOKUP).encode()[:-1] + b',"value":"00"}', "MALFORMED"),
        ({}, "MALFORMED"),
        ({"kind": "audit"}, "MALFORMED"),
        ({"kind": []}, "MALFORMED"),
        ({"kind": "key"}, "MALFORMED"),
        ({"kind": "key", "vrf_public_key": "xy"}, "MALFORMED"),
        (*[{key: LOOKUP[key] for key in LOOKUP if key != "proof"}], "MALFORMED"),
        ({**LOOKUP, "proof": None}, "MALFORMED"),
        ({**LOOKUP, "proof": LOOKUP["proof"] + "0"}, "MALFORMED"),
        ({**LOOKUP, "proof": " " + LOOKUP["proof"]}, "MALFORMED"),
        ({**LOOKUP, "proof": ""}, "FIELD_MISSING"),
        ({**LOOKUP, "epoch": -1}, "MALFORMED"),
        ({**LOOKUP, "epoch": 2**64}, "MALFORMED"),
        ({**LOOKUP, "epoch": True}, "MALFORMED"),
        ({**LOOKUP, "epoch": 1.0}, "MALFORMED"),
        ({**LOOKUP, "epoch": 1}, "VERSION_RANGE"),
        ({**HISTORY, "versions": 3}, "MALFORMED"),
        ({**HISTORY, "versions": [3]}, "MALFORMED"),
        ({**HISTORY, "versions": [[1, 1]]}, "MALFORMED"),
        ({**HISTORY, "most_recent": "0"}, "MALFORMED"),
        ({**HISTORY, "most_recent": 1}, "TOO_MANY_VERSIONS"),
        ({**EPOCH, "name": "5/00"}, "CLAIM"),
        ({**EPOCH, "name": EPOCH["name"].replace("5/", "6/", 1)}, "CLAIM"),
        ({**EPOCH, "epoch": 2**64 - 1, "name": EPOCH["name"].replace("5/", f"{2**64 - 1}/", 1)}, "NEW_ROOT"),
        ({**GENESIS, "append_only": ""}, "MALFORMED"),
    ],
)
def test_a_bad_line_is_refused_with_its_reason(line: Any, reason: str, tmp_path: Path) -> None:
    report = check_proofs(file_of(tmp_path, [KEY, line, LOOKUP]))
    assert report.accepted == [3]
    ((number, why),) = report.refused
    assert number == 2
    assert why.startswith(reason + ": ")


def test_proofs_need_the_files_key(tmp_path: Path) -> None:
    report = check_proofs(file_of(tmp_path, [LOOKUP, EPOCH]))
    assert report.accepted == [2]
    assert report.refused[0][1].startswith("KEY_MISSING: ")
    small = {**KEY, "vrf_public_key": "01" + "00" * 31}
    report = check_proofs(file_of(tmp_path, [small, LOOKUP, HISTORY]))
    assert [why.split(":")[0] for _, why in report.refused] == ["VRF_KEY", "VRF_KEY"]
