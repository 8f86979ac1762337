"""An audit against honest and lying logs and witnesses. The command: tests/cli/test_audit.py."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ipls.auditlog.errors import AuditError, AuditFault, AuditUnavailable
from ipls.auditor import walker as auditor
from ipls.auditor.run import AuditRun, Summary, Waiting
from ipls.config import load_trust_root
from ipls.crypto.keys import public_key
from ipls.proto.akd.v1.akd_pb2 import SingleAppendOnlyProof
from ipls.trust.evidence import judge_evidence
from tests.attack.log import World, answer, listing, name, public_world
from tests.server.chains import Chain
from tests.trust.roots import THIEF, WITNESSES

EPOCHS = 7
VECTORS = Path(__file__).parent.parent / "vectors/whatsapp_v1.jsonl"


class Audited(NamedTuple):
    error: AuditError | None
    found: Summary


Audit = Callable[..., Audited]


@pytest.fixture
def world() -> Iterator[World]:
    with public_world(EPOCHS) as world:
        yield world


def audited(
    world: World, folder: Path, first: int | None = None, *, state: str = "state.json", **options: Any
) -> Audited:
    """One run."""
    root = load_trust_root(world.trust_file(folder))
    run = AuditRun(root, lambda event: None, first=first, state=folder / state, **options)
    error = None
    try:
        run.catch_up()
    except AuditError as e:
        error = e
    return Audited(error, run.end(error))


@pytest.fixture
def audit(world: World, tmp_path: Path) -> Audit:
    return partial(audited, world, tmp_path, parallel=3)


def refused(audit: Audit, reason: str, epoch: int | None, **options: Any) -> Audited:
    found = audit(**options)
    assert isinstance(found.error, AuditFault)
    assert (found.error.reason, found.error.epoch) == (reason, epoch), found
    return found


def test_an_honest_log_holds(world: World, audit: Audit) -> None:
    error, found = audit()
    assert error is None
    assert (found.first, found.last, found.epochs) == (1, EPOCHS, EPOCHS)
    assert found.root_hash == world.chain.root
    assert found.signed == {"w0": EPOCHS, "w1": EPOCHS, "w2": EPOCHS}


def test_each_thing_is_asked_for_once(world: World, audit: Audit) -> None:
    audit()
    once = [path for path in world.asked if path.startswith("/log/") and "?" not in path]
    assert sorted(once) == sorted(f"/log/{found}" for found in world.objects)


def test_a_log_at_its_start_holds(tmp_path: Path) -> None:
    with public_world(0) as world:
        error, found = audited(world, tmp_path)
    assert (error, found.epochs) == (None, 0)


def test_a_second_run_goes_on_where_the_first_ended(world: World, audit: Audit) -> None:
    assert audit().error is None
    world.asked.clear()
    world.grow(2)
    error, found = audit()
    assert (error, found.first, found.epochs) == (None, EPOCHS + 1, 2)
    assert sum("/log/" in path and "?" not in path for path in world.asked) == 2


def test_from_begins_at_a_root_that_the_witnesses_signed(world: World, audit: Audit) -> None:
    error, found = audit(first=5)
    assert (error, found.first, found.last) == (None, 5, EPOCHS)
    for cosigned in world.cosigned:
        del cosigned[4]
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
    assert refused(audit, "AUDIT_HOLE", 4).found.last == 3


def test_an_early_end(world: World, audit: Audit) -> None:
    world.take_out(EPOCHS)
    refused(audit, "AUDIT_ENDS_EARLY", EPOCHS)


def test_an_early_end_that_one_witness_alone_tells_of(world: World, audit: Audit) -> None:
    world.take_out(EPOCHS)
    world.newest[:2] = [EPOCHS - 1, EPOCHS - 1]
    refused(audit, "AUDIT_ENDS_EARLY", EPOCHS)


def test_a_newest_epoch_that_is_claimed_but_not_signed_is_no_fault(world: World, audit: Audit) -> None:
    world.newest[0] = 10**9
    world.cosigned[0][10**9] = answer(THIEF, 10**9, bytes(32))
    assert audit().error is None


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
    for cosigned in world.cosigned[:2]:
        del cosigned[4]
    refused(audit, "AUDIT_UNSIGNED", 4)


def unsign(world: World, epoch: int, *witnesses: int) -> None:
    for i in witnesses:
        del world.cosigned[i][epoch]
        world.newest[i] = epoch - 1


@pytest.mark.parametrize("signed", [0, 1])
def test_the_newest_object_may_wait_for_its_signatures(world: World, audit: Audit, signed: int) -> None:
    unsign(world, EPOCHS, *range(3 - signed))
    for _ in range(2):
        error, found = audit()
        assert (error, found.last, found.waiting) == (None, EPOCHS - 1, EPOCHS)
    for i, seed in enumerate(WITNESSES):
        world.cosigned[i][EPOCHS] = answer(seed, EPOCHS, world.chain.root)
        world.newest[i] = EPOCHS
    error, found = audit()
    assert (error, found.last, found.waiting) == (None, EPOCHS, None)


def test_the_newest_object_may_wait_while_a_witness_is_away(world: World, audit: Audit) -> None:
    unsign(world, EPOCHS, 1, 2)
    world.answers[f"/w2/namespaces/test.ipls/audits/{EPOCHS}"] = (503, b"")
    error, found = audit()
    assert (error, found.last, found.waiting) == (None, EPOCHS - 1, EPOCHS)


def test_an_unsigned_object_that_is_not_the_newest_is_a_fault(world: World, audit: Audit) -> None:
    unsign(world, EPOCHS - 1, 0, 1)
    unsign(world, EPOCHS, 0, 1, 2)
    refused(audit, "AUDIT_UNSIGNED", EPOCHS - 1)


def test_an_unsigned_newest_object_hides_no_fault(world: World, audit: Audit) -> None:
    """Of its own, or of what lies above it."""
    world.page_size = 1000
    unsign(world, EPOCHS, 0, 1, 2)
    honest = dict(world.objects)
    world.objects[world.name_of(EPOCHS)] = b"x"
    refused(audit, "AUDIT_PROOF_REFUSED", EPOCHS, state="proof")
    world.objects = dict(honest)
    world.cosigned[0][EPOCHS] = answer(WITNESSES[0], EPOCHS, b"\x07" * 32)
    refused(audit, "AUDIT_FORK", EPOCHS, state="fork")
    del world.cosigned[0][EPOCHS]
    listed = world.answer("/log/?list-type=2")
    for n in (7, 8):
        world.objects[name(EPOCHS + 1, bytes(32), bytes([n]) * 32)] = b"x"
    world.answers["/log/?list-type=2"] = listed  # they came after it
    refused(audit, "AUDIT_TWO_OBJECTS", EPOCHS + 1, state="above")
    world.answers.clear()
    world.objects = dict(honest)
    world.cosigned[1][EPOCHS + 1] = answer(WITNESSES[1], EPOCHS + 1, b"\x07" * 32)
    world.newest[1] = EPOCHS + 1
    refused(audit, "AUDIT_ENDS_EARLY", EPOCHS + 1, state="early")


def test_it_does_not_begin_after_an_object_that_waits(world: World, audit: Audit) -> None:
    unsign(world, EPOCHS, 0, 1, 2)
    error, _ = audit(first=EPOCHS + 1)
    assert isinstance(error, AuditUnavailable)
    assert (error.reason, error.epoch) == ("AUDIT_NOT_YET", EPOCHS)


def test_while_the_log_is_followed_what_waits_is_told_once_and_fetched_once(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unsign(world, EPOCHS, 0, 1, 2)
    events: list[object] = []
    looks = 0

    def report(event: object) -> None:
        events.append(event)

    def newest(self: auditor.Auditor) -> Any:
        nonlocal looks
        looks += 1
        if looks == 5:
            raise AuditFault("AUDIT_STOPPED", "the test ends")
        return original(self)

    original = auditor.Auditor.newest
    monkeypatch.setattr(auditor.Auditor, "newest", newest)
    run = AuditRun(load_trust_root(world.trust_file(tmp_path)), report, state=tmp_path / "state.json")
    run.catch_up()
    with pytest.raises(AuditFault, match="the test ends"):
        run.follow(0)
    assert [event.error.epoch for event in events if isinstance(event, Waiting)] == [EPOCHS]
    assert sum(path == f"/log/{world.name_of(EPOCHS)}" for path in world.asked) == 1


def test_k_signatures_are_enough(world: World, audit: Audit) -> None:
    del world.cosigned[0][4]
    error, found = audit()
    assert (error, found.signed) == (None, {"w0": EPOCHS - 1, "w1": EPOCHS, "w2": EPOCHS})


def test_a_witness_that_signed_another_root_for_an_epoch(world: World, audit: Audit) -> None:
    world.cosigned[2][4] = answer(WITNESSES[2], 4, b"\x07" * 32)
    refused(audit, "AUDIT_FORK", 4)


def test_a_witness_that_shows_another_root_for_an_epoch_already_walked(world: World, audit: Audit) -> None:
    assert audit().error is None
    world.cosigned[2][EPOCHS] = answer(WITNESSES[2], EPOCHS, b"\x07" * 32)
    found = refused(audit, "AUDIT_FORK", EPOCHS)
    assert proven(world, found) == [("two_signatures", ("w2",), EPOCHS)]


def proven(world: World, audited: Audited) -> list[tuple[str, tuple[str, ...], int]]:
    """What the files of evidence prove to a third party."""
    findings = [judge_evidence(world.root, file.read_bytes()) for file in audited.found.evidence]
    return [(finding.kind, finding.witnesses, finding.epoch) for finding in findings]


def test_a_root_that_one_witness_alone_signed_blames_nobody(world: World, audit: Audit) -> None:
    world.cosigned[2][4] = answer(WITNESSES[2], 4, b"\x07" * 32)
    assert refused(audit, "AUDIT_FORK", 4).found.evidence == []


def test_a_witness_that_signs_again_what_it_signed_otherwise_is_convicted(world: World, audit: Audit) -> None:
    """Its newest epoch it shows with one root, then, asked for the same epoch, with the log's."""
    honest = world.cosigned[2][EPOCHS]
    shown = iter([answer(WITNESSES[2], EPOCHS, b"\x07" * 32), honest, honest, honest])
    path = f"/w2/namespaces/test.ipls/audits/{EPOCHS}"
    world.answers[path] = lambda: (200, json.dumps(next(shown)).encode())
    found = refused(audit, "AUDIT_FORK", EPOCHS)
    assert found.error
    assert found.error.message.startswith("witness w2 signed two digests for epoch 7 of test.ipls")
    assert proven(world, found) == [("two_signatures", ("w2",), EPOCHS)]


