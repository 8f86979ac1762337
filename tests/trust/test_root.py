import tomllib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from ipls.crypto.encoding import tagged_hash
from ipls.crypto.keys import public_key
from ipls.trust.errors import TrustRootRefused
from ipls.trust.root import MAX_FILE, TrustRoot, Witness, WitnessKey, encode_trust_root, parse_trust_root
from tests.trust.points import SMALL_ORDER
from tests.trust.roots import HOUR, NOW, OPERATOR, PROPOSER, WITNESSES, YEAR, make_root, seed, three_of, witness


def refused(make: Callable[[], Any]) -> str:
    with pytest.raises(TrustRootRefused) as e:
        make()
    assert e.value.reason == "TRUST_ROOT_INVALID"
    return str(e.value)


def test_a_root_survives_its_file() -> None:
    for root in (make_root(), three_of(), make_root(number=2, previous=bytes(32))):
        assert parse_trust_root(encode_trust_root(root)) == root


def test_comments_and_empty_lines_do_not_matter_to_a_reader() -> None:
    assert parse_trust_root(b"# pinned\n\n" + encode_trust_root(make_root()) + b"#\n") == make_root()


def line(number: int, change: Callable[[str], str]) -> bytes:
    """The file with another line of this number, which is counted from 1."""
    lines = encode_trust_root(three_of()).decode().split("\n")
    lines[number - 1] = change(lines[number - 1])
    return "\n".join(lines).encode()


# Each is TOML that says the same as the file, or that readers of TOML differ on.
OTHERWISE = {
    "a byte order mark": (1, lambda text: "\ufeff" + text),
    "carriage returns": (3, lambda text: text + "\r"),
    "a space before": (2, lambda text: " " + text),
    "a space behind": (2, lambda text: text + " "),
    "a tab": (2, lambda text: text.replace(" =", "\t=")),
    "no space": (6, lambda text: text.replace(" = ", "=")),
    "a comment behind": (6, lambda text: text + " # two of three"),
    "a comment that is not ASCII": (14, lambda text: "# für"),
    "a comment with a control character": (14, lambda text: "# \x7f"),
    "a key in quotes": (6, lambda text: '"k" = 2'),
    "a key twice": (7, lambda text: "k = 2\n" + text),
    "another order": (13, lambda text: text + "\nnumber = 1"),
    "a literal string": (4, lambda text: text.replace('"', "'")),
    "a string of several lines": (4, lambda text: text.replace('"', '"""')),
    "an escape": (4, lambda text: text.replace("t", "\\u0074", 1)),
    "an upper-case digit": (5, lambda text: text.replace("a", "A")),
    "an underscore": (10, lambda text: text.replace("3600000", "3_600_000")),
    "a sign": (10, lambda text: text.replace("3600000", "+3600000")),
    "a leading zero": (10, lambda text: text.replace("3600000", "03600000")),
    "a hexadecimal number": (10, lambda text: text.replace("3600000", "0x36EE80")),
    "a float": (10, lambda text: text.replace("3600000", "3600000.0")),
    "a date": (3, lambda text: "expires_ms = 2030-01-01"),
    "a capital": (13, lambda text: text.replace("true", "True")),
    "a table with spaces": (15, lambda text: "[[ witnesses ]]"),
    "an inline table": (19, lambda text: "keys = []\n" + text),
    "an unknown field": (18, lambda text: "x = 1"),
    "an unknown table": (18, lambda text: "[x]"),
    "a field of another table": (17, lambda text: text + "\nk = 2"),
}


@pytest.mark.parametrize("what", OTHERWISE)
def test_whatever_else_is_toml_is_refused_with_its_line(what: str) -> None:
    number, change = OTHERWISE[what]
    said = refused(lambda: parse_trust_root(line(number, change)))
    at = int(said.removeprefix("line ").partition(":")[0])
    assert number <= at <= number + 1


