"""A witness as a process.

Tested by tests/server/witness/test_service.py.
"""

import asyncio
import contextlib
from functools import partial

from ipls.config import WitnessConfig
from ipls.hsm.token.signing import witness_signers
from ipls.http.public_log import PublicReader
from ipls.http.server import serve as serve_http
from ipls.proto.witness.v1.witness_pb2_grpc import add_WitnessServiceServicer_to_server
from ipls.rpc.server import ANYONE, GrpcServer, serve
from ipls.rpc.tls import tls_listener
from ipls.runtime.restart import RestartPolicy
from ipls.runtime.service import Service
from ipls.server.witness.http import auditor_app, readable_at
from ipls.server.witness.keys import WitnessKeys
from ipls.server.witness.service import WitnessService
from ipls.store.evidence import EvidenceFolder
from ipls.store.witness import open_witness_store
from ipls.trust.root import TrustRoot

SILENT_S = 5.0
"""How long a witness that did not answer is not asked again."""


async def run(config: WitnessConfig, root: TrustRoot, service: Service) -> None:
    """Verify and sign what the directory proposes, follow the log, and show what was signed over HTTP.

    Raises ConfigError, OSError, and StoreError WITNESS_NO_GENESIS without a state.
    """
    listener = tls_listener(config.listen, config.tls) if config.listen and config.tls else None
    follower = listener is None
    signers = service.enter(witness_signers(config))
    store = service.enter(contextlib.closing(open_witness_store(config.database, root.namespace, config.watermark)))
    keys = (WitnessKeys.unpinned if follower else WitnessKeys.pinned)(root, config.name, signers)
    public = PublicReader(root, silent_s=SILENT_S)
    witness = WitnessService(root, keys, store, public, EvidenceFolder(config.evidence), follower=follower)
    service.release(witness.close)
    await asyncio.to_thread(witness.sign_start)
    await serve_http(service, auditor_app(root, keys.witness, store, readable_at(root.log_url)), config.http_listen)
    service.spawn("follow the log", partial(witness.catch_up, config.catch_up_every_s), restart=RestartPolicy())
    service.drain(witness.stop)
    if listener is None:
        service.serving([], name=config.name, pull_only=True)
        return
    server = GrpcServer([listener], {"ipls.witness.v1.WitnessService": ANYONE})
    add_WitnessServiceServicer_to_server(witness, server.grpc)
    service.serving(await serve(service, server))
