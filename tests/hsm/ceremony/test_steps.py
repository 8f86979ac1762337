"""A fleet's ceremony on real tokens: what they share afterwards, and what none of them takes."""

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pkcs11
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap, aes_key_wrap
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass

from ipls.config import ConfigError
from ipls.hsm.ceremony import steps as ceremony
from ipls.hsm.token import module
from ipls.hsm.token import pkcs11 as token_module
from ipls.hsm.token.derivation import by_profile
from ipls.hsm.token.module import hidden
from ipls.hsm.token.pkcs11 import HsmChannel, HsmToken, Record, token_at
from ipls.proto.vault.v1.fleet_pb2 import Card, Member, Parcel, Report, SignedCard
from ipls.trust import ceremony as reports
from ipls.vault.errors import SessionRefused
from ipls.vault.session import profiles, transcript
from tests.hsm.fleets import OFFICERS, STRANGER, Fleet, Host, officers_table, refusal
from tests.hsm.tokens import MODULES, PIN

KEY = bytes(range(32))
DIGEST = hashlib.sha256(b"digest").digest()
SECRETS = "storage root", "log"


@contextmanager
def session_of(host: Host) -> Iterator[Any]:
    place = token_at(host.place)
    library = module.initialise(place)
    try:
        with module.open_session(place, library, PIN) as session:
            yield session
    finally:
        library.finalize()


def kept(host: Host) -> list[str]:
    """The labels of all secret keys in its token."""
    with session_of(host) as session:
        return sorted(key.label for key in session.get_objects({Attribute.CLASS: ObjectClass.SECRET_KEY}))


def opened(host: Host) -> "closing[HsmToken]":
    return closing(HsmToken.open(host.place, PIN))


def stored(host: Host, record: bytes) -> bytes:
    """The contact key, stored by a session."""
    with opened(host) as token, agreed(token) as (channel, keys):
        return channel.store(aes_key_wrap(keys[2], KEY), token.storage_key_id, record)


def retrieved(host: Host, wrapped: bytes, record: bytes) -> bytes:
    with opened(host) as token, agreed(token) as (channel, keys):
        return aes_key_unwrap(keys[3], channel.retrieve(wrapped, token.storage_key_id, record))


@contextmanager
def agreed(token: HsmToken) -> Iterator[tuple[HsmChannel, list[bytes]]]:
    private = ec.generate_private_key(ec.SECP256R1())
    ephemeral = token.ephemeral()
    shared = private.exchange(ec.ECDH(), transcript.check_point(ephemeral.point))
    inputs = (transcript.session_key_input(name, DIGEST) for name in transcript.SESSION_KEYS)
    keys = [profiles.derive(token.profile, shared, data) for data in inputs]
    with closing(ephemeral.agree(transcript.encode_point(private.public_key()), DIGEST)) as channel:
        yield channel, keys


@pytest.mark.parametrize("name", MODULES)
def test_tokens_that_joined_share_storage_root_and_log_key(name: str, tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, module=name)
    first, second = fleet.hosts
    signatures = fleet.held()
    assert kept(first) == kept(second) == []  # the maker has nothing more than the others
    for host in (first, second, first):
        assert fleet.join(host, *signatures) == ""
    with opened(first) as token:
        storage_key_id, mac, points = (
            token.storage_key_id,
            token.log_macs([DIGEST]),
            {token.public_point, token.transport_point},
        )
    with opened(second) as token:
        assert (token.storage_key_id, token.log_macs([DIGEST])) == (storage_key_id, mac)
        assert len({token.public_point, token.transport_point, *points}) == 4
    record = transcript.record_digest(storage_key_id, bytes(32), 1, bytes(16))
    assert retrieved(second, stored(first, record), record) == KEY


@pytest.mark.parametrize("name", MODULES)
def test_what_a_token_joined_with_never_leaves_it_and_serves_one_mechanism(name: str, tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, 1, name)
    (host,) = fleet.hosts
    fleet.join(host, *fleet.held())
    with session_of(host) as session:
        wrapping = session.generate_key(
            KeyType.AES, 256, capabilities=MechanismFlag.WRAP, template=hidden(Mechanism.AES_KEY_WRAP)
        )
        mechanisms = []
        for label in SECRETS:
            (key,) = module.find(session, ObjectClass.SECRET_KEY, label)
            assert (key[Attribute.PRIVATE], key[Attribute.SENSITIVE]) == (True, True)
            assert (key[Attribute.EXTRACTABLE], key[Attribute.MODIFIABLE]) == (False, False)
            mechanisms += key[Attribute.ALLOWED_MECHANISMS]
            with pytest.raises(pkcs11.PKCS11Error):
                wrapping.wrap_key(key, mechanism=Mechanism.AES_KEY_WRAP)
            with pytest.raises(pkcs11.PKCS11Error):
                key[Attribute.EXTRACTABLE] = True
            with pytest.raises(pkcs11.AttributeSensitive):
                key[Attribute.VALUE]
        assert mechanisms == [by_profile(host.profile).mechanism, Mechanism.SHA256_HMAC]


