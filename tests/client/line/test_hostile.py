"""Stores that drop, reorder, splice, fork, roll back and lie, and thieves: each is noticed and named, and nothing that
a device has is lost or changed by it."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipls.client.line.kept import CONTACTS
from ipls.client.line.parts import Checkpoint
from ipls.contacts import commits
from ipls.contacts.commits import Commit, Edit, Link, Signed
from ipls.contacts.errors import LineError
from ipls.contacts.line import LineRead, link_of, walk
from ipls.contacts.sealing import ContactKey, name_of
from ipls.crypto.keys import SeedSigner
from ipls.units import DAY_MS
from tests.client.line.world import (
    EDITS,
    LABEL,
    SLOW,
    ClientError,
    Crash,
    Device,
    Ghost,
    Lost,
    World,
    grown,
    run,
    work,
)


def test_roll_back_is_noticed_and_healed() -> None:
    w = grown()
    old = w.snapshot()
    w.new(w.primary)
    w.primary.do("sync")
    w.linked[0].do("sync")
    w.put_back(old)
    assert w.primary.refused("sync") == w.linked[0].refused("sync") == "STORE_ROLLED_BACK"
    w.linked[0].do("heal")  # any device that is complete
    w.quiesce()
    w.check()
    w.put_back(None)
    assert w.primary.refused("sync") == "STORE_ROLLED_BACK"
    assert w.linked[0].refused("heal") in {"IDENTITY_ONLY", "IDENTITY_UNKNOWN"}  # of a store with nothing in it
    w.primary.do("heal")
    w.quiesce()
    w.check()


def test_a_store_behind_a_compaction_is_healed_by_links() -> None:
    w = grown()
    w.quiesce()
    old = w.snapshot()
    w.new(w.primary)
    w.primary.compact()
    w.new(w.primary)
    w.primary.do("sync")
    w.put_back(old)
    assert w.primary.refused("sync") == "STORE_ROLLED_BACK"
    w.primary.do("heal")
    w.quiesce()
    w.check()


def test_a_restored_phone_notices_a_roll_back_by_the_checkpoint() -> None:
    w = grown(linked=0)
    old = w.snapshot()
    w.new(w.primary)
    w.primary.do("sync")
    w.primary.do("checkpoint")
    now, good = w.snapshot(), w.primary.view()
    phone = w.phone(1)
    for shown in (old, None):
        w.put_back(shown)
        assert phone.refused("pull") == "STORE_ROLLED_BACK"
    w.put_back(now)
    phone.do("pull")
    assert phone.view() == good


@pytest.mark.parametrize("again", [False, True], ids=["new", "confirmed again"])
def test_a_device_that_is_linked_notices_a_line_that_is_not_the_phones(again: bool) -> None:
    """By what the phone said when it linked it; so does one that had followed the line to some place before."""
    w = grown()
    other = w.linked[0] if again else w.add_silent()
    listed = w.snapshot()
    w.new(w.primary)
    w.primary.do("sync")
    state, now = w.primary.line.state, w.snapshot()
    there = Checkpoint(state.line, state.n, state.chain)

    def linked(at: Checkpoint) -> None:
        other.linked_at = at
        other.start()

    linked(there)
    w.put_back(listed)
    assert other.refused("pull") == "STORE_ROLLED_BACK"
    w.put_back(now)
    linked(there._replace(chain=bytes(32)))
    assert other.refused("pull") == "STORE_FORKED"
    linked(there)
    other.do("pull")
    assert other.view() == w.primary.view()


def test_a_device_that_is_linked_does_not_take_another_line_for_the_phones() -> None:
    w = grown()
    other = w.add_silent()
    other.linked_at = Checkpoint(bytes(32), 1, bytes(32))
    other.start()
    assert other.refused("pull") == "LINE_REPLACED"
    w.put_back(None)
    assert other.refused("pull") in {"STORE_ROLLED_BACK", "IDENTITY_UNKNOWN"}


def test_a_restored_phone_notices_a_fork_and_another_line() -> None:
    w = grown(linked=0)
    w.primary.do("checkpoint")
    mark = w.vault.kept[1]
    phone = w.phone(1)
    w.vault.kept[1] = mark._replace(chain=bytes(32))
    assert phone.refused("pull") == "STORE_FORKED"
    w.vault.kept[1] = mark._replace(line=bytes(32))
    assert phone.refused("pull") == "LINE_REPLACED"
    w.vault.kept[1] = mark
    phone.do("pull")


def test_the_checkpoint_is_found_in_a_line_that_comes_after_its_own() -> None:
    w = grown(linked=0)
    w.primary.do("checkpoint")
    mark = w.vault.kept[1]
    w.primary.do("begin")
    w.vault.kept[1] = mark
    w.phone(1).do("pull")


Lie = Callable[[LineRead, World], LineRead]


def relinked(read: LineRead, shown: dict[int, Signed]) -> LineRead:
    """With these commits and the links and head that they have."""
    first = read.head_n - len(read.links)
    links = [
        link_of(Commit.decode(shown[n].commit).generation, shown[n].commit) if n in shown else read.links[n - first - 1]
        for n in range(first + 1, read.head_n + 1)
    ]
    return read._replace(commits=shown, links=links)


def dropped(read: LineRead, w: World) -> LineRead:
    """The middle one is left out, and all behind it moves up."""
    ns = sorted(read.commits)
    gone = ns[len(ns) // 2]
    shown = {n - (n > gone): read.commits[n] for n in ns if n != gone}
    links = [link for n, link in enumerate(read.links, read.head_n - len(read.links) + 1) if n != gone]
    return read._replace(commits=shown, links=links, head_n=read.head_n - 1)


def swapped(read: LineRead, w: World) -> LineRead:
    *_, a, b = sorted(read.commits)
    return relinked(read, {**read.commits, a: read.commits[b], b: read.commits[a]})


def spliced(read: LineRead, w: World) -> LineRead:
    """The last is another account's."""
    other = grown(2, 0)
    foreign = max(other.primary.kept.commits().items())[1]
    return relinked(read, {**read.commits, max(read.commits): foreign})


