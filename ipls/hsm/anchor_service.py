"""The anchor service: who holds the log key and writes the anchor, one at a time.

A core has it as a process of its own: `python -m ipls.hsm.anchor_service CONFIG` opens the token and is asked over its
stdin and stdout by its parent. It ends when stdin does.
"""

import pickle
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from io import BufferedReader, TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO

import structlog

from ipls.config import VaultConfig, load_core, read_pin
from ipls.hsm import pipe
from ipls.hsm.core.rotation import Rewrap
from ipls.hsm.process import main
from ipls.hsm.token.pkcs11 import HsmToken
from ipls.vault.errors import SessionRefused

log = structlog.get_logger()

COMMAND = ("-m", "ipls.hsm.anchor_service")
"""What Python runs as the notary, with the path of the core's configuration."""
MAX_ANCHORS = 20_000
"""That one process writes, and keys that it wraps anew: SoftHSM leaks some 300 bytes with each."""


class TokenAnchorService:
    """`ipls.hsm.state.anchor.Notary`, and `ipls.hsm.core.rotation.Wrapper`, in the process that has the token open."""

    def __init__(self, token: HsmToken, shard: int) -> None:
        self._token = token
        self.shard = shard

    def hsm_key_id(self) -> bytes:
        """See `Notary`."""
        return self._token.hsm_key_id

    def macs(self, digests: Sequence[bytes]) -> list[bytes]:
        """See `Notary`."""
        return [self._token.log_mac(digest) for digest in digests]

    def holds(self, digests: Sequence[bytes], macs: Sequence[bytes]) -> list[bool]:
        """See `Notary`."""
        return [self._token.log_holds(digest, mac) for digest, mac in zip(digests, macs, strict=True)]

    def first_log_key(self) -> int:
        """See `Notary`."""
        return self._token.first_log_key

    def storage_key_ids(self) -> list[bytes]:
        """See `Wrapper`."""
        return self._token.storage_key_ids()

    def rewrap(self, each: Sequence[Rewrap]) -> list[bytes | None]:
        """See `Wrapper`."""
        return [self._rewrap(one) for one in each]

    def _rewrap(self, one: Rewrap) -> bytes | None:
        try:
            return self._token.rewrap(*one)
        except SessionRefused as refused:
            log.error("record not wrapped anew", reason=refused.reason)
            return None

    def anchors(self) -> list[bytes]:
        """See `Notary`."""
        return self._token.anchors(self.shard)

    def replace(self, expected: Sequence[bytes], new: bytes) -> None:
        """See `Notary`."""
        self._token.replace_anchor(self.shard, expected, new)


@contextmanager
def open_anchor_service(vault: VaultConfig) -> Iterator[TokenAnchorService]:
    """On the vault's token, in this process. Raises ConfigError, pkcs11.PKCS11Error."""
    with closing(HsmToken.open(vault.token, read_pin(vault.pin))) as token:
        yield TokenAnchorService(token, vault.shard)


class AnchorServiceProcess:
    """The process as its parent sees it: started when it is needed, and again after its death. One thread at a time.

    Its methods raise SessionRefused VAULT_NOTARY_LOST when it has died, whose work may be done or not then.
    """

    def __init__(self, config_path: Path, shard: int, lock: TextIOWrapper) -> None:
        """It inherits the database's `lock`: one at work after its parent's death keeps the next parent waiting."""
        self.shard = shard
        self._config_path = config_path
        self._lock = lock
        self._process: subprocess.Popen[bytes] | None = None
        self._left = 0

    def hsm_key_id(self) -> bytes:
        """See `Notary`."""
        hsm_key_id: bytes = self._ask("hsm_key_id")
        return hsm_key_id

    def macs(self, digests: Sequence[bytes]) -> list[bytes]:
        """See `Notary`."""
        macs: list[bytes] = self._ask("macs", digests)
        return macs

    def holds(self, digests: Sequence[bytes], macs: Sequence[bytes]) -> list[bool]:
        """See `Notary`."""
        holding: list[bool] = self._ask("holds", digests, macs)
        return holding

    def first_log_key(self) -> int:
        """See `Notary`."""
        number: int = self._ask("first_log_key")
        return number

    def storage_key_ids(self) -> list[bytes]:
        """See `Wrapper`."""
        storage_key_ids: list[bytes] = self._ask("storage_key_ids")
        return storage_key_ids

    def rewrap(self, each: Sequence[Rewrap]) -> list[bytes | None]:
        """See `Wrapper`."""
        wrapped: list[bytes | None] = self._ask("rewrap", each)
        self._wear(len(each))
        return wrapped

    def anchors(self) -> list[bytes]:
        """See `Notary`."""
        anchors: list[bytes] = self._ask("anchors")
        return anchors

    def replace(self, expected: Sequence[bytes], new: bytes) -> None:
        """See `Notary`."""
        self._ask("replace", expected, new)
        self._wear(1)

    def _wear(self, objects: int) -> None:
        """Another process after so many objects of the token."""
        self._left -= objects
        if self._left <= 0:
            self.close()

    def _ask(self, *question: object) -> Any:
        process = self._process or self._start()
        assert process.stdin
        assert isinstance(process.stdout, BufferedReader)
        try:
            process.stdin.write(pipe.framed(pickle.dumps(question)))
            process.stdin.flush()
            answer = pipe.receive_blocking(process.stdout)
        except BrokenPipeError:
            answer = None
        if answer is None:
            self.close()
            raise SessionRefused("VAULT_NOTARY_LOST", "the process that holds the vault's anchor died; try again")
        refused, value = pickle.loads(answer)  # noqa: S301  # the pipe has this notary alone at its other end
        if refused:
            raise SessionRefused(*value)
        return value

    def _start(self) -> subprocess.Popen[bytes]:
        self._left = MAX_ANCHORS
        self._process = subprocess.Popen(
            [sys.executable, *COMMAND, str(self._config_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(self._lock.fileno(),),
            start_new_session=True,  # a terminal's Ctrl-C is for the front
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
            process.wait()
            process.stdout.close()


def run(config_path: Path, source: BinaryIO, sink: BinaryIO) -> None:
    """Opens the token and answers until `source` ends."""
    with open_anchor_service(load_core(config_path).vault) as anchor_service:
        while (question := pipe.receive_blocking(source)) is not None:
            what, *arguments = pickle.loads(question)  # noqa: S301  # from the parent alone
            try:
                answer = (False, getattr(anchor_service, what)(*arguments))
            except SessionRefused as refused:
                answer = (True, (refused.reason, refused.message))
            sink.write(pipe.framed(pickle.dumps(answer)))


if __name__ == "__main__":
    main("notary", run)
