"""The check of a token: what it says of two modules, of tokens that lack something, and of ones that do too much."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass

from ipls.config import TokenConfig
from ipls.hsm.token import check as check_module
from ipls.hsm.token import module
from ipls.hsm.token import pkcs11 as token_module
from ipls.hsm.token.check import PREFIX, Finding, check_token
from ipls.vault.session.profiles import HKDF_SHA256, SOFTHSM_AES_CBC
from tests.hsm.tokens import PIN, kryoptic_token, softhsm_token, vault_token

Place = TokenConfig


@pytest.fixture(autouse=True)
def _short_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_module, "LOOP", 3)


def checked(place: Place) -> tuple[str | None, list[Finding]]:
    findings: list[Finding] = []
    return check_token(place, PIN, findings.append), findings


def lacking(findings: list[Finding]) -> set[tuple[str, str | None]]:
    return {(finding.check, finding.profile) for finding in findings if finding.holds is False}


@contextmanager
def opened(place: Place) -> Iterator[Any]:
    library = module.initialise(place)
    with module.open_session(place, library, PIN) as session:
        yield session
    library.finalize()


def labels(place: Place) -> list[str]:
    with opened(place) as session:
        kinds = ObjectClass.SECRET_KEY, ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY, ObjectClass.DATA
        return sorted(
            found[Attribute.LABEL] for kind in kinds for found in session.get_objects({Attribute.CLASS: kind})
        )


def test_softhsm_can_but_its_own_profile_alone(tmp_path: Path) -> None:
    profile, findings = checked(softhsm_token(tmp_path / "token"))
    assert profile == SOFTHSM_AES_CBC
    assert lacking(findings) == {("session_keys", HKDF_SHA256)}
    told = {finding.check: finding.detail for finding in findings if finding.holds is None}
    assert told["wrap_24_bytes"] == "takes a blob of 24 bytes"
    assert (told["point_compressed"], told["point_der"], told["point_off_curve"]) == (
        "takes one",
        "takes one",
        "refuses one",
    )
    assert "a second" in told["retrieves"]


def test_kryoptic_can_by_the_standard_profile(kryoptic: Path, tmp_path: Path) -> None:
    profile, findings = checked(kryoptic_token(kryoptic, tmp_path / "token"))
    assert (profile, lacking(findings)) == (HKDF_SHA256, set())


@pytest.mark.parametrize(
    ("without", "profile", "lacks"),
    [
        ("CKM_HKDF_DERIVE", SOFTHSM_AES_CBC, {("session_keys", HKDF_SHA256)}),
        ("CKM_AES_CBC_ENCRYPT_DATA", HKDF_SHA256, {("session_keys", SOFTHSM_AES_CBC)}),
        ("CKM_AES_KEY_WRAP", None, {("wrap", None), ("unextractable", None), ("extractable_final", None)}),
        ("CKM_ECDSA", None, {("sign", HKDF_SHA256), ("sign", SOFTHSM_AES_CBC)}),
        ("CKM_ECDH1_DERIVE", None, {("public_destroyed", None), ("session_keys", HKDF_SHA256)}),
        ("CKM_SHA256_HMAC", None, {("allowed_mechanisms", None), ("session_keys", HKDF_SHA256)}),
        ("CKM_GENERIC_SECRET_KEY_GEN", None, {("keys", HKDF_SHA256), ("keys", SOFTHSM_AES_CBC)}),
    ],
)
def test_a_token_without_a_mechanism(
    without: str, profile: str | None, lacks: set[tuple[str, str | None]], kryoptic: Path, tmp_path: Path
) -> None:
    place = kryoptic_token(kryoptic, tmp_path / "token", without)
    found, findings = checked(place)
    assert found == profile
    assert lacks <= lacking(findings)
    assert labels(place) == []


Break = Callable[[pytest.MonkeyPatch], object]


def unhidden(**changes: object) -> Break:
    """Every secret is made by another template."""

    def template(mechanism: Mechanism) -> dict[Attribute, object]:
        made: dict[Attribute, object] = dict(module.hidden(mechanism))
        return made | {Attribute[name]: value for name, value in changes.items()}

    def apply(patch: pytest.MonkeyPatch) -> None:
        for user in ("ipls.hsm.token.pkcs11", "ipls.hsm.token.check"):
            patch.setattr(f"{user}.hidden", template)

    return apply


def unwrapped(use: MechanismFlag, **changes: object) -> Break:
    """A contact key is unwrapped by another template."""
    template = {Attribute.PRIVATE: True, Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: True}
    template |= {Attribute[name]: value for name, value in changes.items()}

    def unwrap(unwrapping: Any, blob: bytes) -> Any:
        kinds = ObjectClass.SECRET_KEY, KeyType.AES
        return unwrapping.unwrap_key(
            *kinds, blob, mechanism=Mechanism.AES_KEY_WRAP, capabilities=use, template=template
        )

    return lambda patch: patch.setattr(check_module, "unwrap", unwrap)


BROKEN: list[tuple[str, Break]] = [
    ("attributes", unhidden(EXTRACTABLE=True)),
    ("attributes", unhidden(MODIFIABLE=True)),
    ("allowed_mechanisms", unhidden(ALLOWED_MECHANISMS=[Mechanism.SHA256_HMAC, Mechanism.SHA512_HMAC])),
    ("contact_key", unwrapped(MechanismFlag(0), SENSITIVE=False)),
    ("contact_key", unwrapped(MechanismFlag.ENCRYPT)),
    ("open", lambda patch: patch.setattr(token_module, "raw_point", lambda encoded: encoded[:33])),
    ("leak", lambda patch: patch.setattr(token_module, "held", nullcontext)),
    ("extractable_final", lambda patch: patch.setattr(check_module, "_set", lambda *change: None)),
    ("record_moved", lambda patch: patch.setattr(check_module, "_OTHER_RECORD", check_module._RECORD)),
    ("wrap_wrong_key", lambda patch: patch.setattr(check_module, "UNWRAP_REFUSED", ())),
]


@pytest.mark.parametrize(("check", "break_it"), BROKEN, ids=[f"{check}{i}" for i, (check, _) in enumerate(BROKEN)])
def test_what_a_token_must_not_do_is_found(
    check: str, break_it: Break, kryoptic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = kryoptic_token(kryoptic, tmp_path / "token")
    break_it(monkeypatch)
    profile, findings = checked(place)
    assert profile is None
    assert check in {name for name, _ in lacking(findings)}


@pytest.mark.parametrize("name", ["softhsm", "kryoptic"])
def test_it_leaves_a_vaults_own_keys_alone_and_nothing_behind(name: str, tmp_path: Path) -> None:
    place = token_module.token_at(vault_token(name, tmp_path / "token")[0])
    before = labels(place)
    assert len(before) == 6
    with opened(place) as session:  # an earlier check was killed
        template = {Attribute.CLASS: ObjectClass.DATA, Attribute.TOKEN: True, Attribute.LABEL: PREFIX + "anchor"}
        session.create_object(template | {Attribute.VALUE: b"old"})
        token_module.make_keys(session, SOFTHSM_AES_CBC, PREFIX)
    assert len(labels(place)) == 13
    assert checked(place)[0] is not None
    assert labels(place) == before