def test_witnesses_that_signed_a_rewritten_log_are_convicted(world: World, audit: Audit) -> None:
    """The log's last epoch becomes another, with all proofs and signatures, after it was audited once."""
    assert audit().error is None
    old, _, _ = world.take_out(EPOCHS)
    other = Chain()
    for _ in range(EPOCHS - 1):
        other.step()
    assert other.root == old
    made = other.step(b"another", b"label")
    world.put(made.epoch, made.old_root, made.new_root, made.blob)
    found = refused(audit, "AUDIT_FORK", EPOCHS)
    assert proven(world, found) == [("two_heads", ("w0", "w1", "w2"), EPOCHS)]


def test_a_fault_is_told_also_where_its_evidence_can_not_be_written(world: World, audit: Audit, tmp_path: Path) -> None:
    (tmp_path / "evidence").write_bytes(b"in the way")
    assert audit().error is None
    world.cosigned[2][EPOCHS] = answer(WITNESSES[2], EPOCHS, b"\x07" * 32)
    assert refused(audit, "AUDIT_FORK", EPOCHS).found.evidence == []


def test_a_key_that_the_auditor_itself_serves_is_not_asked_for(world: World, audit: Audit) -> None:
    for i in (0, 1):
        for epoch in (5, 6):
            world.cosigned[i][epoch] |= answer(THIEF, epoch, bytes.fromhex(world.cosigned[i][epoch]["digest"]))
        keys = {"keys": [{"public_key": public_key(THIEF).hex(), "not_before": 0}], "logs": []}
        world.answers[f"/w{i}/info"] = (200, json.dumps(keys).encode())
    refused(audit, "AUDIT_UNSIGNED", 5)
    assert not [path for path in world.asked if "info" in path]