def test_a_token_has_one_card_however_often_it_is_asked_for(tmp_path: Path) -> None:
    host = Host(tmp_path, "h0")
    one, again = (ceremony.prepare(host.place, PIN, "test.ipls", host.name, host.profile).card for _ in range(2))
    assert one == again


def test_the_keys_lie_in_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The maker's, read past its token by a copy that is not sensitive."""
    values, extractable = [], ceremony._extractable

    def spy(session: Any, purpose: Any) -> Any:
        monkeypatch.setattr(ceremony, "hidden", lambda mechanism: hidden(mechanism) | {Attribute.SENSITIVE: False})
        key = extractable(session, purpose)
        values.append(key[Attribute.VALUE])
        return key

    fleet = Fleet(tmp_path)
    fleet.prepare()
    monkeypatch.setattr(ceremony, "_extractable", spy)
    fleet.genesis()
    assert [len(value) for value in values] == [32, 32]
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not [file for file in files for value in values if value in file]
    assert fleet.parcel(fleet.hosts[0]).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(("attribute", "value"), [(Attribute.EXTRACTABLE, True), (Attribute.SENSITIVE, False)])
@pytest.mark.parametrize("label", SECRETS)
def test_a_token_with_a_key_that_could_leave_it_is_not_opened(
    label: str, attribute: Attribute, value: bool, tmp_path: Path
) -> None:
    """Wrapped, or read as it is."""
    host = Host(tmp_path, "h0")
    host.prepare(tmp_path / "h0.card")
    with session_of(host) as session:
        for purpose in token_module.purposes(by_profile(host.profile)):
            template = hidden(purpose.mechanism) | ({attribute: value} if purpose.label == label else {})
            session.generate_key(
                purpose.kind,
                256,
                store=True,
                label=purpose.label,
                id=bytes(16),
                capabilities=purpose.use,
                template=template,
            )
    with pytest.raises(ConfigError) as refused:
        HsmToken.open(host.place, PIN)
    assert refused.value.reason == "TOKEN_KEY_EXTRACTABLE"


def test_a_token_that_has_not_joined_is_not_opened(tmp_path: Path) -> None:
    host = Host(tmp_path, "h0")
    host.prepare(tmp_path / "h0.card")
    with pytest.raises(ConfigError) as refused:
        HsmToken.open(host.place, PIN)
    assert refused.value.reason == "TOKEN_KEY_MISSING"


# What a token takes


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """One that held its ceremony, and whose second token nobody lets join."""
    fleet = Fleet(tmp_path_factory.mktemp("fleet"))
    fleet.held()
    return fleet


@pytest.fixture
def untouched(fleet: Fleet) -> Iterator[Host]:
    """A host whose token keeps nothing of what the test tries; files are as they were afterwards."""
    files = {path: path.read_bytes() for path in fleet.folder.iterdir() if path.is_file()}
    yield fleet.hosts[1]
    for path, data in files.items():
        path.write_bytes(data)
    assert kept(fleet.hosts[1]) == []


def test_fewer_than_m_officers(fleet: Fleet, untouched: Host) -> None:
    (anna,) = fleet.sign("Anna")
    assert fleet.join(untouched) == fleet.join(untouched, anna) == fleet.check(anna) == "REPORT_NO_QUORUM"


def test_one_officer_twice(fleet: Fleet, untouched: Host) -> None:
    (anna,) = fleet.sign("Anna")
    assert fleet.join(untouched, anna, anna) == fleet.check(anna, anna) == "REPORT_NO_QUORUM"


def test_a_strangers_signature(fleet: Fleet, untouched: Host) -> None:
    assert refusal(lambda: fleet.sign("stranger")) == "OFFICER_UNKNOWN"
    data = fleet.report.read_bytes()
    signature = reports.OfficerSignature(
        public_key=reports.public_key(STRANGER), signature=reports.sign(STRANGER, reports._report_digest(data))
    )
    fleet.signature(STRANGER).write_bytes(signature.SerializeToString())
    assert fleet.join(untouched, *fleet.sign("Anna"), fleet.signature(STRANGER)) == "OFFICER_UNKNOWN"


