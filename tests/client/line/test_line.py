"""The claims of contacts.md: what devices come to together, whatever the order, the losses and the crashes."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipls.contacts.commits import Edit
from ipls.contacts.envelope import Envelope, Kind
from ipls.contacts.errors import LineError
from ipls.contacts.line import Judge, LineRead, LineState, NeedSnapshot, fold
from ipls.contacts.sealing import id_of_part, id_of_uid, name_of
from ipls.units import DAY_MS
from tests.client.line.world import EDITS, LABEL, SLOW, Ghost, Lost, World, grown, run, work
from tests.contacts.writers import NAMESPACE, Made, Writer, line_of


@given(st.integers(0, 2**32))
@settings(max_examples=60, **SLOW)
def test_all_devices_end_with_the_same_list_and_no_edit_is_lost(seed: int) -> None:
    """With clocks that are years off."""
    w = World(seed=seed)
    for d in w.devices:
        d.clock_off_ms = w.rng.choice([0, 5, 50]) * 365 * DAY_MS
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


def test_a_list_of_200_000_contacts_is_begun_with_and_goes_on() -> None:
    writer, seed = Writer(), bytes(16)
    base = writer.base(1, line_of(seed), [n.to_bytes(4, "big") for n in range(200_000)])
    edit = writer.edit(2, base.chain, writer.record("a"))
    state = folded(writer, seed, base, edit)
    names = list(state.entries.values())
    assert (len(names), names[199_999]) == (200_001, name_of((199_999).to_bytes(4, "big")))
    assert names[200_000] == name_of(writer.record("a"))


@pytest.mark.parametrize("of", ["another account's", "another place", "another identity's", "its own"])
def test_a_list_of_devices_is_of_this_account_and_place(of: str) -> None:
    """Signed by the account's identity, in a commit of its own, with the store's help."""
    writer, seed = Writer(), bytes(16)
    base, device = writer.base(1, line_of(seed)), writer.device()
    listing = {
        "another account's": replace(writer, label="+15550199").listing(2, [device]),
        "another place": writer.listing(3, [device]),
        "another identity's": writer.renewed().listing(2, [device]),
        "its own": writer.listing(2, [device]),
    }[of]
    edit = writer.edit(2, base.chain, devices=listing)
    if of == "its own":
        assert [each.key for each in folded(writer, seed, base, edit).devices] == [device.public]
        return
    with pytest.raises(LineError, check=lambda error: error.reason == "COMMIT_REFUSED"):
        folded(writer, seed, base, edit)


def folded(writer: Writer, seed: bytes, *line: Made) -> LineState:
    """What the writer's device, new, comes to by these commits, of which the first is a base."""
    shown = {made.n: made.signed for made in line}
    links = [made.link for made in line]
    read = LineRead(line_of(seed), seed, line[-1].n, line[-1].chain, 1, links, shown)
    judge = Judge(NAMESPACE, writer.label, {1: writer.public}, {1})
    folding = fold(LineState.start(line_of(seed), seed), read, judge, {1: writer.key}, lambda id: None)
    assert isinstance(next(folding), NeedSnapshot)
    try:
        folding.send(line[0].snapshot)
    except StopIteration as done:
        state: LineState = done.value.state
        return state
    raise AssertionError("it asks for more")


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


def test_what_is_due_daily_is_due_at_once_where_the_clock_was_years_ahead_and_is_set_back() -> None:
    w = World(0)
    p = w.primary
    w.now_ms += 3000 * DAY_MS
    w.new(p)
    p.do("sync")
    assert w.vault.kept[1].n == p.line.state.n
    w.now_ms -= 3000 * DAY_MS
    w.new(p)
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


# Contacts that are too large for one record


