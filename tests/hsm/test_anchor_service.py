"""The anchor service's process as its parent sees it."""

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from ipls.config import load_core
from ipls.hsm import anchor_service, pipe
from ipls.hsm.anchor_service import AnchorServiceProcess
from ipls.vault.errors import SessionRefused
from tests.hsm.rig import Rig, child

STRANGE = "import os, signal; os.write(1, {!r}); signal.pause()"


@pytest.fixture
def process(rig: Rig) -> Iterator[AnchorServiceProcess]:
    with open(rig.folder / "lock", "w") as lock, closing(AnchorServiceProcess(rig.config_path, 0, lock)) as process:
        yield process


def test_it_answers_what_the_token_has(rig: Rig, process: AnchorServiceProcess) -> None:
    with rig.anchor_service() as token:
        expected = token.hsm_key_id(), token.storage_key_ids(), token.first_log_key(), token.anchors()
    assert (process.hsm_key_id(), process.storage_key_ids(), process.first_log_key(), process.anchors()) == expected
    digests = [bytes(32), b"\x01" * 32]
    macs = process.macs(digests)
    assert process.holds([*digests, digests[0]], [*macs, macs[1]]) == [True, True, False]
    with pytest.raises(SessionRefused) as refusal:
        process.replace([b"another"], bytes(80))
    assert refusal.value.reason == "VAULT_ANCHOR_MOVED"


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(bytes([0, 0, 0, 1, *bytes(8), 1, 255]), id="no message"),
        pytest.param(bytes([*bytes(12), 255]), id="no kind"),
        pytest.param(bytes([*bytes(12), 2]), id="an answer to something else"),
        pytest.param(bytes([255] * 13), id="too much"),
    ],
)
def test_one_that_is_not_understood_is_replaced(
    process: AnchorServiceProcess, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(anchor_service, "COMMAND", ("-c", STRANGE.format(said)))
        with pytest.raises(SessionRefused) as refusal:
            process.hsm_key_id()
    assert refusal.value.reason == "VAULT_NOTARY_LOST"
    assert len(process.hsm_key_id()) == 32


def test_one_that_hangs_is_replaced(process: AnchorServiceProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(anchor_service, "COMMAND", ("-c", STRANGE.format(b"")))
        patch.setattr(pipe, "HANGS_S", 0.1)
        with pytest.raises(SessionRefused) as refusal:
            process.hsm_key_id()
    assert refusal.value.reason == "VAULT_NOTARY_LOST"
    assert len(process.hsm_key_id()) == 32


def test_one_that_hangs_at_its_end_is_killed(process: AnchorServiceProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    process.hsm_key_id()
    os.kill(child(os.getpid(), "ipls.hsm.anchor_service"), signal.SIGSTOP)
    monkeypatch.setattr(pipe, "HANGS_S", 0.1)
    process.close()


def test_why_the_token_can_t_be_opened_is_said(process: AnchorServiceProcess, rig: Rig) -> None:
    pin = load_core(rig.config_path).vault.pin
    right = pin.read_text()
    pin.write_text("wrong")
    with pytest.raises(SessionRefused) as refusal:
        process.anchors()
    assert (refusal.value.reason, refusal.value.message) == (
        "TOKEN_UNUSABLE",
        "the token can't be used: PinIncorrect",
    )
    pin.write_text(right)
    with suppress(SessionRefused):  # the process that told why has ended
        process.anchors()
    assert len(process.hsm_key_id()) == 32


def test_one_that_could_not_be_started_is_started_at_the_next_question(process: AnchorServiceProcess) -> None:
    """No file can be opened, so that there is no pipe to it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(SessionRefused) as refusal:
            process.hsm_key_id()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert refusal.value.reason == "VAULT_NOTARY_LOST"
    assert len(process.hsm_key_id()) == 32
