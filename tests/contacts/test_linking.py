"""Linking a device: known answers, one encoding of everything, and what each who is not the two devices is refused."""

import json
import os
import random
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from ipls.contacts import kem
from ipls.contacts.errors import LinkError
from ipls.contacts.kem import KemKey
from ipls.contacts.linking import (
    MAX_HELLO,
    MAX_NAME,
    MAX_PACKAGE,
    MAX_PLATFORM,
    Exchange,
    Hello,
    Inviter,
    Joiner,
    LinkCode,
    Package,
    commit,
    open_answer,
    open_hello,
    open_opening,
    seal_answer,
    seal_hello,
    seal_opening,
)
from ipls.crypto.encoding import tagged_hash
from ipls.crypto.keys import SeedSigner, sign

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors/linking.json").read_text())
TEXTS = ("label", "name", "platform", "link_code", "short_code")


def read(values: dict[str, Any]) -> dict[str, Any]:
    """Bytes in the place of hex."""
    return {
        name: bytes.fromhex(value) if isinstance(value, str) and name not in TEXTS else value
        for name, value in values.items()
    }


IN, OUT = read(VECTORS["inputs"]), read(VECTORS["derived"])
CODE = LinkCode(IN["label"], IN["s"])
DEVICE, DEVICE_KEM, IDENTITY = SeedSigner(IN["device_seed"]), KemKey(IN["kem_secret"]), SeedSigner(IN["identity_seed"])
HELLO = Hello(DEVICE.public_key, DEVICE_KEM.public, commit(CODE, IN["r"]), IN["name"], IN["platform"])
EXCHANGE = Exchange(CODE, HELLO, IN["p"], IN["r"])
PACKAGE = Package(**read(IN["package"]))


def refused(attempt: Callable[[], object]) -> str:
    with pytest.raises(LinkError) as error:
        attempt()
    return error.value.reason


# Known answers, made without this code


def test_the_link_code_and_its_slot() -> None:
    assert CODE.text == OUT["link_code"]
    assert LinkCode.parse(OUT["link_code"]) == CODE
    assert CODE.slot == OUT["slot"]


def test_the_hello() -> None:
    assert HELLO.commitment == OUT["commitment"]
    assert HELLO.encode() == OUT["hello"]
    sealed = seal_hello(CODE, DEVICE, HELLO, IN["hello_nonce"])
    assert sealed == OUT["sealed_hello"]
    assert open_hello(CODE, sealed) == HELLO


def test_the_answer_the_opening_and_the_short_code() -> None:
    assert seal_answer(CODE, IN["p"], IN["answer_nonce"]) == OUT["sealed_answer"]
    assert open_answer(CODE, OUT["sealed_answer"]) == IN["p"]
    assert seal_opening(CODE, IN["r"], IN["opening_nonce"]) == OUT["sealed_opening"]
    assert open_opening(CODE, HELLO, OUT["sealed_opening"]) == IN["r"]
    assert EXCHANGE.short_code == OUT["short_code"]
    assert EXCHANGE.transcript == OUT["transcript"]


def test_the_package() -> None:
    assert PACKAGE.encode() == OUT["package"]
    assert EXCHANGE.open_package(DEVICE_KEM, OUT["sealed_package"]) == PACKAGE
    info = b"ipls/link/v1 package" + OUT["transcript"]
    signed = DEVICE_KEM.open(info, EXCHANGE.seal_package(IDENTITY, PACKAGE))
    assert signed == OUT["package"] + OUT["package_signature"]


# The whole of it


def linked(inviter: Inviter, joiner: Joiner) -> Package:
    hello = inviter.admit(joiner.hello)
    assert (hello.name, hello.platform) == ("phone", "android")
    code = joiner.on_answer(inviter.answer)
    inviter.on_opening(joiner.opening)
    inviter.confirm(code)
    return joiner.on_package(inviter.package(IDENTITY, PACKAGE))


def pair() -> tuple[Inviter, Joiner]:
    """Both devices: the one shows a code, the other reads it."""
    inviter = Inviter(LinkCode.new(IN["label"]))
    return inviter, Joiner(LinkCode.parse(inviter.code.text), "phone", "android")


def test_two_devices_link() -> None:
    inviter, joiner = pair()
    assert linked(inviter, joiner) == PACKAGE
    assert inviter.admit(joiner.hello).key == SeedSigner(joiner.seed).public_key