def replayed(read: LineRead, w: World) -> LineRead:
    """The last is one of before."""
    a, *_, b = sorted(read.commits)
    return relinked(read, {**read.commits, b: read.commits[a]})


def withheld(read: LineRead, w: World) -> LineRead:
    return read._replace(commits={n: c for n, c in read.commits.items() if n != max(read.commits)})


def chained(lie: Lie) -> Lie:
    """Likewise, with a head that goes with it."""

    def lied(read: LineRead, w: World) -> LineRead:
        read = lie(read, w)
        state = w.linked[0].line.state
        assert state
        return read._replace(head=walk(state.n, state.chain, read.links)[-1])

    return lied


@pytest.mark.parametrize("lie", [dropped, swapped, spliced, replayed, withheld])
@pytest.mark.parametrize("how", [lambda lie: lie, chained], ids=["as it is", "with a head that goes with it"])
def test_what_is_dropped_reordered_or_spliced_is_a_fork(lie: Lie, how: Callable[[Lie], Lie]) -> None:
    w = grown(3)
    w.quiesce()
    a = w.linked[0]
    for _ in range(3):
        w.new(w.primary)
        w.primary.do("sync")
    a.lie = lambda read: how(lie)(read, w)
    assert a.refused("sync") == "STORE_FORKED"
    a.lie = lambda read: read
    w.quiesce()
    w.check()


@pytest.mark.parametrize("given", ["nothing", "the one before", "one that was altered"])
def test_a_base_with_another_snapshot_than_its_own_is_refused_and_its_own_is_taken(given: str) -> None:
    w = grown(3)
    w.quiesce()
    before = w.primary.kept.snapshot
    w.new(w.primary)
    w.primary.rotate()
    own, good = w.primary.kept.snapshot, w.primary.view()
    other = {"nothing": None, "the one before": before, "one that was altered": own[:-1] + bytes([own[-1] ^ 1])}[given]
    for device in (
        lambda: w.linked[0],
        lambda: w.phone(1),
    ):
        reader = device()
        reader.calls.substitutes[name_of(own)] = other
        assert reader.refused("pull") == "STORE_ROLLED_BACK"
        reader.calls.substitutes.clear()
        reader.do("pull")
        assert reader.view() == good


def test_a_line_of_another_account_is_none() -> None:
    w = grown(2, 0)
    phone = w.phone(1)
    phone.lie = lambda read: read._replace(seed=bytes(16))
    assert phone.refused("pull") == "STORE_FORKED"


