"""What is said of a change of number."""

import pytest

from ipls.cli.accounts import beside
from ipls.client.number import NumberChanged

CHANGED = NumberChanged("+15555550123", 1, 7, 3, None)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (CHANGED, ""),
        (
            CHANGED._replace(old_number="+15555550100", devices=2, unread=1),
            "; kept beside it: the account of +15555550100 (2 linked devices learn of the change by it, 1"
            " contacts in it can't be read)",
        ),
        (
            CHANGED._replace(taken="+15555550100"),
            "; another has +15555550100 by now: what is stored under it stays, encrypted",
        ),
        (
            CHANGED._replace(old_number="+15555550100", unread=1, taken="+15555550100", untold=2),
            "; kept beside it: the account of +15555550100 (1 contacts in it can't be read); another has +15555550100"
            " by now: what is stored under it stays, encrypted; 2 linked devices have to be linked anew",
        ),
    ],
    ids=["nothing", "devices have to follow", "another has the number", "all at once"],
)
def test_what_is_left_of_the_number_before_is_said(changed: NumberChanged, said: str) -> None:
    assert beside(changed) == said