def test_a_file_that_is_cut_is_refused_with_its_line() -> None:
    file = encode_trust_root(three_of())
    assert refused(lambda: parse_trust_root(file[:-1])).startswith("line 40: ")
    assert refused(lambda: parse_trust_root(b"number = 1\n")).startswith("line 2: `previous = `")


@given(st.data())
def test_what_is_taken_any_reader_of_toml_reads_the_same(data: st.DataObject) -> None:
    lines = encode_trust_root(three_of()).split(b"\n")
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(lines) - 1))
        lines[at : at + data.draw(st.integers(0, 1))] = data.draw(
            st.lists(st.sampled_from([*lines, b"# c", b"k = 3", b"\t", b"start_epoch = 7"]), max_size=2)
        )
    file = b"\n".join(lines)
    try:
        root = parse_trust_root(file)
    except TrustRootRefused:
        return
    assert tomllib.loads(file.decode()) == tomllib.loads(encode_trust_root(root).decode())


FIELDS = tomllib.loads(encode_trust_root(make_root()).decode())


@pytest.mark.parametrize("name", FIELDS)
def test_a_missing_or_mistyped_field_is_refused(name: str) -> None:
    refused(lambda: parse_trust_root(tomli_w.dumps({k: v for k, v in FIELDS.items() if k != name}).encode()))
    for wrong in (True, 1.5, "zz", [1], ["w"]):
        if type(wrong) is not type(FIELDS[name]) or (wrong == "zz" and name != "namespace"):
            refused(lambda wrong=wrong: parse_trust_root(tomli_w.dumps({**FIELDS, name: wrong}).encode()))


def test_an_unknown_field_is_refused_at_any_depth() -> None:
    refused(lambda: parse_trust_root(b"x = 1\n" + encode_trust_root(make_root())))
    refused(lambda: parse_trust_root(encode_trust_root(make_root()) + b"\nx = 1\n"))


@pytest.mark.parametrize(
    "changes",
    [
        {"namespace": "a/b"},
        {"namespace": ""},
        {"namespace": "NS/fleet"},
        {"number": 0},
        {"number": 1, "previous": bytes(32)},
        {"number": 2, "previous": b""},
        {"max_head_age_ms": 0},
        {"expires_ms": 2**63},
        {"start_epoch": -1},
        {"start_root": bytes(31)},
        {"k": 0},
        {"k": 2},
        {"witnesses": ()},
        {"log_url": "ftp://log.example"},
        {"log_url": "http://"},
        {"log_url": "http://[::1"},
        {"log_url": "http://localhost:http"},
        {"log_url": "http://localhost:65536"},
        {"log_url": 'http://localhost/"'},
        {"log_url": "http://localhost/\\"},
        {"operator_key": SMALL_ORDER[0]},
        {"proposal_key": SMALL_ORDER[4]},
        {"vrf_public_key": SMALL_ORDER[1]},
        {"operator_key": public_key(PROPOSER)},
        {"proposal_key": public_key(WITNESSES[0])},
        {"witnesses": (Witness("w", "https://w", (WitnessKey(SMALL_ORDER[2], 0, 1),)),)},
        {"witnesses": (Witness("w", "https://w", ()),)},
        {"witnesses": (witness("w", seed(11), start=5, end=5),)},
        {"witnesses": (Witness("w\n", "https://w.example", witness("w", seed(11)).keys),)},
        {"witnesses": (Witness("w", "w.example", witness("w", seed(11)).keys),)},
    ],
    ids=str,
)
def test_an_unsound_root_is_refused(changes: dict[str, Any]) -> None:
    refused(lambda: make_root(**changes))


@pytest.mark.parametrize(("n", "k"), [(2, 1), (3, 1), (4, 2), (3, 4)])
def test_a_quorum_that_need_not_meet_another_is_refused(n: int, k: int) -> None:
    refused(lambda: make_root(witnesses=tuple(witness(f"w{i}", seed(20 + i)) for i in range(n)), k=k))


