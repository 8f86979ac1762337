"""contacts.md, The line: known answers, and one encoding of everything."""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipls.contacts import commits
from ipls.contacts.commits import Base, Commit, DeviceList, Edit, Left, Link, ListedDevice, Moved
from ipls.contacts.errors import LineError
from ipls.contacts.sealing import ContactKey, name_of
from ipls.crypto.keys import public_key

NS, LABEL = "example.org", "+15550100"
KEY = ContactKey(bytes(range(32)), LABEL, 1)

keys32 = st.binary(min_size=32, max_size=32)
number = st.integers(0, 2**64 - 1)
device_lists = st.builds(
    DeviceList,
    st.dictionaries(keys32, keys32, max_size=16).map(
        lambda d: tuple(ListedDevice(*pair) for pair in sorted(d.items()))
    ),
    st.binary(min_size=64, max_size=64),
)
bases = st.builds(
    Base,
    keys32,
    number,
    keys32,
    st.dictionaries(keys32, st.binary(min_size=1168, max_size=1168), max_size=2).map(
        lambda d: tuple(sorted(d.items()))
    ),
)
some_commits = st.builds(
    Commit,
    number,
    number,
    keys32,
    st.none() | device_lists,
    st.none() | bases,
    st.sets(keys32, max_size=4).map(lambda names: tuple(sorted(names))),
    st.binary(max_size=300),
)
bodies = st.one_of(
    st.builds(Edit, number, st.dictionaries(st.binary(min_size=16, max_size=16), keys32).map(lambda d: (*d.items(),))),
    st.builds(Left, number, st.lists(keys32, max_size=64).map(tuple), number, keys32),
    st.builds(Moved, number, st.text("+0123456789"), keys32, keys32),
)


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(LineError) as error:
        call()
    return error.value.reason


def test_eight_digits_of_a_chain_are_compared() -> None:
    assert commits.chain_digits(bytes.fromhex("ca0926f53850d7de") + bytes(24)) == "0550 4222"
    assert commits.chain_digits(bytes(32)) == "0000 0000"


def test_the_known_chain() -> None:
    line = commits.line_id(NS, LABEL, bytes(16))
    entry = b"\xa0" * 16, name_of(KEY.seal_record(b"\xa0" * 16, b"card"))
    sealed = KEY.seal(commits.commit_aad(2, line), commits.encode_body(Edit(7, (entry,))), bytes(12))
    commit = Commit(1, 1, public_key(bytes(32)), None, None, (), sealed).encode()
    chain = commits.chain_link(2, line, Link(1, hashlib.sha256(commit).digest()))
    assert chain.hex() == "ca0926f53850d7de3b93f84aa2bacc02e23897e67c1893fd18505204317da59e"


@given(some_commits)
def test_a_commit_comes_back(commit: Commit) -> None:
    assert Commit.decode(commit.encode()) == commit


@given(bodies)
def test_a_body_comes_back(body: commits.Body) -> None:
    assert commits.decode_body(commits.encode_body(body)) == body


@given(st.binary(max_size=400) | st.binary(max_size=400).map(lambda data: b"\2" + data))
def test_bytes_are_no_commit_or_have_one_encoding(data: bytes) -> None:
    with suppress(LineError):
        assert Commit.decode(data).encode() == data


@given(some_commits, st.data())
def test_an_altered_commit_is_none_or_another(commit: Commit, data: st.DataObject) -> None:
    encoded = bytearray(commit.encode())
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        other = Commit.decode(bytes(encoded))
    except LineError:
        return
    assert other != commit
    assert other.encode() == encoded


@given(some_commits, st.data())
def test_a_commit_that_is_cut_off_or_goes_on_is_refused(commit: Commit, data: st.DataObject) -> None:
    encoded = commit.encode()
    assert refused(lambda: Commit.decode(encoded[: data.draw(st.integers(0, len(encoded) - 1))])) == "COMMIT_REFUSED"
    assert refused(lambda: Commit.decode(encoded + b"\0")) == "COMMIT_REFUSED"


@given(st.binary(max_size=400))
def test_bytes_are_no_body_or_have_one_encoding(data: bytes) -> None:
    with suppress(LineError):
        assert commits.encode_body(commits.decode_body(data)) == data


@given(bodies, st.data())
def test_a_body_that_is_cut_off_or_goes_on_is_refused(body: commits.Body, data: st.DataObject) -> None:
    encoded = commits.encode_body(body)
    cut = encoded[: data.draw(st.integers(0, len(encoded) - 1))]
    assert refused(lambda: commits.decode_body(cut)) == "COMMIT_REFUSED"
    assert refused(lambda: commits.decode_body(encoded + b"\0")) == "COMMIT_REFUSED"


def device(byte: int) -> ListedDevice:
    return ListedDevice(bytes([byte]) * 32, bytes(32))