def test_an_answer_that_is_not_this_signature_does_not_count(world: World, audit: Audit) -> None:
    """What else is none: tests/auditlog/test_cosignatures.py."""
    for cosigned in world.cosigned[:2]:
        cosigned[4] = cosigned[4] | {"signature": "00" * 64}
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
    assert audit().error is None
    old, new, blob = world.take_out(3)
    _, newer, _ = world.take_out(4)
    world.objects[name(3, old, b"\x07" * 32)] = blob
    world.objects[name(4, b"\x07" * 32, newer)] = blob
    refused(audit, "AUDIT_LOG_CHANGED", EPOCHS)
    assert new != b"\x07" * 32


def untrimmed(blob: bytes) -> bytes:
    """As other directories may write labels: with their trailing zero bytes."""
    proof = SingleAppendOnlyProof.FromString(blob)
    for element in (*proof.inserted, *proof.unchanged_nodes):
        element.label.label_val = element.label.label_val.ljust(32, b"\0")
    return proof.SerializeToString()


@pytest.fixture(params=[bytes, untrimmed], ids=["as published", "untrimmed"])
def foreign(request: pytest.FixtureRequest) -> Iterator[World]:
    """A log of 40 epochs whose names and objects are those of the Rust library `akd` 0.13.0, not ours."""
    epochs = [line for line in map(json.loads, VECTORS.read_text().splitlines()) if line["kind"] == "epoch"]
    with public_world(0, page_size=7) as world:
        for before, line in pairwise(epochs):
            blob = request.param(bytes.fromhex(line["append_only"]))
            world.put(line["epoch"], bytes.fromhex(before["root"]), bytes.fromhex(line["root"]), blob)
            assert line["name"] in world.objects
        yield world