@given(st.integers(0, 2**32))
@settings(max_examples=60, **SLOW)
def test_no_mixture_of_lies_changes_what_a_device_believes(seed: int) -> None:
    """Its state is that of an honest prefix at or above its own, or it refuses and keeps its own."""
    w = World(2, seed=seed)
    rng, victim = w.rng, w.linked[1]
    history = dict[tuple[int, bytes], list[tuple[bytes, bytes]]]()
    pool = list[Signed]()
    for k in range(8):
        work(w, 3, ["new", "tel", "fn", "out", "remove"])
        for d in (w.primary, w.linked[0], w.primary):
            d.do("sync")
        if k in (3, 5):
            rng.choice([w.primary.compact, w.primary.rotate])()
        if k < 3 and rng.random() < 0.5:
            victim.do("sync")
        pool += w.primary.kept.commits().values()
        reader = w.primary.line.state
        assert reader
        history[reader.n, reader.chain] = list(reader.entries.items())
    w.linked[0].do("pull")

    def lie(read: LineRead) -> LineRead:
        shown, links = dict(read.commits), list(read.links)
        first = read.head_n - len(links)
        for _ in range(rng.randrange(1, 4)):
            kind = rng.choice(["drop", "swap", "replay", "flip", "relink", "base", "head", "links"])
            n = rng.choice(sorted(shown) or [1])
            if kind == "drop":
                shown.pop(n, None)
            elif kind == "swap" and n in shown and n - 1 in shown:
                shown[n], shown[n - 1] = shown[n - 1], shown[n]
            elif kind == "replay":
                shown[n] = rng.choice(pool)
            elif kind == "flip" and n in shown:
                data = bytearray(shown[n].commit)
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
                shown[n] = shown[n]._replace(commit=bytes(data))
            elif kind == "relink":
                for at in range(len(links)):
                    if at + first + 1 in shown:
                        links[at] = Link(links[at].generation, name_of(shown[at + first + 1].commit))
            elif kind == "base":
                read = read._replace(base_n=rng.randrange(1, read.head_n + 1))
            elif kind == "links" and links:
                links.pop(rng.randrange(len(links)))
            elif kind == "head":
                n, chain = rng.choice(sorted(history))
                read = read._replace(head_n=n, head=chain, links=links[: max(0, n - first)])
                links = list(read.links)
        state = victim.line.state
        assert state
        head = walk(state.n, state.chain, links)
        if head and rng.random() < 0.7:
            read = read._replace(head=head[-1], head_n=state.n + len(links))
        return read._replace(commits=shown, links=links)

    victim.lie = lie
    if victim.refused("pull"):
        return
    state = victim.line.state
    assert state
    if (state.n, state.chain) in history:
        assert list(state.entries.items()) == history[state.n, state.chain]
    victim.lie = lambda read: read
    victim.do("pull")  # it is on the honest line still
    now = w.primary.line.state
    assert now
    assert victim.line.state == replace(now, entries=victim.line.state.entries)
    assert list(victim.line.state.entries.items()) == list(now.entries.items())


# Forks and new lines


def test_a_fork_is_seen_by_whoever_has_passed_it_and_begun_anew_nothing_is_lost() -> None:
    w = grown(4, 2)
    w.quiesce()
    a, b = w.linked
    fork = w.fork()
    w.new(a)
    a.do("sync")
    b.calls.store = fork
    w.new(b)
    b.do("sync")
    b.calls.store = w.store
    assert b.refused("sync") == "STORE_FORKED"
    w.primary.do("sync")
    view = b.view()
    w.primary.do("begin")  # the person: begin anew from here
    b.do("sync")  # follows; what only it had is there again
    a.do("sync")
    w.quiesce()
    w.check()
    assert view.keys() <= w.primary.view().keys()


def test_a_line_begun_anew_from_a_device_that_was_behind_loses_nothing() -> None:
    w = grown(3, 2)
    w.quiesce()
    a = w.linked[0]
    for _ in range(3):
        w.new(a)
    w.change(a, sorted(a.view())[0], "FN")
    a.do("sync")
    w.new(a)  # and one not yet sent
    w.primary.do("begin")  # it has not seen them
    w.quiesce()
    w.check()


def test_begun_anew_from_one_that_had_seen_all_what_is_gone_stays_gone() -> None:
    w = grown(3, 2)
    id = w.new(w.primary)
    w.quiesce()
    w.remove(w.primary, id)
    w.primary.do("sync")
    w.primary.do("begin")
    w.quiesce()
    w.check()
    assert id not in w.linked[0].view()


def test_a_line_that_was_left_is_not_gone_back_to() -> None:
    w = grown(3, 1)
    w.quiesce()
    left = w.snapshot()
    id = sorted(w.primary.view())[0]
    w.primary.do("begin")
    w.remove(w.primary, id)
    w.quiesce()
    now = w.snapshot()
    w.put_back(left)
    assert w.linked[0].refused("sync") == "LINE_REPLACED" == w.primary.refused("sync")
    w.put_back(now)
    w.quiesce()
    w.check()


