"""Codes of the development registration service."""

from pathlib import Path

import pytest

from ipls.client import outbox
from ipls.client.errors import TryLaterError


async def test_the_newest_code_of_the_request_is_read(tmp_path: Path) -> None:
    file = tmp_path / "outbox"
    file.write_text("aa 111111\nbb 222222\naa 333333\n")
    assert await outbox.code_from(file)(b"\xaa") == "333333"


async def test_a_code_that_does_not_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "PAUSE_S", 0)
    with pytest.raises(TryLaterError) as refused:
        await outbox.code_from(tmp_path / "outbox")(b"\xaa")
    assert refused.value.reason == "CODE_NOT_SENT"
