"""What runs out is renewed by one command, and by `serve all` itself. The attacker is time."""

import asyncio
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog
from cryptography import x509

from ipls import clock
from ipls.address import parse_address
from ipls.admin import deployment, renewal, supervisor
from ipls.admin.bundles import read_bundle
from ipls.admin.expiry import Ending, watch
from ipls.admin.renewal import renew
from ipls.admin.status import Deployment, State, examine
from ipls.admin.supervisor import Supervisor
from ipls.admin.trust_roots import sign_version
from ipls.clock import SettledClock, system_now_ms
from ipls.config import load, load_trust_root
from ipls.crypto.errors import VerificationError
from ipls.proto.witness.v1.head_pb2 import Cosignature
from ipls.runtime.service import Service
from ipls.store.witness import open_witness_store
from ipls.trust.bundle import bundle_head, check_bundle, hsm_for, parse_bundle, verify_bundle
from ipls.units import DAY_MS
from tests.e2e.running import ipls


@pytest.fixture(scope="module")
def made_old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return aged(tmp_path_factory.mktemp("old") / "ipls", witnesses=3)


@pytest.fixture
def old(made_old: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made_old, tmp_path / "old")


def aged(folder: Path, *, witnesses: int) -> Path:
    """A new deployment in `folder`, as it is 300 days on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "machine", SettledClock(lambda: time.time_ns() - 300 * DAY_MS * 1_000_000))
        deployment.create(folder, "test.ipls", witnesses=witnesses, port=0)
    return folder


def states(folder: Path) -> set[State]:
    """Of a deployment that does not run, without its ports."""
    config = load(folder / "ipls.toml")
    found = asyncio.run(examine(Deployment(folder / "ipls.toml", config, system_now_ms())))
    return {finding.state for finding in found} - {State.UNREACHABLE}


def certificates(folder: Path) -> dict[str, x509.Certificate]:
    return {file.name: x509.load_pem_x509_certificate(file.read_bytes()) for file in folder.glob("tls/*.pem")}


def test_one_command_renews_what_is_due(old: Path) -> None:
    before = certificates(old)
    root, bundle = load_trust_root(old / "trust.toml"), read_bundle(old / "bundle.pb")
    assert ipls("status", "--config", old / "ipls.toml").returncode == 1
    renewed = ipls("keys", "renew", "--config", old / "ipls.toml")
    assert (renewed.returncode, renewed.stderr) == (0, "")

    now_ms = system_now_ms()
    assert states(old) == {State.WELL}
    after = certificates(old)
    assert after["ca.pem"] == before["ca.pem"]  # good for ten years
    for name in before.keys() - {"ca.pem"}:
        was, now = before[name], after[name]
        assert (was.public_key(), was.subject) == (now.public_key(), now.subject)
        assert list(was.extensions) == list(now.extensions)
        assert was.serial_number != now.serial_number
        now.verify_directly_issued_by(after["ca.pem"])
    newest = load_trust_root(old / "trust.toml")
    assert (newest.number, newest.vrf_public_key) == (2, root.vrf_public_key)
    signed = read_bundle(old / "bundle.pb")
    continued = verify_bundle(newest, signed, now_ms=now_ms, seen=bundle_head(bundle))
    assert continued.number == 2
    assert hsm_for(continued, "+15550001111", now_ms=now_ms + 364 * DAY_MS).policy_digest == newest.policy_digest

    again = ipls("keys", "renew", "--config", old / "ipls.toml")
    assert (again.returncode, again.stdout) == (0, "nothing is due\n")
    assert not list(old.glob("*.next*"))


def test_early_renews_the_authority_too(folder: Path) -> None:
    before = certificates(folder)
    done = renew(load(folder / "ipls.toml"), folder, system_now_ms(), early=True)
    assert not [each for each in done if each.failed]
    after = certificates(folder)
    assert before["ca.pem"].serial_number != after["ca.pem"].serial_number
    for certificate in (*before.values(), *after.values()):  # the copy that a phone has, and the one here
        certificate.verify_directly_issued_by(before["ca.pem"])
        certificate.verify_directly_issued_by(after["ca.pem"])


def test_without_a_key_the_rest_is_renewed_and_what_is_missing_is_named(old: Path) -> None:
    (old / "tls/ca.key").unlink()
    (old / "keys/operator.key").unlink()
    renewed = ipls("keys", "renew", "--config", old / "ipls.toml")
    assert renewed.returncode == 1
    assert "certificate vault.pem: NOT renewed" in renewed.stdout
    assert "ca.key is not here" in renewed.stdout
    assert "bundle: NOT renewed" in renewed.stdout
    assert "operator.key" in renewed.stdout
    assert load_trust_root(old / "trust.toml").number == 2


class Killed(BaseException):
    """As by kill -9: nothing handles it."""


def killed_at(step: int, patch: pytest.MonkeyPatch) -> list[int]:
    """The step'th time that something is made durable, or removed, nothing more happens; counts what came."""
    came = [0]

    def before(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            came[0] += 1
            if came[0] > step:
                raise Killed
            return call(*arguments, **named)

        return counted

    for module, name in ((os, "fsync"), (Path, "unlink")):
        patch.setattr(module, name, before(getattr(module, name)))
    patch.setattr(renewal, "_certificates", lambda *_, **__: ())  # each is one file of its own
    return came


def serves(folder: Path, now_ms: int) -> tuple[int, int, bool]:
    """That trust root and bundle can be believed; their numbers, and whether they name the same rules."""
    root, signed = load_trust_root(folder / "trust.toml"), read_bundle(folder / "bundle.pb")
    bundle = check_bundle(root, signed, now_ms=now_ms)
    return root.number, bundle.number, all(hsm.policy_digest == root.policy_digest for hsm in bundle.hsms)


def test_a_renewal_that_is_killed_at_any_step_leaves_what_serves_and_is_finished(tmp_path: Path) -> None:
    """A witness signs one file a number for ever: another draft would find none that signs."""
    made = tmp_path / "made"
    deployment.create(made, "test.ipls", witnesses=2, port=0)
    now_ms, step = system_now_ms(), 0
    while True:
        folder = tmp_path / str(step)
        shutil.copytree(made, folder)
        config = load(folder / "ipls.toml")
        with pytest.MonkeyPatch.context() as patch:
            came = killed_at(step, patch)
            with suppress(Killed):
                renew(config, folder, now_ms, early=True)
        root, bundle, _ = serves(folder, now_ms)
        assert 1 <= bundle <= root <= 2
        done = renew(config, folder, now_ms + 1000, early=True)
        assert not [each for each in done if each.failed]
        *_, same_rules = serves(folder, now_ms + 1000)
        assert same_rules
        assert not list(folder.glob("*.next*"))
        shutil.rmtree(folder)
        if came[0] <= step:
            break
        step += 1
    assert step > 20


def test_of_two_renewals_at_once_one_does_it_all_and_the_other_says_so(old: Path) -> None:
    config, results = load(old / "ipls.toml"), list[list[renewal.Renewed]]()

    def meanwhile(*arguments: Any) -> Cosignature:
        results.append(renew(config, old, system_now_ms(), early=True))
        return sign_version(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(renewal, "sign_version", meanwhile)
        done = renew(config, old, system_now_ms())
    assert not any(each.failed for each in done)
    assert len(results) == 3  # a witness each
    [refused] = results[0]
    assert refused.failed
    assert "another one is at work here" in refused.text
    assert serves(old, system_now_ms()) == (2, 2, True)


def test_a_draft_that_nobody_signed_is_not_built_upon(old: Path) -> None:
    """It may be years old, or anybody's."""
    (old / "trust.next").write_bytes((old / "trust.toml").read_bytes())
    (old / "bundle.next").write_bytes(b"anything")
    done = renew(load(old / "ipls.toml"), old, system_now_ms())
    assert not [each for each in done if each.failed]
    assert serves(old, system_now_ms()) == (2, 2, True)


def test_no_witness_signs_what_will_have_no_quorum(old: Path) -> None:
    """Of three witnesses two have their keys elsewhere: the one here would have given its word for this number."""
    for name in ("witness-2", "witness-3"):
        (old / f"keys/{name}.key").unlink()
    done = {each.what: each for each in renew(load(old / "ipls.toml"), old, system_now_ms())}
    for what in ("trust root", "bundle"):
        assert done[what].failed
        assert "2 witnesses are to sign it, and 1 can here: have it signed by who runs witness-2, witness-3" in (
            done[what].text
        )
    assert not list(old.glob("*.next*"))
    with closing(open_witness_store(old / "data/witness.db", "test.ipls", old / "keys/witness.mark")) as store:
        assert not store.has_signed("test.ipls/trust", 2)
        assert not store.has_signed("test.ipls/fleet", 2)


def test_one_witness_of_three_may_be_away(old: Path) -> None:
    (old / "data/witness.db").write_bytes(b"no database" * 1000)
    done = renew(load(old / "ipls.toml"), old, system_now_ms())
    assert not [each for each in done if each.failed]
    assert serves(old, system_now_ms()) == (2, 2, True)


def test_a_bundle_of_other_rules_is_due_but_not_before_its_vault_has_them(folder: Path) -> None:
    config, now_ms = load(folder / "ipls.toml"), system_now_ms()
    with closing(socket.create_server(parse_address(config.vault.listen))):  # the vault runs
        done = {each.what: each for each in renew(config, folder, now_ms, early=True)}
        assert done["bundle"].failed
        assert "the vault runs by those before" in done["bundle"].text
        assert serves(folder, now_ms) == (2, 1, False)
        assert [each.what for each in renew(config, folder, now_ms, restarting=True)] == ["bundle"]
    assert serves(folder, now_ms) == (2, 2, True)


def test_what_the_log_has_of_a_bundle_stays_whoever_signs_it_later(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before the bundle is in use; then a witness is away that had signed it."""
    config = load(old / "ipls.toml")
    with monkeypatch.context() as patch:
        patch.setattr("ipls.admin.bundles.replace", killed)
        with pytest.raises(Killed):
            renew(config, old, system_now_ms())
    (old / "keys/witness-3.key").unlink()
    done = renew(config, old, system_now_ms())
    assert not [each for each in done if each.failed]
    assert serves(old, system_now_ms()) == (2, 2, True)


def test_a_bundle_that_was_signed_and_not_published_in_its_time_is_finished_and_the_next_one_made(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, now_ms = load(folder / "ipls.toml"), system_now_ms()
    with monkeypatch.context() as patch:
        patch.setattr("ipls.admin.renewal.put_in_use", killed)
        with pytest.raises(Killed):
            renew(config, folder, now_ms, early=True)
    late_ms = now_ms + 40 * DAY_MS
    done = renew(config, folder, late_ms)
    assert [(each.what, each.failed) for each in done] == [("bundle", False)] * 2
    assert serves(folder, late_ms) == (2, 3, True)


def killed(*_: object, **__: object) -> None:
    raise Killed


def test_by_itself_nothing_is_renewed_while_the_clock_is_far_from_the_newest_head(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would end everything when the clock is right again: certificates that are not good yet."""
    config, now_ms = load(folder / "ipls.toml"), system_now_ms()
    before = certificates(folder)
    year_on = now_ms + 350 * DAY_MS
    monkeypatch.setattr(renewal, "_newest_head_ms", lambda _: now_ms)
    [refused] = renewal.renew_unasked(config, folder, year_on, jumped_ms=0, restarting=True)
    assert refused.failed
    assert "the newest head was signed on" in refused.text
    monkeypatch.setattr(renewal, "_newest_head_ms", lambda _: year_on)  # by witnesses with this clock
    [refused] = renewal.renew_unasked(config, folder, year_on, jumped_ms=350 * DAY_MS, restarting=True)
    assert refused.failed
    assert certificates(folder) == before
    assert load_trust_root(folder / "trust.toml").number == 1
    done = renewal.renew_unasked(config, folder, year_on, jumped_ms=0, restarting=True)
    assert {each.what for each in done} >= {"trust root", "bundle"}


async def restarted_for_a_new_trust_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `serve all` does every hour comes now, and renews the trust root before its time."""
    restarted = asyncio.Event()

    def hear(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        if event["event"] == "restarted for a new trust root":
            restarted.set()
        raise structlog.DropEvent

    def once(*arguments: Any, jumped_ms: int, restarting: bool) -> Any:
        monkeypatch.setattr(supervisor, "renew_unasked", renewal.renew_unasked)
        return renew(*arguments, early=True, restarting=restarting)

    before = structlog.get_config()
    structlog.configure(processors=[hear])
    try:
        monkeypatch.setattr(supervisor, "renew_unasked", once)
        await restarted.wait()
    finally:
        structlog.configure(**before)


async def test_serve_all_renews_when_it_starts_and_by_itself_and_restarts_for_a_new_trust_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a deployment that was away for most of a year: its bundle had run out."""
    file = aged(tmp_path / "ipls", witnesses=1) / "ipls.toml"

    async def all_well() -> bool:
        found = await examine(Deployment(file, load(file), system_now_ms()))
        return {finding.state for finding in found} == {State.WELL}

    monkeypatch.setattr(supervisor, "RENEW_EVERY_S", 0.05)
    serving = Supervisor(file)
    async with Service("supervisor") as service:
        await serving.start(service)
        while not await all_well():
            """The first head is being signed."""
        pids, number = serving.pids, load_trust_root(file.with_name("trust.toml")).number
        await restarted_for_a_new_trust_root(monkeypatch)
        assert load_trust_root(file.with_name("trust.toml")).number == number + 1
        assert {name for name, pid in serving.pids.items() if pid == pids[name]} == {"log"}  # it has no trust root
        while not await all_well():
            """The head is being signed anew."""
    config, year_on = load(file), system_now_ms() + 350 * DAY_MS
    [refused] = renewal.renew_unasked(config, file.parent, year_on, jumped_ms=0, restarting=True)
    assert "the newest head was signed on" in refused.text  # by the one that the directory has


async def test_a_part_that_is_off_keeps_no_other_from_its_renewal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.create(tmp_path / "ipls", "test.ipls", port=0)
    (tmp_path / "ipls/data/contacts.db").write_bytes(b"no database" * 1000)
    monkeypatch.setattr(supervisor, "RENEW_EVERY_S", 0.05)
    serving = Supervisor(tmp_path / "ipls/ipls.toml")
    async with Service("supervisor") as service:
        await serving.start(service)
        assert serving.off.keys() == {"contacts"}
        pids = serving.pids
        await restarted_for_a_new_trust_root(monkeypatch)
        assert serving.pids["registration"] != pids["registration"]


async def test_the_log_warns_of_what_ends_soon() -> None:
    heard = list[str]()
    told = asyncio.Event()

    def hear(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        heard.append(f"{event['event']}: {event.get('what') or event.get('why')}")
        if len(heard) == 2:
            told.set()
        raise structlog.DropEvent

    def endings() -> Iterator[Ending]:
        yield Ending("part", "thing", 20 * DAY_MS, 365 * DAY_MS)
        yield Ending("part", "other", 40 * DAY_MS, 365 * DAY_MS)
        yield Ending("part", "third", 0, 365 * DAY_MS)

    before = structlog.get_config()
    structlog.configure(processors=[hear])
    try:
        async with Service("watched") as service:
            service.spawn("watch", partial(watch, endings, lambda: DAY_MS))
            await told.wait()
    finally:
        structlog.configure(**before)
    assert heard == [
        "runs out: the thing runs out on 1970-01-21 00:00+00:00",
        "runs out: the third ran out on 1970-01-01 00:00+00:00",
    ]


def test_a_person_reads_what_ran_out_when_and_whom_to_ask(folder: Path) -> None:
    root, signed = load_trust_root(folder / "trust.toml"), read_bundle(folder / "bundle.pb")
    bundle, now_ms = parse_bundle(signed.bundle), system_now_ms()
    told = {31: "the HSM keys of test.ipls, ran out on 20", 400: "who runs test.ipls"}
    for days, words in told.items():
        with pytest.raises(VerificationError, match=words):
            check_bundle(root, signed, now_ms=now_ms + days * DAY_MS)
    with pytest.raises(VerificationError, match=r"good from 20.* only: the operator of test\.ipls renews it"):
        hsm_for(bundle, "+15550001111", now_ms=now_ms + 400 * DAY_MS)