# Records


def test_one_bad_record_loses_only_itself_and_another_device_mends_it() -> None:
    w = grown(4, 1)
    w.quiesce()
    a = w.linked[0]
    id = w.new(w.primary)
    w.primary.do("sync")
    w.lose(w.record_of(w.primary, id))
    more = w.new(w.primary)
    w.primary.do("sync")
    a.do("sync")
    assert a.line.unread == {id}
    assert more in a.view()
    assert id in a.line.state.entries
    w.change(a, more, "TEL")
    a.do("sync")
    assert id in a.line.state.entries
    w.primary.rotate()
    a.do("sync")
    assert not a.line.unread
    assert id in a.view()
    w.quiesce()
    w.check()


@pytest.mark.parametrize("early", [False, True])
def test_the_mark_of_an_unreadable_contact_goes_with_it(early: bool) -> None:
    """Else what is made again under its id (the same file, imported) would wait for ever."""
    w = World(1)
    a, p = w.linked[0], w.primary
    id = w.imported(a, 0)
    a.do("sync")
    w.lose(w.record_of(a, id))
    p.do("sync")
    assert p.line.unread == {id}
    assert id not in p.view()
    if early:
        w.imported(p, 0)
        p.do("sync")
        assert id in p.line.unsent  # it waits: what the list has is not overwritten unread
        assert p.line.state.n == a.line.state.n
    w.remove(a, id)
    a.do("sync")
    p.do("sync")
    assert not p.line.unread
    if not early:
        w.imported(p, 0)
        p.do("sync")
    a.do("sync")
    assert a.view()[id] == p.view()[id]
    w.quiesce()
    w.check()


@pytest.mark.parametrize("seen", [False, True])
def test_begun_anew_by_one_that_can_not_read_a_contact_its_newer_contents_come_back(seen: bool) -> None:
    w = World(2)
    a, b, p = *w.linked, w.primary
    id = w.new(a)
    a.do("sync")
    w.lose(w.record_of(a, id))
    p.do("sync")
    assert p.line.unread == {id}
    if not seen:
        w.change(a, id, "TEL")  # moves on: nobody holds any more what p's list names
        a.do("sync")
        b.do("sync")
    p.do("begin")
    assert not p.line.unread
    assert id not in p.line.state.entries
    w.quiesce()
    w.check()
    assert id in p.view()


def test_begun_anew_a_contact_that_nobody_has_any_more_holds_up_nothing() -> None:
    w = World(2)
    a, b, p = *w.linked, w.primary
    id = w.imported(a, 0)
    w.quiesce()
    was = p.view()[id]
    w.change(a, id, "TEL")
    w.taken |= set(a.view()[id].units) - set(was.units)  # of this the store destroys the only copy
    a.do("sync")
    w.lose(w.record_of(a, id))
    w.linked.remove(a)
    p.do("set_devices", w.listed)
    p.rotate()
    b.do("sync")
    assert p.line.unread == b.line.unread == {id}
    assert p.view()[id] == was
    w.change(b, id, "FN")
    b.do("sync")
    assert id in b.line.unsent  # waits
    p.do("begin")
    w.quiesce()
    w.check()


@pytest.mark.parametrize("more", [False, True])
def test_a_commit_that_was_taken_is_known_again_when_others_give_it_back(more: bool) -> None:
    w = World(1)
    a, p = w.linked[0], w.primary
    id = w.new(p)
    w.quiesce()
    before = w.snapshot()
    w.change(p, id, "FN")
    p.calls.lose_answer_of = "commit"
    with pytest.raises(Lost):
        p.do("sync")  # taken, and p does not know
    w.lose(w.names()[-1])
    a.do("sync")
    assert a.line.unread == {id}
    w.put_back(None)
    assert p.refused("sync") == "STORE_ROLLED_BACK"
    assert p.kept.pending  # not given up
    p.do("heal")
    a.do("heal")
    if more:
        w.change(p, id, "FN")
    w.quiesce()
    w.check()
    assert not p.view()[id].conflicts
    assert before


def test_an_old_record_under_the_new_name_is_none() -> None:
    w = grown(2, 1)
    w.quiesce()
    a = w.linked[0]
    id = sorted(w.primary.view())[0]
    old, was = w.stored(w.record_of(w.primary, id)), a.view()[id]
    w.change(w.primary, id, "FN")
    w.primary.do("sync")
    for d in w.devices:
        d.calls.substitutes = {w.record_of(w.primary, id): old}
    fresh = w.add()
    fresh.calls.substitutes = dict(a.calls.substitutes)
    a.do("sync")
    assert a.line.unread == {id}
    assert a.view()[id] == was
    for d in w.devices:
        d.calls.substitutes = {}
    w.quiesce()
    w.check()