def auditing(world: World, folder: Path, **options: Any) -> Audited:
    """A whole audit of that log."""
    return audited(world, folder, state=os.urandom(8).hex(), **options)


def fault(audited: Audited) -> tuple[str, int | None] | None:
    return audited.error and (audited.error.reason, audited.error.epoch)


def test_a_log_of_the_fields_own_holds(foreign: World, tmp_path: Path) -> None:
    error, found = auditing(foreign, tmp_path)
    assert (error, found.first, found.last) == (None, 1, 40)
    assert found.signed == {"w0": 40, "w1": 40, "w2": 40}


def test_corruption_in_a_log_of_the_fields_own_is_found(foreign: World, tmp_path: Path) -> None:
    for epoch, at in ((1, 9), (40, -1)):
        found = foreign.name_of(epoch)
        honest = foreign.objects[found]
        bent = bytearray(honest)
        bent[at] ^= 1
        foreign.objects[found] = bytes(bent)
        assert fault(auditing(foreign, tmp_path)) == ("AUDIT_PROOF_REFUSED", epoch)
        foreign.objects[found] = honest
    old, new, blob = foreign.take_out(30)
    for name_of_it, reason in (
        (name(30, new, old), "AUDIT_CHAIN_BROKEN"),
        (name(30, old, bytes(32)), "AUDIT_PROOF_REFUSED"),
        (name(30, old, new).upper(), "AUDIT_NAME_INVALID"),
    ):
        foreign.objects[name_of_it] = blob
        assert fault(auditing(foreign, tmp_path)) == (reason, None if reason == "AUDIT_NAME_INVALID" else 30)
        del foreign.objects[name_of_it]
    assert fault(auditing(foreign, tmp_path)) == ("AUDIT_HOLE", 30)


def test_objects_in_memory_are_bounded_together(
    foreign: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for the largest, no more than that is on its way, however many may run."""
    room = max(map(len, foreign.objects.values()))
    monkeypatch.setattr(auditor, "MAX_IN_FLIGHT", room)
    monkeypatch.setattr(auditor, "MAX_OBJECT", room)
    on_their_way, crossed = [0], threading.Event()
    counting = threading.Lock()

    def slow(blob: bytes) -> tuple[int, bytes]:
        with counting:
            on_their_way[0] += len(blob)
            if on_their_way[0] > room:
                crossed.set()
        crossed.wait(0.02)  # a second one would come in this time
        with counting:
            on_their_way[0] -= len(blob)
        return 200, blob

    for found, blob in foreign.objects.items():
        foreign.answers[f"/log/{found}"] = partial(slow, blob)
    assert auditing(foreign, tmp_path, parallel=16).error is None
    assert not crossed.is_set()


def test_several_objects_are_fetched_at_once(world: World, audit: Audit) -> None:
    """The first comes only when another is asked for."""
    first, another = world.name_of(1), threading.Event()

    def held() -> tuple[int, bytes]:
        return (200, world.objects[first]) if another.wait(20) else (404, b"")

    def asked(blob: bytes) -> tuple[int, bytes]:
        another.set()
        return 200, blob

    world.answers = {f"/log/{found}": partial(asked, blob) for found, blob in world.objects.items()}
    world.answers[f"/log/{first}"] = held
    assert audit().error is None


def test_what_does_not_answer_is_no_fault(world: World, audit: Audit) -> None:
    world.answers[f"/log/{world.name_of(5)}"] = (503, b"")
    error, found = audit()
    assert isinstance(error, AuditUnavailable)
    assert (error.reason, found.last) == ("AUDIT_LOG_SILENT", 4)
    world.answers.clear()
    world.asked.clear()
    error, found = audit()
    assert (error, found.first, found.epochs) == (None, 5, EPOCHS - 4)
    for i in range(2):
        world.answers[f"/w{i}/namespaces/test.ipls/last-verified-epoch"] = (500, b"")
    error, found = audit()
    assert isinstance(error, AuditUnavailable)
    assert error.reason == "AUDIT_WITNESS_SILENT"
