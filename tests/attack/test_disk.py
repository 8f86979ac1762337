"""Whoever has services write without end: what they log, and what they keep as evidence, has a bound."""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ipls.proto.trust.v1.evidence_pb2 import Evidence
from ipls.runtime.logging import LINES
from ipls.server.registration import service as registration
from ipls.store import evidence as store
from ipls.store.errors import StoreRefused
from ipls.store.evidence import EvidenceFolder
from ipls.trust.evidence import EACH, two_heads, two_signatures
from ipls.trust.heads import Head
from tests.environment import DIES_WITH_US
from tests.trust.roots import NOW, signed
from tests.trust.test_evidence import A, B, C, answer

SERVICE = """
import sys
from pathlib import Path
from ipls.config import LogConfig
from ipls.runtime import service
from ipls.runtime.logging import configure_logging
from ipls.server.log import app

configure_logging()
config = LogConfig(listen="127.0.0.1:0", objects=Path(sys.argv[1]))
service.run("log", lambda owner: app.run(config, owner))
"""
FLOOD = LINES + 100


def test_nonsense_without_end_is_counted_and_not_written(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    command = [*DIES_WITH_US, sys.executable, "-c", SERVICE, str(tmp_path / "log")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as service:
        assert service.stderr
        try:
            (port,) = json.loads(service.stderr.readline())["ports"]
            for _ in range(FLOOD):
                with socket.create_connection(("127.0.0.1", port)) as stranger:
                    stranger.sendall(b"nonsense\r\n\r\n")
                    while stranger.recv(4096):
                        pass
        finally:
            service.send_signal(signal.SIGTERM)
        lines = [json.loads(line) for line in service.stderr]
    about = [line for line in lines if "Invalid HTTP request" in line["event"]]
    counts = [line["left_out"] for line in about if "left_out" in line]
    assert len(about) - len(counts) + sum(counts) == FLOOD
    assert sum(counts) > 0  # all at once: LINES of them are written, or where a minute ends meanwhile twice as many
    assert service.returncode == 0


async def test_codes_without_end_are_in_no_file_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "OUTBOX_BYTES", 1000)
    outbox = tmp_path / "outbox"
    for number in range(100):
        await registration.FileCodeSender(outbox).deliver(number.to_bytes(16, "big"), "+491700000001", "12345678")
        assert outbox.read_text().endswith(f"{number:032x} 12345678\n")
    assert outbox.stat().st_size <= 1000 + 42


def equivocation(witness: bytes, epoch: int, time: int = NOW) -> Evidence:
    one, other = (answer(witness, Head(epoch, bytes([n]) * 32), time=time) for n in (1, 2))
    return two_signatures(one, other)


def test_a_witness_that_signs_without_end_fills_no_folder_and_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MAX_FILES", 2 * EACH)
    folder = EvidenceFolder(tmp_path)
    first = folder.keep(equivocation(A, 1))
    for time in range(50):  # once more, signed at other times
        assert folder.keep(equivocation(A, 1, NOW + time)) == first
    full = list[str]()
    for epoch in range(2, 50):
        try:
            folder.keep(equivocation(A, epoch))
        except StoreRefused as refusal:
            full.append(refusal.reason)
    assert full == ["EVIDENCE_FULL"] * (49 - EACH)
    assert len(folder.files()) == EACH
    others = EvidenceFolder(tmp_path).keep(equivocation(B, 50))  # another process's
    assert others in folder.files()


def test_quorums_that_sign_without_end_hide_none_who_was_not_among_them(tmp_path: Path) -> None:
    folder = EvidenceFolder(tmp_path)

    def heads(epoch: int, *by: bytes) -> Evidence:
        one, other = (signed(Head(epoch, bytes([n]) * 32), *by, time=NOW) for n in (1, 2))
        return two_heads(one, other)

    for epoch in range(EACH):
        folder.keep(heads(epoch, A, B))
    with pytest.raises(StoreRefused):
        folder.keep(heads(EACH, A, B))
    assert folder.keep(heads(EACH, B, C)) in folder.files()


def test_evidence_has_a_bound_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = EvidenceFolder(tmp_path)
    size = folder.keep(equivocation(A, 1)).stat().st_size
    monkeypatch.setattr(store, "MAX_BYTES", 2 * size - 1)
    with pytest.raises(StoreRefused) as refusal:
        folder.keep(equivocation(B, 1))
    assert refusal.value.reason == "EVIDENCE_FULL"
    assert len(folder.files()) == 1
