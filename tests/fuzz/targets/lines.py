"""An account's line: what a store judges, its calls, and what it answers a device."""

import asyncio
import io
from collections.abc import Hashable
from functools import partial
from types import SimpleNamespace
from typing import Any

from ipls.client.errors import RefusedError, TryLaterError
from ipls.client.line_store import LineStore
from ipls.contacts.admission import admit, admit_first
from ipls.contacts.commits import Signed
from ipls.contacts.errors import LineError
from ipls.contacts.sealing import ContactKey, name_of
from ipls.crypto.encoding import u64
from ipls.crypto.keys import SIGNATURE_BYTES, SeedSigner, sign
from ipls.proto.contacts.v2 import contacts_pb2 as pb
from ipls.rpc.errors import ServiceError
from ipls.server.contacts.calls import Limits, SignedCalls
from ipls.server.contacts.lines import LinesServicer
from ipls.store.contacts import open_contacts_store
from ipls.trust.calls import call_digest
from tests.contacts.writers import Made, Writer, line_of
from tests.fuzz.answers import answering, frames
from tests.fuzz.target import LABEL, SEED, Target, folder, serialized, target
from tests.trust.roots import NAMESPACE, NOW

_WRITER = Writer(SEED, LABEL, 1, ContactKey(b"\x05" * 32, LABEL, 1))
_LINE_SEED = bytes(16)
_LINE = line_of(_LINE_SEED, LABEL)
_FIRST = _WRITER.base(1, _LINE)
_RECORD = _WRITER.record("a")
_EDIT = _WRITER.edit(2, _FIRST.chain, _RECORD)


@target("line: a commit")
def _() -> Target:
    """The commit and its signatures are taken as they were signed, or not at all."""
    standing = admit_first(NAMESPACE, LABEL, _WRITER.caller, _LINE_SEED, _FIRST.signed).standing
    seed = _EDIT.signed.author + _EDIT.signed.write + _EDIT.signed.commit

    def run(data: bytes) -> None:
        author, write = data[:SIGNATURE_BYTES], data[SIGNATURE_BYTES : 2 * SIGNATURE_BYTES]
        signed = Signed(data[2 * SIGNATURE_BYTES :], author, write)
        admit(NAMESPACE, LABEL, standing, _WRITER.caller, 2, _FIRST.chain, signed)
        assert signed == _EDIT.signed

    return Target(run, (LineError,), (seed,), weight=2)


class _Anyone:
    """Stands for the directory: the account is known."""

    async def check(self, label: str, public_key: bytes, holder: Hashable) -> int:
        return 1


def _call(method: str, body: bytes, nonce: bytes) -> pb.SignedCall:
    key = _WRITER.public
    digest = call_digest(NAMESPACE, LABEL, key, method, body, NOW, nonce, version=2)
    signature = sign(SEED, digest)
    return pb.SignedCall(label=LABEL, public_key=key, body=body, timestamp_ms=NOW, nonce=nonce, signature=signature)


def _calls(method: str, request: Any, seed: Any, part: bytes = b"") -> Target:
    """The account itself signs its bodies, whatever they say. `part` is streamed after the call."""
    identities: Any = _Anyone()
    store = open_contacts_store(folder() / "contacts.db")
    calls = SignedCalls(store, identities, NAMESPACE, now_ms=lambda: NOW, limits=Limits(calls=10**9))
    servicer = LinesServicer(store.lines, calls)
    context = SimpleNamespace(peer=lambda: "ipv4:192.0.2.1:7", auth_context=dict)
    count = 0

    def call(method: str, request: Any, body: bytes, part: bytes) -> None:
        nonlocal count
        count += 1
        made = request(call=_call(method, body, count.to_bytes(16, "big")))

        async def requests() -> Any:
            yield made
            yield request(chunk=part)

        async def go() -> None:
            answer = getattr(servicer, method)(requests() if part else made, context)
            if hasattr(answer, "__aiter__"):
                async for _ in answer:
                    pass
            else:
                await answer

        asyncio.run(go())

    assert _FIRST.snapshot is not None
    first = pb.BeginBody(seed=_LINE_SEED, signed=_signed(_FIRST), snapshot=_sealed(_FIRST.snapshot))
    call("Begin", pb.BeginRequest, first.SerializeToString(), _FIRST.snapshot)
    return Target(lambda data: call(method, request, data, part), (ServiceError,), serialized(seed), weight=8)


def _signed(made: Made) -> pb.SignedCommit:
    return pb.SignedCommit(**made.signed._asdict())


def _sealed(data: bytes) -> pb.Sealed:
    return pb.Sealed(name=name_of(data), size=len(data))


@target("line: Commit")
def _() -> Target:
    body = pb.CommitBody(line=_LINE, n=2, before=_FIRST.chain, signed=_signed(_EDIT), records=[_sealed(_RECORD)])
    return _calls("Commit", pb.CommitRequest, body, _RECORD)


@target("line: Heal")
def _() -> Target:
    links = b"".join(u64(made.link.generation) + made.link.commit_hash for made in (_FIRST, _EDIT))
    data = links + _EDIT.signed.commit + _EDIT.signed.author + _EDIT.signed.write
    sizes = [len(_EDIT.signed.commit)]
    body = pb.HealBody(line=_LINE, seed=_LINE_SEED, links=2, first=2, commits=sizes, data=_sealed(data))
    return _calls("Heal", pb.HealRequest, body, data)


for _method, _body in {
    "Read": pb.ReadBody(n=1, line=_LINE, until=1, kept=1),
    "GetRecords": pb.GetRecordsBody(names=name_of(_RECORD) + bytes(32)),
    "Have": pb.HaveBody(names=name_of(_RECORD) + bytes(32), staged=True),
}.items():
    target(f"line: {_method}")(partial(_calls, _method, getattr(pb, f"{_method}Request"), _body))


def _device(method: str, response: Any, data: bytes) -> LineStore:
    """Whose store answers so."""
    stub: Any = SimpleNamespace(**{method: answering(response, io.BytesIO(data))})
    return LineStore(stub, NAMESPACE, LABEL, SeedSigner(SEED), now_ms=lambda: NOW, retry_for_s=0)


@target("line: what is read")
def _() -> Target:
    """A stream of messages to a device that reads its line."""
    head = pb.ReadResponse(head=pb.LineHead(line=_LINE, seed=_LINE_SEED, n=1, chain=_FIRST.chain, base_n=1))
    placed = pb.PlacedCommit(n=1, signed=_signed(_FIRST))
    commits = pb.ReadResponse(commits=pb.PlacedCommits(commits=[placed]))

    def run(data: bytes) -> None:
        asyncio.run(_device("Read", pb.ReadResponse, data).read(0))

    return Target(run, (RefusedError, TryLaterError), (frames(head, commits),), weight=4)


@target("line: records")
def _() -> Target:
    """To one that asks for a record."""

    async def read(store: LineStore) -> None:
        async for found in store.get([name_of(_RECORD)]):
            assert found in ({}, {name_of(_RECORD): _RECORD})

    def run(data: bytes) -> None:
        asyncio.run(read(_device("GetRecords", pb.GetRecordsResponse, data)))

    record = pb.GetRecordsResponse(sizes=[len(_RECORD)], chunk=_RECORD)
    return Target(run, (RefusedError, TryLaterError), (frames(record),), weight=4)
