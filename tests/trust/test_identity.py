import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipls.akd import (
    EMPTY_ROOT,
    DirectoryKey,
    MemoryTiles,
    Update,
    Version,
    make_absence,
    make_history,
    make_lookup,
    publish,
)
from ipls.crypto.errors import SignatureRefused
from ipls.crypto.keys import public_key
from ipls.trust.errors import IdentityRefused
from ipls.trust.heads import Head
from ipls.trust.identity import (
    Identity,
    check_label,
    decode_record,
    encode_record,
    verify_identity,
    verify_no_identity,
)
from tests.trust.points import NON_CANONICAL, SMALL_ORDER
from tests.trust.roots import VRF, make_root, seed

ALICE, BOB, NOBODY = "+4912345678", "+15550100", "+999"
NOT_E164 = "4912345678"
OLD, NEW, BOBS = (public_key(seed(i)) for i in (31, 32, 33))
KEY = DirectoryKey.from_seed(VRF)
ROOT = make_root(vrf_public_key=KEY.public_key)


class Directory:
    """Alice's identity changes in epoch 2; Bob's record is `record`; one label has a key and is no number."""

    def __init__(self, record: bytes) -> None:
        self.tiles, self.depth, self.heads = MemoryTiles(), 0, [Head(0, EMPTY_ROOT)]
        self.versions: dict[str, list[Version]] = {ALICE: [], BOB: [], NOT_E164: []}
        self.publish({ALICE: encode_record(OLD), BOB: record, NOT_E164: encode_record(BOBS)})
        self.publish({ALICE: encode_record(NEW)})

    def publish(self, values: dict[str, bytes]) -> None:
        updates = [
            Update(label.encode(), value, next(iter(self.versions[label]), None)) for label, value in values.items()
        ]
        made = publish(self.tiles, KEY, *self.heads[-1], self.depth, updates)
        assert made is not None
        self.tiles.write(made.rows)
        self.depth = made.depth
        self.heads.append(Head(made.epoch, made.new_root))
        for label, version in made.versions:
            self.versions[label.decode()].insert(0, version)

    def proof(self, label: str, epoch: int = 2, most_recent: int = 1) -> bytes:
        versions = [v for v in self.versions[label] if v.epoch <= epoch][: most_recent or None]
        return make_history(self.tiles, KEY, epoch, self.depth, label.encode(), versions)

    def absence(self, label: str, epoch: int = 2) -> bytes:
        return make_absence(self.tiles, KEY, epoch, self.depth, label.encode())


@pytest.fixture(scope="module")
def directory() -> Directory:
    return Directory(encode_record(BOBS))


def refused(head: Head, label: str, proof: bytes) -> str:
    with pytest.raises(IdentityRefused) as e:
        verify_identity(ROOT, head, label, proof)
    assert label not in str(e.value)
    return e.value.reason


def test_the_newest_key_is_the_identity(directory: Directory) -> None:
    head = directory.heads[2]
    assert verify_identity(ROOT, head, ALICE, directory.proof(ALICE)) == Identity(NEW, 2, 2)
    assert verify_identity(ROOT, head, BOB, directory.proof(BOB)) == Identity(BOBS, 1, 1)


def test_an_earlier_head_vouches_for_the_key_of_its_time(directory: Directory) -> None:
    assert verify_identity(ROOT, directory.heads[1], ALICE, directory.proof(ALICE, 1)) == Identity(OLD, 1, 1)


def test_a_proof_holds_for_its_own_head_and_label_only(directory: Directory) -> None:
    old, new = directory.heads[1:]
    for head, label, proof in (
        (new, ALICE, directory.proof(ALICE, 1)),
        (old, ALICE, directory.proof(ALICE, 2)),
        (Head(3, new.root_hash), ALICE, b""),
        (new, BOB, directory.proof(ALICE)),
        (new, NOBODY, directory.proof(ALICE)),
    ):
        assert refused(head, label, proof) == "IDENTITY_UNPROVEN"