def test_a_base_by_one_that_could_not_read_a_record_keeps_it_in_the_list() -> None:
    w = grown(2, 1)
    a = w.linked[0]
    id = w.new(a)
    a.do("sync")
    w.lose(w.record_of(a, id))
    w.primary.do("sync")
    assert w.primary.line.unread == {id}
    w.primary.rotate()
    a.do("sync")
    assert id in a.view()
    w.quiesce()
    w.check()
    assert id in w.primary.view()


def test_a_false_drop_is_put_right() -> None:
    w = grown(3, 1)
    w.quiesce()
    w.drop_falsely(w.record_of(w.primary, sorted(w.primary.view())[0]))
    w.linked[0].do("mend")
    w.quiesce()
    w.check()


def leave_out(d: Device) -> None:
    state = d.kept.state
    d.kept.state = replace(state, entries=dict(list(state.entries.items())[1:]))


def move(d: Device) -> None:
    state = d.kept.state
    d.kept.state = replace(state, entries=dict(reversed(state.entries.items())))


def change(d: Device) -> None:
    row = next(iter(d.kept.contacts().values()))
    d.rows.put(CONTACTS, row._replace(envelope=Ghost((("FN", "other"),)).encode()))


@pytest.mark.parametrize(
    ("lie", "how"),
    [
        (leave_out, Device.rotate),
        (move, Device.rotate),
        (change, Device.rotate),
        (leave_out, Device.compact),
        (move, Device.compact),
    ],
)
def test_a_base_that_leaves_out_moves_or_changes_a_contact_is_refused(
    lie: Callable[[Device], None], how: Callable[[Device], None]
) -> None:
    w = grown(4, 1)
    w.quiesce()
    lie(w.primary)
    how(w.primary)
    assert w.linked[0].refused("sync") == "BASE_FALSE"


# Devices and thieves


def forged(w: World, name: bytes, seed: bytes, key: ContactKey, entries: tuple[tuple[bytes, bytes], ...]) -> Lie:
    """A store that helps: behind its honest head, a commit in this name, signed by that seed."""

    def lie(read: LineRead, w: World) -> LineRead:
        n, before = read.head_n + 1, read.head
        sealed = key.seal(commits.commit_aad(n, before), commits.encode_body(Edit(0, entries)))
        state = w.linked[0].line.state
        data = Commit(1, state.generation, name, None, None, (), sealed).encode()
        link = link_of(state.generation, data)
        chain = commits.chain_link(n, before, link)
        signed = Signed(data, SeedSigner(seed).sign(commits.author_digest(chain)), bytes(64))
        return read._replace(head_n=n, head=chain, links=[*read.links, link], commits={**read.commits, n: signed})

    return lie


def test_a_removed_device_can_neither_write_nor_read_what_comes_after() -> None:
    w = grown(2, 2)
    w.quiesce()
    x = w.linked.pop()
    keys = list(x.kept.keys.values())
    w.primary.do("set_devices", w.listed)
    w.new(x)
    assert x.refused("sync") == "IDENTITY_UNKNOWN"
    w.primary.rotate()
    w.new(w.primary)
    w.primary.do("sync")
    a = w.linked[0]
    a.do("sync")
    assert a.view() == w.primary.view()
    for id, name in w.primary.line.state.entries.items():
        for key in keys:
            with pytest.raises(LineError):
                key.open_record(id, w.stored(name))
    for name, reason in ((x.key, "COMMIT_REFUSED"), (w.primary.key, "STORE_FORKED"), (a.key, "STORE_FORKED")):
        a.lie = lambda read, name=name: forged(w, name, x.seed, keys[-1], ())(read, w)
        assert a.refused("pull") == reason


def test_a_removed_device_that_still_has_the_key_writes_in_nobodys_name() -> None:
    """Between removal and rotation, and the store helps."""
    w = grown(2, 2)
    w.quiesce()
    x = w.linked.pop()
    w.primary.do("set_devices", w.listed)
    a = w.linked[0]
    a.do("sync")
    entries = ((sorted(a.view())[0], commits.REMOVED),)
    for name, reason in ((x.key, "COMMIT_REFUSED"), (w.primary.key, "STORE_FORKED"), (a.key, "STORE_FORKED")):
        a.lie = lambda read, name=name: forged(w, name, x.seed, x.kept.keys[1], entries)(read, w)
        assert a.refused("pull") == reason


