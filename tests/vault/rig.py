"""A vault session in one process: the real token and proofs, and a core that keeps its accounts in a dictionary."""

from collections.abc import Callable
from typing import Any

from ipls.proto.vault.v1 import vault_pb2 as pb
from ipls.proto.vault.v1.core_pb2 import HistoryHandIn
from ipls.proto.witness.v1.head_pb2 import SignedHead
from ipls.trust.heads import verify_head
from ipls.trust.root import TrustRoot
from ipls.vault import account
from ipls.vault.errors import SessionRefused, refusing
from ipls.vault.history import MAX_ENTRIES
from ipls.vault.limits import Limits, Releases
from ipls.vault.session import effects
from ipls.vault.session.client import ClientSession
from ipls.vault.session.token import Token
from ipls.vault.session.vault import vault_session
from tests.hsm.rig import Directory, now_ms


class Core:
    """What the core's process does for a session, without durability. A test may replace any part of it."""

    def __init__(self, token: Token, root: TrustRoot, directory: Directory) -> None:
        self.token = token
        self.root = root
        self.head: SignedHead = directory.head()
        self.prove: Callable[[str, int], bytes] = directory.prove
        self.admit: Callable[[str, int], None] = lambda label, bundle_number: None
        self.releases = Releases()
        self.accounts: dict[str, account.Account] = {}
        self.uses: dict[str, list[pb.HistoryEntry]] = {}
        self.operations: list[effects.Operation] = []
        self._streams: list[Stream] = []

    def judge_by(self, client_head: SignedHead | None) -> SignedHead:
        if client_head is not None and client_head.epoch > self.head.epoch:
            with refusing():
                verify_head(self.root, client_head, now_ms=now_ms())
            self.head = client_head
        return self.head

    def standing(self) -> int:
        return self.head.epoch

    def commit(self, effect: effects.Commit) -> effects.Result:
        now = now_ms()
        changed, self.releases, result, use = account.apply(
            self.accounts.get(effect.label),
            self.releases,
            effect.identity,
            effect.operation,
            account.Times(now, now),
            Limits(),
        )
        self.accounts[effect.label] = changed
        if use is not None:
            self.uses.setdefault(effect.label, []).append(use)
        if isinstance(effect.operation, effects.History):
            assert isinstance(result, pb.HistoryAnswer)
            entries = self.uses[effect.label][max(effect.operation.first - 1, 0) :]
            result.entries.extend(entries[:MAX_ENTRIES])
        self.operations.append(effect.operation)
        return result

    def stream(self, **limits: Any) -> "Stream":
        self._streams.append(Stream(self, **limits))
        return self._streams[-1]

    def close(self) -> None:
        """Ends every session, as its client's leaving does: while the token is open."""
        for stream in self._streams:
            stream.close()


class Stream:
    """One session, fed with frames by the test."""

    def __init__(self, core: Core, **limits: Any) -> None:
        self._core = core
        self._session = vault_session(core.token, core.root, **limits)
        self._sent: list[pb.SessionResponse] = []
        self._step(lambda: next(self._session))

    def exchange(self, frame: pb.SessionRequest | bytes) -> pb.SessionResponse:
        """The vault's answer to one frame. Raises SessionRefused."""
        data = frame if isinstance(frame, bytes) else frame.SerializeToString()
        self._step(lambda: self._given(data))
        (response,) = self._sent
        self._sent.clear()
        return response

    def close(self) -> None:
        self._session.close()

    def _given(self, data: bytes) -> effects.Effect:
        if not self._proven:
            return self._session.send(data)
        try:
            epoch = self._core.standing()
        except SessionRefused as refused:
            return self._session.throw(refused)
        return self._session.send((data, epoch))

    def _step(self, start: Callable[[], effects.Effect]) -> None:
        """Runs the session up to where it waits for a frame."""
        effect = start()
        while not isinstance(effect, effects.Receive | effects.ReceiveRequest):
            try:
                result = self._answer(effect)
            except SessionRefused as refused:
                effect = self._session.throw(refused)
            else:
                effect = self._session.send(result)
        self._proven = isinstance(effect, effects.ReceiveRequest)

    def _answer(self, effect: effects.Effect) -> object:
        match effect:
            case effects.Send(frame):
                return self._sent.append(pb.SessionResponse.FromString(frame))
            case effects.Admit(label, bundle_number):
                return self._core.admit(label, bundle_number)
            case effects.JudgeBy(client_head):
                return self._core.judge_by(client_head)
            case effects.NeedHistory(label, epoch):
                return HistoryHandIn(epoch=epoch, proof=self._core.prove(label, epoch))
            case effects.Commit():
                return self._core.commit(effect)
        raise AssertionError(effect)


Change = Callable[[Any], Any]


def unchanged(frame: Any) -> Any:
    return frame


def handshake(
    client: ClientSession,
    stream: Stream,
    *,
    m1: Change = unchanged,
    m2: Change = unchanged,
    m3: Change = unchanged,
    confirmation: Change = unchanged,
) -> tuple[int, int]:
    """Runs the handshake with an adversary between, who changes each frame as told; returns what the vault confirms."""
    hello = m2(stream.exchange(m1(client.hello(now_ms()))))
    return client.on_confirmation(confirmation(stream.exchange(m3(client.on_hello(hello, now_ms())))))
