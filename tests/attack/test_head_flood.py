"""A directory that floods the vault with heads: its front hands the core one at a time, and of those that come
meanwhile the newest. What the core makes of a flood that comes by its clients is in tests/hsm/core/test_heads.py.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from ipls.proto.vault.v1.core_pb2 import CoreRequest
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.rpc.errors import ServiceError
from ipls.server.vault.service import CoreProcess
from ipls.store.evidence import EvidenceFolder

SLOW_CORE = """
import os
from ipls.hsm import pipe
from ipls.proto.vault.v1.core_pb2 import CoreRequest, CoreResponse, Refused
from ipls.proto.witness.v1.head_pb2 import SignedHead

source, sink = os.fdopen(0, "rb"), os.fdopen(os.dup(0), "wb")  # one socket

def say(kind, body=b""):
    sink.write(pipe.framed(0, kind, body))
    sink.flush()

heads = []
say(CoreResponse.READY_FIELD_NUMBER)
while frame := pipe.receive_blocking(source):
    if frame.kind == CoreRequest.CLOSED_FIELD_NUMBER:  # the test's word that it is time to be through with the first
        say(CoreResponse.HEAD_JUDGED_FIELD_NUMBER)
        continue
    heads.append(SignedHead.FromString(frame.body).epoch)
    if heads[-1] == LAST:
        refused = Refused(reason="VAULT_LOG_BROKEN", message=" ".join(map(str, heads)))
        say(CoreResponse.REFUSED_FIELD_NUMBER, refused.SerializeToString())
        break
    if len(heads) > 1:
        say(CoreResponse.HEAD_JUDGED_FIELD_NUMBER)
"""
LAST = 100


async def test_of_a_flood_of_heads_the_core_has_one_and_then_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = asyncio.create_subprocess_exec

    async def slow_core(*command: str, **options: Any) -> asyncio.subprocess.Process:
        return await start(sys.executable, "-c", SLOW_CORE.replace("LAST", str(LAST)), **options)

    monkeypatch.setattr("asyncio.create_subprocess_exec", slow_core)
    core = CoreProcess(tmp_path / "ipls.toml", EvidenceFolder(tmp_path))
    running = asyncio.create_task(core.run())
    try:
        await core.ready.wait()
        for epoch in range(1, LAST + 1):
            for _ in range(3):
                core.offer(SignedHead(epoch=epoch, root_hash=bytes(32)))
        await core.send(1, CoreRequest.CLOSED_FIELD_NUMBER)
        with pytest.raises(ServiceError) as refused:
            await running
        assert refused.value.message == f"1 {LAST}"
    finally:
        await core.close()
