"""The lines that a person carries from device to device."""

import pytest

from ipls.client.approvals import Approval, ApprovalRequest, parse_approver
from ipls.client.errors import ProfileError
from ipls.crypto.keys import public_key

KEY = public_key(bytes(32))
REQUEST = ApprovalRequest("+4930123456", 2, KEY)
APPROVAL = Approval.make(bytes(range(32)), "test.ipls", REQUEST)


def test_what_is_shown_is_read() -> None:
    assert ApprovalRequest.parse(f" {REQUEST}\n") == REQUEST
    assert Approval.parse(f"{APPROVAL}\n") == APPROVAL
    assert parse_approver(f"{KEY.hex()}\n") == KEY


def test_an_approval_is_for_one_identity() -> None:
    made = {APPROVAL}
    for other in (REQUEST._replace(label="+4930123457"), REQUEST._replace(version=3), REQUEST._replace(key=bytes(32))):
        made.add(Approval.make(bytes(range(32)), "test.ipls", other))
    made.add(Approval.make(bytes(range(32)), "other.ipls", REQUEST))
    assert len(made) == 5


@pytest.mark.parametrize(
    "line",
    [
        "",
        "::",
        str(REQUEST)[:-1],
        f"x:2:{KEY.hex()}",
        f"+1:0:{KEY.hex()}",
        f"+1:{2**64}:{KEY.hex()}",
        f"+1:2:{'00' * 32}",
    ],
)
def test_what_is_no_request_is_refused(line: str) -> None:
    with pytest.raises(ProfileError) as refused:
        ApprovalRequest.parse(line)
    assert refused.value.reason == "APPROVAL_REQUEST_INVALID"


@pytest.mark.parametrize("line", ["", str(APPROVAL)[:-1], str(APPROVAL).replace(":", ""), f"{APPROVAL}:"])
def test_what_is_no_approval_is_refused(line: str) -> None:
    with pytest.raises(ProfileError) as refused:
        Approval.parse(line)
    assert refused.value.reason == "APPROVAL_UNREADABLE"


@pytest.mark.parametrize("line", ["", "zz", KEY.hex()[:-2], "01" + "00" * 31])
def test_what_is_no_key_is_refused(line: str) -> None:
    with pytest.raises(ProfileError) as refused:
        parse_approver(line)
    assert refused.value.reason == "APPROVER_INVALID"