def test_a_report_edited_after_it_was_signed(fleet: Fleet, untouched: Host) -> None:
    signatures = fleet.sign("Anna", "Carla")
    fleet.edit(lambda report: setattr(report, "time_ms", report.time_ms + 1))
    assert fleet.join(untouched, *signatures) == "SIGNATURE_INVALID"


def test_a_report_with_officers_of_its_own(fleet: Fleet, untouched: Host) -> None:
    fleet.edit(lambda report: setattr(report, "m", 3))
    assert fleet.join(untouched, *fleet.sign(*OFFICERS)) == "REPORT_OTHER_OFFICERS"
    fleet.officers.write_text(officers_table(1, **OFFICERS))
    assert fleet.join(untouched, *fleet.sign(*OFFICERS)) == "OFFICERS_INVALID"


def test_a_report_of_a_development_fleet(fleet: Fleet, untouched: Host) -> None:
    fleet.edit(lambda report: setattr(report, "development", True))
    assert fleet.join(untouched, *fleet.sign("Anna", "Carla")) == "REPORT_DEVELOPMENT"


def test_a_report_of_another_namespace(fleet: Fleet, untouched: Host) -> None:
    untouched.trust(namespace="other.ipls")
    assert fleet.join(untouched, *fleet.sign("Anna", "Carla")) == "REPORT_OTHER_NAMESPACE"
    untouched.trust()


def test_a_parcel_for_another_token(fleet: Fleet, untouched: Host) -> None:
    other = fleet.parcel(fleet.hosts[0])
    assert fleet.join(untouched, *fleet.sign("Anna", "Carla"), parcel=other) == "PARCEL_OTHER_TOKEN"


def test_a_parcel_that_is_not_the_reports(fleet: Fleet, untouched: Host) -> None:
    """Made for this token, of keys that a thief knows."""
    parcel = Parcel.FromString(fleet.parcel(untouched).read_bytes())
    signatures = fleet.sign("Anna", "Carla")
    for changed in (
        stolen_parcel(fleet, parcel.public_key, parcel.root_id),
        Parcel(public_key=parcel.public_key, ephemeral=parcel.ephemeral, root_id=parcel.root_id, root=parcel.log_key),
    ):
        fleet.parcel(untouched).write_bytes(changed.SerializeToString(deterministic=True))
        assert fleet.join(untouched, *signatures) == "PARCEL_INVALID"


def stolen_parcel(
    fleet: Fleet, target: bytes, storage_key_id: bytes, root: bytes = KEY, log_key: bytes = KEY
) -> Parcel:
    """As anybody can make one who knows the token's card."""
    report = Report.FromString(fleet.report.read_bytes())
    card = next(c for m in report.members if (c := Card.FromString(m.card.card)).public_key == target)
    private = ec.generate_private_key(ec.SECP256R1())
    ephemeral = transcript.encode_point(private.public_key())
    shared = private.exchange(ec.ECDH(), transcript.check_point(card.transport_key))
    blobs = {}
    for use, key in (("storage root", root), ("log", log_key)):
        data = reports.wrapping_key_input(use, ephemeral, card.transport_key, storage_key_id)
        blobs[use] = aes_key_wrap(profiles.derive(card.profile, shared, data), key)
    return Parcel(
        public_key=target, ephemeral=ephemeral, root_id=storage_key_id, root=blobs["storage root"], log_key=blobs["log"]
    )


def test_a_parcel_with_other_keys_than_the_report_vouches_for(fleet: Fleet, untouched: Host) -> None:
    """A maker that cheats: officers signed check values of the keys that they saw made, and this parcel's hash."""
    target = Parcel.FromString(fleet.parcel(untouched).read_bytes()).public_key

    def put(report: Report) -> None:
        parcel = stolen_parcel(fleet, target, report.root_id).SerializeToString(deterministic=True)
        fleet.parcel(untouched).write_bytes(parcel)
        report.members[1].parcel_hash = hashlib.sha256(parcel).digest()

    fleet.edit(put)
    assert fleet.join(untouched, *fleet.sign("Anna", "Carla")) == "FLEET_KEYS_DIFFER"


