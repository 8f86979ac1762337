"""What core and workers tell each other, in every form that it takes."""

import io
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipls.hsm.messages import (
    Command,
    Ended,
    Opened,
    Report,
    decode_command,
    decode_report,
    encode_command,
    encode_report,
)
from ipls.hsm.pipe import Frame, PipeError, receive_blocking
from ipls.proto.hsm.v1 import worker_pb2 as pb
from ipls.proto.vault.v1 import vault_pb2
from ipls.proto.vault.v1.core_pb2 import HistoryHandIn
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.trust.identity import Identity
from ipls.vault.session import effects

SESSIONS = NUMBERS = st.integers(0, 2**64 - 1)
BYTES, TEXT = st.binary(max_size=40), st.text(max_size=20)
HEADS = st.builds(SignedHead, epoch=NUMBERS, root_hash=BYTES)
OPERATIONS = st.one_of(
    st.builds(effects.Handshake),
    st.builds(effects.Store, NUMBERS, BYTES, BYTES, BYTES),
    st.builds(effects.Retrieve, NUMBERS),
    st.builds(effects.FinishRotation, NUMBERS),
    st.builds(effects.Delete),
    st.builds(effects.List),
    st.builds(effects.History, NUMBERS),
    st.builds(effects.SetChangeDelay, NUMBERS),
    st.builds(effects.AddApprover, BYTES),
    st.builds(effects.RemoveApprover, BYTES),
    st.builds(effects.Approve, BYTES),
    st.builds(effects.Checkpoint, BYTES, NUMBERS, BYTES),
)
CONTENTS = st.one_of(
    st.builds(Opened, BYTES, TEXT, BYTES),
    st.builds(Ended, TEXT, TEXT),
    st.builds(effects.Send, BYTES),
    st.builds(effects.Receive),
    st.builds(effects.ReceiveRequest),
    st.builds(effects.Admit, TEXT, NUMBERS),
    st.builds(effects.JudgeBy, st.none() | HEADS),
    st.builds(effects.NeedHistory, TEXT, NUMBERS),
    st.builds(effects.Commit, TEXT, st.builds(Identity, BYTES, NUMBERS, NUMBERS), OPERATIONS),
)
ANSWERS = st.one_of(
    st.none(),
    BYTES,
    st.tuples(BYTES, NUMBERS),
    HEADS,
    st.builds(HistoryHandIn, epoch=NUMBERS, proof=BYTES, absence=BYTES),
    st.builds(effects.StoredRecord, NUMBERS, BYTES, BYTES, BYTES),
    st.builds(vault_pb2.StoreAnswer, generation=NUMBERS),
    st.builds(vault_pb2.FinishRotationAnswer),
    st.builds(vault_pb2.DeleteAnswer),
    st.builds(vault_pb2.ListAnswer, last_generation=NUMBERS),
    st.builds(vault_pb2.HistoryAnswer, length=NUMBERS, chain_head=BYTES),
    st.builds(vault_pb2.SetChangeDelayAnswer, effective_ms=NUMBERS),
    st.builds(vault_pb2.AddApproverAnswer),
    st.builds(vault_pb2.RemoveApproverAnswer),
    st.builds(vault_pb2.ApproveAnswer),
    st.builds(vault_pb2.CheckpointAnswer),
)
COMMANDS = st.one_of(
    st.builds(Command, SESSIONS, st.sampled_from(["open", "close"]), st.none()),
    st.builds(Command, SESSIONS, st.just("throw"), st.tuples(TEXT, TEXT)),
    st.builds(Command, SESSIONS, st.just("send"), ANSWERS),
)
Decode = Callable[[Frame], Any]


def framed_one(data: bytes) -> Frame:
    frame = receive_blocking(io.BytesIO(data))
    assert frame is not None
    return frame


@given(COMMANDS)
def test_a_command_comes_out_as_it_went_in(command: Command) -> None:
    decoded = decode_command(framed_one(encode_command(command)))
    assert (decoded, type(decoded.value)) == (command, type(command.value))


@given(st.builds(Report, SESSIONS, CONTENTS))
def test_a_report_comes_out_as_it_went_in(report: Report) -> None:
    decoded = decode_report(framed_one(encode_report(report)))
    assert (decoded, type(decoded.content)) == (report, type(report.content))


def test_every_kind_that_the_proto_names_is_read() -> None:
    for field in pb.Command.DESCRIPTOR.fields:
        decode_command(Frame(1, field.number, b""))
    for field in pb.Report.DESCRIPTOR.fields:
        body = pb.Commit(handshake={}).SerializeToString() if field.name == "commit" else b""
        decode_report(Frame(1, field.number, body))


@pytest.mark.parametrize("decode", [decode_command, decode_report])
def test_no_other_kind_is_read(decode: Decode) -> None:
    known = {field.number for message in (pb.Command, pb.Report) for field in message.DESCRIPTOR.fields}
    for kind in set(range(256)) - known:
        with pytest.raises(PipeError):
            decode(Frame(1, kind, b""))


@pytest.mark.parametrize("decode", [decode_command, decode_report])
def test_garbage_is_a_message_or_refused(decode: Decode) -> None:
    @given(st.builds(Frame, SESSIONS, st.integers(0, 20), st.binary(max_size=100)))
    def harmless(frame: Frame) -> None:
        with suppress(PipeError):
            decode(frame)

    harmless()


@given(COMMANDS, st.builds(Report, SESSIONS, CONTENTS), st.data())
def test_a_message_cut_short_is_another_one_or_refused(command: Command, report: Report, data: st.DataObject) -> None:
    for decode, frame in (
        (decode_command, framed_one(encode_command(command))),
        (decode_report, framed_one(encode_report(report))),
    ):
        end = data.draw(st.integers(0, len(frame.body)))
        with suppress(PipeError):
            decode(frame._replace(body=frame.body[:end]))


def test_a_commit_says_what() -> None:
    with pytest.raises(PipeError):
        decode_report(Frame(1, pb.Report.COMMIT_FIELD_NUMBER, pb.Commit(label="+1").SerializeToString()))
