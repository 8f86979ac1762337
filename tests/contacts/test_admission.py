"""What a contact store takes into a line, and from whom."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ipls.contacts.admission import Caller, Healed, Standing, admit, admit_first, check_snapshot, heal
from ipls.contacts.commits import Commit, Signed
from ipls.contacts.errors import LineError
from ipls.contacts.sealing import MAX_SNAPSHOT, ContactKey, name_of, padded_size
from tests.contacts.writers import LABEL, Made, Writer, line_of
from tests.trust.roots import NAMESPACE

SEED = bytes(16)
LINE = line_of(SEED)
OWNER = Writer()
DEVICE = OWNER.device()
FIRST = OWNER.base(1, LINE, devices=[DEVICE])
BEGUN = admit_first(NAMESPACE, LABEL, OWNER.caller, SEED, FIRST.signed).standing


def take(writer: Writer, made: Made, standing: Standing = BEGUN, caller: Caller | None = None) -> Standing:
    caller = caller or writer.caller
    return admit(NAMESPACE, LABEL, standing, caller, made.n, made.before, made.signed).standing


def refused(reason: str, text: str = "") -> Any:
    return pytest.raises(LineError, check=lambda error: error.reason == reason and text in error.message)


def edit(writer: Writer, **changes: Any) -> Made:
    return writer.edit(2, FIRST.chain, **changes)


def test_a_line_begins_with_a_base() -> None:
    assert (BEGUN.line, BEGUN.seed, BEGUN.n, BEGUN.chain, BEGUN.base_n) == (LINE, SEED, 1, FIRST.chain, 1)
    assert (BEGUN.version, BEGUN.identity_key, BEGUN.devices) == (1, OWNER.public, (DEVICE.public,))
    with refused("BODY_INVALID", "base"):
        admit_first(NAMESPACE, LABEL, OWNER.caller, SEED, OWNER.edit(1, LINE).signed)
    with refused("IDENTITY_ONLY"):
        admit_first(NAMESPACE, LABEL, DEVICE.caller, SEED, DEVICE.base(1, LINE).signed)
    with refused("BODY_INVALID", "signature"):
        admit_first(NAMESPACE, LABEL, OWNER.caller, bytes(15) + b"\1", FIRST.signed)


def test_identity_and_listed_devices_write_by_turns() -> None:
    standing, before = BEGUN, FIRST.chain
    for n, writer in enumerate([OWNER, DEVICE, OWNER, DEVICE], 2):
        made = writer.edit(n, before, writer.record(str(n)))
        standing, before = take(writer, made, standing), made.chain
    assert (standing.n, standing.chain, standing.base_n, standing.devices) == (5, before, 1, (DEVICE.public,))


@pytest.mark.parametrize(
    ("n", "before"), [(2, b"x" * 32), (3, FIRST.chain), (1, LINE)], ids=["of another", "too far", "over"]
)
def test_a_commit_stands_behind_the_head(n: int, before: bytes) -> None:
    with refused("LINE_CONFLICT"):
        take(OWNER, OWNER.edit(n, before))


def test_nobody_else_writes() -> None:
    stranger = OWNER.device()
    with refused("BODY_INVALID", "listed"):
        take(stranger, edit(stranger))
    with refused("BODY_INVALID", "who calls"):
        take(OWNER, edit(DEVICE))
    with refused("BODY_INVALID", "signature"):
        forged = edit(DEVICE)
        take(DEVICE, forged._replace(signed=forged.signed._replace(author=edit(OWNER).signed.author)))


def test_who_lacks_the_contact_key_writes_nothing() -> None:
    """The thief is the account's identity, proved."""
    thief = replace(OWNER, seed=bytes(32), version=2, key=ContactKey(bytes(32), LABEL, 1))
    for made in (thief.edit(2, FIRST.chain), thief.base(2, FIRST.chain)):
        with refused("BODY_INVALID", "signature"):
            take(thief, made)


def test_a_later_identity_writes_and_lists_nobody() -> None:
    later = OWNER.renewed()
    made = edit(later)
    standing = take(later, made)
    assert (standing.version, standing.identity_key, standing.devices) == (2, later.public, ())
    with refused("BODY_INVALID", "below"):
        take(OWNER, OWNER.edit(3, made.chain), standing)
    with refused("BODY_INVALID", "listed"):
        take(DEVICE, DEVICE.edit(3, made.chain, identity_version=2), standing, Caller(DEVICE.public, 2, later.public))


