"""How long the supervisor waits before it starts a dead service again."""

from ipls.runtime.restart import PAUSES_S, RESET_S, RestartPolicy


def test_each_further_early_death_is_waited_for_longer_up_to_the_longest_pause() -> None:
    policy = RestartPolicy()
    assert [policy.pause_s(0) for _ in range(7)] == [*PAUSES_S, 2.0, 2.0] == [0.1, 0.2, 0.5, 1.0, 2.0, 2.0, 2.0]


def test_a_death_after_a_long_life_is_a_first_one() -> None:
    policy = RestartPolicy()
    assert policy.pause_s(RESET_S + 1) == 0.1
    assert [policy.pause_s(lived_s) for lived_s in (1, 1, RESET_S + 1, 1)] == [0.2, 0.5, 0.1, 0.2]


def test_a_life_of_just_the_time_that_resets_is_not_yet_a_long_one() -> None:
    policy = RestartPolicy()
    assert [policy.pause_s(RESET_S) for _ in range(2)] == [0.1, 0.2]
