"""`ipls audit`: what it prints for people and programs, how it exits, and that it goes on. The audit itself:
tests/auditor/test_run.py.
"""

import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.attack.log import World, name, public_world
from tests.e2e.running import IPLS, ipls
from tests.environment import DIES_WITH_US

EPOCHS = 7


@pytest.fixture
def world() -> Iterator[World]:
    with public_world(EPOCHS) as world:
        yield world


def audit(world: World, folder: Path, *options: object) -> "subprocess.CompletedProcess[str]":
    return ipls("audit", "--trust", world.trust_file(folder), "--state", folder / "state.json", *options)


def test_a_program_is_told_what_was_found(world: World, tmp_path: Path) -> None:
    ended = audit(world, tmp_path, "--json")
    report = json.loads(ended.stdout)
    assert (ended.returncode, ended.stderr, report.pop("seconds") >= 0, report.pop("epochs_per_second") >= 0) == (
        0,
        "",
        True,
        True,
    )
    assert report == {
        "namespace": "test.ipls",
        "ok": True,
        "first": 1,
        "last": EPOCHS,
        "epochs": EPOCHS,
        "root": world.chain.root.hex(),
        "waiting": None,
        "signed": {"w0": EPOCHS, "w1": EPOCHS, "w2": EPOCHS},
        "fault": None,
        "unavailable": None,
        "evidence": [],
    }


def test_a_fault_is_status_1_and_silence_status_3(world: World, tmp_path: Path) -> None:
    world.answers[f"/log/{world.name_of(5)}"] = (503, b"")
    silent = audit(world, tmp_path, "--json")
    report = json.loads(silent.stdout)
    assert (silent.returncode, report["ok"], report["fault"], report["last"]) == (3, False, None, 4)
    assert (report["unavailable"]["reason"], report["unavailable"]["epoch"]) == ("AUDIT_LOG_SILENT", 5)
    world.answers.clear()
    world.take_out(6)
    refused = audit(world, tmp_path, "--json")
    report = json.loads(refused.stdout)
    assert (refused.returncode, report["ok"], report["unavailable"], report["first"]) == (1, False, None, 5)
    assert report["fault"] == {"epoch": 6, "reason": "AUDIT_HOLE", "message": "the log has no object for it"}


def test_a_terminal_is_shown_how_fast_it_goes_and_how_long_it_takes(world: World, tmp_path: Path) -> None:
    """The audit waits for an object until the bar has been drawn."""
    master, slave = os.openpty()
    drawn = threading.Event()

    def once_drawn() -> tuple[int, bytes]:
        drawn.wait(60)
        return 200, world.objects[world.name_of(5)]

    world.answers[f"/log/{world.name_of(5)}"] = once_drawn
    arguments = [*IPLS, "audit", "--trust", world.trust_file(tmp_path), "--state", tmp_path / "s"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(arguments, stderr=slave, stdout=subprocess.PIPE, env=environment)
    os.close(slave)
    shown = b""
    while not (b"4/7" in shown and b"epochs/s" in shown):
        shown += os.read(master, 4096)
    assert re.search(rb"[0-9.]+ epochs/s.*[0-9-]+:[0-9-]+", shown)
    drawn.set()
    with suppress(OSError):  # a terminal that nobody holds any more
        while os.read(master, 4096):
            pass
    out, _ = process.communicate()
    assert (process.returncode, b"holds up to epoch 7" in out) == (0, True)
    os.close(master)


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
    command = [*DIES_WITH_US, *IPLS, "audit", *arguments, *state]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
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
    unsigned = [world.chain.step() for _ in range(2)]
    world.objects[name(*unsigned[0][:3])] = unsigned[0].blob
    waits = b"ipls: epoch 10: its object waits for signatures: 0 of 2 witnesses signed it (no signature); no fault"
    assert process.stderr.readline().startswith(waits)
    world.objects[name(*unsigned[1][:3])] = unsigned[1].blob
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert json.loads(out)["fault"]["epoch"] == EPOCHS + 3


def test_the_newest_object_may_wait_for_its_signatures(world: World, tmp_path: Path) -> None:
    made = world.chain.step()
    world.objects[name(*made[:3])] = made.blob
    ended = audit(world, tmp_path, "--json")
    report = json.loads(ended.stdout)
    assert (ended.returncode, report["ok"], report["last"], report["waiting"]) == (0, True, EPOCHS, EPOCHS + 1)
    told = subprocess.run(
        [*IPLS, "audit", "--trust", world.trust_file(tmp_path), "--state", tmp_path / "s"],
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0
    assert "epoch 8 is in the log and waits for its witnesses' signatures\n" in told.stdout


def test_people_are_told_too(world: World, tmp_path: Path) -> None:
    world.take_out(4)
    trust = world.trust_file(tmp_path)
    ended = subprocess.run(
        [*IPLS, "audit", "--trust", trust, "--state", tmp_path / "s"], capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert ended.stderr == "ipls: epoch 4: the log has no object for it [AUDIT_HOLE]\n"
    assert "holds up to epoch 3" in ended.stdout
