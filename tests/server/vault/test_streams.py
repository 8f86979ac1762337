"""What a stranger's streams and the directory's heads can't do to the vault's front."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ipls._grpc import grpc
from ipls.proto.vault.v1.vault_pb2 import SessionResponse
from ipls.rpc.errors import remote_error
from tests.hsm.rig import Owner, Rig, now_ms
from tests.server.vault.process import running_vault


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


async def test_a_stream_that_begins_late_is_answered(rig: Rig) -> None:
    """Its call came first, its first frame after another stream's."""
    async with running_vault(rig) as vault:
        late, prompt = vault.stub.Session(), vault.stub.Session()
        for call in (prompt, late):
            await call.write(rig.client(Owner()).hello(now_ms()))
            assert isinstance(await call.read(), SessionResponse)
            call.cancel()


async def test_a_silent_stream_is_ended(rig: Rig) -> None:
    rig.configure = partial(rig.configure, handshake_s=0.2)
    async with running_vault(rig) as vault:
        assert await vault.stub.Session().code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_bytes_that_are_no_message_are_refused(rig: Rig) -> None:
    async with running_vault(rig) as vault:
        raw: dict[str, Any] = {"request_serializer": bytes, "response_deserializer": bytes}
        bundle = vault.channel.unary_unary("/ipls.vault.v1.VaultService/GetBundle", **raw)(b"\xff")
        session = vault.channel.stream_stream("/ipls.vault.v1.VaultService/Session", **raw)()
        await session.write(b"\xff")
        for call in (bundle, session.read()):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call
            error = remote_error(raised.value)
            assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MESSAGE_UNREADABLE")


async def test_a_head_too_large_for_the_pipe_is_left_out(rig: Rig) -> None:
    head = rig.directory.head()
    rig.directory.head = lambda **_: type(head)(epoch=0, root_hash=bytes(2 << 20))
    async with running_vault(rig) as vault, vault.stream() as exchange:
        await exchange(rig.client(Owner(), known_head=head).hello(now_ms()))