@pytest.mark.parametrize("field", ["root_check", "log_check"])
def test_each_key_has_to_be_the_reports(fleet: Fleet, tmp_path: Path, field: str) -> None:
    """Of both, one is wrong: the token keeps nothing that the report does not vouch for."""
    other = Fleet(tmp_path, 1)
    other.prepare()
    other.genesis()
    other.edit(lambda report: setattr(report, field, secrets.token_bytes(32)))
    assert other.join(other.hosts[0], *other.sign("Anna", "Carla")) == "FLEET_KEYS_DIFFER"
    assert kept(other.hosts[0]) == ([] if field == "root_check" else ["storage root"])


def test_a_report_without_this_tokens_card(fleet: Fleet, tmp_path: Path) -> None:
    stranger = Host(tmp_path, "stranger")
    stranger.prepare(tmp_path / "stranger.card")
    assert fleet.join(stranger, *fleet.sign("Anna", "Carla"), parcel=fleet.parcel(fleet.hosts[1])) == "CARD_OTHER_TOKEN"


# What a ceremony takes


def test_a_card_with_another_transport_key(fleet: Fleet, untouched: Host) -> None:
    """Who carries the card puts his own key beside the fleet key."""
    signed = SignedCard.FromString(fleet.card(untouched).read_bytes())
    card = Card.FromString(signed.card)
    card.transport_key = transcript.encode_point(ec.generate_private_key(ec.SECP256R1()).public_key())
    signed.card = card.SerializeToString(deterministic=True)
    fleet.card(untouched).write_bytes(signed.SerializeToString(deterministic=True))
    fleet.report.unlink()
    assert fleet.genesis() == "CARD_INVALID"
    assert not fleet.report.exists()


def test_a_report_with_a_card_whose_key_was_swapped(fleet: Fleet, untouched: Host) -> None:
    def swap(report: Report) -> None:
        cards = [Card.FromString(member.card.card) for member in report.members]
        cards[1].transport_key = transcript.encode_point(ec.generate_private_key(ec.SECP256R1()).public_key())
        signed = SignedCard(card=cards[1].SerializeToString(deterministic=True), signature=bytes(64))
        report.members[1].CopyFrom(Member(card=signed, parcel_hash=report.members[1].parcel_hash))

    signatures = fleet.sign("Anna", "Carla")
    fleet.edit(swap)
    assert fleet.join(untouched, *signatures) == "CARD_INVALID"


def test_a_second_ceremony_is_held_on_a_token_without_keys_and_under_a_new_name(fleet: Fleet, tmp_path: Path) -> None:
    before = fleet.report.read_bytes()
    assert fleet.genesis() == "FileExistsError"
    assert fleet.report.read_bytes() == before
    joined = Fleet(tmp_path, 1)
    joined.join(joined.hosts[0], *joined.held())
    joined.report.unlink()
    assert joined.genesis() == "TOKEN_KEY_EXISTS"
    assert not joined.report.exists()


