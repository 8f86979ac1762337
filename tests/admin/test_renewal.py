"""What runs out is renewed by one command, and by `serve all` itself. The attacker is time."""

import asyncio
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog
from cryptography import x509

from ipls import clock
from ipls.admin import deployment, renewal, supervisor
from ipls.admin.bundles import read_bundle
from ipls.admin.expiry import watch
from ipls.admin.renewal import renew
from ipls.admin.status import Deployment, State, examine
from ipls.admin.supervisor import Supervisor
from ipls.clock import SettledClock, system_now_ms
from ipls.config import load, load_trust_root
from ipls.crypto.errors import VerificationError
from ipls.runtime.service import Service
from ipls.trust.bundle import bundle_head, check_bundle, hsm_for, parse_bundle, verify_bundle
from ipls.units import DAY_MS
from tests.e2e.running import ipls


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return aged(tmp_path / "old", witnesses=3)


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


@pytest.mark.parametrize("last", ["append_version", "put_in_use"])
def test_a_renewal_that_was_killed_after_witnesses_signed_goes_on(
    old: Path, last: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A witness signs one file a number for ever: another draft would find none that signs."""

    class Killed(BaseException):
        pass

    def killed(*_: object, **__: object) -> None:
        raise Killed

    config = load(old / "ipls.toml")
    with monkeypatch.context() as patch:
        patch.setattr(renewal, last, killed)
        with pytest.raises(Killed):
            renew(config, old, system_now_ms())
    done = renew(config, old, system_now_ms() + 1000)
    assert not [each for each in done if each.failed]
    assert load_trust_root(old / "trust.toml").number == 2
    assert parse_bundle(read_bundle(old / "bundle.pb").bundle).number == 2


async def restarted_for_a_new_trust_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `serve all` does every hour comes now, and renews the trust root before its time."""
    restarted = asyncio.Event()

    def hear(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        if event["event"] == "restarted for a new trust root":
            restarted.set()
        raise structlog.DropEvent

    def once(*arguments: Any) -> Any:
        monkeypatch.setattr(supervisor, "renew", renew)
        return renew(*arguments, early=True)

    before = structlog.get_config()
    structlog.configure(processors=[hear])
    try:
        monkeypatch.setattr(supervisor, "renew", once)
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

    def endings() -> Iterator[renewal.Ending]:
        yield renewal.Ending("part", "thing", 20 * DAY_MS, 365 * DAY_MS)
        yield renewal.Ending("part", "other", 40 * DAY_MS, 365 * DAY_MS)
        yield renewal.Ending("part", "third", 0, 365 * DAY_MS)

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