@pytest.mark.parametrize(
    "commit",
    [
        Commit(1, 1, bytes(32), DeviceList((device(2), device(1)), bytes(64)), None, (), b""),
        Commit(1, 1, bytes(32), DeviceList((device(1), device(1)), bytes(64)), None, (), b""),
        Commit(1, 1, bytes(32), DeviceList(tuple(map(device, range(17))), bytes(64)), None, (), b""),
        Commit(1, 1, bytes(32), None, Base(bytes(32), 0, bytes(32), ((bytes(32), bytes(1168)),) * 2), (), b""),
        Commit(1, 1, bytes(32), None, None, (b"b" * 32, b"a" * 32), b""),
        Commit(1, 1, bytes(32), None, None, (b"a" * 32, b"a" * 32), b""),
        Commit(1, 1, bytes(32), None, None, (b"a" * 31,), b""),
    ],
    ids=["order of devices", "a device twice", "too many", "a key twice", "order of drops", "a drop twice", "length"],
)
def test_a_commit_with_another_encoding_is_refused(commit: Commit) -> None:
    assert refused(lambda: Commit.decode(commit.encode())) == "COMMIT_REFUSED"


def test_a_commit_of_ten_megabytes_is_refused_and_a_full_one_is_not() -> None:
    drops = tuple(n.to_bytes(32, "big") for n in range(commits.MAX_ENTRIES))
    devices = DeviceList(tuple(map(device, range(16))), bytes(64))
    base = Base(bytes(32), 0, bytes(32), tuple((device(n).key, bytes(1168)) for n in range(16)))
    commit = Commit(1, 1, bytes(32), devices, base, drops, bytes((1 << 16) + 28))
    assert Commit.decode(commit.encode()) == commit
    assert refused(lambda: Commit.decode(commit._replace(sealed=bytes(10 << 20)).encode())) == "COMMIT_REFUSED"


def test_a_body_of_too_much_is_refused() -> None:
    entries = tuple((n.to_bytes(16, "big"), bytes(32)) for n in range(commits.MAX_ENTRIES + 1))
    assert refused(lambda: commits.decode_body(commits.encode_body(Edit(1, entries)))) == "COMMIT_REFUSED"
    assert commits.decode_body(commits.encode_body(Edit(1, entries[:-1])))
    assert refused(lambda: commits.decode_body(commits.encode_body(Left(1, (bytes(32),) * 65)))) == "COMMIT_REFUSED"
    twice = Edit(1, (entries[0], entries[0]))
    assert refused(lambda: commits.decode_body(commits.encode_body(twice))) == "COMMIT_REFUSED"


states = st.dictionaries(st.binary(min_size=16, max_size=16), keys32.filter(any), max_size=9)


@given(states)
def test_a_snapshot_keeps_the_order(state: dict[bytes, bytes]) -> None:
    assert list(commits.decode_snapshot(commits.encode_snapshot(state)).items()) == list(state.items())


@given(st.binary(max_size=300))
def test_bytes_are_no_snapshot_or_have_one_encoding(data: bytes) -> None:
    with suppress(LineError):
        assert commits.encode_snapshot(commits.decode_snapshot(data)) == data


def test_a_snapshot_that_names_a_contact_twice_or_a_removed_one_is_refused() -> None:
    entry = bytes(16) + b"\1" * 32
    assert refused(lambda: commits.decode_snapshot(b"\0\0\0\2" + 2 * entry)) == "COMMIT_REFUSED"
    assert refused(lambda: commits.decode_snapshot(b"\0\0\0\1" + bytes(48))) == "COMMIT_REFUSED"


def test_a_list_that_no_line_can_hold_is_refused() -> None:
    state = {n.to_bytes(16, "big"): b"\1" * 32 for n in range((1 << 24) // 48 + 1)}
    assert refused(lambda: commits.encode_snapshot(state)) == "LIST_TOO_LONG"


def test_folding_keeps_places_and_appends_and_takes_out() -> None:
    a, b, c = (bytes([n]) * 16 for n in range(3))
    x, y = b"x" * 32, b"y" * 32
    state = {a: x, b: x}
    commits.fold(state, [(a, y), (c, x), (b, commits.REMOVED)])
    assert list(state.items()) == [(a, y), (c, x)]
    commits.fold(state, [(a, commits.REMOVED)])
    commits.fold(state, [(a, x)])
    assert list(state) == [c, a]


def test_digests_differ_by_what_they_are_of() -> None:
    chain = bytes(32)
    digests = {
        commits.author_digest(chain),
        commits.write_digest(chain),
        commits.devices_digest(NS, LABEL, 1, chain, ()),
        commits.devices_digest(NS, LABEL, 2, chain, ()),
        commits.devices_digest(NS, LABEL, 1, chain, (device(1),)),
        commits.devices_digest(NS, LABEL, 1, chain, (device(1), device(2))),
        commits.chain_link(1, chain, Link(1, chain)),
        commits.chain_link(2, chain, Link(1, chain)),
        commits.chain_link(1, chain, Link(2, chain)),
        commits.line_id(NS, LABEL, bytes(16)),
        commits.commit_aad(1, chain),
        commits.snapshot_aad(1, chain),
        commits.key_info(chain, 1),
    }
    assert len(digests) == 13