def test_whatever_was_lost_may_be_sent_again() -> None:
    inviter, joiner = pair()
    assert inviter.admit(joiner.hello) == inviter.admit(joiner.hello)
    assert inviter.answer == inviter.answer
    assert joiner.on_answer(inviter.answer) == joiner.on_answer(inviter.answer)
    assert joiner.opening == joiner.opening
    inviter.on_opening(joiner.opening)
    assert linked(inviter, joiner) == PACKAGE
    assert joiner.on_package(inviter.package(IDENTITY, PACKAGE)) == PACKAGE


def test_short_codes_are_spread_over_all_of_them() -> None:
    codes = {EXCHANGE._replace(p=bytes([n]) * 16).short_code for n in range(200)}
    assert {len(code) for code in codes} == {6}
    assert len({code[0] for code in codes}) == 10
    assert len(codes) > 190


# The link code


@given(st.integers(0, 10**15 - 1), st.binary(min_size=32, max_size=32))
def test_a_link_code_comes_back(number: int, secret: bytes) -> None:
    code = LinkCode(f"+{number}", secret)
    assert LinkCode.parse(code.text) == code
    assert set(code.text) <= set("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ $%*+-./:")  # a QR's alphanumeric mode


@given(st.lists(st.tuples(st.integers(0, 73), st.sampled_from([" ", "\n", "\r\n", "\t", "\u00a0"])), max_size=8))
def test_one_that_was_broken_up_on_its_way_is_read(blanks: list[tuple[int, str]]) -> None:
    text = CODE.text
    for at, blank in sorted(blanks, reverse=True):
        text = text[:at] + blank + text[at:]
    assert LinkCode.parse(text) == CODE


@given(st.text() | st.text("IPLS-LINK:1+0123456789ABCDEFGH=", max_size=90).map(lambda rest: "IPLS-LINK:1:" + rest))
def test_text_is_no_link_code_or_has_one_form(text: str) -> None:
    with suppress(LinkError):
        assert LinkCode.parse(text).text == "".join(text.split())


@given(st.integers(0, len(CODE.text) - 1), st.characters(codec="utf-8"))
def test_one_with_another_character_is_refused_or_another(at: int, character: str) -> None:
    text = CODE.text[:at] + character + CODE.text[at + 1 :]
    with suppress(LinkError):
        assert LinkCode.parse(text) != CODE or text == CODE.text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no link code"),
        ("https://example.org/IPLS-LINK:1:+1:A", "no link code"),
        (CODE.text.lower(), "no link code"),
        (CODE.text.replace(":1:", ":2:"), "another version"),
        (CODE.text[:-1], "cut off"),
        (CODE.text + "=" * 4, "cut off"),
        (CODE.text + "A", "cut off"),
        (CODE.text + CODE.text, "cut off"),
        (CODE.text.replace("+15550100", "15550100"), "cut off"),
        (CODE.text.replace("+15550100", "+" + "1" * 16), "cut off"),
        (CODE.text.replace("+15550100", "+١٢٣"), "cut off"),
        (CODE.text[:-1] + "8", "cut off"),
        (CODE.text[:-1] + "B", "a character"),  # bits beyond the last byte: another form of the same
        ("IPLS-LINK:1:" + "A" * 10**6, "cut off"),
    ],
)
def test_what_is_no_link_code_is_refused_clearly(text: str, says: str) -> None:
    with pytest.raises(LinkError, match=says) as error:
        LinkCode.parse(text)
    assert error.value.reason == "LINK_CODE_INVALID"
    assert "15550100" not in error.value.message


def test_a_link_code_is_of_a_number() -> None:
    assert refused(lambda: LinkCode("a name", bytes(32)).text) == "LINK_CODE_INVALID"


# The hello

names = st.text(st.characters(exclude_categories=["Cc", "Cf", "Zl", "Zp", "Cs"]), min_size=1, max_size=16).filter(
    lambda text: text.strip()
)
keys = st.binary(min_size=32, max_size=32)


@given(st.builds(Hello, keys, st.binary(min_size=kem.PUBLIC_BYTES, max_size=kem.PUBLIC_BYTES), keys, names, names))
def test_a_hello_comes_back(hello: Hello) -> None:
    assert Hello.decode(hello.encode()) == hello


