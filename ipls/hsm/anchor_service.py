"""The anchor service: who holds the log key and writes the anchor, one at a time.

A core has it as a process of its own: `python -m ipls.hsm.anchor_service CONFIG` opens the token and is asked over its
stdin and stdout by its parent. It ends when stdin does.
"""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from io import BufferedReader, TextIOWrapper
from pathlib import Path
from typing import BinaryIO, TypeVar

import structlog
from google.protobuf.message import Message

from ipls.config import ConfigError, VaultConfig, load_core, read_pin
from ipls.errors import IplsError
from ipls.hsm import pipe
from ipls.hsm.process import main
from ipls.hsm.rewrapping import Rewrap
from ipls.hsm.token.module import usable
from ipls.hsm.token.pkcs11 import HsmToken, Record
from ipls.proto.hsm.v1 import anchor_pb2 as pb
from ipls.proto.vault.v1.core_pb2 import Refused
from ipls.vault.errors import SessionRefused

log = structlog.get_logger()

COMMAND = ("-m", "ipls.hsm.anchor_service")
"""What Python runs as the anchor service, with the path of the core's configuration."""
MAX_ANCHORS = 20_000
"""That one process writes, and keys that it wraps anew: SoftHSM leaks some 300 bytes with each."""

M = TypeVar("M", bound=Message)


class TokenAnchorService:
    """`ipls.hsm.state.anchor.AnchorService`, and `ipls.hsm.rewrapping.Rewrapper`, in the process that has the token
    open."""

    def __init__(self, token: HsmToken, shard: int) -> None:
        self._token = token
        self.shard = shard

    def hsm_key_id(self) -> bytes:
        """See `AnchorService`."""
        return self._token.hsm_key_id

    def macs(self, digests: Sequence[bytes]) -> list[bytes]:
        """See `AnchorService`."""
        return self._token.log_macs(digests)

    def holds(self, digests: Sequence[bytes], macs: Sequence[bytes], *, retired: bool = False) -> list[bool]:
        """See `AnchorService`."""
        return self._token.log_holds(digests, macs, retired=retired)

    def first_log_key(self) -> int:
        """See `AnchorService`."""
        return self._token.first_log_key

    def storage_key_ids(self) -> list[bytes]:
        """See `Rewrapper`."""
        return self._token.storage_key_ids()

    def rewrap(self, each: Sequence[Rewrap]) -> list[bytes | None]:
        """See `Rewrapper`."""
        return [self._rewrap(one) for one in each]

    def _rewrap(self, one: Rewrap) -> bytes | None:
        try:
            return self._token.rewrap(*one)
        except SessionRefused as refused:
            log.error("record not wrapped anew", reason=refused.reason)
            return None

    def anchors(self) -> list[bytes]:
        """See `AnchorService`."""
        return self._token.anchors(self.shard)

    def replace(self, expected: Sequence[bytes], new: bytes) -> None:
        """See `AnchorService`."""
        self._token.replace_anchor(self.shard, expected, new)


@contextmanager
def open_anchor_service(vault: VaultConfig) -> Iterator[TokenAnchorService]:
    """On the vault's token, in this process. Raises ConfigError, pkcs11.PKCS11Error."""
    with closing(HsmToken.open(vault.token, read_pin(vault.pin))) as token:
        yield TokenAnchorService(token, vault.shard)