@pytest.fixture
def small_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearly all contacts are large: they go in parts of 60 bytes, six of which one commit takes."""
    monkeypatch.setattr("ipls.contacts.whole.MAX_ENVELOPE", 75)
    monkeypatch.setattr("ipls.contacts.whole.PART_BYTES", 60)
    monkeypatch.setattr("ipls.contacts.whole.MAX_WHOLE", 960)
    monkeypatch.setattr("ipls.client.line.writer.MAX_COMMIT_RECORDS", 6 * 284)


@given(st.integers(0, 2**32))
@settings(max_examples=30, **SLOW)
def test_contacts_in_parts_come_to_the_same_with_crashes_lost_calls_rotation_and_compaction(
    small_records: None, seed: int
) -> None:
    w = World(seed=seed)
    for d in w.devices:
        d.rate = 0.06
    work(w, 60, [*EDITS, "rotate", "compact"])
    w.quiesce()
    w.check()
    phone = w.phone(1)
    phone.do("pull")
    assert list(phone.view().items()) == list(w.primary.view().items())
    assert not phone.line.unread
    assert not phone.kept.unreadable()


def pictured(size: int, *lines: bytes, of: bytes = b"x") -> bytes:
    """An envelope with a photo of that size."""
    card = [b"BEGIN:VCARD", b"VERSION:4.0", b"FN:1", b"PHOTO:" + of * size, *lines, b"END:VCARD"]
    return Envelope(b"\r\n".join(card)).encode()


def plain(name: bytes) -> bytes:
    return Envelope(b"BEGIN:VCARD\r\nVERSION:4.0\r\nFN:" + name + b"\r\nEND:VCARD").encode()


def with_large(size: int) -> tuple[World, bytes]:
    """Two devices, and the id of a contact with a photo of that size."""
    w = World(1)
    id = w.rng.randbytes(16)
    w.primary.kept.put({id: pictured(size)})
    w.quiesce()
    return w, id


def test_a_photo_of_3_mib_comes_and_goes_byte_for_byte() -> None:
    w, id = with_large(3 << 20)
    (other,) = w.linked
    assert other.kept.entries() == {id: pictured(3 << 20)}
    assert (w.primary.line.sent, other.line.received) == (1, 1)
    w.primary.rotate()
    phone = w.phone(1)
    phone.do("sync")
    assert phone.kept.entries() == {id: pictured(3 << 20)}


def test_a_large_contact_is_changed_made_small_and_removed_like_any_other(small_records: None) -> None:
    w, id = with_large(600)
    (other,) = w.linked
    w.primary.kept.put({id: pictured(600, b"TEL:1")})
    other.kept.put({id: pictured(600, b"TEL:2")})
    w.quiesce()
    assert Envelope.decode(w.primary.kept.entries()[id]).card.count(b"TEL:") == 2
    assert w.primary.kept.entries() == other.kept.entries()
    assert len(w.primary.line.state.entries) == 1 + 12
    other.kept.put({id: pictured(10)})
    w.quiesce()
    assert w.primary.kept.entries() == {id: pictured(10)}
    assert list(w.primary.line.state.entries) == [id]
    other.kept.put({id: pictured(600)})
    w.quiesce()
    other.kept.put({id: None})
    w.quiesce()
    assert not w.primary.kept.entries()
    assert not w.primary.line.state.entries


def test_what_one_commit_does_not_take_goes_in_several_and_is_shown_when_all_is_there(small_records: None) -> None:
    w = World(1)
    (other,), (a, b) = w.linked, (w.rng.randbytes(16) for _ in range(2))
    w.primary.kept.put({a: pictured(850), b: pictured(1)})
    n, shown = w.primary.line.state.n, []
    while w.primary.line._writer.make_edit():
        run(w.primary.line._writer.finish())
        other.do("pull")
        shown.append(other.kept.entries())
        assert not other.line.unread | other.kept.unreadable()
    assert w.primary.line.state.n == n + 3
    assert shown == [{}, {}, {a: pictured(850), b: pictured(1)}]


def test_of_one_beyond_every_limit_the_rest_is_stored_and_the_value_is_kept_beside(small_records: None) -> None:
    w, id = with_large(1200)
    (other,) = w.linked
    assert w.primary.kept.entries() == {id: pictured(1200)}
    assert other.kept.entries() == {id: plain(b"1")}
    other.kept.put({id: plain(b"2")})
    w.quiesce()
    w.primary.restart()
    assert w.primary.kept.entries() == {id: pictured(1200).replace(b"FN:1", b"FN:2")}
    w.primary.kept.put(w.primary.kept.entries())
    assert not w.primary.line.unsent
    w.primary.kept.put({id: pictured(10)})
    w.quiesce()
    assert w.primary.kept.entries() == other.kept.entries() == {id: pictured(10)}


def test_a_broken_card_that_two_devices_make_too_large_costs_itself_alone(small_records: None) -> None:
    """Nothing can be taken out of it. All that either wrote is shown, and nothing else suffers."""

    def broken(*more: bytes) -> bytes:
        lines = [b"NOTE;QUOTED-PRINTABLE:open=", b"TEL:" + b"1" * 500, b"UNHEARD-OF:1", *more]
        return Envelope(b"\r\n".join([b"BEGIN:VCARD", b"VERSION:3.0", *lines, b"END:VCARD"])).encode()

    w = World(1)
    (other,), id, innocent = w.linked, w.rng.randbytes(16), w.rng.randbytes(16)
    w.primary.kept.put({id: broken(), innocent: plain(b"Innocent")})
    w.quiesce()
    w.primary.kept.put({id: broken(b"X-A:" + b"a" * 300)})
    w.primary.do("sync")
    other.kept.put({id: broken(b"X-B:" + b"b" * 300)})
    other.do("sync")
    for _ in range(2):
        shown = other.kept.entries()
        assert shown[innocent] == plain(b"Innocent")
        assert other.kept.entry(id) == shown[id]
        assert b"a" * 300 in shown[id]
        assert b"b" * 300 in shown[id]
        other.restart()
        other.do("sync")
    other.kept.put({id: plain(b"9")})
    w.quiesce()
    assert w.primary.kept.entries() == other.kept.entries() == {id: plain(b"9"), innocent: plain(b"Innocent")}


def test_what_two_devices_make_too_large_together_loses_nothing(small_records: None) -> None:
    """Each has a photo of its own: one gives way, and with it the contact is beyond the limit."""
    w = World(1)
    (other,), id = w.linked, w.rng.randbytes(16)
    w.primary.kept.put({id: pictured(600, of=b"x")})
    other.kept.put({id: pictured(600, of=b"y")})
    w.quiesce()
    shown = Envelope.decode(other.kept.entries()[id])
    assert {shown.card, *(each.unit for each in shown.conflicts)} == {
        Envelope.decode(pictured(600, of=b"y")).card,
        b"PHOTO:" + b"x" * 600,
    }
    assert w.primary.kept.entries() == {id: replace(shown, conflicts=()).encode()}


@pytest.mark.parametrize("which", ["a part", "the last part", "its own"])
def test_one_whose_record_is_lost_costs_itself_alone_until_a_device_gives_it_back(
    small_records: None, which: str
) -> None:
    w, id = with_large(600)
    small = w.new(w.primary)
    w.quiesce()
    lost = {"a part": id_of_part(id, 0), "the last part": id_of_part(id, 10), "its own": id}[which]
    w.lose(w.record_of(w.primary, lost))
    late = w.add()
    assert list(late.kept.entries()) == [small]
    assert late.line.unread == late.kept.unreadable() == {id}
    w.primary.do("mend")
    late.do("sync")
    assert late.kept.entries() == w.primary.kept.entries()
    assert not late.line.unread


def test_what_a_device_left_half_sent_is_made_whole_by_another_that_has_it(small_records: None) -> None:
    w, id = with_large(600)
    gone = w.linked.pop()
    gone.kept.put({id: pictured(700, of=b"y")})
    gone.line._writer.make_edit()
    run(gone.line._writer.finish())  # some parts of the new one; the device is never seen again
    late = w.add()
    assert late.line.unread == {id}
    for _ in range(2):
        w.now_ms += DAY_MS
        w.primary.do("sync")
    late.do("sync")
    assert late.kept.entries() == w.primary.kept.entries() == {id: pictured(600)}


def test_a_device_that_calls_a_contact_a_part_takes_it_out_and_for_no_longer(small_records: None) -> None:
    """What stands under a contact's own id is looked at anew whenever it is written."""
    w, id = with_large(10)
    (bad,) = w.linked
    other = w.add()
    key = bad.kept.keys[bad.line.state.generation]
    bad.do("pull")
    part = Envelope(b"x", Kind.PART, placement=0).encode()
    bad.line._writer.pend(Edit(1, ((id, name_of(key.seal_record(id, part))),)), key, sent={id: part})
    bad.do("sync")
    other.do("sync")
    assert not other.kept.entries()
    w.primary.do("sync")
    w.primary.kept.put({id: pictured(10)})
    w.primary.do("sync")
    other.do("sync")
    assert other.kept.entries() == w.primary.kept.entries() == {id: pictured(10)}