hello_like = st.builds(
    lambda head, rest: head + rest,
    st.sampled_from([b"", b"\x01", HELLO.encode()[:1281], HELLO.encode()[:1282], HELLO.encode()]),
    st.binary(max_size=20),
)


@given(hello_like)
def test_bytes_are_no_hello_or_have_one_encoding(data: bytes) -> None:
    with suppress(LinkError):
        assert Hello.decode(data).encode() == data


@given(st.integers(0, len(HELLO.encode()) - 1))
def test_a_hello_that_is_cut_off_is_none_or_another(length: int) -> None:
    with suppress(LinkError):
        assert Hello.decode(HELLO.encode()[:length]) != HELLO


@pytest.mark.parametrize("name", ["Ada's laptop", "گوشی\u200cمن", "👩\u200d💻", "ё" * 64, "デスクトップ"])
def test_a_name_may_be_in_any_script(name: str) -> None:
    assert Hello.decode(HELLO._replace(name=name).encode()).name == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "   ",
        "x" * (MAX_NAME + 1),
        "x" * 250,
        "ё" * 65,
        "your own\x1b[2Jphone",
        "line\nbreak",
        "a\u202ephone",
        "a\u2066phone",
        "a\u2028phone",
        "a\ufeffphone",
        "\ud800",
    ],
)
def test_a_name_that_steers_what_a_person_sees_is_refused_by_both(name: str) -> None:
    """RTL overrides, control characters, and what is too long or nothing to see."""
    assert refused(lambda: Joiner(CODE, name, "linux")) == "DEVICE_NAME_INVALID"
    with suppress(UnicodeEncodeError):
        data = HELLO.encode()[:1281] + bytes([min(len(name.encode()), 255)]) + name.encode() + b"linux"
        sealed = forged(CODE, data + DEVICE.sign(tagged_hash("ipls/link/v1 hello", CODE.slot, data)))
        assert refused(lambda: open_hello(CODE, sealed)) == "DEVICE_NAME_INVALID"
    assert refused(lambda: HELLO._replace(platform=name).encode()) == "DEVICE_NAME_INVALID"


def test_a_name_of_10000_characters_is_refused_by_both() -> None:
    long = HELLO._replace(name="x" * 10_000)
    assert refused(long.encode) == "DEVICE_NAME_INVALID"
    assert refused(lambda: open_hello(CODE, forged(CODE, HELLO.encode() + b"x" * 10_000))) == "LINK_HELLO_INVALID"


def test_a_platform_is_short() -> None:
    assert refused(lambda: HELLO._replace(platform="x" * (MAX_PLATFORM + 1)).encode()) == "DEVICE_NAME_INVALID"


def forged(code: LinkCode, content: bytes) -> bytes:
    """As a hello, by somebody who has the link code: whatever they like."""
    key = HKDF(SHA256(), 32, salt=None, info=b"ipls/link/v1 hello").derive(code.secret)
    return bytes(12) + AESGCM(key).encrypt(bytes(12), content, code.slot)


# Attackers


def test_a_stranger_without_the_link_code_says_no_hello_and_no_answer() -> None:
    """The store, for one, which knows the slot."""
    inviter, joiner = pair()
    stranger = LinkCode.new(inviter.code.label)
    assert refused(lambda: inviter.admit(Joiner(stranger, "phone", "android").hello)) == "LINK_HELLO_INVALID"
    inviter.admit(joiner.hello)
    assert refused(lambda: joiner.on_answer(seal_answer(stranger, bytes(16)))) == "LINK_ANSWER_INVALID"
    assert refused(lambda: joiner.on_answer(joiner.hello)) == "LINK_ANSWER_INVALID"
    assert refused(lambda: Inviter(inviter.code).admit(inviter.answer)) == "LINK_HELLO_INVALID"
    assert linked(inviter, joiner) == PACKAGE


SEALED = seal_hello(CODE, DEVICE, HELLO, IN["hello_nonce"])


@given(st.integers(0, len(SEALED) - 1), st.integers(0, 7))
def test_an_altered_hello_is_refused(at: int, bit: int) -> None:
    altered = bytearray(SEALED)
    altered[at] ^= 1 << bit
    assert refused(lambda: open_hello(CODE, bytes(altered))) == "LINK_HELLO_INVALID"


