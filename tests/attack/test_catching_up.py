"""A witness that is behind, or on the losing side, against everything that could lead it astray: the log, its peers, an
outsider, the directory. Whatever they do, it signs what a quorum's head leads to, or nothing."""

import asyncio
import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from ipls.akd import EMPTY_ROOT, Publication
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.proto.witness.v1.witness_pb2 import GetStateRequest
from ipls.server.witness.http import auditor_app
from ipls.trust.errors import HeadRefused
from ipls.trust.heads import Head, timestamp, verify_head
from ipls.trust.limits import MAX_BLOB
from tests.attack.catching_up import OWN, Victim, quorums
from tests.attack.log import answer, listing, name, public_world
from tests.server.chains import Chain, renewal
from tests.server.loopback import CALLER
from tests.trust.roots import HOUR, NAMESPACE, NOW, THIEF, WITNESSES, make_root, signed


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Victim]:
    with public_world(0) as world:
        victim = Victim(world, tmp_path)
        yield victim
        victim.store.close()


def is_at(victim: Victim, made: Publication) -> bool:
    state = victim.state()
    return (state.epoch, state.old_root, state.root_hash) == (made.epoch, made.old_root, made.new_root)


async def test_a_dead_witness_signs_all_that_it_missed_never_freshly(victim: Victim) -> None:
    assert await victim.live(victim.publish()) == "cosignature"
    made = [victim.publish() for _ in range(6)]
    victim.now += 2 * HOUR
    assert victim.look() is None
    assert is_at(victim, made[-1])
    alone = make_root(start_root=EMPTY_ROOT, witnesses=victim.world.root.witnesses[OWN:])
    for step in made:
        row = victim.store.signed(step.epoch)
        assert row is not None
        assert row.cosignature is not None
        head = SignedHead(epoch=step.epoch, root_hash=step.new_root)
        head.cosignatures.add().ParseFromString(row.cosignature)
        assert timestamp(head.cosignatures[0]) == NOW
        assert verify_head(alone, head, now_ms=victim.now, check_age=False) == (step.epoch, step.new_root)
        with pytest.raises(HeadRefused) as e:
            verify_head(alone, head, now_ms=victim.now)
        assert e.value.reason == "HEAD_TOO_OLD"
    assert await victim.propose(renewal(7, made[-1].new_root, time_ms=victim.now)) == "cosignature"
    assert victim.state().time_ms == victim.now


async def test_a_new_witness_that_signed_nothing_yet_signs_with_the_time_0_at_which_no_key_is_good(
    victim: Victim,
) -> None:
    victim.service.sign_start()
    made = [victim.publish() for _ in range(3)]
    assert victim.look() is None
    assert [victim.store.signed(epoch).time_ms for epoch in range(4)] == [0, 0, 0, 0]
    after = victim.publish()
    assert await victim.live(after) == "cosignature"
    assert (is_at(victim, after), victim.state().time_ms) == (True, NOW)
    assert made[-1].new_root == after.old_root


