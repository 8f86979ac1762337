"""What may be done to one account in a day, and given to new identities of all accounts in an hour."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipls.units import HOUR_MS
from ipls.vault.account import RETENTION_MS
from ipls.vault.errors import SessionRefused
from ipls.vault.limits import Limits, Releases
from ipls.vault.session.effects import Delete, FinishRotation, Handshake, List, Retrieve
from tests.vault.accounts import DAY, NOW, SECOND, THIRD, Vault, store


@pytest.fixture
def vault() -> Vault:
    return Vault()


def accounts(count: int, limits: Limits) -> list[Vault]:
    """Each with a key of its first identity's."""
    vaults = [Vault() for _ in range(count)]
    for vault in vaults:
        vault.limits = limits
        vault.do(store(1))
    return vaults


class Thief:
    """Publishes a new identity for one account after the other, and retrieves."""

    def __init__(self) -> None:
        self.releases = Releases()

    def retrieves(self, vault: Vault) -> bool:
        vault.releases = self.releases
        with suppress(SessionRefused):
            vault.do(Retrieve(0), SECOND)
        self.releases, before = vault.releases, self.releases
        return self.releases != before


ONES_OWN_DAY = Limits(daily_uses=3)
TWO_AN_HOUR = Limits(hourly_releases=2)


def test_an_account_is_used_so_often_a_day(vault: Vault) -> None:
    vault.limits = ONES_OWN_DAY
    vault.do(store(1))
    for _ in range(2):
        vault.do(Retrieve(0))
    for operation in (Handshake(), Retrieve(0), store(2), Delete()):
        assert vault.refuses(operation) == "VAULT_ACCOUNT_LIMIT"
    vault.do(store(1))  # of a repeat nothing comes
    vault.do(List())
    vault.now += DAY - 1
    assert vault.refuses(Handshake()) == "VAULT_ACCOUNT_LIMIT"
    vault.now += 1
    vault.do(Handshake())


def test_a_host_that_sets_its_clock_forward_makes_no_day_pass(vault: Vault) -> None:
    vault.limits = ONES_OWN_DAY
    for _ in range(3):
        vault.do(Handshake())
    vault.host_ahead = 10 * DAY
    assert vault.refuses(Handshake()) == "VAULT_ACCOUNT_LIMIT"


def test_what_a_thief_uses_up_is_not_held_against_the_owner(vault: Vault) -> None:
    vault.limits = Limits(daily_uses=2)
    vault.do(store(1), SECOND)
    vault.do(Handshake(), SECOND)
    assert vault.refuses(Handshake(), SECOND) == "VAULT_ACCOUNT_LIMIT"
    for _ in range(2):
        vault.do(Handshake(), THIRD)
    assert vault.refuses(Handshake(), THIRD) == "VAULT_ACCOUNT_LIMIT"


def test_new_identities_are_given_so_many_keys_an_hour() -> None:
    thief = Thief()
    vaults = accounts(5, TWO_AN_HOUR)
    assert [thief.retrieves(vault) for vault in vaults] == [True, True, False, False, False]
    for vault in vaults:
        vault.now += HOUR_MS - 1
        vault.host_ahead = 10 * DAY
    assert not thief.retrieves(vaults[2])
    for vault in vaults:
        vault.now += 1
    assert [thief.retrieves(vault) for vault in vaults[2:]] == [True, True, False]


def test_a_refused_one_leaves_no_trace_and_comes_later() -> None:
    [vault] = accounts(1, TWO_AN_HOUR)
    vault.releases = Releases(NOW, 2)
    vault.do(Handshake(), SECOND)
    assert vault.refuses(Retrieve(0), SECOND) == "VAULT_RELEASE_LIMIT"
    assert vault.operations() == ["store", "handshake"]
    vault.now += HOUR_MS
    vault.do(Retrieve(0), SECOND)


def test_owners_who_use_what_they_stored_are_not_counted() -> None:
    [vault] = accounts(1, TWO_AN_HOUR)
    vault.releases = Releases(NOW, 2)
    vault.do(Retrieve(0))
    vault.do(store(2), SECOND)
    vault.do(Retrieve(2), SECOND)
    assert vault.releases == Releases(NOW, 2)
    assert vault.refuses(Retrieve(1), SECOND) == "VAULT_RELEASE_LIMIT"


def test_an_identity_is_counted_once_and_the_next_one_again() -> None:
    [vault] = accounts(1, Limits())
    for _ in range(3):
        vault.do(Retrieve(0), SECOND)
    assert vault.releases == Releases(NOW, 1)
    vault.do(Retrieve(0), THIRD)
    assert vault.releases == Releases(NOW, 2)


@pytest.mark.parametrize("end", [FinishRotation(2), Delete()], ids=["finish_rotation", "delete"])
def test_what_is_kept_for_ninety_days_is_counted_too(end: FinishRotation | Delete) -> None:
    [vault] = accounts(1, TWO_AN_HOUR)
    vault.do(store(2), SECOND)
    vault.do(end, SECOND)
    vault.now += RETENTION_MS - 1
    vault.releases = Releases(vault.now, 2)
    assert vault.refuses(Retrieve(1), THIRD) == "VAULT_RELEASE_LIMIT"


@given(st.lists(st.integers(0, 2 * HOUR_MS), max_size=40))
def test_no_hour_has_more_than_twice_as_many(pauses: list[int]) -> None:
    """Its end and the next one's beginning."""
    now, releases, times = NOW, Releases(), list[int]()
    for pause in pauses:
        now += pause
        try:
            releases = releases.and_one_more(now, TWO_AN_HOUR)
        except SessionRefused:
            continue
        times.append(now)
    assert all(sum(t <= other < t + HOUR_MS for other in times) <= 4 for t in times)


def test_a_damaged_count_is_refused() -> None:
    with pytest.raises(SessionRefused) as refused:
        Releases.decode(bytes(15))
    assert refused.value.reason == "VAULT_ACCOUNT_UNREADABLE"