@given(st.binary(max_size=60))
def test_what_is_too_short_is_refused(data: bytes) -> None:
    assert refused(lambda: open_hello(CODE, data)) == "LINK_HELLO_INVALID"
    assert refused(lambda: open_answer(CODE, data)) == "LINK_ANSWER_INVALID"
    assert refused(lambda: open_opening(CODE, HELLO, data)) == "LINK_OPENING_INVALID"
    assert refused(lambda: EXCHANGE.open_package(DEVICE_KEM, data)) == "LINK_PACKAGE_INVALID"


def test_a_hello_over_its_limit_is_not_opened() -> None:
    assert refused(lambda: open_hello(CODE, bytes(MAX_HELLO + 1))) == "LINK_HELLO_INVALID"
    with pytest.raises(LinkError, match="bytes at most"):
        open_hello(CODE, forged(CODE, bytes(MAX_HELLO)))


def test_a_hello_that_another_key_signed_or_for_another_slot_is_refused() -> None:
    """Somebody who has the link code would have another's key listed, of which they hold no secret."""
    data = HELLO.encode()
    digest = tagged_hash("ipls/link/v1 hello", CODE.slot, data)
    other_slot = tagged_hash("ipls/link/v1 hello", LinkCode.new(CODE.label).slot, data)
    for signature in (sign(os.urandom(32), digest), DEVICE.sign(other_slot), DEVICE.sign(digest)[:-1], b""):
        assert refused(partial(open_hello, CODE, forged(CODE, data + signature))) == "LINK_HELLO_INVALID"
    assert open_hello(CODE, forged(CODE, data + DEVICE.sign(digest))) == HELLO


@pytest.mark.parametrize("bad", ["kem", "key", "version"])
def test_a_hello_with_keys_that_are_none_is_refused_before_anybody_is_asked(bad: str) -> None:
    match bad:
        case "kem":  # of small order: whatever is sealed to it anybody could read
            data = HELLO._replace(kem_key=HELLO.kem_key[:1184] + bytes(32)).encode()
        case "key":
            data = HELLO._replace(key=bytes(32)).encode()
        case _:
            data = b"\x02" + HELLO.encode()[1:]
    sealed = forged(CODE, data + DEVICE.sign(tagged_hash("ipls/link/v1 hello", CODE.slot, data)))
    assert refused(lambda: open_hello(CODE, sealed)) == "LINK_HELLO_INVALID"


def with_thief() -> tuple[Inviter, Joiner, Joiner]:
    """The owner's two devices, and that of somebody who photographed the link code, which calls itself the same."""
    inviter, joiner = pair()
    return inviter, joiner, Joiner(inviter.code, "phone", "android")


def test_who_photographed_the_link_code_and_comes_first_is_not_confirmed() -> None:
    """The store gives a slot one hello, so the owner's new device shows nothing; and should the store hand the answer
    on to it, what it shows, and the person types, is another code."""
    while True:  # but for one time in a million
        inviter, joiner, thief = with_thief()
        inviter.admit(thief.hello)
        shown = joiner.on_answer(inviter.answer)
        if shown != thief.on_answer(inviter.answer):
            break
    inviter.on_opening(thief.opening)
    assert refused(lambda: inviter.admit(joiner.hello)) == "LINK_SLOT_TAKEN"
    assert refused(lambda: inviter.confirm(shown)) == "SHORT_CODE_WRONG"
    assert refused(lambda: inviter.package(IDENTITY, PACKAGE)) == "LINK_NOT_CONFIRMED"


def test_a_hello_that_comes_after_the_answer_is_not_taken() -> None:
    """Who could choose one then would look for one that gives the code that is shown."""
    inviter, joiner, thief = with_thief()
    inviter.admit(joiner.hello)
    assert refused(lambda: inviter.admit(thief.hello)) == "LINK_SLOT_TAKEN"
    assert linked(inviter, joiner) == PACKAGE


def test_each_exchange_has_another_answer() -> None:
    """Made when the hello is there, so that nobody knows it before."""
    first, second = Inviter(CODE), Inviter(CODE)
    for inviter in (first, second):
        inviter.admit(OUT["sealed_hello"])
    assert open_answer(CODE, first.answer) != open_answer(CODE, second.answer)


