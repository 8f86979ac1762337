"""The records trie against a dictionary, and against a database that lies."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipls.vault.errors import SessionRefused
from ipls.vault.state.trie import EMPTY_ROOT, FETCH, Leaf, Trie, decode, digest_of, encode, node_hash, prefix_of

# Keys that share long prefixes, and the last nibble alone as a difference.
KEYS = st.builds(
    lambda shared, tail: (bytes([shared]) * 32)[: 32 - len(tail)] + tail,
    st.sampled_from([0, 0x0F, 0xF0, 0xFF]),
    st.one_of(st.binary(min_size=1, max_size=2), st.binary(min_size=32, max_size=32)),
)
DIGESTS = st.binary(min_size=32, max_size=32)
RECORDS = st.dictionaries(KEYS, DIGESTS, max_size=30)


class Rows(dict[bytes, bytes]):
    """Where a trie's nodes lie, and how often it was asked."""

    asked = 0

    def load(self, prefixes: Sequence[bytes]) -> dict[bytes, bytes]:
        self.asked += 1
        return {prefix: self[prefix] for prefix in prefixes if prefix in self}


def built(puts: Sequence[tuple[bytes, bytes]], batch: int = 1000) -> tuple[bytes, Rows]:
    """The root and rows after all puts, written after each `batch` of them."""
    root, rows = EMPTY_ROOT, Rows()
    for at in range(0, len(puts), batch):
        trie = Trie(root, rows.load)
        for key, digest in puts[at : at + batch]:
            trie.put(key, digest)
        rows.update(trie.changed)
        root = trie.root
    return root, rows


def asked(root: bytes, rows: Rows, key: bytes) -> bytes | str | None:
    """The digest, or the reason why none is given."""
    try:
        return Trie(root, rows.load).get(key)
    except SessionRefused as refused:
        return refused.reason


@given(st.lists(st.tuples(KEYS, DIGESTS), max_size=40), st.integers(1, 7), st.lists(KEYS, max_size=10))
def test_it_holds_what_was_put_and_nothing_else(
    puts: list[tuple[bytes, bytes]], batch: int, others: list[bytes]
) -> None:
    model = dict(puts)
    root, rows = built(puts, batch)
    for key in [*model, *others]:
        assert Trie(root, rows.load).get(key) == model.get(key)
        written = Trie(EMPTY_ROOT, Rows().load)
        for put in puts:
            written.put(*put)
        assert written.get(key) == model.get(key)  # also before anything is written


