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


def test_comments_and_order_do_not_matter_to_a_reader() -> None:
    assert parse_trust_root(b"# pinned\n" + encode_trust_root(make_root())) == make_root()


FIELDS = tomllib.loads(encode_trust_root(make_root()).decode())


@pytest.mark.parametrize("name", FIELDS)
def test_a_missing_or_mistyped_field_is_refused(name: str) -> None:
    refused(lambda: parse_trust_root(tomli_w.dumps({k: v for k, v in FIELDS.items() if k != name}).encode()))
    for wrong in (True, 1.5, "zz", [1], ["w"]):
        if type(wrong) is not type(FIELDS[name]) or (wrong == "zz" and name != "namespace"):
            refused(lambda wrong=wrong: parse_trust_root(tomli_w.dumps({**FIELDS, name: wrong}).encode()))


def test_an_unknown_field_is_refused_at_any_depth() -> None:
    refused(lambda: parse_trust_root(b"x = 1\n" + encode_trust_root(make_root())))
    assert "keys[0]" in refused(lambda: parse_trust_root(encode_trust_root(make_root()) + b"\nx = 1\n"))


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
    refused(lambda: parse_trust_root(encode_trust_root(make_root()) + b"#" * MAX_FILE))
    refused(lambda: parse_trust_root(b"x = " + b"[" * 100_000))