async def test_a_proposal_that_finds_it_behind_makes_it_catch_up(
    victim: Victim, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with no other witness to be asked: the directory's proposal brings the head that k had signed."""
    made = [victim.publish() for _ in range(3)]
    for i in range(3):
        victim.world.answers[f"/w{i}/namespaces/{NAMESPACE}/last-verified-epoch"] = (503, b"")
    late = victim.world.chain.step()
    looked, poll = asyncio.Event(), victim.service.poll
    caught_up, sign_pulled, loop = asyncio.Event(), victim.store.sign_pulled, asyncio.get_running_loop()

    def looking() -> None:
        poll()
        loop.call_soon_threadsafe(looked.set)

    def signing(*arguments: Any) -> bool:
        more = sign_pulled(*arguments)
        loop.call_soon_threadsafe(caught_up.set)
        return more

    monkeypatch.setattr(victim.service, "poll", looking)
    monkeypatch.setattr(victim.store, "sign_pulled", signing)
    running = asyncio.create_task(victim.service.catch_up(3600))
    await looked.wait()
    assert victim.state().epoch == 0
    assert await victim.live(late, quorums(made[-1])) == "WITNESS_GAP"
    await caught_up.wait()
    running.cancel()
    assert await victim.live(late) == "cosignature"
    assert is_at(victim, late)


def test_it_goes_on_where_it_was_killed_at_any_epoch(victim: Victim) -> None:
    made = [victim.publish() for _ in range(5)]
    for epoch in range(2, 6):
        missing = "/log/" + victim.world.name_of(epoch)
        victim.world.answers[missing] = (404, b"")
        assert victim.look() == "AUDIT_OBJECT_MISSING"
        assert victim.state().epoch == 0
        del victim.world.answers[missing]
        victim.restart()
    assert victim.look() is None
    assert is_at(victim, made[-1])
    fetched = [path for path in victim.world.asked if path == "/log/" + victim.world.name_of(1)]
    assert len(fetched) == 1


def corrupted(victim: Victim) -> None:
    found = victim.world.name_of(2)
    blob = victim.world.objects[found]
    victim.world.answers["/log/" + found] = (200, blob[:-1] + bytes([blob[-1] ^ 1]))


def hole(victim: Victim) -> None:
    found = victim.world.name_of(2)
    victim.world.answers["/log/" + found] = (404, b"")


def unlisted(victim: Victim) -> None:
    victim.world.answers["/log/?list-type=2&prefix=2%2F"] = (200, listing([], 3))


def endless(victim: Victim) -> None:
    victim.world.answers["/log/" + victim.world.name_of(2)] = (200, bytes(MAX_BLOB + 1))


def huge(victim: Victim) -> None:
    entries = [(victim.world.name_of(2), 10**14)]
    victim.world.answers["/log/?list-type=2&prefix=2%2F"] = (200, listing(entries, 3))


def two_objects(victim: Victim) -> None:
    entries = sorted([(victim.world.name_of(2), 5), (name(2, bytes(32), bytes(32)), 5)])
    victim.world.answers["/log/?list-type=2&prefix=2%2F"] = (200, listing(entries, 3))


def other_epoch(victim: Victim) -> None:
    victim.world.answers["/log/?list-type=2&prefix=2%2F"] = (200, listing([(victim.world.name_of(3), 5)], 3))


def wrong_link(victim: Victim) -> None:
    entries = [(name(2, bytes(32), bytes(32)), 5)]
    victim.world.answers["/log/?list-type=2&prefix=2%2F"] = (200, listing(entries, 3))


def no_root_of_ours(victim: Victim) -> None:
    for epoch in (1, 2):
        entries = [(name(epoch, b"\x01" * 32, bytes(32)), 5)]
        victim.world.answers[f"/log/?list-type=2&prefix={epoch}%2F"] = (200, listing(entries, 3))


def outsiders(victim: Victim) -> None:
    """A whole chain of valid successors of epoch 1, made from the public blobs, in place of the log's."""
    chain = Chain()
    chain.step()
    for _ in range(3):
        made = chain.step(b"outsider %d" % chain.epoch)
        shown = name(made.epoch, made.old_root, made.new_root)
        victim.world.answers["/log/" + shown] = (200, made.blob)
        query = f"/log/?list-type=2&prefix={made.epoch}%2F"
        victim.world.answers[query] = (200, listing([(shown, len(made.blob))], 3))


LIES = {
    corrupted: "AUDIT_PROOF_REFUSED",
    hole: "AUDIT_OBJECT_MISSING",
    unlisted: "AUDIT_HOLE",
    endless: "AUDIT_OBJECT_SIZE",
    huge: "AUDIT_OBJECT_SIZE",
    two_objects: "AUDIT_TWO_OBJECTS",
    other_epoch: "AUDIT_AHEAD",
    wrong_link: "AUDIT_CHAIN_BROKEN",
    no_root_of_ours: "AUDIT_CHAIN_BROKEN",
    outsiders: "AUDIT_FORK",
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_lying_log_makes_it_sign_nothing_and_an_honest_one_all(
    victim: Victim, lie: Callable[[Victim], None]
) -> None:
    assert await victim.live(victim.publish()) == "cosignature"
    made = [victim.publish() for _ in range(3)]
    before = victim.state()
    lie(victim)
    for _ in range(2):
        assert victim.look() == LIES[lie]
        assert victim.state() == before
    victim.world.answers.clear()
    assert victim.look() is None
    assert is_at(victim, made[-1])


async def test_another_chain_that_the_log_showed_in_part_is_let_go_once_it_is_honest(victim: Victim) -> None:
    assert await victim.live(victim.publish()) == "cosignature"
    made = [victim.publish() for _ in range(3)]
    outsiders(victim)
    victim.world.answers["/log/?list-type=2&prefix=3%2F"] = (200, listing([], 3))
    assert victim.look() == "AUDIT_HOLE"
    victim.world.answers.clear()
    assert victim.look() == "AUDIT_CHAIN_BROKEN"
    assert victim.look() is None
    assert is_at(victim, made[-1])


async def test_a_look_ends_when_the_witness_does(victim: Victim) -> None:
    victim.publish()
    before = victim.state()
    await victim.service.stop()
    assert victim.look() == "AUDIT_STOPPED"
    assert victim.state() == before


async def test_an_outsiders_valid_successor_in_the_log_without_a_quorum_is_left(victim: Victim) -> None:
    assert await victim.live(victim.publish()) == "cosignature"
    before = victim.state()
    forged = victim.world.chain.fork().step(b"outsider")
    victim.world.objects[name(2, forged.old_root, forged.new_root)] = forged.blob
    victim.world.cosigned[0][2] = answer(WITNESSES[0], 2, forged.new_root)  # one of two: no quorum
    victim.world.newest[0] = 2
    assert victim.look() is None
    assert victim.state() == before
    assert await victim.live(forged, seed=THIEF) == "PROPOSAL_UNSIGNED"
    assert victim.state() == before


def by_strangers(victim: Victim, made: Publication) -> SignedHead:
    return quorums(made, THIEF, WITNESSES[0])


def twice_by_one(victim: Victim, made: Publication) -> SignedHead:
    return quorums(made, WITNESSES[0], WITNESSES[0])


def of_another_namespace(victim: Victim, made: Publication) -> SignedHead:
    return signed(Head(made.epoch, made.new_root), *WITNESSES[:2], namespace=f"{NAMESPACE}/fleet")


def of_another_epoch(victim: Victim, made: Publication) -> SignedHead:
    head = signed(Head(made.epoch + 1, made.new_root), *WITNESSES[:2])
    head.epoch = made.epoch
    return head


@pytest.mark.parametrize("forge", [by_strangers, twice_by_one, of_another_namespace, of_another_epoch])
async def test_a_forged_quorum_moves_nothing(victim: Victim, forge: Callable[..., SignedHead]) -> None:
    assert await victim.live(victim.publish()) == "cosignature"
    before = victim.state()
    made = victim.world.chain.step()
    victim.world.objects[name(2, made.old_root, made.new_root)] = made.blob
    assert victim.look(forge(victim, made)) is None
    assert victim.state() == before


GARBAGE = [b"", b"{}", b"[" * 60_000, b"\xff" * 100, bytes(100_000), json.dumps({"epoch": 10**30}).encode()]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
async def test_peers_that_feed_garbage_move_nothing_and_stop_nothing(victim: Victim, garbage: bytes) -> None:
    made = [victim.publish() for _ in range(3)]
    path = f"/w0/namespaces/{NAMESPACE}/"
    victim.world.answers[path + "last-verified-epoch"] = victim.world.answers[path + "audits/3"] = (200, garbage)
    assert victim.look() is None
    assert victim.state().epoch == 0
    victim.now += 2 * HOUR  # however old the head is that the directory shows
    assert victim.look(quorums(made[-1])) is None
    assert is_at(victim, made[-1])


async def forked(victim: Victim) -> tuple[Publication, Publication]:
    """It signed the first root for epoch 2, the two others the second."""
    assert await victim.live(victim.publish()) == "cosignature"
    lost = victim.world.chain.fork().step(b"lost")
    assert await victim.live(lost) == "cosignature"
    return lost, victim.publish(b"won")


async def test_one_that_signed_the_losing_root_rejoins_and_never_signs_that_epoch_again(victim: Victim) -> None:
    lost, won = await forked(victim)
    assert await victim.live(won) == "WITNESS_FORK"
    assert victim.evidence() == [("two_proposals", (), 2)]
    assert victim.look() is None
    victim.restart()
    assert is_at(victim, won)
    assert victim.state().cosignature is None
    on_record = victim.store.signed(2)
    assert on_record is not None
    assert on_record.root_hash == lost.new_root
    assert on_record.cosignature is not None
    assert await victim.propose(renewal(2, won.new_root)) == "WITNESS_SIGNED_OTHER"
    assert await victim.propose(renewal(2, lost.new_root)) == "WITNESS_FORK"
    answer = await victim.service.GetState(GetStateRequest(namespace=NAMESPACE), CALLER)
    assert not answer.state.HasField("cosignature")
    assert verify_head(victim.world.root, answer.state.head, now_ms=NOW) == (2, won.new_root)
    answer = await victim.service.GetState(GetStateRequest(namespace=NAMESPACE, epoch=2), CALLER)
    assert (answer.state.root_hash, answer.state.HasField("cosignature")) == (lost.new_root, True)  # asked for its own
    after = victim.publish()
    assert await victim.live(after) == "cosignature"
    assert is_at(victim, after)
    assert await victim.live(lost) == "WITNESS_BEHIND"


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE epoch SET cosignature = x'00' WHERE epoch = 2",
        "UPDATE epoch SET root_hash = (SELECT root_hash FROM lost) WHERE epoch = 2",
        "UPDATE lost SET root_hash = x'00'",
        "DELETE FROM lost",
    ],
)
async def test_the_file_itself_keeps_what_was_lost(victim: Victim, change: str) -> None:
    await forked(victim)
    assert victim.look() is None
    with closing(sqlite3.connect(victim.folder / "w.db")) as db, pytest.raises(sqlite3.IntegrityError):
        db.execute(change)