@pytest.mark.parametrize("version", [0, 2])
def test_a_commit_is_of_the_version_that_is_proved(version: int) -> None:
    with refused("BODY_INVALID"):
        take(OWNER, edit(OWNER, identity_version=version))


def test_devices_are_listed_by_the_identity_alone() -> None:
    with refused("IDENTITY_ONLY"):
        take(DEVICE, edit(DEVICE, devices=DEVICE.listing(2, [DEVICE])))
    with refused("IDENTITY_ONLY"):
        take(DEVICE, DEVICE.base(2, FIRST.chain, devices=[DEVICE]))
    with refused("BODY_INVALID", "signature"):
        take(OWNER, edit(OWNER, devices=OWNER.listing(3, [])))
    assert take(OWNER, edit(OWNER, devices=OWNER.listing(2, []))).devices == ()


def base(**changes: Any) -> Callable[[], Made]:
    return lambda: OWNER.base(2, FIRST.chain, devices=[DEVICE], **changes)


BASE = Commit.decode(base()().signed.commit).base
assert BASE is not None


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: edit(OWNER, base=BASE), "lists the devices"),
        (lambda: edit(OWNER, base=BASE, devices=OWNER.listing(2, [])), "for each of them"),
        (base(base=BASE._replace(keys=())), "for each of them"),
        (base(base=BASE._replace(size=300)), "snapshot"),
        (base(base=BASE._replace(size=2 * padded_size(MAX_SNAPSHOT) + 28)), "snapshot"),
        (base(generation=0), "generation"),
        (base(generation=2**63), "generation"),
        (lambda: edit(OWNER, generation=2), "generation"),
        (lambda: edit(OWNER, sealed=bytes(128 << 10)), "bytes"),
    ],
)
def test_what_a_commit_must_be(make: Callable[[], Made], text: str) -> None:
    with refused("BODY_INVALID", text):
        take(OWNER, make())


def test_bytes_that_are_no_commit_are_refused() -> None:
    for data in (b"", b"\2", edit(OWNER).signed.commit + b"\0"):
        with refused("BODY_INVALID", "commit"):
            admit(NAMESPACE, LABEL, BEGUN, OWNER.caller, 2, FIRST.chain, Signed(data, bytes(64), bytes(64)))


def test_another_key_follows_by_a_base_that_the_one_in_force_signs() -> None:
    rotated = OWNER.rotated()
    made = rotated.base(2, FIRST.chain, devices=[DEVICE], write_by=OWNER.key)
    standing = take(rotated, made)
    assert (standing.generation, standing.write_key) == (2, rotated.key.writer.public_key)
    with refused("BODY_INVALID", "signature"):
        take(rotated, rotated.base(2, FIRST.chain, devices=[DEVICE]))
    with refused("BODY_INVALID", "generation"):
        take(OWNER, OWNER.edit(3, made.chain), standing)


def test_a_line_has_an_end() -> None:
    full = BEGUN._replace(n=1_000_000)
    with refused("ACCOUNT_QUOTA"):
        take(OWNER, OWNER.edit(1_000_001, FIRST.chain), full)


def test_a_base_is_about_its_snapshot() -> None:
    commit = Commit.decode(FIRST.signed.commit)
    assert FIRST.snapshot is not None
    check_snapshot(commit, FIRST.snapshot)
    with refused("SNAPSHOT_ABSENT"):
        check_snapshot(commit, FIRST.snapshot[:-1] + b"x")
    assert commit.base is not None
    other = commit._replace(base=commit.base._replace(snapshot=name_of(b"x")))
    with refused("SNAPSHOT_ABSENT"):
        check_snapshot(other, FIRST.snapshot)
    with refused("BODY_INVALID", "no base"):
        check_snapshot(Commit.decode(edit(OWNER).signed.commit), FIRST.snapshot)


# What a store lost

EDITS = [FIRST]
for made_n in (2, 3):
    EDITS.append(DEVICE.edit(made_n, EDITS[-1].chain))
LINKS = [made.link for made in EDITS]


def healed(
    made: list[Made], standing: Standing | None = BEGUN, caller: Caller = OWNER.caller, first: int = 1
) -> Healed:
    links = [each.link for each in made]
    commits = {each.n: each.signed for each in made[first - 1 :]}
    return heal(NAMESPACE, LABEL, standing, caller, LINE, SEED, links, commits)


