"""The contact store as a process.

Tested by tests/e2e/test_tls.py.
"""

from contextlib import closing

from ipls.config import ContactsConfig
from ipls.proto.contacts.v1.contacts_pb2_grpc import add_ContactsServiceServicer_to_server
from ipls.proto.directory.v1.directory_pb2_grpc import DirectoryServiceStub
from ipls.rpc.server import ANYONE, GrpcServer, serve
from ipls.rpc.tls import mtls_channel, tls_listener
from ipls.runtime.restart import RestartPolicy
from ipls.runtime.service import Service
from ipls.server.contacts.identities import Identities
from ipls.server.contacts.service import ContactsServicer
from ipls.store.contacts import open_contacts_store
from ipls.trust.root import TrustRoot


async def run(config: ContactsConfig, root: TrustRoot, service: Service) -> None:
    """Keep accounts' ciphertexts. Raises ConfigError, StoreError, OSError."""
    server = GrpcServer([tls_listener(config.listen, config.tls)], {"ipls.contacts.v1.ContactsService": ANYONE})
    store = service.enter(closing(open_contacts_store(config.database)))
    directory = await service.enter_async(mtls_channel(config.directory, config.client))
    identities = Identities(DirectoryServiceStub(directory), root)
    service.spawn("follow heads", identities.follow, restart=RestartPolicy())
    servicer = ContactsServicer(store, identities, root)
    service.release(servicer.close)
    add_ContactsServiceServicer_to_server(servicer, server.grpc)
    service.serving(await serve(service, server))
