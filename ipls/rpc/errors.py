"""Errors as they cross the wire: a status code, a `google.rpc.ErrorInfo` reason, one clear line.

ServiceError            what a handler raises and the server turns into a status
└── RemoteError         the same, as a caller gets it back
"""

import re
from collections.abc import Coroutine
from typing import NoReturn, TypeVar, cast

from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from ipls._grpc import grpc
from ipls.clock import system_now_ms
from ipls.errors import IplsError
from ipls.rpc.reasons import STATUSES
from ipls.units import date

DOMAIN = "ipls"

T = TypeVar("T")

_TRANSPORT = (
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,  # of a server that has no room even in its queue of calls
)

_TIME = "time_ms"
"""Under which ErrorInfo's metadata has the service's time, in decimal."""
_REASON = re.compile(r"[A-Z][A-Z0-9_]{,62}")


class ServiceError(IplsError):
    """`code` is named where it is not the reason's own in `ipls.rpc.reasons`. `time_ms`: the service's clock, where the
    caller's may be wrong."""

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        code: grpc.StatusCode | None = None,
        retry_after_s: float | None = None,
        time_ms: int | None = None,
    ) -> None:
        super().__init__(reason, message, retry_after_s=retry_after_s)
        self.code = STATUSES[reason] if code is None else code
        self.time_ms = time_ms

    @property
    def passes(self) -> bool:
        """Whether the same call may succeed soon."""
        return self.code is grpc.StatusCode.UNAVAILABLE or self.reason == "SERVICE_BUSY"


class RemoteError(ServiceError):
    """What the other side answered, or that nobody did."""

    @property
    def unanswered(self) -> bool:
        """Whether no service made it: reason and text are about this machine and its network."""
        return self.reason in ("UNREACHABLE", "CERTIFICATE_NOT_VALID")


def refuse(error: IplsError, *, code: grpc.StatusCode | None = None) -> NoReturn:
    """Raises what a store or a check refused as a ServiceError; `error` itself, a fault, if its reason is not one that
    crosses the wire."""
    if error.reason not in STATUSES:
        raise error
    raise ServiceError(error.reason, error.message, code=code, retry_after_s=error.retry_after_s) from error


def _pack(message: error_details_pb2.ErrorInfo) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def to_status(error: ServiceError) -> grpc.Status:
    """ErrorInfo always, with the service's time where it has one; BadRequest with INVALID_ARGUMENT; RetryInfo where a
    retry may help."""
    metadata = {} if error.time_ms is None else {_TIME: str(error.time_ms)}
    details = [_pack(error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata))]
    if error.code is grpc.StatusCode.INVALID_ARGUMENT:
        violation = error_details_pb2.BadRequest.FieldViolation(description=error.message)
        details.append(_pack(error_details_pb2.BadRequest(field_violations=[violation])))
    retry_after_s = error.retry_after_s
    if retry_after_s is None and error.code is grpc.StatusCode.UNAVAILABLE:
        retry_after_s = 1.0
    if retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(int(retry_after_s * 1000))
        details.append(_pack(error_details_pb2.RetryInfo(retry_delay=delay)))
    code = code_pb2.Code.Value(error.code.name)
    return rpc_status.to_status(status_pb2.Status(code=code, message=error.message, details=details))


def remote_error(error: grpc.aio.AioRpcError) -> RemoteError:
    """Read a failed call's status. One without our ErrorInfo was not made by a service: a dead peer, a deadline.

    A write to a stream whose peer has died shows as INTERNAL or UNKNOWN, made on this side: that is UNREACHABLE too.
    """
    code, reason, retry_after_s, time_ms = error.code(), "", None, None
    try:
        status = rpc_status.from_call(error)  # type: ignore[arg-type]  # its stub knows only the blocking API's errors
        for detail in status.details if status is not None else ():
            info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
            if detail.Unpack(info) and info.domain == DOMAIN and _REASON.fullmatch(info.reason):
                reason = info.reason
                time_ms = _time_ms(info.metadata.get(_TIME, ""))
            elif detail.Unpack(retry):
                retry_after_s = retry.retry_delay.ToMilliseconds() / 1000
    except (DecodeError, ValueError):  # details that can't be read, or contradict their status: as if there were none
        reason = ""
    if not reason and code in _TRANSPORT:
        code, reason = grpc.StatusCode.UNAVAILABLE, "UNREACHABLE"
    message = error.details() or code.name
    if reason == "UNREACHABLE" and (text := _of_certificate(message)):
        reason, message = "CERTIFICATE_NOT_VALID", text
    return RemoteError(reason or code.name, message, code=code, retry_after_s=retry_after_s, time_ms=time_ms)


def _time_ms(text: str) -> int | None:
    """Of the other side, which may say anything."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


def _of_certificate(details: str) -> str:
    """What to say in the place of gRPC's words for a certificate whose time it is not; nothing for other words."""
    clock = f"by this machine's clock, which says {date(system_now_ms())}"
    if "certificate is not yet valid" in details:
        return f"the service's certificate is not good yet {clock}: set the clock right, or the service's"
    if "certificate has expired" in details:
        renew = "who runs the service renews it with `ipls keys renew`"
        return f"the service's certificate has run out {clock}: if that is right, {renew}, else set the clock"
    return ""


class Ending:
    """How a call that sends a stream ends. Make it with the call.

    Where a write fails because the call has ended, grpc.aio puts INTERNAL in the place of the status that the server
    gave (https://github.com/grpc/grpc/issues/36066): the first that came is kept here.
    """

    def __init__(self, call: grpc.aio.Call) -> None:
        self._first: grpc.aio.AioRpcError | None = None
        call.add_done_callback(self._note)

    def _note(self, call: grpc.aio.Call) -> None:
        if self._first is None:
            self._first = grpc.aio.AioRpcError(
                _at_once(call.code()),
                _at_once(call.initial_metadata()),
                _at_once(call.trailing_metadata()),
                details=_at_once(call.details()),
                debug_error_string=None,
            )

    def why(self, raised: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """The error to go by in the place of the one that was raised: that one, if the server meant none."""
        return raised if self._first is None or self._first.code() is grpc.StatusCode.OK else self._first


def _at_once(coroutine: Coroutine[None, None, T]) -> T:
    """What a coroutine returns that has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return cast(T, done.value)
    raise AssertionError("the call has ended")
