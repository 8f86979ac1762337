"""A peer's tokens: so many at once, and as many in a minute."""

import pytest

from ipls.rpc import quota
from ipls.rpc.errors import ServiceError
from ipls.rpc.quota import PeerQuota


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_each_peer_has_its_own_and_they_come_back(clock: Clock) -> None:
    tokens = PeerQuota(3, now_s=clock)
    for _ in range(3):
        tokens.take("one")
    with pytest.raises(ServiceError) as refusal:
        tokens.take("one")
    assert (refusal.value.reason, refusal.value.retry_after_s) == ("SERVICE_BUSY", 20)
    tokens.take("other")
    clock.now_s += 20
    tokens.take("one")
    clock.now_s += 3600
    for _ in range(3):
        tokens.take("one")
    with pytest.raises(ServiceError):
        tokens.take("one")


def test_what_was_not_in_vain_is_given_back(clock: Clock) -> None:
    tokens = PeerQuota(1, now_s=clock)
    for _ in range(5):
        tokens.take("one")
        tokens.give_back("one")


def test_of_more_peers_than_are_remembered_the_oldest_begins_anew(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quota, "MAX_PEERS", 2)
    tokens = PeerQuota(1, now_s=clock)
    for peer in ("one", "two", "three"):
        tokens.take(peer)
    with pytest.raises(ServiceError):
        tokens.take("three")
    tokens.take("one")
