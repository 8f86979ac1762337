"""`ipls status`: what of a deployment serves, what runs out, what to do. The attacker is time, or a dead process."""

import asyncio
import json
import os
import signal
import socket
from contextlib import closing
from pathlib import Path

import pytest

from ipls.address import parse_address
from ipls.admin.status import (
    CHECKS,
    Deployment,
    Finding,
    State,
    certificates,
    examine,
    heads,
    level,
    services,
    sessions,
)
from ipls.clock import system_now_ms
from ipls.config import load, load_trust_root
from ipls.errors import IplsError
from ipls.store.directory import open_directory_store
from ipls.units import DAY_MS
from tests.attack.log import public_world
from tests.e2e.running import Deployment as Running
from tests.e2e.running import ipls, running
from tests.store.directory.test_contract import ALICE, BOB, start, submit, term
from tests.trust.roots import NOW


def told(folder: Path, *, later_ms: int = 0) -> list[Finding]:
    """Of a deployment that does not run, without its ports; of its vault's core tests/attack/test_vault_users.py."""
    now_ms = system_now_ms() + later_ms
    deployment = Deployment(folder / "ipls.toml", load(folder / "ipls.toml"), now_ms)
    found = asyncio.run(examine(deployment))
    return [each for each in found if each.state is not State.UNREACHABLE and each.part != "vault-core"]


def test_what_lasts_is_well_and_says_until_when(folder: Path) -> None:
    found = told(folder)
    assert {finding.part: finding.state for finding in found} == dict.fromkeys(
        ("certificates", "trust root", "bundle"), State.WELL
    )
    assert all("good until 20" in finding.text and not finding.do for finding in found)


def test_a_month_before_the_end_each_thing_is_told_of_by_name_and_with_a_command(folder: Path) -> None:
    found = told(folder, later_ms=340 * DAY_MS)
    soon = [finding for finding in found if finding.state is State.SOON]
    texts = "\n".join(finding.text for finding in soon)
    for what in (
        "certificate directory.pem",
        "certificate vault-reader.pem",
        "the trust root 1 of test.ipls",
        "newest key of witness witness-2",
        "the window of the HSM with the key",
    ):
        assert what in texts
    assert all(finding.do for finding in soon)
    assert [f.part for f in found if f.state is State.WRONG] == ["bundle"]  # it lasts 30 days


def test_after_the_end_it_is_wrong(folder: Path) -> None:
    assert {finding.state for finding in told(folder, later_ms=366 * DAY_MS)} == {State.WRONG}


@pytest.mark.parametrize("last", ["epochs again", "updates held", "another process publishes"])
def test_a_directory_that_makes_no_epoch_is_told_of_with_its_reason_until_it_does(folder: Path, last: str) -> None:
    log = folder / "logs/directory.log"
    log.parent.mkdir(exist_ok=True)
    lines = [
        "}cut off",
        "not JSON",
        "[]",
        json.dumps({"event": "no epoch", "reason": "LOG_EPOCH_TAKEN", "why": "the log has another object"}),
        json.dumps({"event": "serving"}),
    ]
    log.write_text("\n".join(lines) + "\n")
    [found] = [finding for finding in told(folder) if finding.part == "epochs"]
    assert found.state is State.WRONG
    assert "the log has another object [LOG_EPOCH_TAKEN]" in found.text
    assert "LOG_EPOCH_TAKEN" in found.do
    with log.open("a") as more:
        more.write(json.dumps({"event": last}) + "\n")
    assert [finding for finding in told(folder) if finding.part == "epochs"] == []


async def test_a_directory_below_its_log_is_told_of_with_how_far_it_is_until_it_serves(folder: Path) -> None:
    deployment, log = Deployment(folder / "ipls.toml", load(folder / "ipls.toml"), NOW), folder / "logs/directory.log"
    log.parent.mkdir(exist_ok=True)
    log.write_text(
        "".join(json.dumps({"event": "catching up with the log", "epoch": epoch, "of": 9}) + "\n" for epoch in (3, 4))
        + json.dumps({"event": "epoch adopted", "epoch": 5})
        + "\n"
    )
    [found] = await level(deployment)
    assert (found.part, found.state) == ("directory", State.UNREACHABLE)
    assert "epoch 4 of 9" in found.text
    for event in ("level with the log", "served below the log"):
        with log.open("a") as more:
            more.write(json.dumps({"event": event}) + "\n")
        assert await level(deployment) == []


def test_updates_that_no_epoch_takes_are_told_of_without_their_numbers(folder: Path) -> None:
    config = load(folder / "ipls.toml")
    root = load_trust_root(config.trust_root)
    with closing(open_directory_store(config.directory.database, root.namespace, root.vrf_public_key)) as store:
        start(store)
        for name, label in enumerate((ALICE, ALICE, BOB)):
            submit(store, name, label)
        assert "updates" not in {finding.part for finding in told(folder)}  # they wait, as all do
        for _ in range(2):
            store.refuse(term(store), [update for update in store.next_batch(9) if update.label == ALICE], 0)
        store.hold(term(store), store.next_batch(1))
    held, refused = [finding for finding in told(folder) if finding.part == "updates"]
    assert held.text.startswith("1 updates wait")
    assert held.do.startswith("ipls fsck --repair")
    assert "2 updates of 1 numbers were refused" in refused.text
    assert "[LEAF_EXISTS]" in refused.text
    assert refused.do.startswith("ipls fsck --config")
    assert {held.state, refused.state} == {State.WRONG}
    assert not any(label.decode() in str(told(folder)) for label in (ALICE, BOB))


