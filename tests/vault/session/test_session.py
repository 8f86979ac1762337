"""A session as it should go, and with an adversary in its way."""

import secrets
from typing import Any

import pytest

from ipls.hsm.token.pkcs11 import HsmChannel, HsmEphemeral
from ipls.proto.vault.v1 import vault_pb2 as pb
from ipls.vault.errors import OperationRefused, SessionRefused
from ipls.vault.session import effects
from ipls.vault.session.client import ClientSession, RetrievedKey
from tests.hsm.rig import Owner, Rig, now_ms
from tests.vault.refusals import refused
from tests.vault.rig import Core, Stream, handshake

KEY = bytes(range(32))
STORE_ID = bytes(16)


def store(
    session: ClientSession, stream: Stream, expected: int = 0, store_id: bytes = STORE_ID, key: bytes = KEY
) -> None:
    session.on_answer(stream.exchange(session.store_request(expected, store_id, key)))


def retrieve(session: ClientSession, stream: Stream, generation: int = 0) -> RetrievedKey:
    answer = session.on_answer(stream.exchange(session.retrieve_request(generation)))
    assert isinstance(answer, RetrievedKey)
    return answer


def test_a_stored_key_comes_back(rig: Rig, core: Core) -> None:
    owner = Owner(label="+4930888888")
    core.head = rig.directory.publish(owner)
    first, second = core.stream(), core.stream()
    client = rig.client(owner)
    assert handshake(client, first) == (1, core.head.epoch)
    key = secrets.token_bytes(32)
    store(client, first, key=key)
    later = rig.client(owner)
    handshake(later, second)
    assert retrieve(later, second) == (1, key)
    assert retrieve(later, second, 1) == (1, key)
    session = [effects.Handshake, effects.Store, effects.Handshake, effects.Retrieve, effects.Retrieve]
    assert [type(operation) for operation in core.operations] == session  # each on record


def test_a_session_is_admitted_by_its_account_and_bundle(rig: Rig, core: Core, owner: Owner) -> None:
    admitted: list[tuple[str, int]] = []
    core.admit = lambda label, bundle_number: admitted.append((label, bundle_number))
    handshake(rig.client(owner), core.stream())
    assert admitted == [(owner.label, rig.bundle.number)]


def test_every_operation_has_its_answer(session: ClientSession, stream: Stream) -> None:
    store(session, stream)
    store(session, stream, 1, secrets.token_bytes(16))
    assert isinstance(session.on_answer(stream.exchange(session.finish_rotation_request(2))), pb.FinishRotationAnswer)
    listing = session.on_answer(stream.exchange(session.list_request()))
    assert isinstance(listing, pb.ListAnswer)
    assert [(g.generation, g.state) for g in listing.generations] == [(2, pb.Generation.STATE_CURRENT)]
    assert isinstance(session.on_answer(stream.exchange(session.delete_request())), pb.DeleteAnswer)
    with pytest.raises(OperationRefused) as refused:
        retrieve(session, stream)
    assert refused.value.reason == "VAULT_GENERATION_UNKNOWN"
    store(session, stream, 2)  # the session goes on


def test_neither_key_nor_operation_is_in_a_frame(session: ClientSession, stream: Stream) -> None:
    request = session.store_request(0, STORE_ID, KEY)
    assert KEY not in request.SerializeToString()
    assert STORE_ID not in request.SerializeToString()
    session.on_answer(stream.exchange(request))
    assert KEY not in stream.exchange(session.retrieve_request()).SerializeToString()


def test_steps_out_of_order_are_refused(client: ClientSession, stream: Stream) -> None:
    for step in (client.list_request, lambda: client.store_request(0, STORE_ID, KEY)):
        with pytest.raises(SessionRefused, match="next"):
            step()
    with pytest.raises(SessionRefused):
        client.on_confirmation(pb.SessionResponse())


def test_a_failed_step_ends_the_clients_session(client: ClientSession, stream: Stream) -> None:
    hello = stream.exchange(client.hello(now_ms()))
    with pytest.raises(SessionRefused):
        client.on_hello(pb.SessionResponse(hello=pb.SignedHello(m2=hello.hello.m2, sig2=bytes(64))), now_ms())
    with pytest.raises(SessionRefused) as refused:
        client.on_hello(hello, now_ms())
    assert refused.value.reason == "VAULT_OUT_OF_ORDER"


def test_a_session_leaves_no_key_in_the_token(
    core: Core, rig: Rig, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the ephemeral one, once the session keys are made, nor these, however the session ends."""
    closed = list[str]()

    def noting(kind: type[Any], name: str) -> None:
        close = kind.close
        monkeypatch.setattr(kind, "close", lambda key: [closed.append(name), close(key)])

    noting(HsmEphemeral, "ephemeral")
    noting(HsmChannel, "session keys")
    handshake(rig.client(owner), stream := core.stream())
    assert closed == ["ephemeral"]
    stream.close()
    assert closed == ["ephemeral", "session keys"]

    closed.clear()
    refused(lambda: handshake(rig.client(Owner(label="+4930111119")), core.stream()))  # it has no such account
    assert closed == ["ephemeral", "session keys"]

    closed.clear()
    monkeypatch.setattr(HsmEphemeral, "agree", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        handshake(rig.client(owner), core.stream())
    assert closed == ["ephemeral"]
