"""`ipls audit` against honest and lying logs and witnesses."""

import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ipls.cli.audit import command
from ipls.proto.akd.v1.akd_pb2 import SingleAppendOnlyProof
from ipls.trust.keys import public_key
from tests.attack.log import World, listing, name, public_world, vote
from tests.e2e.running import IPLS
from tests.trust.roots import NOW, THIEF, WITNESSES

EPOCHS = 7
Audit = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def world() -> Iterator[World]:
    with public_world(EPOCHS) as world:
        yield world


@pytest.fixture
def audit(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Audit:
    """Runs the command; gives exit status and report."""

    def run(first: int | None = None, state: str = "state.json") -> tuple[int, dict[str, Any]]:
        status = 0
        try:
            command(world.trust_file(tmp_path), first, False, True, tmp_path / state, 3, 1.0)
        except SystemExit as e:
            status = int(str(e.code))
        return status, json.loads(capsys.readouterr().out.splitlines()[-1])

    return run


def refused(audit: Audit, reason: str, epoch: int | None, **options: Any) -> dict[str, Any]:
    status, report = audit(**options)
    assert (status, report["ok"]) == (1, False)
    assert (report["fault"]["reason"], report["fault"]["epoch"]) == (reason, epoch), report
    return report


def test_an_honest_log_holds(world: World, audit: Audit) -> None:
    status, report = audit()
    assert (status, report["ok"], report["fault"]) == (0, True, None)
    assert (report["first"], report["last"], report["epochs"]) == (1, EPOCHS, EPOCHS)
    assert report["root"] == world.chain.root.hex()
    assert report["signed"] == {"w0": EPOCHS, "w1": EPOCHS, "w2": EPOCHS}


def test_each_thing_is_asked_for_once(world: World, audit: Audit) -> None:
    audit()
    once = [path for path in world.asked if path.startswith("/log/") and "?" not in path]
    assert sorted(once) == sorted(f"/log/{found}" for found in world.objects)


def test_a_log_at_its_start_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with public_world(0) as world:
        command(world.trust_file(tmp_path), None, False, True, tmp_path / "state", 3, 1.0)
    assert json.loads(capsys.readouterr().out)["epochs"] == 0


def test_a_second_run_goes_on_where_the_first_ended(world: World, audit: Audit) -> None:
    assert audit()[0] == 0
    world.asked.clear()
    world.grow(2)
    status, report = audit()
    assert (status, report["first"], report["epochs"]) == (0, EPOCHS + 1, 2)
    assert sum("/log/" in path and "?" not in path for path in world.asked) == 2


def test_from_begins_at_a_root_that_the_witnesses_signed(world: World, audit: Audit) -> None:
    status, report = audit(first=5)
    assert (status, report["first"], report["last"]) == (0, 5, EPOCHS)
    for votes in world.votes:
        del votes[4]
    refused(audit, "AUDIT_UNSIGNED", 4, first=5)


@pytest.mark.parametrize("bad", ["x", "0/" + "00" * 32 + "/" + "00" * 32, "7", "8/aa/bb", "heads/8"])
def test_a_bad_name(world: World, audit: Audit, bad: str) -> None:
    world.objects[bad] = b"x"
    refused(audit, "AUDIT_NAME_INVALID", None)


def test_two_objects_for_an_epoch(world: World, audit: Audit) -> None:
    world.objects[name(4, bytes(32), bytes(32))] = b"x"
    refused(audit, "AUDIT_TWO_OBJECTS", 4)


def test_two_objects_for_an_epoch_written_after_the_log_was_listed(world: World, audit: Audit) -> None:
    world.page_size = 1000
    world.answers["/log/?list-type=2"] = world.answer("/log/?list-type=2")
    world.grow(1)
    world.objects[name(EPOCHS + 1, bytes(32), bytes(32))] = b"x"
    refused(audit, "AUDIT_TWO_OBJECTS", EPOCHS + 1)


def test_a_hole(world: World, audit: Audit) -> None:
    world.take_out(4)
    report = refused(audit, "AUDIT_HOLE", 4)
    assert report["last"] == 3


def test_an_early_end(world: World, audit: Audit) -> None:
    world.take_out(EPOCHS)
    refused(audit, "AUDIT_ENDS_EARLY", EPOCHS)


def test_an_early_end_that_one_witness_alone_tells_of(world: World, audit: Audit) -> None:
    world.take_out(EPOCHS)
    world.newest[:2] = [EPOCHS - 1, EPOCHS - 1]
    refused(audit, "AUDIT_ENDS_EARLY", EPOCHS)


def test_a_newest_epoch_that_is_claimed_but_not_signed_is_no_fault(world: World, audit: Audit) -> None:
    world.newest[0] = 10**9
    world.votes[0][10**9] = vote(THIEF, 10**9, bytes(32))
    assert audit()[0] == 0


def test_a_proof_that_does_not_start_where_the_last_ended(world: World, audit: Audit) -> None:
    """Two directories' epochs, each sound by itself and signed."""
    other = type(world.chain)()
    for _ in range(4):
        made = other.step(b"another", b"label %d" % other.epoch) if other.epoch == 0 else other.step()
    world.take_out(4)
    world.put(4, made.old_root, made.new_root, made.blob)
    refused(audit, "AUDIT_CHAIN_BROKEN", 4)


def test_a_first_epoch_that_does_not_start_at_the_trust_roots_start(world: World, audit: Audit) -> None:
    old, new, blob = world.take_out(1)
    world.put(1, b"\x07" * 32, new, blob)
    refused(audit, "AUDIT_CHAIN_BROKEN", 1)
    assert old != b"\x07" * 32


def test_a_wrong_root(world: World, audit: Audit) -> None:
    """The witnesses signed it, but the proof gives another."""
    old, _, blob = world.take_out(EPOCHS)
    world.put(EPOCHS, old, b"\x07" * 32, blob)
    refused(audit, "AUDIT_PROOF_REFUSED", EPOCHS)


def test_a_proof_of_another_step_and_one_that_is_none(world: World, audit: Audit) -> None:
    honest = dict(world.objects)
    for lie in (world.objects[world.name_of(2)], b"", b"\xff" * 100):
        world.objects[world.name_of(3)] = lie
        refused(audit, "AUDIT_PROOF_REFUSED", 3, state=f"{len(lie)}")
        world.objects = dict(honest)


def test_an_unsigned_root(world: World, audit: Audit) -> None:
    for votes in world.votes[:2]:
        del votes[4]
    refused(audit, "AUDIT_UNSIGNED", 4)


def test_k_signatures_are_enough(world: World, audit: Audit) -> None:
    del world.votes[0][4]
    status, report = audit()
    assert (status, report["signed"]) == (0, {"w0": EPOCHS - 1, "w1": EPOCHS, "w2": EPOCHS})


def test_a_witness_that_signed_another_root_for_an_epoch(world: World, audit: Audit) -> None:
    world.votes[2][4] = vote(WITNESSES[2], 4, b"\x07" * 32)
    refused(audit, "AUDIT_FORK", 4)


def test_a_witness_that_shows_another_root_for_an_epoch_already_walked(world: World, audit: Audit) -> None:
    assert audit()[0] == 0
    world.votes[2][EPOCHS] = vote(WITNESSES[2], EPOCHS, b"\x07" * 32)
    refused(audit, "AUDIT_FORK", EPOCHS)


def test_a_key_that_the_auditor_itself_serves_is_not_asked_for(world: World, audit: Audit) -> None:
    for i in (0, 1):
        for epoch in (5, 6):
            world.votes[i][epoch] |= vote(THIEF, epoch, bytes.fromhex(world.votes[i][epoch]["digest"]))
        keys = {"keys": [{"public_key": public_key(THIEF).hex(), "not_before": 0}], "logs": []}
        world.answers[f"/w{i}/info"] = (200, json.dumps(keys).encode())
    refused(audit, "AUDIT_UNSIGNED", 5)
    assert not [path for path in world.asked if "info" in path]


@pytest.mark.parametrize(
    "change",
    [
        {"signature": "00" * 64},
        {"timestamp": NOW + 1},
        {"timestamp": 2**62 - 1},
        {"timestamp": 2**62},
        {"timestamp": True},
        {"namespace": "other"},
        {"epoch": 5},
        {"ciphersuite": 2, "version": 2},
        {"key_id": 300},
        {"serialized_message": "00"},
        {"digest": "07"},
    ],
)
def test_an_answer_that_is_not_this_signature_does_not_count(
    world: World, audit: Audit, change: dict[str, Any]
) -> None:
    for votes in world.votes[:2]:
        votes[4] = votes[4] | change
    refused(audit, "AUDIT_UNSIGNED", 4)


@pytest.mark.parametrize("hostile", [b"", b"[" * 50_000, b"1" * 20_000, b"{}", b"\xff", b'{"epoch":' + b" " * 100_000])
def test_hostile_json_from_every_witness(world: World, audit: Audit, hostile: bytes) -> None:
    for i in range(3):
        for what in ("last-verified-epoch", *(f"audits/{epoch}" for epoch in range(1, EPOCHS + 1))):
            world.answers[f"/w{i}/namespaces/test.ipls/{what}"] = (200, hostile)
    refused(audit, "AUDIT_UNSIGNED", 1)


BOMB = (
    b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "aaaaaaaaaa">'
    + b"".join(b'<!ENTITY %c "%s">' % (c + 1, b"&%c;" % c * 10) for c in range(97, 106))
    + b"]><ListBucketResult><IsTruncated>&j;</IsTruncated></ListBucketResult>"
)


@pytest.mark.parametrize(
    "hostile",
    [
        BOMB,
        b"",
        b"<",
        b"<a/>",
        b"<ListBucketResult/>",
        b"<ListBucketResult>" + b"<a>" * 100_000,
        b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
        b"<ListBucketResult><IsTruncated>false</IsTruncated><IsTruncated>false</IsTruncated></ListBucketResult>",
        b"<ListBucketResult><IsTruncated>" + b"x" * 1_000_000 + b"</IsTruncated></ListBucketResult>",
        b'<?xml version="1.0" encoding="utf-7"?><a/>',
        listing([(str(i), 0) for i in range(1001)], 2000),
        listing([("1/" + "00" * 32 + "/" + "00" * 32, -1)], 1),
        b" " * (3 * 1024 * 1024),
    ],
    ids=range(13),
)
def test_a_hostile_listing(world: World, audit: Audit, hostile: bytes) -> None:
    world.answers["/log/"] = (200, hostile)
    refused(audit, "AUDIT_LISTING_INVALID", None)


def test_a_listing_without_end(world: World, audit: Audit) -> None:
    """The log makes names up as it is asked; each page goes on."""
    made = iter(range(10**6, 10**9))

    def page() -> tuple[int, bytes]:
        names = [(name(next(made), bytes(32), bytes(32)), 1) for _ in range(3)]
        return 200, listing(names, 2)

    world.answers["/log/"] = page
    refused(audit, "AUDIT_AHEAD", 10**6)


def test_a_listing_out_of_order(world: World, audit: Audit) -> None:
    names = [(found, 1) for found in sorted(world.objects, reverse=True)]
    world.answers["/log/"] = (200, listing(names, 1000))
    refused(audit, "AUDIT_LISTING_ORDER", EPOCHS - 1)


def test_an_object_of_another_size_than_listed(world: World, audit: Audit) -> None:
    target = f"/log/{world.name_of(3)}"
    blob = world.objects[world.name_of(3)]
    for lie in (blob + b"x" * 10_000_000, blob[:-1]):
        world.answers[target] = (200, lie)
        refused(audit, "AUDIT_OBJECT_SIZE", 3, state=f"{len(lie)}")


def test_an_object_that_is_listed_as_huge_is_not_fetched(world: World, audit: Audit) -> None:
    entries = [(found, 2**40 if found.startswith("3/") else len(blob)) for found, blob in world.objects.items()]
    world.answers["/log/"] = (200, listing(sorted(entries), 1000))
    refused(audit, "AUDIT_OBJECT_SIZE", 3)
    assert f"/log/{world.name_of(3)}" not in world.asked


def test_an_object_that_is_listed_and_not_there(world: World, audit: Audit) -> None:
    world.answers[f"/log/{world.name_of(3)}"] = (404, b"")
    refused(audit, "AUDIT_OBJECT_MISSING", 3)


def test_a_log_that_was_rewritten_after_it_was_audited(world: World, audit: Audit) -> None:
    assert audit()[0] == 0
    old, new, blob = world.take_out(3)
    _, newer, _ = world.take_out(4)
    world.objects[name(3, old, b"\x07" * 32)] = blob
    world.objects[name(4, b"\x07" * 32, newer)] = blob
    refused(audit, "AUDIT_LOG_CHANGED", EPOCHS)
    assert new != b"\x07" * 32


def test_a_log_of_the_fields_own_with_untrimmed_labels(world: World, audit: Audit) -> None:
    for found, blob in world.objects.items():
        proof = SingleAppendOnlyProof.FromString(blob)
        for element in (*proof.inserted, *proof.unchanged_nodes):
            element.label.label_val = element.label.label_val.ljust(32, b"\0")
        world.objects[found] = proof.SerializeToString()
    status, report = audit()
    assert (status, report["epochs"]) == (0, EPOCHS)


def test_what_does_not_answer_is_no_fault(world: World, audit: Audit) -> None:
    world.answers[f"/log/{world.name_of(5)}"] = (503, b"")
    status, report = audit()
    assert (status, report["fault"], report["last"]) == (3, None, 4)
    assert report["unavailable"]["reason"] == "AUDIT_LOG_SILENT"
    world.answers.clear()
    world.asked.clear()
    status, report = audit()
    assert (status, report["first"], report["epochs"]) == (0, 5, EPOCHS - 4)
    for i in range(2):
        world.answers[f"/w{i}/namespaces/test.ipls/last-verified-epoch"] = (500, b"")
    status, report = audit()
    assert (status, report["unavailable"]["reason"]) == (3, "AUDIT_WITNESS_SILENT")


def test_a_state_of_another_log_is_refused(world: World, tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    for content in ("", "{}", json.dumps({"log": "00", "epoch": 3, "root": "", "trail": ""})):
        state.write_text(content)
        ended = subprocess.run(
            [*IPLS, "audit", "--trust", world.trust_file(tmp_path), "--state", state], capture_output=True, text=True
        )
        assert ended.returncode == 2
        assert ended.stderr.endswith("[AUDIT_STATE_INVALID]\n")


def test_it_goes_on_after_a_kill(world: World, tmp_path: Path) -> None:
    """Killed while it waits for an object; what it had checked it does not fetch again."""
    reached, held = threading.Event(), threading.Event()

    def hang() -> tuple[int, bytes]:
        reached.set()
        held.wait()
        return 503, b""

    world.answers[f"/log/{world.name_of(5)}"] = hang
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    arguments = [*IPLS, "audit", "--trust", world.trust_file(tmp_path), "--json"]
    process = subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE)
    assert reached.wait(60)
    while [json.loads(state.read_text())["epoch"] for state in tmp_path.glob("ipls/audit/*.json")] != [4]:
        held.wait(0.05)
    process.kill()
    process.communicate()
    held.set()
    world.answers.clear()
    world.asked.clear()
    again = subprocess.run(arguments, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["first"] == 5
    assert not [path for path in world.asked if path.startswith("/log/1/")]


def test_follow_tells_of_each_new_epoch_until_the_first_fault(world: World, tmp_path: Path) -> None:
    arguments = ["--trust", world.trust_file(tmp_path), "--follow", "--json", "--interval", "0.1"]
    state = ["--state", str(tmp_path / "s")]
    process = subprocess.Popen([*IPLS, "audit", *arguments, *state], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    while world.asked.count(f"/log/?list-type=2&prefix={EPOCHS + 1}%2F") < 2:  # once to catch up, then again and again
        threading.Event().wait(0.05)
    world.grow(1)
    line = json.loads(process.stdout.readline())
    assert (line["epoch"], line["root"]) == (EPOCHS + 1, world.chain.root.hex())
    world.answers["/log/"] = (503, b"")
    assert b"[AUDIT_LOG_SILENT]" in process.stderr.readline()
    world.answers.clear()
    world.grow(1)
    assert json.loads(process.stdout.readline())["epoch"] == EPOCHS + 2
    for votes in world.votes[:2]:
        votes[EPOCHS + 3] = {}
    made = world.chain.step()
    world.objects[name(made.epoch, made.old_root, made.new_root)] = made.blob
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert json.loads(out)["fault"]["epoch"] == EPOCHS + 3


def test_people_are_told_too(world: World, tmp_path: Path) -> None:
    world.take_out(4)
    trust = world.trust_file(tmp_path)
    ended = subprocess.run(
        [*IPLS, "audit", "--trust", trust, "--state", tmp_path / "s"], capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert ended.stderr == "ipls: epoch 4: the log has no object for it [AUDIT_HOLE]\n"
    assert "holds up to epoch 3" in ended.stdout
