"""The contact store as a process.

Tested by tests/e2e/test_tls.py.
"""

from contextlib import closing
from functools import partial

from ipls.config import ContactsConfig
from ipls.proto.contacts.v1.contacts_pb2_grpc import add_ContactsServiceServicer_to_server as add_v1
from ipls.proto.contacts.v2.contacts_pb2_grpc import add_ContactsServiceServicer_to_server as add_v2
from ipls.proto.directory.v1.directory_pb2_grpc import DirectoryServiceStub
from ipls.rpc.server import ANYONE, GrpcServer, serve
from ipls.rpc.tls import mtls_channel, tls_listener
from ipls.runtime.restart import RestartPolicy
from ipls.runtime.service import Service
from ipls.server.contacts import expiry
from ipls.server.contacts.calls import SignedCalls
from ipls.server.contacts.identities import Identities
from ipls.server.contacts.lines import LinesServicer
from ipls.server.contacts.service import ContactsServicer
from ipls.store.contacts import open_contacts_store
from ipls.trust.root import TrustRoot


async def run(config: ContactsConfig, root: TrustRoot, service: Service) -> None:
    """Keep accounts' ciphertexts. Raises ConfigError, StoreError, OSError."""
    access = {f"ipls.contacts.{version}.ContactsService": ANYONE for version in ("v1", "v2")}
    server = GrpcServer([tls_listener(config.listen, config.tls)], access)
    store = service.enter(closing(open_contacts_store(config.database)))
    directory = await service.enter_async(mtls_channel(config.directory, config.client))
    identities = Identities(DirectoryServiceStub(directory), root)
    service.spawn("follow heads", identities.follow, restart=RestartPolicy())
    service.spawn("let go", partial(expiry.run, store.lines, identities), restart=RestartPolicy())
    calls = SignedCalls(store, identities, root.namespace)
    service.release(calls.close)
    add_v1(ContactsServicer(store, calls), server.grpc)
    add_v2(LinesServicer(store.lines, calls), server.grpc)
    service.serving(await serve(service, server))
