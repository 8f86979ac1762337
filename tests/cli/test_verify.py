"""`ipls verify`: what it prints and how it exits is what other programs go by."""

import json
from pathlib import Path

from tests.conformance.test_replay import EPOCH, GENESIS, HISTORY, KEY, LINES, LOOKUP, VECTORS, file_of
from tests.e2e.running import ipls

REFUSED_LINES = [KEY, LOOKUP, {**HISTORY, "root": GENESIS["root"]}, EPOCH, b"no json", LOOKUP]


def test_proofs_that_hold(tmp_path: Path) -> None:
    file = file_of(tmp_path, [KEY, LOOKUP, b"", HISTORY, EPOCH])
    shown = ipls("verify", "proofs", file)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout == "3 accepted (lines 2, 4, 5), 0 refused\n"
    shown = ipls("verify", "proofs", file, "--json")
    assert (shown.returncode, json.loads(shown.stdout)) == (0, {"accepted": 3, "refused": []})


def test_proofs_of_which_some_do_not(tmp_path: Path) -> None:
    """It goes on after a refusal and counts lines from 1."""
    file = file_of(tmp_path, REFUSED_LINES)
    shown = ipls("verify", "proofs", file)
    assert shown.returncode == 1
    third, fifth, last = shown.stdout.splitlines()
    assert third.startswith("line 3: refused, ROOT_HASH: ")
    assert fifth.startswith("line 5: refused, MALFORMED: ")
    assert last == "3 accepted (lines 2, 4, 6), 2 refused"
    shown = ipls("verify", "proofs", file, "--json")
    assert (shown.returncode, shown.stdout.count("\n")) == (1, 1)
    report = json.loads(shown.stdout)
    assert set(report) == {"accepted", "refused"}
    assert report["accepted"] == 3
    assert [set(refusal) for refusal in report["refused"]] == [{"line", "reason"}] * 2
    reasons = [(refusal["line"], refusal["reason"].split(":")[0]) for refusal in report["refused"]]
    assert reasons == [(3, "ROOT_HASH"), (5, "MALFORMED")]


def test_vectors_that_agree() -> None:
    shown = ipls("verify", "vectors", VECTORS)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert (
        shown.stdout
        == "41 epochs, 157 updates, 40 append only proofs, 67 lookup proofs, 124 history proofs: all agree\n"
    )


def test_vectors_that_differ(tmp_path: Path) -> None:
    first = next(number for number, line in enumerate(LINES) if line["kind"] == "lookup")
    file = file_of(tmp_path, [*LINES[:first], {**LINES[first], "value": "00"}, *LINES[first + 1 :]])
    shown = ipls("verify", "vectors", file)
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr.startswith(f"ipls: {file}: line {first + 1}: ")
    assert "value" in shown.stderr
    assert shown.stderr.endswith("[VECTORS_DIFFER]\n")
