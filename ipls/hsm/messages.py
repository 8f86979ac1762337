"""What the core and its workers tell each other, as frames (protos/ipls/hsm/v1/worker.proto)."""

from dataclasses import fields
from typing import Any, Literal, NamedTuple

from google.protobuf.message import Message

from ipls.hsm.pipe import Frame, PipeError, framed, parse
from ipls.proto.hsm.v1 import worker_pb2 as pb
from ipls.proto.vault.v1 import vault_pb2
from ipls.proto.vault.v1.core_pb2 import HistoryHandIn, Refused
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.trust.identity import Identity
from ipls.vault.session import effects
from ipls.vault.session.effects import Effect


class Command(NamedTuple):
    """From the core. `value` is what is sent or, a SessionRefused's (reason, message), thrown into the session."""

    session: int
    kind: Literal["open", "send", "throw", "close"]
    value: Any = None


class Opened(NamedTuple):
    """The token is open; the worker takes sessions."""

    hsm_key_id: bytes
    profile: str
    storage_key_id: bytes = b""
    """The storage root that it stores under."""


class Ended(NamedTuple):
    """The session is over and forgotten."""

    reason: str
    message: str


class Report(NamedTuple):
    """To the core: what a session asks for next, or its end. `Opened` comes once, under session 0."""

    session: int
    content: Effect | Opened | Ended


_ANSWERS: dict[int, type[Message]] = {
    pb.Command.PROOFS_FIELD_NUMBER: HistoryHandIn,
    pb.Command.HEAD_FIELD_NUMBER: SignedHead,
    pb.Command.STORE_FIELD_NUMBER: vault_pb2.StoreAnswer,
    pb.Command.FINISH_ROTATION_FIELD_NUMBER: vault_pb2.FinishRotationAnswer,
    pb.Command.DELETE_FIELD_NUMBER: vault_pb2.DeleteAnswer,
    pb.Command.LIST_FIELD_NUMBER: vault_pb2.ListAnswer,
    pb.Command.HISTORY_FIELD_NUMBER: vault_pb2.HistoryAnswer,
    pb.Command.SET_CHANGE_DELAY_FIELD_NUMBER: vault_pb2.SetChangeDelayAnswer,
    pb.Command.ADD_APPROVER_FIELD_NUMBER: vault_pb2.AddApproverAnswer,
    pb.Command.REMOVE_APPROVER_FIELD_NUMBER: vault_pb2.RemoveApproverAnswer,
    pb.Command.APPROVE_FIELD_NUMBER: vault_pb2.ApproveAnswer,
    pb.Command.CHECKPOINT_FIELD_NUMBER: vault_pb2.CheckpointAnswer,
}
"""Answers that are sent as they are."""
_ANSWER_KINDS = {message: kind for kind, message in _ANSWERS.items()}

_OPERATIONS: dict[str, type[effects.Operation]] = {
    "handshake": effects.Handshake,
    "store": effects.Store,
    "retrieve": effects.Retrieve,
    "finish_rotation": effects.FinishRotation,
    "delete": effects.Delete,
    "list": effects.List,
    "history": effects.History,
    "set_change_delay": effects.SetChangeDelay,
    "add_approver": effects.AddApprover,
    "remove_approver": effects.RemoveApprover,
    "approve": effects.Approve,
    "checkpoint": effects.Checkpoint,
}
"""By their names in the proto, which has the fields of each under their names here."""
_OPERATION_NAMES = {operation: name for name, operation in _OPERATIONS.items()}
_OPERATION_FIELDS = {name: [each.name for each in fields(operation)] for name, operation in _OPERATIONS.items()}


def encode_command(command: Command) -> bytes:
    """As a frame. Raises PipeError for one that is too long."""
    session, what, value = command
    match what:
        case "open":
            return framed(session, pb.Command.OPEN_FIELD_NUMBER)
        case "close":
            return framed(session, pb.Command.CLOSE_FIELD_NUMBER)
        case "throw":
            reason, message = value
            refused = Refused(reason=reason, message=message)
            return framed(session, pb.Command.REFUSED_FIELD_NUMBER, refused.SerializeToString())
        case "send":
            return framed(session, *_answer(value))


def _answer(value: Any) -> tuple[int, bytes]:
    match value:
        case None:
            return pb.Command.DONE_FIELD_NUMBER, b""
        case bytes():
            return pb.Command.DATA_FIELD_NUMBER, value
        case (frame, epoch):
            return pb.Command.REQUEST_FIELD_NUMBER, pb.Request(frame=frame, epoch=epoch).SerializeToString()
        case effects.StoredRecord():
            return pb.Command.STORED_FIELD_NUMBER, pb.StoredRecord(**vars(value)).SerializeToString()
        case _:
            return _ANSWER_KINDS[type(value)], value.SerializeToString()