def test_a_token_keeps_its_keys_whatever_report_comes(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    first, second = fleet.hosts
    fleet.join(second, *fleet.held())
    fleet.report.unlink()
    fleet.genesis()
    assert fleet.join(second, *fleet.sign("Anna", "Carla")) == "TOKEN_KEY_EXISTS"
    assert fleet.join(first, *fleet.sign("Anna", "Carla")) == ""


def test_cards_of_two_fleets_two_profiles_or_none_of_this_token(fleet: Fleet, untouched: Host, tmp_path: Path) -> None:
    host = Host(tmp_path, "h9")
    host.trust(namespace="other.ipls")
    host.prepare(tmp_path / "other.card")
    host.trust()
    host.prepare(tmp_path / "profile.card", "hkdf-sha256")
    host.prepare(tmp_path / "good.card")
    own = fleet.card(fleet.hosts[0])

    def held(*cards: Path) -> str:
        return fleet.hosts[0].hold(tmp_path / "report.pb", cards, fleet.officers)

    assert held(own, tmp_path / "other.card") == held(own, tmp_path / "profile.card") == "FLEET_CARDS_DIFFER"
    assert held(own, own) == "FLEET_CARDS_DIFFER"
    assert held(tmp_path / "good.card") == "CARD_OTHER_TOKEN"
    assert not (tmp_path / "report.pb").exists()


@pytest.mark.parametrize("table", [officers_table(1, **OFFICERS), officers_table(4, **OFFICERS), "m = 2", "m = ["])
def test_officers_who_are_too_few_or_no_table(fleet: Fleet, untouched: Host, table: str, tmp_path: Path) -> None:
    (tmp_path / "officers.toml").write_text(table)
    refused = fleet.hosts[0].hold(tmp_path / "r.pb", fleet.cards, tmp_path / "officers.toml")
    assert refused == ("OFFICERS_INVALID" if "officer" in table else "CONFIG_INVALID")


def test_one_officer_is_enough_for_a_development_fleet(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, 1)
    fleet.officers.write_text(officers_table(1, **OFFICERS))
    fleet.hosts[0].trust(development=True)
    fleet.prepare()
    assert fleet.genesis() == ""
    assert Report.FromString(fleet.report.read_bytes()).development
    assert fleet.join(fleet.hosts[0], *fleet.sign("Berta")) == ""


# Rotation


def test_a_rotations_keys_lie_beside_the_old_ones_and_a_new_hsm_has_them_alone(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, 1)
    (old,), signatures = fleet.hosts, fleet.held()
    fleet.join(old, *signatures)
    new = Host(tmp_path, "h9")
    later = fleet.rotate(new)
    previous = hashlib.sha256(fleet.report.read_bytes()).digest()
    assert Report.FromString(later.report.read_bytes()).previous == previous
    assert kept(old) == ["log", "storage root"]
    signed = later.sign("Anna", "Berta")
    for host in (old, new, old):
        assert later.join(host, *signed) == ""
    assert (kept(old), kept(new)) == (["log", "log", "storage root", "storage root"], ["log", "storage root"])
    first, second = (Report.FromString(each.report.read_bytes()).root_id for each in (fleet, later))
    with opened(old) as token:
        mac, storage_key_ids, first_log_key = token.log_macs([DIGEST]), token.storage_key_ids(), token.first_log_key
    with opened(new) as token:
        assert (token.log_macs([DIGEST]), token.storage_key_ids(), token.first_log_key) == (mac, [second], 2)
    assert (storage_key_ids, first_log_key) == ([second, first], 1)
    record = transcript.record_digest(second, bytes(32), 1, bytes(16))
    assert retrieved(new, stored(old, record), record) == KEY


def test_a_record_is_wrapped_anew_only_where_both_roots_are(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, 1)
    (old,), signatures = fleet.hosts, fleet.held()
    fleet.join(old, *signatures)
    first = Report.FromString(fleet.report.read_bytes()).root_id
    record = Record(first, transcript.record_digest(first, bytes(32), 1, bytes(16)))
    wrapped = stored(old, record.digest)
    new = Host(tmp_path, "h9")
    later = fleet.rotate(new)
    for host in (old, new):
        later.join(host, *later.sign("Anna", "Berta"))
    second = Report.FromString(later.report.read_bytes()).root_id
    moved = Record(second, transcript.record_digest(second, bytes(32), 1, bytes(16)))
    with opened(old) as token:
        again = token.rewrap(wrapped, record, moved)
        with pytest.raises(SessionRefused) as refused:
            token.rewrap(wrapped, moved, record)
        assert refused.value.reason == "VAULT_RECORD_REFUSED"
    with opened(new) as token, pytest.raises(SessionRefused) as refused:
        token.rewrap(wrapped, record, moved)
    assert refused.value.reason == "VAULT_ROOT_MISSING"
    assert retrieved(new, again, moved.digest) == KEY


def test_a_rotation_that_does_not_follow_on_the_tokens_newest_keys(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, 1)
    (host,), signatures = fleet.hosts, fleet.held()
    assert fleet.rotate().refused == "TOKEN_KEY_EXISTS"  # it has not joined
    fleet.join(host, *signatures)
    later = fleet.rotate()
    signed = later.sign("Anna", "Berta")
    rival = later.report.read_bytes(), later.parcel(host).read_bytes(), [path.read_bytes() for path in signed]
    later.report.unlink()
    later = fleet.rotate()  # another one of the same number
    later.join(host, *later.sign("Anna", "Berta"))
    for path, data in zip((later.report, later.parcel(host), *signed), (*rival[:2], *rival[2]), strict=True):
        path.write_bytes(data)
    assert later.join(host, *signed) == "TOKEN_KEY_EXISTS"
    assert fleet.join(host, *fleet.sign("Anna", "Carla")) == "TOKEN_KEY_EXISTS"  # the way back
    later.report.unlink()
    assert fleet.rotate().refused == "TOKEN_KEY_EXISTS"  # it has newer ones than that report's
    assert kept(host) == ["log", "log", "storage root", "storage root"]
