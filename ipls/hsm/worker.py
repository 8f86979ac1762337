"""A worker of the vault's core: one thread, one open token, many sessions in turn.

It is driven over its stdin and stdout by `ipls.hsm.core`, its parent, and ends when stdin does.

Tested by tests/hsm/core/test_core.py and tests/hsm/core/test_workers.py.
"""

from collections.abc import Callable, Generator
from pathlib import Path
from typing import BinaryIO

import structlog

from ipls.config import load_core, load_trust_root, read_pin
from ipls.hsm import pipe
from ipls.hsm.messages import Command, Ended, Opened, Report, decode_command, encode_report
from ipls.hsm.process import main
from ipls.hsm.token.ephemeral_pool import EphemeralPool
from ipls.hsm.token.pkcs11 import HsmToken
from ipls.vault.errors import SessionRefused
from ipls.vault.session.effects import Effect, Send
from ipls.vault.session.vault import vault_session

log = structlog.get_logger()

EPHEMERALS = 64
"""Key pairs that an idle worker has ready: they are a seventh of what a handshake costs the token."""

Session = Generator[Effect, object, None]


class Worker:
    """Steps sessions; `report` takes what they ask for."""

    def __init__(self, start: Callable[[], Session], report: Callable[[Report], None]) -> None:
        self._start = start
        self._report = report
        self._sessions: dict[int, Session] = {}

    def handle(self, command: Command) -> None:
        """Runs one session up to the next thing that it must wait for. A session that is over ignores commands."""
        number, kind, value = command
        if kind == "open":
            self._sessions[number] = self._start()
        session = self._sessions.get(number)
        if session is None:
            return
        if kind == "close":
            session.close()
            self._end(number, "VAULT_SESSION_OVER", "the session is over")
            return
        try:
            effect = session.throw(SessionRefused(*value)) if kind == "throw" else session.send(value)
            while isinstance(effect, Send):
                self._report(Report(number, effect))
                effect = session.send(None)
            self._report(Report(number, effect))
        except StopIteration:
            self._end(number, "VAULT_SESSION_OVER", "the session is over")
        except SessionRefused as refused:
            self._end(number, refused.reason, str(refused))
        except Exception as error:  # one session's fault, or the token's, must not end the others
            # The type alone: a message may hold what must not reach a log.
            log.error("session failed", error=type(error).__name__)
            self._end(number, "VAULT_INTERNAL", "internal error; see the vault's log")

    def close(self) -> None:
        """Ends all sessions, so that the token is rid of their keys."""
        for session in self._sessions.values():
            session.close()

    def _end(self, number: int, reason: str, message: str) -> None:
        del self._sessions[number]
        self._report(Report(number, Ended(reason, message)))


def run(config_path: Path, source: BinaryIO, sink: BinaryIO) -> None:
    """Opens the token and serves until `source` ends; while nobody asks, it makes key pairs ahead.

    Raises PipeError.
    """
    config = load_core(config_path)
    root = load_trust_root(config.trust_root)
    pin = read_pin(config.vault.pin)
    token = EphemeralPool(HsmToken.open(config.vault.token, pin), EPHEMERALS)

    def report(content: Report) -> None:
        sink.write(encode_report(content))

    worker = Worker(lambda: vault_session(token, root), report)
    report(Report(0, Opened(token.hsm_key_id, token.profile, token.storage_key_id)))
    while True:
        while not pipe.waiting(source) and token.prepare():
            pass
        if (frame := pipe.receive_blocking(source)) is None:
            break
        worker.handle(decode_command(frame))
    worker.close()
    token.close()


if __name__ == "__main__":
    main("worker", run)