def decode_command(frame: Frame) -> Command:
    """The inverse of `encode_command`. Raises PipeError."""
    session, kind, body = frame
    match kind:
        case pb.Command.OPEN_FIELD_NUMBER:
            return Command(session, "open")
        case pb.Command.CLOSE_FIELD_NUMBER:
            return Command(session, "close")
        case pb.Command.REFUSED_FIELD_NUMBER:
            refused = parse(Refused, body)
            return Command(session, "throw", (refused.reason, refused.message))
        case pb.Command.DONE_FIELD_NUMBER:
            return Command(session, "send")
        case pb.Command.DATA_FIELD_NUMBER:
            return Command(session, "send", body)
        case pb.Command.REQUEST_FIELD_NUMBER:
            request = parse(pb.Request, body)
            return Command(session, "send", (request.frame, request.epoch))
        case pb.Command.STORED_FIELD_NUMBER:
            stored = parse(pb.StoredRecord, body)
            record = effects.StoredRecord(stored.generation, stored.store_id, stored.storage_key_id, stored.wrapped)
            return Command(session, "send", record)
        case _ if kind in _ANSWERS:
            return Command(session, "send", parse(_ANSWERS[kind], body))
        case _:
            raise PipeError(f"a frame of kind {kind}, which no command is")


def encode_report(report: Report) -> bytes:
    """As a frame. Raises PipeError for one that is too long."""
    return framed(report.session, *_content(report.content))


def _content(content: Effect | Opened | Ended) -> tuple[int, bytes]:
    match content:
        case effects.Send(frame):
            return pb.Report.SEND_FIELD_NUMBER, frame
        case effects.Receive():
            return pb.Report.RECEIVE_FIELD_NUMBER, b""
        case effects.ReceiveRequest():
            return pb.Report.RECEIVE_REQUEST_FIELD_NUMBER, b""
        case effects.Admit(label, number):
            return pb.Report.ADMIT_FIELD_NUMBER, pb.Admit(label=label, bundle_number=number).SerializeToString()
        case effects.JudgeBy(head):
            return pb.Report.JUDGE_BY_FIELD_NUMBER, pb.JudgeBy(client_head=head).SerializeToString()
        case effects.NeedHistory(label, epoch):
            return pb.Report.NEED_HISTORY_FIELD_NUMBER, pb.NeedHistory(label=label, epoch=epoch).SerializeToString()
        case effects.Commit():
            return pb.Report.COMMIT_FIELD_NUMBER, _commit(content).SerializeToString()
        case Opened():
            return pb.Report.OPENED_FIELD_NUMBER, pb.Opened(**content._asdict()).SerializeToString()
        case Ended(reason, message):
            return pb.Report.ENDED_FIELD_NUMBER, Refused(reason=reason, message=message).SerializeToString()


def _commit(commit: effects.Commit) -> pb.Commit:
    operation: Any = {_OPERATION_NAMES[type(commit.operation)]: vars(commit.operation)}
    return pb.Commit(label=commit.label, identity=pb.Identity(**commit.identity._asdict()), **operation)


def decode_report(frame: Frame) -> Report:
    """The inverse of `encode_report`. Raises PipeError."""
    return Report(frame.session, _decoded(frame.kind, frame.body))


def _decoded(kind: int, body: bytes) -> Effect | Opened | Ended:
    match kind:
        case pb.Report.SEND_FIELD_NUMBER:
            return effects.Send(body)
        case pb.Report.RECEIVE_FIELD_NUMBER:
            return effects.Receive()
        case pb.Report.RECEIVE_REQUEST_FIELD_NUMBER:
            return effects.ReceiveRequest()
        case pb.Report.ADMIT_FIELD_NUMBER:
            admit = parse(pb.Admit, body)
            return effects.Admit(admit.label, admit.bundle_number)
        case pb.Report.JUDGE_BY_FIELD_NUMBER:
            judge = parse(pb.JudgeBy, body)
            return effects.JudgeBy(judge.client_head if judge.HasField("client_head") else None)
        case pb.Report.NEED_HISTORY_FIELD_NUMBER:
            need = parse(pb.NeedHistory, body)
            return effects.NeedHistory(need.label, need.epoch)
        case pb.Report.COMMIT_FIELD_NUMBER:
            return _read_commit(parse(pb.Commit, body))
        case pb.Report.OPENED_FIELD_NUMBER:
            opened = parse(pb.Opened, body)
            return Opened(opened.hsm_key_id, opened.profile, opened.storage_key_id)
        case pb.Report.ENDED_FIELD_NUMBER:
            ended = parse(Refused, body)
            return Ended(ended.reason, ended.message)
        case _:
            raise PipeError(f"a frame of kind {kind}, which no report is")


def _read_commit(commit: pb.Commit) -> effects.Commit:
    name = commit.WhichOneof("operation")
    if name is None:
        raise PipeError("a commit without an operation")
    operation, identity = getattr(commit, name), commit.identity
    return effects.Commit(
        commit.label,
        Identity(identity.public_key, identity.version, identity.epoch),
        _OPERATIONS[name](*[getattr(operation, field) for field in _OPERATION_FIELDS[name]]),
    )