def test_what_follows_on_the_head_comes_back_by_any_device() -> None:
    for caller in (OWNER.caller, DEVICE.caller):
        for first in (1, 2):
            found = healed(EDITS, caller=caller, first=first)
            assert (found.standing.n, found.standing.chain, found.gap) == (3, EDITS[-1].chain, False)
            assert (found.links, found.chains) == (LINKS, [made.chain for made in EDITS])
            assert found.standing == take(DEVICE, EDITS[2], take(DEVICE, EDITS[1]))


def test_into_nothing_or_over_a_gap_the_identity_gives_back_alone() -> None:
    base = OWNER.base(4, EDITS[-1].chain, devices=[DEVICE])
    for standing, made, first in ((None, EDITS, 1), (BEGUN, [*EDITS, base], 4), (None, [*EDITS, base], 4)):
        found = healed(made, standing, first=first)
        assert (found.standing.n, found.gap) == (len(made), True)
        assert found.standing.devices == (DEVICE.public,)
        with refused("IDENTITY_ONLY"):
            healed(made, standing, DEVICE.caller, first)
    with refused("BODY_INVALID", "begin with a base"):
        healed([*EDITS, OWNER.edit(4, EDITS[-1].chain)], first=4)


def test_what_others_could_not_write_they_can_not_give_back() -> None:
    stranger, later = OWNER.device(), OWNER.renewed()
    with refused("BODY_INVALID", "listed"):
        healed([FIRST, stranger.edit(2, FIRST.chain)])
    with refused("BODY_INVALID", "above"):
        healed([FIRST, later.edit(2, FIRST.chain)])
    unknown = Caller(DEVICE.public, 3, OWNER.public)
    with refused("IDENTITY_ONLY"):
        healed([FIRST, later.edit(2, FIRST.chain)], caller=unknown)
    thief = replace(OWNER, seed=bytes(32), version=2, key=ContactKey(bytes(32), LABEL, 1))
    with refused("BODY_INVALID", "signature"):
        healed([FIRST, thief.edit(2, FIRST.chain)], caller=thief.caller)


def test_an_identity_in_between_is_known_by_its_first_commit() -> None:
    between, newest = OWNER.renewed(), OWNER.renewed().renewed()
    device = between.device()
    made = [FIRST, between.edit(2, FIRST.chain, devices=between.listing(2, [device]))]
    made.append(device.edit(3, made[-1].chain))
    standing = healed(made, caller=newest.caller).standing
    assert (standing.version, standing.identity_key, standing.devices) == (2, between.public, (device.public,))
    made.append(OWNER.edit(4, made[-1].chain, identity_version=2))
    with refused("BODY_INVALID", "listed"):
        healed(made, caller=newest.caller)


def test_links_and_commits_fit_together() -> None:
    with refused("LINE_CONFLICT"):
        healed([OWNER.base(1, LINE)])
    with refused("LINE_CONFLICT"):
        heal(NAMESPACE, LABEL, BEGUN, OWNER.caller, LINE, SEED, [], {})
    for commits in ({}, {2: EDITS[1].signed}, {1: FIRST.signed, 3: EDITS[2].signed}, {4: EDITS[2].signed}):
        with refused("BODY_INVALID", "hole"):
            heal(NAMESPACE, LABEL, BEGUN, OWNER.caller, LINE, SEED, LINKS, commits)
    with refused("BODY_INVALID", "link"):
        heal(NAMESPACE, LABEL, BEGUN, OWNER.caller, LINE, SEED, LINKS, {2: EDITS[2].signed, 3: EDITS[2].signed})
    with refused("LINE_REPLACED"):
        heal(NAMESPACE, LABEL, BEGUN, OWNER.caller, line_of(bytes(15) + b"1"), bytes(15) + b"1", LINKS, {})
    with refused("BODY_INVALID", "of these bytes"):
        heal(NAMESPACE, LABEL, BEGUN, OWNER.caller, LINE, bytes(15) + b"1", LINKS, {})
    with refused("ACCOUNT_QUOTA"):
        heal(NAMESPACE, LABEL, BEGUN, OWNER.caller, LINE, SEED, LINKS * 400_000, {})