@given(RECORDS, st.randoms(use_true_random=False))
def test_order_and_batches_leave_no_trace(records: dict[bytes, bytes], dice: object) -> None:
    shuffled = list(records.items())
    dice.shuffle(shuffled)
    earlier = [(key, bytes(32)) for key, _ in shuffled[: len(shuffled) // 2]]
    assert built(list(records.items())) == built([*earlier, *shuffled], 3)


@given(RECORDS, RECORDS)
def test_other_records_have_another_root(one: dict[bytes, bytes], other: dict[bytes, bytes]) -> None:
    assert (built(list(one.items()))[0] == built(list(other.items()))[0]) == (one == other)


@given(RECORDS.filter(bool), st.data())
def test_one_edited_bit_is_never_believed(records: dict[bytes, bytes], data: st.DataObject) -> None:
    """Whatever is asked: the answer is the right one, or it is refused; and the edited row itself always is."""
    root, rows = built(list(records.items()))
    prefix = data.draw(st.sampled_from(sorted(rows)))
    body = bytearray(rows[prefix])
    bit = data.draw(st.integers(0, 8 * len(body) - 1))
    body[bit // 8] ^= 1 << bit % 8
    rows[prefix] = bytes(body)
    answers = [asked(root, rows, key) for key in records]
    assert all(answer in ("VAULT_DATABASE_EDITED", records[key]) for key, answer in zip(records, answers, strict=True))
    assert "VAULT_DATABASE_EDITED" in answers
    with pytest.raises(SessionRefused):
        list(Trie(root, rows.load).leaves())
    told: list[SessionRefused] = []
    rest = dict(Trie(root, rows.load).leaves(damaged=told.append))
    assert rest == {key: digest for key, digest in records.items() if prefix_of(key, prefix[0]) != prefix}
    assert [refused.reason for refused in told] == ["VAULT_DATABASE_EDITED"]


@given(RECORDS.filter(lambda records: len(records) > 1), st.data())
def test_rows_left_out_swapped_or_of_before_are_never_believed(
    records: dict[bytes, bytes], data: st.DataObject
) -> None:
    puts = list(records.items())
    root, rows = built(puts)
    _, before = built(puts[:-1])
    lies: list[Callable[[bytes], bytes | None]] = [
        lambda prefix: None,
        lambda prefix: before.get(prefix),
        lambda prefix: rows[data.draw(st.sampled_from(sorted(rows)))],
        lambda prefix: encode({}),
    ]
    lie, victim = data.draw(st.sampled_from(lies)), data.draw(st.sampled_from(sorted(rows)))
    told = Rows(rows)
    body = lie(victim)
    told.pop(victim)
    if body is not None:
        told[victim] = body
    for key in [*records, bytes(32)]:
        assert asked(root, told, key) in ("VAULT_DATABASE_EDITED", records.get(key))


@given(RECORDS, st.integers(0, 31))
def test_it_is_walked_in_order_from_anywhere(records: dict[bytes, bytes], start: int) -> None:
    root, rows = built(list(records.items()))
    keys = sorted(records)
    after = keys[start] if start < len(keys) else b""
    assert list(Trie(root, rows.load).leaves(after)) == [(key, records[key]) for key in keys if key > after]


@given(st.dictionaries(KEYS, DIGESTS, min_size=1, max_size=30), st.data())
def test_a_node_is_made_again_from_what_is_below_it(records: dict[bytes, bytes], data: st.DataObject) -> None:
    """And from nothing else than what was there."""
    root, rows = built([*records.items()])
    victim = data.draw(st.sampled_from(sorted(rows)))
    lost = Rows({prefix: body for prefix, body in rows.items() if prefix != victim})

    def trie(leaves: dict[bytes, bytes]) -> Trie:
        def next_leaf(key: bytes) -> Leaf | None:
            found = min((each for each in leaves if each >= key), default=None)
            return Leaf(found, leaves[found]) if found is not None else None

        return Trie(root, lost.load, next_leaf)

    healed = trie(records)
    assert dict(healed.leaves()) == records
    assert (healed.changed, healed.healed) == ({victim: rows[victim]}, 1)
    edited = trie({key: bytes(32) for key in records})
    found = dict(edited.leaves(damaged=lambda _: None))
    assert found == records or (found.items() <= records.items() and not edited.changed)


@given(RECORDS, st.tuples(KEYS, DIGESTS), st.data())
def test_a_refused_put_changes_nothing(
    records: dict[bytes, bytes], put: tuple[bytes, bytes], data: st.DataObject
) -> None:
    root, rows = built([*records.items(), put])
    victim = data.draw(st.sampled_from(sorted(rows)))
    lying = Rows(rows | {victim: b"\0\0\0\1"})
    trie = Trie(root, lying.load)
    try:
        trie.put(*put)
    except SessionRefused:
        assert (trie.root, trie.changed) == (root, {})
    else:
        assert trie.root == root


def test_a_path_is_read_at_once() -> None:
    keys = [digest_of(bytes([number]), b"") for number in range(250)]
    root, rows = built([(key, key) for key in keys])
    for key in keys:
        rows.asked = 0
        trie = Trie(root, rows.load)
        assert trie.get(key) == key
        trie.put(key, bytes(32))
        assert rows.asked == 1


def test_keys_that_share_all_but_the_last_nibble_part_there() -> None:
    one, other = bytes(31) + b"\xfe", bytes(31) + b"\xff"
    root, rows = built([(one, one), (other, other)])
    assert len(rows) == 64
    assert (Trie(root, rows.load).get(one), Trie(root, rows.load).get(other)) == (one, other)
    assert Trie(root, rows.load).get(bytes(31) + b"\2") is None
    assert list(Trie(root, rows.load).leaves(one)) == [(other, other)]
    rows.asked = 0
    Trie(root, rows.load).get(one)
    assert rows.asked == 64 // FETCH


def test_the_encoding_stays() -> None:
    """As docs/protocol/vault-state.md has it."""
    key = bytes.fromhex("ab" * 32)
    node = decode(bytes.fromhex("00020400" + "11" * 32 + "ab" * 32 + "22" * 32))
    assert encode(node) == bytes.fromhex("00020400" + "11" * 32 + "ab" * 32 + "22" * 32)
    assert [prefix_of(key, depth).hex() for depth in range(4)] == ["00", "01a0", "02ab", "03aba0"]
    assert node_hash(encode({})) == EMPTY_ROOT


@settings(max_examples=20)
@given(st.binary(max_size=40), st.binary(max_size=40))
def test_a_record_under_another_key_is_another_record(key: bytes, record: bytes) -> None:
    assert digest_of(key, record) != digest_of(key + b"\0", record)
    assert digest_of(key, record) != digest_of(key, record + b"\0")