async def test_the_losing_signature_is_not_shown_to_auditors(victim: Victim) -> None:
    _, won = await forked(victim)
    assert victim.look() is None
    after = victim.publish()
    assert await victim.live(after) == "cosignature"
    root = victim.world.root
    app = auditor_app(root, root.witnesses[OWN], victim.store, lambda name: name in victim.world.objects)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://auditor") as http:
        codes = [(await http.get(f"/namespaces/{NAMESPACE}/audits/{epoch}")).status_code for epoch in (1, 2, 3)]
    assert codes == [200, 404, 200]
    assert won.new_root == after.old_root


async def test_a_fork_that_it_alone_was_led_along_is_left_for_the_quorums_chain(victim: Victim) -> None:
    """A directory that showed it another tree than the others, for several epochs."""
    assert await victim.live(victim.publish()) == "cosignature"
    astray = victim.world.chain.fork()
    lost = [astray.step(b"lost %d" % n) for n in range(3)]
    for made in lost:
        assert await victim.live(made) == "cosignature"
    victim.publish(b"won")
    assert victim.look() is None  # what a quorum signed is below: nothing to be done yet
    assert is_at(victim, lost[-1])
    won = [victim.publish() for _ in range(3)]
    assert victim.look() is None
    assert is_at(victim, won[-1])
    for epoch in (2, 3, 4):
        shown, on_record = victim.store.shown(epoch), victim.store.signed(epoch)
        assert shown is not None
        assert on_record is not None
        assert shown.cosignature is None
        assert (on_record.cosignature is not None, on_record.root_hash) == (True, lost[epoch - 2].new_root)
    assert await victim.live(victim.publish()) == "cosignature"