def test_another_answer_than_the_first_is_refused() -> None:
    """A thief with the link code who could have several tried would look for one that gives the code that is shown."""
    inviter, joiner = pair()
    inviter.admit(joiner.hello)
    joiner.on_answer(inviter.answer)
    assert refused(lambda: joiner.on_answer(seal_answer(joiner.code, os.urandom(16)))) == "LINK_ANSWER_INVALID"
    assert linked(inviter, joiner) == PACKAGE


def ends_alike(code: str, other: str) -> bool:
    """In two of the six digits: a search of a hundred tries in the place of a million."""
    return code[-2:] == other[-2:]


def test_who_stands_between_finds_no_answer_that_gives_both_devices_one_short_code() -> None:
    """They photographed the link code and run the contact store: their own hello goes to the old device, whose answer
    tells them the short code to reach, and another answer to the new one, whose hello they read."""
    reached = 0
    for _ in range(20):
        inviter, joiner, thief = with_thief()
        inviter.admit(thief.hello)
        wanted = thief.on_answer(inviter.answer)
        guess = Exchange(inviter.code, open_hello(inviter.code, joiner.hello), bytes(16), bytes(32))
        answers = (number.to_bytes(16, "big") for number in count())
        found = next(p for p in answers if ends_alike(guess._replace(p=p).short_code, wanted))
        reached += ends_alike(joiner.on_answer(seal_answer(inviter.code, found)), wanted)
    assert reached < 10  # of 20, were the new device's part known; one in a hundred of them by chance


def test_who_stands_between_opens_nothing_else_when_the_short_code_is_known() -> None:
    """The same one lets the new device speak first, and then looks for what to open to the old one."""
    inviter, joiner, thief = with_thief()
    shown = joiner.on_answer(seal_answer(inviter.code, bytes(16)))
    hello = inviter.admit(thief.hello)
    exchange = Exchange(inviter.code, hello, open_answer(inviter.code, inviter.answer), bytes(32))
    openings = (number.to_bytes(32, "big") for number in count())
    found = next(r for r in openings if ends_alike(exchange._replace(r=r).short_code, shown))
    assert refused(lambda: inviter.on_opening(seal_opening(inviter.code, found))) == "LINK_OPENING_INVALID"
    assert refused(lambda: inviter.confirm(shown)) == "LINK_NOT_CONFIRMED"


def test_an_opening_is_not_told_before_the_answer() -> None:
    _, joiner = pair()
    assert refused(lambda: joiner.opening) == "LINK_ANSWER_INVALID"


def test_an_opening_of_another_device_slot_or_link_code_is_refused() -> None:
    """What another device that read the same link code opened, what this one's 32 bytes were in another slot, and an
    opening sealed for that."""
    inviter, joiner, other = with_thief()
    inviter.admit(joiner.hello)
    joiner.on_answer(inviter.answer)
    other.on_answer(inviter.answer)
    elsewhere = LinkCode.new(inviter.code.label)
    r = open_opening(inviter.code, open_hello(inviter.code, joiner.hello), joiner.opening)
    assert commit(elsewhere, r) != commit(inviter.code, r)
    for sealed in (other.opening, seal_opening(elsewhere, r), joiner.hello, inviter.answer):
        assert refused(partial(inviter.on_opening, sealed)) == "LINK_OPENING_INVALID"
    assert linked(inviter, joiner) == PACKAGE


def test_an_opening_is_what_was_committed_to() -> None:
    assert refused(lambda: open_opening(CODE, HELLO, seal_opening(CODE, bytes(32)))) == "LINK_OPENING_INVALID"
    nothing = HELLO._replace(commitment=bytes(32))
    assert refused(lambda: open_opening(CODE, nothing, seal_opening(CODE, IN["r"]))) == "LINK_OPENING_INVALID"


@pytest.mark.parametrize("r", [b"", IN["r"][:31], IN["r"] + b"\0"], ids=["none", "short", "long"])
def test_an_opening_has_32_bytes(r: bytes) -> None:
    """Even where a hello commits to more or fewer: fewer could be guessed."""
    hello = HELLO._replace(commitment=commit(CODE, r))
    assert refused(lambda: open_opening(CODE, hello, seal_opening(CODE, r))) == "LINK_OPENING_INVALID"