@pytest.mark.parametrize("what", ["set_devices", "begin", "rotate", "checkpoint"])
def test_a_linked_device_does_not_try_what_is_the_identitys(what: str) -> None:
    w = grown(2, 1)
    w.quiesce()
    args = [[]] if what == "set_devices" else []
    assert w.linked[0].refused(what, *args) == "IDENTITY_ONLY"


def test_a_listed_device_that_makes_a_base_or_a_list_is_refused_by_the_others() -> None:
    w = grown(2, 2)
    w.quiesce()
    a, b = w.linked
    a.as_identity()
    a.calls.store = w.fork(trusting=a.key)
    a.compact()
    b.calls.store = a.calls.store
    assert b.refused("sync") == "COMMIT_REFUSED"


MOVED = ("+15550199", bytes(32), bytes(32))


def test_a_listed_device_that_says_that_the_account_has_moved_is_refused_by_the_others() -> None:
    """To a number of its own, say; the store can't see it."""
    w = World()
    w.quiesce()
    w.linked[0].as_identity()
    w.linked[0].do("move", *MOVED)
    for device in (w.primary, w.linked[1]):
        assert device.refused("sync") == "COMMIT_REFUSED"


def test_a_thief_who_says_that_the_account_has_moved_is_not_believed() -> None:
    """With the number and the contact key, which the vault gave."""
    w = World()
    thief = w.phone(1)
    thief.do("sync")
    thief.do("move", *MOVED)
    w.register(w.primary)
    assert w.primary.refused("sync") == "LINE_FOREIGN"


def test_behind_the_end_of_a_line_nothing_stands() -> None:
    w = World()
    w.quiesce()
    a = w.linked[0]
    assert w.primary.do("move", *MOVED)
    a.do("pull")
    assert a.line.state is not None
    a.kept.state = replace(a.line.state, moved=None)  # a device that goes on all the same
    w.new(a)
    a.do("send")
    for device in (w.primary, w.linked[1]):
        assert device.refused("sync") == "COMMIT_REFUSED"


def test_a_thief_who_waits_can_write_nothing_and_hides_at_most() -> None:
    w = grown(3, 1)
    w.quiesce()
    good, head = w.primary.view(), w.head()
    thief = w.phone(1)
    w.vault.waiting.add(2)
    assert thief.refused("pull") == "VAULT_CHANGE_DELAYED"
    state = w.primary.line.state
    thief.pretend(state, ContactKey(bytes(32), LABEL, state.generation))  # no contact key: one of its own making
    thief.edit(sorted(good)[0], Ghost())
    for attempt in (thief.line.sync, thief.line.heal):
        with pytest.raises(ClientError) as refused:
            run(attempt())
        assert refused.value.reason in {"BODY_INVALID", "LINE_CONFLICT"}
        assert w.head() == head
    begun = w.phone(1)  # likewise, with nothing
    w.vault.waiting.add(3)
    with pytest.raises(ClientError, match="DELAYED"):  # at the checkpoint: a line of its own is begun
        begun.do("begin")
    assert w.head() != head
    for name in w.primary.line.state.entries.values():
        assert w.stored(name)  # kept
    assert w.primary.refused("sync") == "IDENTITY_SUPERSEDED"
    # the owner registers again on her phone, whose list is whole
    w.register(w.primary)
    w.primary.accepted |= {1}
    assert w.primary.refused("sync") == "LINE_REPLACED"
    w.begin_anew()
    assert w.primary.view() == good
    a = w.linked[0]
    a.accepted |= {4}
    assert a.refused("sync") == "LINE_REPLACED"  # listed by the identity before: the person confirms
    a.do("pull", confirmed=True)
    w.quiesce()
    w.check()
    assert a.view() == good


def test_a_thief_with_the_key_changes_nothing_on_the_owners_devices_and_all_of_it_can_be_had_back() -> None:
    w = grown(4, 1)
    w.quiesce()
    good = w.primary.view()
    names = dict(w.primary.line.state.entries)
    thief = w.phone(1)
    thief.do("pull")
    ids = sorted(thief.view())
    thief.edit(ids[0], None)
    thief.edit(ids[1], Ghost((("FN", "not her"),)))
    thief.do("sync")
    thief.rotate()
    w.vault.kept[2] = Checkpoint(thief.line.state.line, 2**63 - 1, bytes(32))  # binds nobody else
    assert all(w.stored(name) for name in names.values())
    # the owner again
    w.register(w.primary)
    w.primary.accepted |= {1}
    assert w.primary.refused("sync") == "LINE_FOREIGN"
    a = w.linked[0]
    assert a.refused("sync") == "IDENTITY_UNKNOWN"
    w.new(w.primary)  # her edit made meanwhile
    w.begin_anew()
    w.primary.do("sync")
    a.accepted |= {3}
    a.do("pull", confirmed=True)
    w.quiesce()
    w.check()
    assert {id: w.primary.view()[id] for id in good} == good
    thiefs = {key.secret for key in thief.kept.keys.values()}
    assert w.primary.kept.keys[w.primary.line.state.generation].secret not in thiefs
    # or "that was me"
    phone = w.phone(1, 2, 3)
    phone.do("pull")
    assert phone.view() == w.primary.view()


