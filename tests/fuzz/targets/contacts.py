"""Contacts: records, cards, and the contact store on both sides."""

import asyncio
import hashlib
import io
from collections.abc import Hashable, Iterable
from types import SimpleNamespace
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from google.protobuf.message import Message

from ipls.client.errors import RefusedError, TryLaterError
from ipls.client.profile import Account
from ipls.contacts import cards
from ipls.contacts.envelope import Conflict, Envelope, Parts, Verified
from ipls.contacts.errors import CardError
from ipls.crypto.encoding import lp, u64
from ipls.crypto.keys import public_key, sign
from ipls.proto.contacts.v1 import contacts_pb2
from ipls.rpc.errors import ServiceError
from ipls.server.contacts.calls import Limits, SignedCalls
from ipls.server.contacts.service import ContactsServicer
from ipls.store.contacts import RecordKey as StoredKey
from ipls.store.contacts import open_contacts_store
from ipls.trust.calls import call_digest
from tests.contacts.old_records import (
    MAX_CARD,
    Manifest,
    check_value,
    open_manifest,
    open_record,
    seal_manifest,
    seal_record,
)
from tests.fuzz.answers import answering, frames
from tests.fuzz.target import ID, LABEL, SEED, Target, folder, serialized, target
from tests.server.old_client import ContactStore
from tests.server.old_client import RecordKey as WantedKey
from tests.store.contacts.before import store_before
from tests.trust.roots import NAMESPACE, NOW

_KEY = b"\x05" * 32


def _sealed(plaintext: bytes, context: bytes) -> bytes:
    key = HKDF(SHA256(), 32, salt=None, info=b"ipls/contacts/v1 record").derive(_KEY)
    return bytes(12) + AESGCMSIV(key).encrypt(bytes(12), plaintext, context)


@target("record")
def _() -> Target:
    card = b"BEGIN:VCARD\r\nFN:A\r\nEND:VCARD"

    def run(data: bytes) -> None:
        assert open_record(_KEY, LABEL, 1, ID, data) == card

    return Target(run, (CardError,), (seal_record(_KEY, LABEL, 1, ID, card),))


@target("record's plaintext")
def _() -> Target:
    context = lp(LABEL.encode()) + u64(1) + lp(ID)

    def run(data: bytes) -> None:
        card = open_record(_KEY, LABEL, 1, ID, _sealed(data, context))
        assert card == data[4 : 4 + len(card)]
        assert len(card) <= MAX_CARD

    return Target(run, (CardError,), tuple((len(c).to_bytes(4, "big") + c).ljust(256, b"\0") for c in (b"", b"card")))


@target("manifest's plaintext")
def _() -> Target:
    check = check_value(_KEY)
    context = lp(LABEL.encode()) + u64(1) + lp(bytes(16)) + u64(2) + check
    manifest = Manifest(1, 2, {bytes([i]) * 16: bytes([i]) * 32 for i in range(1, 5)})
    key = HKDF(SHA256(), 32, salt=None, info=b"ipls/contacts/v1 record").derive(_KEY)
    made = seal_manifest(_KEY, LABEL, manifest)
    seed = AESGCMSIV(key).decrypt(made[:12], made[12:], context)

    def run(data: bytes) -> None:
        taken = open_manifest(_KEY, LABEL, 1, 2, check, _sealed(data, context))
        assert (taken.generation, taken.version) == (1, 2)

    return Target(run, (CardError,), (seed,))


@target("envelope")
def _() -> Target:
    conflict, verified = Conflict(b"FN:B", SEED, 3), Verified(LABEL, SEED, 1, 2)
    seed = Envelope(
        b"card", created_ms=1, changed_ms=2, conflicts=(conflict,), verified=(verified,), parts=Parts(2, ID)
    )

    def run(data: bytes) -> None:
        assert Envelope.decode(data).encode() == data

    return Target(run, (CardError,), (seed.encode(),))