def test_nobody_is_confirmed_without_an_opening_and_none_is_taken_before_a_hello() -> None:
    inviter, joiner = pair()
    assert refused(lambda: inviter.on_opening(OUT["sealed_opening"])) == "LINK_NOT_CONFIRMED"
    inviter.admit(joiner.hello)
    shown = joiner.on_answer(inviter.answer)
    for _ in range(5):  # no try is counted: there is nothing yet to compare with
        assert refused(lambda: inviter.confirm(shown)) == "LINK_NOT_CONFIRMED"
    assert refused(lambda: inviter.package(IDENTITY, PACKAGE)) == "LINK_NOT_CONFIRMED"
    assert linked(inviter, joiner) == PACKAGE


def test_an_opening_that_comes_again_late_changes_nothing() -> None:
    inviter, joiner = pair()
    assert linked(inviter, joiner) == PACKAGE
    inviter.on_opening(joiner.opening)
    assert refused(lambda: inviter.on_opening(seal_opening(inviter.code, bytes(32)))) == "LINK_OPENING_INVALID"
    assert joiner.on_package(inviter.package(IDENTITY, PACKAGE)) == PACKAGE

    burnt, joiner = pair()
    burnt.admit(joiner.hello)
    right = joiner.on_answer(burnt.answer)
    burnt.on_opening(joiner.opening)
    for _ in range(3):
        refused(lambda: burnt.confirm(wrong(right)))
    burnt.on_opening(joiner.opening)
    assert refused(lambda: burnt.confirm(right)) == "LINK_CODE_BURNT"


@pytest.mark.parametrize("size", [0, 15, 17, 1000])
def test_an_answer_has_16_bytes(size: int) -> None:
    assert refused(lambda: open_answer(CODE, seal_answer(CODE, bytes(size)))) == "LINK_ANSWER_INVALID"


def wrong(code: str) -> str:
    return f"{(int(code) + random.randrange(1, 10**6)) % 10**6:06}"


def test_three_wrong_short_codes_burn_the_link_code() -> None:
    inviter, joiner = pair()
    inviter.admit(joiner.hello)
    right = joiner.on_answer(inviter.answer)
    inviter.on_opening(joiner.opening)
    tried = [refused(lambda: inviter.confirm(wrong(right))) for _ in range(3)]
    assert tried == ["SHORT_CODE_WRONG", "SHORT_CODE_WRONG", "LINK_CODE_BURNT"]
    assert refused(lambda: inviter.confirm(right)) == "LINK_CODE_BURNT"
    assert refused(lambda: inviter.package(IDENTITY, PACKAGE)) == "LINK_NOT_CONFIRMED"


@pytest.mark.parametrize("typed", ["", "12345", "1234567", "abcdef", "12345x", "-12345", "１２３", "1" * 10**5])
def test_what_is_no_short_code_costs_no_try(typed: str) -> None:
    inviter, joiner = pair()
    inviter.admit(joiner.hello)
    joiner.on_answer(inviter.answer)
    inviter.on_opening(joiner.opening)
    for _ in range(5):
        assert refused(lambda: inviter.confirm(typed)) == "SHORT_CODE_WRONG"
    assert linked(inviter, joiner) == PACKAGE


def test_a_short_code_may_be_typed_in_parts_and_in_other_digits() -> None:
    for other in (lambda c: f" {c[:3]} {c[3:]}\n", lambda c: c.translate({0x30 + d: 0x660 + d for d in range(10)})):
        inviter, joiner = pair()
        inviter.admit(joiner.hello)
        code = joiner.on_answer(inviter.answer)
        inviter.on_opening(joiner.opening)
        inviter.confirm(other(code))


def test_nobody_is_given_the_package_before_a_person_has_confirmed() -> None:
    inviter, joiner = pair()
    assert refused(lambda: inviter.package(IDENTITY, PACKAGE)) == "LINK_NOT_CONFIRMED"
    assert refused(lambda: inviter.confirm("123456")) == "LINK_NOT_CONFIRMED"
    assert refused(lambda: inviter.answer) == "LINK_NOT_CONFIRMED"
    inviter.admit(joiner.hello)
    assert refused(lambda: inviter.package(IDENTITY, PACKAGE)) == "LINK_NOT_CONFIRMED"