def test_that_was_me() -> None:
    """What the foreign version wrote is applied once the person knows it for hers."""
    w = grown(3, 0)
    other = w.phone(1)
    other.do("pull")
    w.new(other)
    other.do("sync")
    w.register(w.primary)
    w.primary.accepted |= {1}
    assert w.primary.refused("sync") == "LINE_FOREIGN"
    w.primary.accepted |= {2}
    w.primary.do("sync")
    assert w.primary.view() == other.view()


def test_a_device_that_gives_two_contacts_one_record_neither_stops_the_others_nor_hides_one() -> None:
    w = grown(3, 2)
    w.quiesce()
    a, b = w.linked
    good = w.primary.view()
    name = next(iter(a.line.state.entries.values()))
    a.line._writer.pend(Edit(1, ((bytes(16), name), (b"z" * 16, name))), a.kept.keys[a.line.state.generation])
    assert run(a.line._writer.finish())
    w.now_ms += 2 * DAY_MS
    b.do("sync")
    w.primary.do("sync")
    phone = w.phone(1)
    phone.do("sync")
    assert {id: phone.view()[id] for id in good} == good
    assert phone.line.unread == {bytes(16), b"z" * 16}


def robbed(how: str) -> tuple[World, dict[bytes, Ghost], Device]:
    """A line that a thief took everything out of, and what it had before, by id."""
    w = grown(4, 0)
    w.quiesce()
    w.primary.do("checkpoint")
    good = w.primary.view()
    thief = w.phone(1)
    thief.do("pull")
    for id in good:
        thief.edit(id, None)
    w.new(thief)
    thief.do("sync")
    if how == "rotated":
        thief.rotate()
    elif how == "begun anew":
        thief.do("begin")
    return w, good, thief


@pytest.mark.parametrize("how", ["edited", "rotated", "begun anew"])
def test_a_phone_that_followed_no_line_takes_what_no_thief_wrote_into(how: str) -> None:
    w, good, thief = robbed(how)
    phone = w.phone(1)
    assert phone.refused("pull") == "LINE_FOREIGN"
    phone.do("go_back")
    phone.do("begin")
    assert list(phone.view().items()) == list(good.items())
    assert phone.kept.keys[phone.line.state.generation].secret not in {k.secret for k in thief.kept.keys.values()}
    later = w.phone(1, 3)
    later.do("pull")
    assert later.view() == good


@pytest.mark.parametrize("how", ["edited", "rotated", "begun anew"])
def test_a_phone_that_took_a_thief_for_the_owner_goes_back(how: str) -> None:
    w, good, thief = robbed(how)
    phone = w.phone(1, 2)
    phone.do("sync")
    w.new(phone)
    phone.do("sync")
    phone.accepted = {1}
    phone.do("go_back", 2)
    phone.do("begin")
    assert phone.view() == good
    assert phone.kept.keys[phone.line.state.generation].secret not in {k.secret for k in thief.kept.keys.values()}


@pytest.mark.parametrize("how", ["edited", "rotated", "begun anew"])
def test_what_a_thief_wrote_is_shown_before_anything_of_it_is_taken_over(how: str) -> None:
    w, good, thief = robbed(how)
    w.register(w.primary)
    w.primary.accepted |= {1}
    before = w.primary.view()
    shown = run(w.primary.line.differences())
    assert {id: there for id, (_, there) in shown.items() if id in good} == dict.fromkeys(good)
    assert [Ghost.decode(there) for _, there in shown.values() if there] == list(thief.view().values())
    assert w.primary.view() == before


