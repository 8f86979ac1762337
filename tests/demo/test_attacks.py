"""The thefts where nobody answers: that is said, and is no refusal. tests/e2e/test_demo.py has the others."""

from pathlib import Path

import pytest

from ipls.admin.deployment import create
from ipls.client.errors import TryLaterError
from ipls.demo import attacks
from ipls.demo.attacks import OperatorAttack
from ipls.proto.vault.v1.vault_pb2 import SessionRequest
from ipls.proto.witness.v1.head_pb2 import SignedHead


async def test_a_vault_that_does_not_answer_has_refused_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(tmp_path / "ipls", "test.ipls", port=0)
    monkeypatch.setattr(attacks, "WAIT_S", 0.2)
    operator = OperatorAttack(tmp_path / "ipls", "+4930777000001")
    with pytest.raises(TryLaterError):
        await operator.unpublished_key(SignedHead())
    with pytest.raises(TryLaterError):
        await operator.replay([SessionRequest()])