@target("vCards")
def _() -> Target:
    lines = [
        b"BEGIN:VCARD",
        b"VERSION:2.1",
        b"FN;CHARSET=UTF-8;ENCODING=QUOTED-PRINTABLE:J=C3=B6rg=",
        b" weiter",
        b"N:Doe;J\\;ohn;;;",
        b"ORG:A;B\\,C",
        b"TEL;TYPE=cell;VALUE=uri:tel:+1555",
        b"PHOTO;ENCODING=b:AAAA",
        b" BBBB",
        b"AGENT:BEGIN:VCARD",
        b"FN:Inner",
        b"END:VCARD",
        b"END:VCARD",
    ]
    seed = b"\r\n".join(lines)

    def run(data: bytes) -> None:
        for found in cards.split_cards(data):
            if isinstance(found, cards.Card):
                contact = cards.read_card(found.data)
                assert contact.name.isprintable() or " " in contact.name
        cards.read_card(data)

    return Target(run, (), (seed, seed + b"\n" + seed, (seed.decode()).encode("utf-16")))


class _Anyone:
    """Stands for the directory: the account is known."""

    async def check(self, label: str, public_key: bytes, holder: Hashable) -> int:
        return 1


def _call(method: str, body: bytes, nonce: bytes) -> contacts_pb2.SignedCall:
    key = public_key(SEED)
    digest = call_digest(NAMESPACE, LABEL, key, method, body, NOW, nonce)
    return contacts_pb2.SignedCall(
        label=LABEL, public_key=key, body=body, timestamp_ms=NOW, nonce=nonce, signature=sign(SEED, digest)
    )


_RECORD = b"r" * 284


def _record_key() -> contacts_pb2.RecordKey:
    return contacts_pb2.RecordKey(generation=1, id=ID, digest=hashlib.sha256(_RECORD).digest())


def _contacts(method: str, request: Any, seeds: Iterable[Message]) -> Target:
    """The account itself signs its bodies, whatever they say."""
    identities: Any = _Anyone()
    database = folder() / "contacts.db"
    store = open_contacts_store(database)
    caller = SimpleNamespace(peer=lambda: "ipv4:192.0.2.1:7", auth_context=dict)
    calls = SignedCalls(store, identities, NAMESPACE, now_ms=lambda: NOW, limits=Limits(calls=10**9))
    servicer = ContactsServicer(store, calls)
    count = 0

    def call(body: bytes) -> None:
        nonlocal count
        count += 1
        made = request(call=_call(method, body, count.to_bytes(16, "big")))

        async def go() -> None:
            async for _ in getattr(servicer, method)(made, caller):
                pass

        asyncio.run(go())

    store_before(database, LABEL, [(StoredKey(1, ID, hashlib.sha256(_RECORD).digest()), _RECORD)])

    def run(data: bytes) -> None:
        call(data)

    return Target(run, (ServiceError,), serialized(*seeds), weight=8)


@target("contacts: get")
def _() -> Target:
    seed = contacts_pb2.GetRecordsBody(keys=[_record_key()] * 3)
    return _contacts("GetRecords", contacts_pb2.GetRecordsRequest, [seed])


@target("contacts: list")
def _() -> Target:
    return _contacts("ListRecords", contacts_pb2.ListRecordsRequest, [contacts_pb2.ListRecordsBody()])


@target("contact store's answers")
def _() -> Target:
    """Two messages of a stream, or of three, to a device that asks for a record and for its manifest."""
    sizes = contacts_pb2.GetRecordsResponse(sizes=contacts_pb2.RecordSizes(sizes=[len(_RECORD)]))
    record = contacts_pb2.GetRecordsResponse(chunk=_RECORD)
    header = contacts_pb2.GetManifestResponse(
        header=contacts_pb2.ManifestHeader(generation=1, version=1, check_value=bytes(32), size=len(_RECORD))
    )
    account = Account(LABEL, SEED, 1, 1)
    wanted = WantedKey(1, ID, hashlib.sha256(_RECORD).digest())

    def run(data: bytes) -> None:
        stub: Any = SimpleNamespace(
            GetRecords=answering(contacts_pb2.GetRecordsResponse, io.BytesIO(data)),
            GetManifest=answering(contacts_pb2.GetManifestResponse, io.BytesIO(data)),
        )
        store = ContactStore(stub, NAMESPACE, account, now_ms=lambda: NOW, retry_for_s=0)
        try:
            assert asyncio.run(store.get([wanted])) == [_RECORD]
        except RefusedError:
            asyncio.run(store.manifest())

    seeds = frames(sizes, record), frames(header, record)
    return Target(run, (RefusedError, TryLaterError), seeds, weight=4)