def test_a_store_that_hides_what_was_before_a_thief_or_shows_less_of_it_is_refused() -> None:
    w, _, _ = robbed("begun anew")
    phone = w.phone(1)
    kept = phone.calls.store.kept
    phone.calls.store.kept = lambda caller: kept(caller)._replace(lines=[])
    assert phone.refused("go_back") == "NOTHING_STORED"
    phone.calls.store.kept = kept
    phone.lie = lambda read: read if len(read.commits) < 2 else shortened(read)
    assert phone.refused("go_back") == "STORE_ROLLED_BACK"
    w.vault.kept[1] = w.vault.kept[1]._replace(chain=bytes(32))
    phone.lie = lambda read: read
    assert phone.refused("go_back") == "STORE_FORKED"


def shortened(read: LineRead) -> LineRead:
    """Its newest base alone."""
    n = read.base_n
    return read._replace(head_n=n, links=read.links[:n], commits={n: read.commits[n]})


def test_a_linked_device_of_the_identity_before_is_out() -> None:
    w = grown(2, 1)
    w.quiesce()
    phone = w.phone(1)
    phone.do("pull")
    assert w.linked[0].refused("sync") == "IDENTITY_UNKNOWN"
    phone.rotate()
    assert phone.line.state.devices == ()
    w.new(w.linked[0])
    assert w.linked[0].refused("sync") == "IDENTITY_UNKNOWN"


def test_the_vault_s_key_of_another_is_not_used() -> None:
    w = grown(2, 0)
    w.vault.secrets[1] = bytes(32)
    assert w.phone(1).refused("pull") == "KEY_CHECK_FAILED"


# All of it


def settle(w: World) -> None:
    """What a person does about each refusal, until every device is in step."""
    for _ in range(12):
        calm = True
        for d in w.devices:
            d.rate, d.calls.store = 0.0, w.store
            d.restart()
            try:
                d.do("sync")
                d.do("mend")
            except LineError as error:
                calm = False
                try:
                    if error.reason == "STORE_ROLLED_BACK":
                        d.do("heal")
                    elif error.reason == "LINE_REPLACED" and d is not w.primary:
                        d.do("pull", confirmed=True)
                    else:
                        w.begin_anew()
                except (LineError, ClientError):
                    w.begin_anew()
        if calm:
            return
    raise AssertionError("no end to it")


@given(st.integers(0, 2**32))
@settings(max_examples=60, **SLOW)
def test_nothing_is_lost_by_roll_backs_forks_new_lines_thieves_crashes_and_lost_calls(seed: int) -> None:
    """No device leaves here: what the store destroys is on the one that wrote it, and comes back from there."""
    w = World(seed=seed)
    rng, copies = w.rng, []
    for _ in range(rng.randrange(2, 6)):
        for d in w.devices:
            d.rate = 0.04
        copies.append(w.snapshot())
        with suppress(LineError, ClientError):
            work(w, 20, [*EDITS, "rotate", "compact"])
        event = rng.choice(["roll back", "fork", "begin", "thief", "nothing", "lost record", "false drop", "gone"])
        if event == "roll back":  # also to a line that was left
            w.put_back(rng.choice(copies))
        elif event == "gone":
            w.put_back(None)
        elif event == "fork":
            d = rng.choice(w.devices)
            d.calls.store = w.fork()
            for _ in range(3):
                try:
                    w.new(d)
                    d.do("sync")
                except (Crash, Lost, LineError, ClientError):
                    d.restart()
        elif event == "begin":
            with suppress(Crash, Lost, ClientError):
                w.begin_anew()
        elif event in ("lost record", "false drop"):
            names = w.names()
            for name in rng.sample(names, min(3, len(names))):
                w.lose(name) if event == "lost record" else w.drop_falsely(name)
        elif event == "thief" and w.head():
            settle(w)
            thief = w.phone(*range(1, 99))
            thief.do("pull")
            for id in list(thief.view()):
                if rng.random() < 0.6:
                    thief.edit(id, None if rng.random() < 0.5 else Ghost((("FN", "thief"),)))
            thief.do("sync")
            if rng.random() < 0.5:
                thief.rotate()
            wrote = thief.line.state.identity_version == thief.version
            for d in w.devices:  # edits meanwhile, not to be sent
                w.new(d)
                assert d.refused("sync")
            w.primary.accepted.add(w.primary.version)
            w.register(w.primary)
            copies.clear()
            assert w.primary.refused("sync") == ("LINE_FOREIGN" if wrote else None)
            w.begin_anew()
            for d in w.linked:
                d.accepted.add(w.primary.version)
                d.do("pull", confirmed=True)
        if event not in ("lost record", "false drop") or rng.random() < 0.3:  # else they go on without noticing
            settle(w)
    settle(w)
    w.quiesce()
    w.check()
