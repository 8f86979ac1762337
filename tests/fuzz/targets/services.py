"""Registration, and sessions in which the directory is read."""

import asyncio
from types import SimpleNamespace
from typing import Any

from google.protobuf.message import DecodeError

from ipls.crypto.encoding import tagged_hash
from ipls.crypto.keys import public_key, sign
from ipls.proto.directory.v1.directory_pb2 import OpenSessionRequest, SubmitUpdateResponse
from ipls.proto.registration.v1 import registration_pb2
from ipls.rpc.errors import ServiceError
from ipls.rpc.reads import SESSION_METADATA
from ipls.server.directory.authorizer import ReadAuthorizer
from ipls.server.registration.service import RegistrationService
from ipls.store.readers import open_readers_store
from ipls.store.registration import open_registration_store
from ipls.trust.calls import session_digest
from ipls.trust.identity import encode_record
from tests.fuzz.target import LABEL, SEED, Target, folder, serialized, target
from tests.trust.roots import NAMESPACE, NOW


@target("registration")
def _() -> Target:
    request_id, record, codes = b"\x09" * 16, encode_record(public_key(SEED)), []

    class Verifier:
        async def deliver(self, request_id: bytes, label: str, code: str) -> None:
            codes.append(code)

    class Directory:
        """A channel on which every update is taken."""

        def unary_unary(self, *_: Any, **__: Any) -> Any:
            async def submit(update: Any, timeout: float) -> SubmitUpdateResponse:
                return SubmitUpdateResponse(ticket=b"t" * 16)

            return submit

        unary_stream = unary_unary

    directory: Any = Directory()
    service = RegistrationService(
        open_registration_store(folder() / "registration.db"),
        NAMESPACE,
        Verifier(),
        directory,
        codes_per_hour=5,
        now_ms=lambda: NOW,
    )
    call: Any = SimpleNamespace(peer=lambda: "ipv4:192.0.2.1:7", auth_context=dict)
    asyncio.run(service.RequestCode(registration_pb2.RequestCodeRequest(label=LABEL, request_id=request_id), call))
    digest = tagged_hash("ipls/registration/v1 request", NAMESPACE, LABEL, record, request_id)
    seed = registration_pb2.RegisterRequest(
        label=LABEL, request_id=request_id, code=codes[0], identity_record=record, signature=sign(SEED, digest)
    )

    def run(data: bytes) -> None:
        asyncio.run(service.Register(registration_pb2.RegisterRequest.FromString(data), call))

    return Target(run, (ServiceError, DecodeError), serialized(seed), weight=4)


def _readers() -> ReadAuthorizer:
    """Of a directory in which every key is the first of every account."""
    directory: Any = SimpleNamespace(version_of=lambda *_: 1)
    store = open_readers_store(folder() / "readers.db")
    return ReadAuthorizer(directory, store, NAMESPACE, daily_labels=9, anonymous=False, now_ms=lambda: NOW)


def _opening(nonce: bytes) -> OpenSessionRequest:
    key = public_key(SEED)
    digest = session_digest(NAMESPACE, LABEL, key, NOW, nonce)
    return OpenSessionRequest(label=LABEL, public_key=key, timestamp_ms=NOW, nonce=nonce, signature=sign(SEED, digest))


@target("read session's opening")
def _() -> Target:
    seed = _opening(b"\x08" * 16)

    def run(data: bytes) -> None:
        readers = _readers()  # which know no nonce yet
        try:
            asyncio.run(readers.open(OpenSessionRequest.FromString(data), "192.0.2.1"))
        finally:
            readers.close()

    return Target(run, (ServiceError, DecodeError), serialized(seed), weight=12)


@target("read session's token")
def _() -> Target:
    readers = _readers()
    token = asyncio.run(readers.open(_opening(b"\x08" * 16), "192.0.2.1")).token

    def run(data: bytes) -> None:
        call: Any = SimpleNamespace(auth_context=dict, invocation_metadata=lambda: ((SESSION_METADATA, data),))
        assert readers.reader(call) == (LABEL.encode(), 1, False)

    return Target(run, (ServiceError,), (token,))