def test_an_epoch_that_its_other_witnesses_have_still_to_sign_leaves_the_one_before(
    folder: Path, tmp_path: Path
) -> None:
    with public_world(2) as world:
        for i in (1, 2):
            del world.cosigned[i][2]
            world.newest[i] = 1
        config = load(folder / "ipls.toml").model_copy(update={"trust_root": world.trust_file(tmp_path)})
        (found,) = asyncio.run(heads(Deployment(folder / "ipls.toml", config, NOW)))
    assert (found.state, found.text.partition(",")[0]) == (State.WELL, "epoch 1")


def test_what_a_check_stumbles_over_is_a_finding_and_the_others_go_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stumbles(deployment: Deployment) -> list[Finding]:
        raise IplsError("ODD", "odd")

    monkeypatch.setattr("ipls.admin.status.CHECKS", [stumbles, *CHECKS])
    (folder / "tls/vault.pem").write_text("no certificate")
    found = told(folder)
    assert found[0] == Finding("stumbles", State.WRONG, "odd")
    assert (found[1].part, found[1].state) == ("certificates", State.WRONG)
    assert "vault.pem" in found[1].text
    assert [finding.state for finding in found[2:]] == [State.WELL, State.WELL]


def test_a_deployment_that_does_not_run_is_unreachable_and_no_more(folder: Path) -> None:
    (folder / "logs/vault.log").write_text("a line\nits last words\n")
    ended = ipls("status", "--config", folder / "ipls.toml")
    assert (ended.returncode, ended.stderr) == (3, "")
    assert "its log ends in: its last words" in ended.stdout
    assert f"do: ipls serve all --config {folder / 'ipls.toml'}" in ended.stdout
    assert ended.stdout.count("unreachable") == 13  # ports, and heads


def test_every_port_is_asked_and_a_part_that_hangs_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(tmp_path / "ipls") as deployment:
        config = tmp_path / "ipls/ipls.toml"
        while (well := ipls("status", "--config", config, "--json")).returncode:
            """The first head is being signed."""
        assert well.returncode == 0, well.stdout
        answer = json.loads(well.stdout)
        assert answer["well"] is True
        parts = [part["part"] for part in answer["parts"]]
        assert sorted(parts) == sorted(
            [*deployment.endpoints(), "vault-core", "heads", "certificates", "trust root", "bundle"]
        )
        ahead_ms = 3 * 60_000
        for later_ms, told in ((0, State.WELL), (2 * DAY_MS, State.WRONG), (-ahead_ms, State.WRONG)):
            at = Deployment(config, load(config), system_now_ms() + later_ms)
            (found,) = asyncio.run(heads(at))
            assert found.state is told
            assert bool(found.do) is (told is State.WRONG)
        with monkeypatch.context() as patch:
            patch.setattr("ipls.admin.status._newest", lambda root: (2, [system_now_ms()]))
            (found,) = asyncio.run(heads(Deployment(config, load(config), system_now_ms())))
        assert found.state is State.WRONG
        assert found.text == "the directory shows epoch 0, and the witnesses have signed epoch 2"
        for part in ("log", "contacts"):  # one speaks HTTP, one gRPC: both take connections still
            [found] = _unreachable_while_stopped(deployment, part, config)
            assert (found.part, found.do.partition(";")[0]) == (part, f"kill -9 {deployment.pid(part)}")
            assert "it takes connections, and does not answer" in found.text
        [found] = _unreachable_while_stopped(deployment, "core", config)
        assert (found.part, found.do.partition(",")[0]) == ("vault-core", f"kill -9 {deployment.pid('vault')}")
        assert "it takes connections, and does not answer" in found.text


def test_where_one_port_is_taken_the_parts_that_are_off_are_not_to_be_started_all_over(folder: Path) -> None:
    config = load(folder / "ipls.toml")
    (folder / "logs/vault.log").write_text(json.dumps({"event": "ended", "level": "error", "why": "no token"}) + "\n")
    with closing(socket.create_server(parse_address(config.contacts.listen))):
        found = {each.part: each for each in asyncio.run(services(Deployment(folder / "ipls.toml", config, NOW)))}
    assert found["contacts"].text.endswith("it takes connections, and does not answer")
    assert found["vault"].text.endswith("nobody listens; its log ends in: ended, why no token")
    assert found["vault"].do == f"tail {folder / 'logs/vault.log'}"


def _unreachable_while_stopped(deployment: Running, part: str, config: Path) -> list[Finding]:
    pid = deployment.pid(part)
    os.kill(pid, signal.SIGSTOP)
    try:
        at = Deployment(config, load(config), system_now_ms())
        found = asyncio.run(services(at)) + asyncio.run(sessions(at))
    finally:
        os.kill(pid, signal.SIGCONT)
    return [finding for finding in found if finding.state is State.UNREACHABLE]


async def test_a_certificate_of_several_parts_is_asked_once(folder: Path) -> None:
    deployment = Deployment(folder / "ipls.toml", load(folder / "ipls.toml"), system_now_ms() + 366 * DAY_MS)
    found = await certificates(deployment)
    assert len({finding.text for finding in found}) == len(found)