async def test_a_log_that_pretends_that_it_lost_is_not_believed(victim: Victim) -> None:
    first, second = victim.publish(), victim.publish()
    for made in (first, second):
        assert await victim.live(made) == "cosignature"
    third = victim.publish()
    forged = Chain()
    forged.step()
    other = forged.step(b"other")
    shown = name(2, other.old_root, other.new_root)
    victim.world.answers["/log/" + shown] = (200, other.blob)
    victim.world.answers["/log/?list-type=2&prefix=2%2F"] = (200, listing([(shown, len(other.blob))], 3))
    entries = [(name(3, other.new_root, third.new_root), len(third.blob))]
    victim.world.answers["/log/?list-type=2&prefix=3%2F"] = (200, listing(entries, 3))
    victim.world.answers["/log/" + entries[0][0]] = (200, third.blob)
    before = victim.state()
    assert victim.look() == "AUDIT_PROOF_REFUSED"
    assert victim.state() == before


async def test_a_late_proposal_of_a_lower_term_is_refused_after_catching_up(victim: Victim) -> None:
    assert await victim.live(victim.publish(), term=5) == "cosignature"
    victim.publish()
    assert victim.look() is None
    assert await victim.live(victim.publish(), term=4) == "WITNESS_TERM"


def backup(victim: Victim, *suffixes: str) -> Path:
    """A copy of the witness's files, as a backup takes it."""
    copy = victim.folder / "backup"
    copy.mkdir()
    victim.store.close()
    for suffix in suffixes:
        shutil.copy(victim.folder / f"w.{suffix}", copy)
    victim.start()
    return copy