def test_no_identity_is_proved_for_its_own_head_and_label_only(directory: Directory) -> None:
    old, new = directory.heads[1:]
    absence = directory.absence(NOBODY)
    verify_no_identity(ROOT, new, NOBODY, absence)
    for head, label, proof in (
        (new, ALICE, absence),
        (new, "+998", absence),
        (old, NOBODY, absence),
        (new, NOBODY, directory.absence(NOBODY, 1)),
        (new, NOBODY, directory.proof(ALICE)),
        (new, NOBODY, b""),
    ):
        with pytest.raises(IdentityRefused) as e:
            verify_no_identity(ROOT, head, label, proof)
        assert e.value.reason == "IDENTITY_UNPROVEN"


def test_a_label_that_is_no_number_has_no_proof(directory: Directory) -> None:
    """The directory's proofs hold for any bytes."""
    head = directory.heads[2]
    assert refused(head, NOT_E164, directory.proof(NOT_E164)) == "LABEL_INVALID"
    with pytest.raises(IdentityRefused) as e:
        verify_no_identity(ROOT, head, NOBODY[1:], directory.absence(NOBODY[1:]))
    assert e.value.reason == "LABEL_INVALID"


def test_a_proof_under_another_vrf_key_is_refused(directory: Directory) -> None:
    root = make_root(vrf_public_key=public_key(seed(50)))
    with pytest.raises(IdentityRefused):
        verify_identity(root, directory.heads[2], ALICE, directory.proof(ALICE))


def test_a_complete_history_is_not_the_most_recent_1(directory: Directory) -> None:
    assert refused(directory.heads[2], ALICE, directory.proof(ALICE, most_recent=0)) == "IDENTITY_UNPROVEN"


def test_a_lookup_proof_is_not_accepted(directory: Directory) -> None:
    lookup = make_lookup(directory.tiles, KEY, 2, directory.depth, ALICE.encode(), directory.versions[ALICE][0])
    assert refused(directory.heads[2], ALICE, lookup) == "IDENTITY_UNPROVEN"


@pytest.mark.parametrize(
    "record", [b"", b"\x01", b"\x02" + BOBS, b"\x01" + SMALL_ORDER[4], encode_record(BOBS) + b"\0"]
)
def test_a_value_that_is_no_identity_record_is_no_identity(record: bytes) -> None:
    directory = Directory(record)
    assert refused(directory.heads[2], BOB, directory.proof(BOB)) in ("IDENTITY_RECORD_INVALID", "IDENTITY_UNPROVEN")


@given(st.binary(max_size=200))
def test_junk_is_no_proof(junk: bytes) -> None:
    assert refused(Head(2, bytes(32)), ALICE, junk) == "IDENTITY_UNPROVEN"


@pytest.mark.parametrize("label", ["+1", "+123456789012345"])
def test_a_label_is_e164(label: str) -> None:
    assert check_label(label) == label


@pytest.mark.parametrize("label", ["", "+", "1", "+1234567890123456", "+1\n", " +1", "+1 2", "+٣", "+1a", "++1"])
def test_any_other_label_is_refused(label: str) -> None:
    with pytest.raises(IdentityRefused) as e:
        check_label(label)
    assert e.value.reason == "LABEL_INVALID"


@pytest.mark.parametrize("point", SMALL_ORDER + NON_CANONICAL, ids=bytes.hex)
def test_no_record_holds_a_key_of_small_order(point: bytes) -> None:
    with pytest.raises(SignatureRefused):
        encode_record(point)
    with pytest.raises(IdentityRefused):
        decode_record(b"\x01" + point)


@given(st.binary(max_size=40))
def test_a_record_is_read_back_or_refused(data: bytes) -> None:
    try:
        assert encode_record(decode_record(data)) == data
    except IdentityRefused as e:
        assert e.reason == "IDENTITY_RECORD_INVALID"  # noqa: PT017  # both ends are right here
