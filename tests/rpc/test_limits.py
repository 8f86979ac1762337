"""What the limits say of each method."""

from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
from google.protobuf.message import Message

from ipls.address import STRANGER_SHARE
from ipls.proto.contacts.v1.contacts_pb2 import (
    GetRecordsBody,
    GetRecordsResponse,
    ListRecordsResponse,
    RecordKey,
    RecordSize,
    SignedCall,
)
from ipls.proto.directory.v1.directory_pb2 import (
    BatchLookupRequest,
    HistoryResponse,
    LookupResponse,
    TrustRootsResponse,
)
from ipls.proto.trust.v1.trust_pb2 import SignedTrustRoot
from ipls.proto.vault.v1.vault_pb2 import GetBundleResponse, SessionResponse, SignedBundle, SignedHello
from ipls.proto.witness.v1.head_pb2 import Cosignature, SignedHead
from ipls.proto.witness.v1.witness_pb2 import GetStateResponse, WitnessState
from ipls.rpc.admission import Admission
from ipls.rpc.channel import CHUNK
from ipls.rpc.limits import FRONT, METHODS, STANDING, Limits, Method
from ipls.runtime.places import Busy, Places
from ipls.server.directory.service import MAX_BATCH
from ipls.trust.bundle import MAX_SIGNED_BUNDLE
from ipls.trust.chain import MAX_ANSWER
from ipls.trust.limits import MAX_COSIGNATURES, MAX_INT
from ipls.trust.root import MAX_FILE
from ipls.vault.session.transcript import MAX_FRAME
from tests.runtime.test_places import taken


def test_twenty_strangers_leave_a_tenth() -> None:
    limits = Limits()
    places = Places(limits.working, share=limits.stranger_share)
    assert taken(places, "first") == limits.working // limits.stranger_share
    held = sum(taken(places, str(stranger)) for stranger in range(19)) + limits.working // limits.stranger_share
    assert limits.working - held > limits.working * 0.09
    assert taken(places, "next") > limits.working * 0.01


@pytest.mark.parametrize(
    ("method", "places"), [(Method(), Limits().working), (STANDING, Limits().standing)], ids=["working", "standing"]
)
def test_who_has_all_lines_of_a_48_has_what_one_stranger_has(method: Method, places: int) -> None:
    admission = Admission(Limits(), [])

    def let_in(site: int) -> int:
        """How many calls, one from each line."""
        for count in range(places):
            peer = f"ipv6:%5B2001:db8:{site:x}:{count:x}::7%5D:41234"
            context = SimpleNamespace(peer=partial(str, peer), auth_context=dict, add_done_callback=lambda _: None)
            try:
                admission.work(context, method)
            except Busy:
                return count
        return places

    assert let_in(1) == places // STRANGER_SHARE
    assert let_in(2) == (places - places // STRANGER_SHARE) // STRANGER_SHARE


def test_a_front_has_no_more_places_than_what_is_behind_it_gives_one_certificate() -> None:
    assert taken(Places(Limits().working), "front") >= FRONT.working
    assert taken(Places(Limits().standing), "front") >= FRONT.standing


def test_calls_and_streams_end_with_a_reason_before_their_connection_does() -> None:
    limits = Limits()
    longest_s = max(method.deadline_s for method in (Method(), *METHODS.values()))
    assert max(longest_s, limits.standing_s) <= limits.connection_grace_s


def test_the_methods_with_limits_of_their_own_are_there() -> None:
    for name in METHODS:
        service, _, method = name.partition("/")
        package = service.rpartition(".")[0].split(".")
        descriptor = import_module(f"ipls.proto.{'.'.join(package[1:])}.{package[1]}_pb2").DESCRIPTOR
        assert method in descriptor.services_by_name[service.rpartition(".")[2]].methods_by_name


KEYS = [RecordKey(generation=MAX_INT, id=bytes(16), digest=bytes(32))] * 10_000
SIZES = [RecordSize(key=KEYS[0], size=1 << 21)] * 2000
CALL: dict[str, Any] = {
    "label": "+123456789012345",
    "public_key": bytes(32),
    "timestamp_ms": MAX_INT,
    "nonce": bytes(16),
}


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("GetRecords", GetRecordsBody(keys=KEYS[:2000])),
    ],
)
def test_the_largest_honest_request_is_taken(name: str, body: Message) -> None:
    call = SignedCall(**CALL, body=body.SerializeToString(), signature=bytes(64))
    assert call.ByteSize() + 10 < Limits().method(f"ipls.contacts.v1.ContactsService/{name}").request


def test_a_batch_of_labels_and_a_frame_of_the_vault_are_taken() -> None:
    batch = BatchLookupRequest(labels=[CALL["label"].encode()] * MAX_BATCH)
    assert batch.ByteSize() < Limits().method("ipls.directory.v1.DirectoryService/BatchLookup").request
    assert Limits().method("ipls.vault.v1.VaultService/Session").request > MAX_FRAME + 10


SIGNED = [Cosignature(public_key=bytes(32), message=bytes(160), signature=bytes(64))] * MAX_COSIGNATURES
HEAD = SignedHead(epoch=MAX_INT, root_hash=bytes(32), cosignatures=SIGNED)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("directory.v1.DirectoryService/History", HistoryResponse(head=HEAD, chunk=bytes(CHUNK))),
        ("directory.v1.DirectoryService/Lookup", LookupResponse(head=HEAD, proof=bytes(64 << 10))),
        (
            "directory.v1.DirectoryService/TrustRoots",
            TrustRootsResponse(versions=[SignedTrustRoot(file=bytes(MAX_FILE), cosignatures=SIGNED)] * MAX_ANSWER),
        ),
        ("contacts.v1.ContactsService/ListRecords", ListRecordsResponse(records=SIZES * 5)),
        ("contacts.v1.ContactsService/GetRecords", GetRecordsResponse(chunk=bytes(CHUNK))),
        ("vault.v1.VaultService/GetBundle", GetBundleResponse(bundle=SignedBundle(bundle=bytes(MAX_SIGNED_BUNDLE)))),
        ("vault.v1.VaultService/Session", SessionResponse(hello=SignedHello(m2=bytes(MAX_FRAME)))),
        ("witness.v1.WitnessService/GetState", GetStateResponse(state=WitnessState(head=HEAD))),
    ],
)
def test_the_largest_honest_answer_is_taken(name: str, answer: Message) -> None:
    assert answer.ByteSize() + 10 < Limits().method(f"ipls.{name}").answer


def test_the_half_sent_messages_of_a_service_are_bounded_together() -> None:
    limits = Limits()
    assert limits.largest_request(["ipls.directory.v1.DirectoryService"]) == Method().request
    assert limits.largest_request(["ipls.contacts.v2.ContactsService"]) > 1 << 20