def restore(victim: Victim, copy: Path) -> None:
    victim.store.close()
    for leftover in victim.folder.glob("w.db*"):
        leftover.unlink()
    for file in copy.iterdir():
        shutil.copy(file, victim.folder)
    victim.start()


async def test_a_database_from_a_backup_signs_nothing_any_more(victim: Victim) -> None:
    assert await victim.live(victim.publish()) == "cosignature"
    copy = backup(victim, "db")
    fork = victim.world.chain.fork()
    second = victim.publish()
    assert await victim.live(second) == "cosignature"
    restore(victim, copy)
    assert await victim.live(fork.step(b"other")) == "WITNESS_RESTORED"
    assert await victim.live(second) == "WITNESS_RESTORED"
    assert victim.look() == "WITNESS_RESTORED"
    assert victim.state().epoch == 1


async def test_a_backup_of_the_same_epoch_with_an_older_time_or_term_signs_nothing_any_more(victim: Victim) -> None:
    made = victim.publish()
    assert await victim.live(made) == "cosignature"
    copy = backup(victim, "db")
    assert await victim.propose(renewal(1, made.new_root, term=2)) == "cosignature"
    restore(victim, copy)
    assert await victim.live(victim.publish()) == "WITNESS_RESTORED"


async def test_a_state_without_its_watermark_signs_nothing(victim: Victim) -> None:
    made = victim.publish()
    assert await victim.live(made) == "cosignature"
    mark = victim.folder / "w.mark"
    for content in (None, b"", b"[0, 0", b"{}"):
        mark.unlink(missing_ok=True)
        if content is not None:
            mark.write_bytes(content)
        victim.restart()
        assert await victim.propose(renewal(1, made.new_root)) == "WITNESS_RESTORED"


async def test_everything_from_a_backup_is_noticed_by_its_own_signature_on_a_head(victim: Victim) -> None:
    assert await victim.live(victim.publish()) == "cosignature"
    copy = backup(victim, "db", "mark")
    second = victim.publish()
    assert await victim.live(second) == "cosignature"
    restore(victim, copy)
    third = victim.world.chain.step()
    assert await victim.live(third, quorums(second, WITNESSES[0], WITNESSES[OWN])) == "WITNESS_RESTORED"
    victim.restart()
    assert await victim.live(second) == "WITNESS_RESTORED"  # nor after a restart, asked without that head


async def test_everything_from_a_backup_is_noticed_by_what_its_own_address_shows(victim: Victim) -> None:
    """The machine that the copy was taken of still runs."""
    assert await victim.live(victim.publish()) == "cosignature"
    second = victim.publish()
    victim.world.cosigned[OWN][2] = answer(WITNESSES[OWN], 2, second.new_root)
    assert victim.look() == "WITNESS_RESTORED"
    assert await victim.live(second) == "WITNESS_RESTORED"


async def test_another_witnesss_or_a_forged_signature_does_not_count_as_its_own(victim: Victim) -> None:
    assert await victim.live(victim.publish()) == "cosignature"
    second = victim.publish()
    head = quorums(second, WITNESSES[0], WITNESSES[OWN])
    head.cosignatures[1].signature = bytes(64)
    assert await victim.live(second, head) == "cosignature"