def test_one_key_can_not_be_two_witnesses() -> None:
    refused(lambda: make_root(witnesses=(witness("a", WITNESSES[0]), witness("b", WITNESSES[0])), k=2))
    refused(lambda: make_root(witnesses=(witness("a", WITNESSES[0]), witness("a", WITNESSES[1])), k=2))


def same_last_byte() -> tuple[bytes, bytes]:
    seen: dict[int, bytes] = {}
    for i in range(1000, 2000):
        key = public_key(i.to_bytes(32, "big"))
        if key[-1] in seen:
            return seen[key[-1]], key
        seen[key[-1]] = key
    raise AssertionError


def test_two_live_keys_with_one_id_are_refused_and_successive_ones_are_not() -> None:
    a, b = same_last_byte()

    def root(b_from: int) -> TrustRoot:
        keys = WitnessKey(a, 0, NOW), WitnessKey(b, b_from, NOW + YEAR)
        return make_root(witnesses=(Witness("w", "https://w.example", keys),))

    refused(lambda: root(NOW - 1))
    root(NOW)


def test_expiry() -> None:
    make_root().check_expiry(NOW)
    with pytest.raises(TrustRootRefused) as e:
        make_root().check_expiry(NOW + YEAR)
    assert e.value.reason == "TRUST_ROOT_EXPIRED"


def test_the_policy_digest_is_the_one_in_the_vault_spec() -> None:
    root = three_of()
    lines = sorted(
        (k.public_key, tagged_hash("ipls/vault/v1 witness", k.public_key, k.not_before_ms, k.not_after_ms))
        for w in root.witnesses
        for k in w.keys
    )
    assert root.policy_digest == tagged_hash(
        "ipls/vault/v1 policy",
        root.namespace,
        root.vrf_public_key,
        2,
        HOUR,
        0,
        1,
        *(digest for _, digest in lines),
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"namespace": "other"},
        {"vrf_public_key": public_key(seed(40))},
        {"k": 3},
        {"max_head_age_ms": HOUR + 1},
        {"start_epoch": 1},
        {"development": False},
        {"witnesses": three_of().witnesses[:2]},
        {"witnesses": (*three_of().witnesses[:2], witness("w2", WITNESSES[2], end=NOW + 1))},
    ],
    ids=str,
)
def test_every_rule_is_in_the_policy_digest(changes: dict[str, Any]) -> None:
    assert replace(three_of(), **changes).policy_digest != three_of().policy_digest


def test_the_order_of_the_witnesses_and_what_is_no_rule_is_not_in_the_policy_digest() -> None:
    same = replace(
        three_of(),
        witnesses=three_of().witnesses[::-1],
        operator_key=public_key(seed(41)),
        log_url="http://new.example",
    )
    assert same.policy_digest == three_of().policy_digest
    assert public_key(OPERATOR) != same.operator_key


@given(st.binary(max_size=200))
def test_junk_is_refused(data: bytes) -> None:
    refused(lambda: parse_trust_root(data))


@given(st.data())
def test_a_damaged_file_is_refused_or_sound(data: st.DataObject) -> None:
    file = bytearray(encode_trust_root(three_of()))
    at = data.draw(st.integers(0, len(file) - 1))
    file[at] = data.draw(st.integers(0, 255))
    try:
        assert parse_trust_root(encode_trust_root(parse_trust_root(bytes(file)))) == parse_trust_root(bytes(file))
    except TrustRootRefused as e:
        assert e.reason == "TRUST_ROOT_INVALID"  # noqa: PT017  # both ends are right here


def test_a_huge_or_deeply_nested_file_is_refused() -> None:
    file = encode_trust_root(make_root())
    largest = file + b"#" * (MAX_FILE - len(file) - 1) + b"\n"
    assert parse_trust_root(largest) == make_root()
    refused(lambda: parse_trust_root(b"#" + largest))
    refused(lambda: parse_trust_root(b"x = " + b"[" * 100_000))
