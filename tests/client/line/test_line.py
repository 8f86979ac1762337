"""The claims of contacts.md: what devices come to together, whatever the order, the losses and the crashes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipls.contacts.sealing import id_of_uid
from ipls.units import DAY_MS
from tests.client.line.world import EDITS, LABEL, SLOW, Ghost, Lost, World, grown, work


@given(st.integers(0, 2**32))
@settings(max_examples=60, **SLOW)
def test_all_devices_end_with_the_same_list_and_no_edit_is_lost(seed: int) -> None:
    w = World(seed=seed)
    work(w, 60, EDITS)
    w.quiesce()
    w.check()


@given(st.integers(0, 2**32))
@settings(max_examples=60, **SLOW)
def test_so_they_do_with_crashes_at_every_step_lost_calls_rotation_and_compaction(seed: int) -> None:
    w = World(seed=seed)
    for d in w.devices:
        d.rate = 0.06
    work(w, 80, [*EDITS, "rotate", "compact"])
    w.quiesce()
    w.check()


def test_a_removal_that_nobody_contradicts_reaches_a_device_that_was_away_for_long() -> None:
    w = World()
    id = w.new(w.primary)
    w.quiesce()
    away = w.linked[0]
    w.remove(w.primary, id)
    w.primary.do("sync")
    w.primary.compact()
    w.primary.do("rotate")
    w.primary.compact()
    w.quiesce()
    assert id not in away.view()
    assert id not in w.primary.view()


@pytest.mark.parametrize("first", [0, 1])
def test_an_edit_beats_a_removal_whichever_comes_first(first: int) -> None:
    w = World()
    id = w.new(w.primary)
    w.quiesce()
    w.remove(w.primary, id)
    w.change(w.linked[0], id, "TEL")
    for d in [[w.primary, w.linked[0]], [w.linked[0], w.primary]][first]:
        d.do("sync")
    w.quiesce()
    assert len(w.primary.view()[id].units) == 2
    w.check()


def test_one_file_imported_on_two_devices_makes_one_contact() -> None:
    w = World()
    a, b = w.linked
    id = id_of_uid(LABEL, "urn:uuid:1")
    a.edit(id, Ghost((("FN", 1), ("TEL", 1))))
    b.edit(id, Ghost((("FN", 1), ("TEL", 1), ("TEL", 2))))
    w.quiesce()
    w.check()
    assert list(a.view().values()) == [Ghost((("FN", 1), ("TEL", 1), ("TEL", 2)))]


def test_a_restored_phone_has_the_list_in_its_order_and_rotates() -> None:
    w = grown(linked=0)
    good = w.primary.view()
    phone = w.phone(1)
    phone.do("pull")
    assert list(phone.view().items()) == list(good.items())
    phone.do("rotate")
    assert list(phone.view().items()) == list(good.items())
    assert phone.kept.keys.keys() > {1}


def test_an_edit_made_while_a_commit_is_under_way_is_sent_after_it() -> None:
    w = grown(1, 1)
    a = w.linked[0]
    w.quiesce()
    (id,) = a.view()
    w.change(a, id, "FN")
    a.calls.lose_answer_of = "commit"
    with pytest.raises(Lost):
        a.do("sync")
    w.change(a, id, "FN")
    w.quiesce()
    w.check()


@pytest.mark.parametrize("lying", [False, True])
def test_an_own_commit_that_was_taken_does_not_undo_what_was_built_on_it(lying: bool) -> None:
    w = grown(1, 1)
    w.quiesce()
    (a,), (id,) = w.linked, w.primary.view()
    w.change(a, id, "FN")
    a.calls.lose_answer_of = "commit"
    with pytest.raises(Lost):
        a.do("sync")
    w.primary.do("sync")
    w.change(w.primary, id, "FN")
    w.primary.do("sync")
    if lying:
        a.calls.refuse_once = "commit", "LINE_CONFLICT"
    a.do("sync")
    assert a.view() == w.primary.view()
    assert not a.view()[id].conflicts
    w.quiesce()
    w.check()


def test_an_old_list_of_a_thousand_and_more_is_sent_in_several_commits() -> None:
    w = World(1)
    a = w.linked[0]
    ids = [w.new(a) for _ in range(2100)]
    a.do("sync")
    w.primary.do("sync")
    assert list(w.primary.view()) == ids
    assert a.line.state.n == 1 + 1 + 3
    assert w.primary.line.state.n == w.primary.line.state.base_n == 6  # a base is due
    w.quiesce()
    w.check()


def test_a_base_comes_after_many_commits_and_a_checkpoint_after_some_or_a_day() -> None:
    w = World(0)
    p = w.primary
    for _ in range(255):
        w.new(p)
        p.do("sync")
    assert p.line.state.base_n == 1
    assert w.vault.kept[1].n in range(p.line.state.n - 63, p.line.state.n + 1)
    w.new(p)
    p.do("sync")
    assert p.line.state.n == p.line.state.base_n == w.vault.kept[1].n
    w.new(p)
    p.do("sync")
    assert w.vault.kept[1].n < p.line.state.n
    w.now_ms += DAY_MS
    p.do("sync")
    assert w.vault.kept[1].n == p.line.state.n


def test_a_removed_device_makes_a_rotation_due_and_it_is_resumed() -> None:
    w = World(2)
    w.new(w.primary)
    w.quiesce()
    removed = w.linked.pop()
    w.primary.do("set_devices", w.listed)
    w.primary.restart()
    w.primary.calls.lose_answer_of = "put_records"
    with pytest.raises(Lost):
        w.primary.do("sync")
    w.quiesce()
    w.check()
    state = w.primary.line.state
    assert state.generation not in removed.kept.keys
    assert w.vault.finished == state.generation


def test_what_others_wrote_goes_along_before_a_line_ends_and_what_comes_later_waits() -> None:
    w = World()
    a, moved = w.linked[0], ("+15550199", bytes(32), bytes(32))
    w.primary.do("sync")
    w.new(a)
    a.do("sync")
    assert not w.primary.do("move", *moved)  # the other's edit is here now
    assert w.primary.view() == a.view()
    assert w.primary.do("move", *moved)
    w.new(a)
    a.do("sync")
    assert a.line.state is not None
    assert a.line.state.moved is not None
    assert len(a.line.unsent) == 1