# The package


@given(
    st.builds(
        Package,
        st.binary(max_size=300),
        keys,
        st.integers(0, 2**64 - 1),
        st.binary(min_size=16, max_size=16),
        st.integers(0, 2**64 - 1),
        keys,
        st.integers(0, 2**64 - 1),
        keys,
    )
)
def test_a_package_comes_back(package: Package) -> None:
    assert Package.decode(package.encode()) == package


@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda data: b"\x01" + data))
def test_bytes_are_no_package_or_have_one_encoding(data: bytes) -> None:
    with suppress(LinkError):
        assert Package.decode(data).encode() == data


def test_a_package_of_another_version_is_refused() -> None:
    assert refused(lambda: Package.decode(b"\x02" + PACKAGE.encode()[1:])) == "LINK_PACKAGE_INVALID"


@pytest.mark.parametrize(
    "changes",
    [
        {"code": LinkCode(CODE.label, bytes(32))},
        {"hello": HELLO._replace(name="another")},
        {"p": bytes(16)},
        {"r": bytes(32)},
    ],
    ids=["link code", "hello", "answer", "opening"],
)
def test_a_package_of_another_exchange_is_refused(changes: dict[str, Any]) -> None:
    sealed = EXCHANGE._replace(**changes).seal_package(IDENTITY, PACKAGE)
    assert refused(lambda: EXCHANGE.open_package(DEVICE_KEM, sealed)) == "LINK_PACKAGE_INVALID"


def test_a_package_opens_on_the_device_that_said_hello_alone() -> None:
    sealed = EXCHANGE.seal_package(IDENTITY, PACKAGE)
    assert refused(lambda: EXCHANGE.open_package(KemKey(), sealed)) == "LINK_PACKAGE_INVALID"


def test_a_package_that_another_identity_signed_is_refused() -> None:
    """Somebody who photographed the link code would have the new device take their contacts for its owner's."""
    signed = EXCHANGE.seal_package(SeedSigner(os.urandom(32)), PACKAGE)
    assert refused(lambda: EXCHANGE.open_package(DEVICE_KEM, signed)) == "LINK_PACKAGE_INVALID"


def test_a_signature_of_another_exchange_is_no_signature_of_this_one() -> None:
    """What the owner signed when another device was linked, taken out by that device and sealed to this one."""
    other = EXCHANGE._replace(p=bytes(16))
    signed = DEVICE_KEM.open(b"ipls/link/v1 package" + other.transcript, other.seal_package(IDENTITY, PACKAGE))
    sealed = kem.seal_to(DEVICE_KEM.public, b"ipls/link/v1 package" + EXCHANGE.transcript, signed)
    assert refused(lambda: EXCHANGE.open_package(DEVICE_KEM, sealed)) == "LINK_PACKAGE_INVALID"


PACKED = EXCHANGE.seal_package(IDENTITY, PACKAGE)


@given(st.integers(0, len(PACKED) - 1), st.integers(0, 7))
def test_an_altered_package_is_refused(at: int, bit: int) -> None:
    altered = bytearray(PACKED)
    altered[at] ^= 1 << bit
    assert refused(lambda: EXCHANGE.open_package(DEVICE_KEM, bytes(altered))) == "LINK_PACKAGE_INVALID"


def test_a_package_that_is_cut_off_or_too_long_is_refused() -> None:
    assert refused(lambda: EXCHANGE.open_package(DEVICE_KEM, PACKED[:-1])) == "LINK_PACKAGE_INVALID"
    info = b"ipls/link/v1 package" + EXCHANGE.transcript
    for content in (b"", b"\x01", PACKAGE.encode()[:100] + bytes(64)):
        sealed = kem.seal_to(DEVICE_KEM.public, info, content)
        assert refused(partial(EXCHANGE.open_package, DEVICE_KEM, sealed)) == "LINK_PACKAGE_INVALID"
    with pytest.raises(LinkError, match="bytes at most"):
        EXCHANGE.open_package(DEVICE_KEM, bytes(MAX_PACKAGE + 1))


def test_a_package_before_the_answer_is_refused() -> None:
    joiner = Joiner(CODE, "phone", "android")
    assert refused(lambda: joiner.on_package(PACKED)) == "LINK_PACKAGE_INVALID"