class AnchorServiceProcess:
    """The process as its parent sees it: started when it is needed, and again after its death. One thread at a time.

    Its methods raise SessionRefused VAULT_NOTARY_LOST when it does not start, has died, hangs, or is not understood;
    its work may be done or not then. TOKEN_UNUSABLE, and what else is wrong with the configuration, says why it could
    not open the token.
    """

    def __init__(self, config_path: Path, shard: int, lock: TextIOWrapper) -> None:
        """It inherits the database's `lock`: one at work after its parent's death keeps the next parent waiting."""
        self.shard = shard
        self._config_path = config_path
        self._lock = lock
        self._process: subprocess.Popen[bytes] | None = None
        self._left = 0

    def hsm_key_id(self) -> bytes:
        """See `AnchorService`."""
        return self._ask(pb.AnchorRequest.HSM_KEY_ID_FIELD_NUMBER, pb.Ask(), pb.HsmKey).id

    def macs(self, digests: Sequence[bytes]) -> list[bytes]:
        """See `AnchorService`."""
        return list(self._ask(pb.AnchorRequest.MACS_FIELD_NUMBER, pb.Values(values=digests), pb.Values).values)

    def holds(self, digests: Sequence[bytes], macs: Sequence[bytes], *, retired: bool = False) -> list[bool]:
        """See `AnchorService`."""
        question = pb.Holds(digests=digests, macs=macs, retired=retired)
        return list(self._ask(pb.AnchorRequest.HOLDS_FIELD_NUMBER, question, pb.Holding).holding)

    def first_log_key(self) -> int:
        """See `AnchorService`."""
        return self._ask(pb.AnchorRequest.FIRST_LOG_KEY_FIELD_NUMBER, pb.Ask(), pb.LogKey).number

    def storage_key_ids(self) -> list[bytes]:
        """See `Rewrapper`."""
        return list(self._ask(pb.AnchorRequest.STORAGE_KEY_IDS_FIELD_NUMBER, pb.Ask(), pb.Values).values)

    def rewrap(self, each: Sequence[Rewrap]) -> list[bytes | None]:
        """See `Rewrapper`."""
        keys = [
            pb.WrappedKey(wrapped=w, old=pb.Record(**o._asdict()), new=pb.Record(**n._asdict())) for w, o, n in each
        ]
        answer = self._ask(pb.AnchorRequest.REWRAP_FIELD_NUMBER, pb.Rewrap(keys=keys), pb.Rewrapped)
        self._wear(len(each))
        return [wrapped or None for wrapped in answer.wrapped]

    def anchors(self) -> list[bytes]:
        """See `AnchorService`."""
        return list(self._ask(pb.AnchorRequest.ANCHORS_FIELD_NUMBER, pb.Ask(), pb.Values).values)

    def replace(self, expected: Sequence[bytes], new: bytes) -> None:
        """See `AnchorService`."""
        self._ask(pb.AnchorRequest.REPLACE_FIELD_NUMBER, pb.Replace(expected=expected, new=new), pb.Replaced)
        self._wear(1)

    def _wear(self, objects: int) -> None:
        """Another process after so many objects of the token."""
        self._left -= objects
        if self._left <= 0:
            self.close()

    def _ask(self, kind: int, question: Message, answer: type[M]) -> M:
        asked = pipe.framed(0, kind, question.SerializeToString())
        try:
            process = self._process or self._start()
            assert process.stdin
            assert isinstance(process.stdout, BufferedReader)
            process.stdin.write(asked)
            process.stdin.flush()
            if not pipe.waiting(process.stdout, pipe.HANGS_S):
                raise TimeoutError("it hangs")
            frame = pipe.receive_blocking(process.stdout)
            if frame is None:
                raise BrokenPipeError("it ended")
            if frame.kind == pb.AnchorResponse.REFUSED_FIELD_NUMBER:
                refused = pipe.parse(Refused, frame.body)
                raise SessionRefused(refused.reason, refused.message)
            if frame.kind != kind:
                raise pipe.PipeError(f"a frame of kind {frame.kind} in answer to one of kind {kind}")
            return pipe.parse(answer, frame.body)
        except (OSError, pipe.PipeError) as error:
            log.error("vault anchor service lost", error=str(error))
            if self._process is not None:
                self._process.kill()
            self.close()
            raise SessionRefused(
                "VAULT_NOTARY_LOST", "the process that holds the vault's anchor died; try again"
            ) from None

    def _start(self) -> subprocess.Popen[bytes]:
        self._left = MAX_ANCHORS
        self._process = subprocess.Popen(
            [sys.executable, *COMMAND, str(self._config_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(self._lock.fileno(),),
        )
        return self._process

    def close(self) -> None:
        """Ends the process, if it runs."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin
            assert process.stdout
            with suppress(BrokenPipeError):
                process.stdin.close()
            try:
                process.wait(pipe.HANGS_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()


@contextmanager
def _told_why(sink: BinaryIO) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        _refuse(sink, error)
        raise


def _refuse(sink: BinaryIO, error: IplsError) -> None:
    refused = Refused(reason=error.reason, message=error.message)
    sink.write(pipe.framed(0, pb.AnchorResponse.REFUSED_FIELD_NUMBER, refused.SerializeToString()))


def _answer(anchor_service: TokenAnchorService, kind: int, body: bytes) -> Message:
    """Raises SessionRefused; PipeError for what is no question."""
    match kind:
        case pb.AnchorRequest.HSM_KEY_ID_FIELD_NUMBER:
            return pb.HsmKey(id=anchor_service.hsm_key_id())
        case pb.AnchorRequest.MACS_FIELD_NUMBER:
            return pb.Values(values=anchor_service.macs(pipe.parse(pb.Values, body).values))
        case pb.AnchorRequest.HOLDS_FIELD_NUMBER:
            holds = pipe.parse(pb.Holds, body)
            return pb.Holding(holding=anchor_service.holds(holds.digests, holds.macs, retired=holds.retired))
        case pb.AnchorRequest.FIRST_LOG_KEY_FIELD_NUMBER:
            return pb.LogKey(number=anchor_service.first_log_key())
        case pb.AnchorRequest.STORAGE_KEY_IDS_FIELD_NUMBER:
            return pb.Values(values=anchor_service.storage_key_ids())
        case pb.AnchorRequest.REWRAP_FIELD_NUMBER:
            keys = [Rewrap(key.wrapped, _record(key.old), _record(key.new)) for key in pipe.parse(pb.Rewrap, body).keys]
            return pb.Rewrapped(wrapped=[wrapped or b"" for wrapped in anchor_service.rewrap(keys)])
        case pb.AnchorRequest.ANCHORS_FIELD_NUMBER:
            return pb.Values(values=anchor_service.anchors())
        case pb.AnchorRequest.REPLACE_FIELD_NUMBER:
            replace = pipe.parse(pb.Replace, body)
            anchor_service.replace(replace.expected, replace.new)
            return pb.Replaced()
        case _:
            raise pipe.PipeError(f"a frame of kind {kind}, which no question is")


def _record(record: pb.Record) -> Record:
    return Record(record.storage_key_id, record.digest)


def run(config_path: Path, source: BinaryIO, sink: BinaryIO) -> None:
    """Opens the token and answers until `source` ends; where it can't be opened, says so to its parent. Raises
    ConfigError, PipeError."""
    with _told_why(sink), usable(), open_anchor_service(load_core(config_path).vault) as anchor_service:
        while (question := pipe.receive_blocking(source)) is not None:
            try:
                answer = _answer(anchor_service, question.kind, question.body)
            except SessionRefused as refused:
                _refuse(sink, refused)
            else:
                sink.write(pipe.framed(0, question.kind, answer.SerializeToString()))


if __name__ == "__main__":
    main("anchor service", run)
