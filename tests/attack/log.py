"""A public log and its witnesses on a loopback port, honest until a test puts a lie into it."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

from ipls.akd import EMPTY_ROOT
from ipls.crypto.keys import public_key
from ipls.trust.root import TrustRoot, Witness, WitnessKey, encode_trust_root
from tests.server.chains import Chain
from tests.trust.roots import NAMESPACE, NOW, WITNESSES, cosign, make_root

LATER = 2**62
Answer = tuple[int, bytes]


def answer(seed: bytes, epoch: int, root_hash: bytes, *, time: int = NOW, namespace: str = NAMESPACE) -> dict[str, Any]:
    """As `audits/E` has it."""
    made = cosign(seed, namespace, epoch, root_hash, time)
    return {
        "version": 1,
        "ciphersuite": 1,
        "namespace": namespace,
        "timestamp": time,
        "epoch": epoch,
        "digest": root_hash.hex(),
        "signature": made.signature.hex(),
        "key_id": made.public_key[-1],
        "serialized_message": made.message.hex(),
    }


def name(epoch: int, old: bytes, new: bytes) -> str:
    return f"{epoch}/{old.hex()}/{new.hex()}"


@dataclass
class World:
    """`answers` overrides what a path is answered; `asked` has every path with its query."""

    url: str = ""
    k: int = 2
    objects: dict[str, bytes] = field(default_factory=dict)
    cosigned: list[dict[int, dict[str, Any]]] = field(default_factory=lambda: [{}, {}, {}])
    newest: list[int] = field(default_factory=lambda: [0, 0, 0])
    answers: dict[str, Any] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    chain: Chain = field(default_factory=Chain)
    page_size: int = 3

    def grow(self, epochs: int) -> None:
        """So many honest epochs, signed by all."""
        for _ in range(epochs):
            made = self.chain.step()
            self.put(made.epoch, made.old_root, made.new_root, made.blob)

    def put(self, epoch: int, old: bytes, new: bytes, blob: bytes) -> None:
        self.objects[name(epoch, old, new)] = blob
        for i, seed in enumerate(WITNESSES):
            self.cosigned[i][epoch] = answer(seed, epoch, new)
            self.newest[i] = epoch

    def name_of(self, epoch: int) -> str:
        return next(found for found in self.objects if found.startswith(f"{epoch}/"))

    def take_out(self, epoch: int) -> tuple[bytes, bytes, bytes]:
        """(old root, new root, blob) of an epoch, out of the log."""
        found = self.name_of(epoch)
        _, old, new = found.split("/")
        return bytes.fromhex(old), bytes.fromhex(new), self.objects.pop(found)

    @property
    def root(self) -> TrustRoot:
        witnesses = tuple(
            Witness(f"w{i}", f"{self.url}/w{i}", (WitnessKey(public_key(seed), 0, LATER),))
            for i, seed in enumerate(WITNESSES)
        )
        return make_root(
            witnesses=witnesses, k=self.k, log_url=f"{self.url}/log", expires_ms=LATER, start_root=EMPTY_ROOT
        )

    def trust_file(self, folder: Path) -> Path:
        path = folder / "trust.toml"
        path.write_bytes(encode_trust_root(self.root))
        return path

    def answer(self, target: str) -> Answer:
        url = urlsplit(target)
        if target in self.answers or url.path in self.answers:
            lie = self.answers.get(target, self.answers.get(url.path))
            return lie() if callable(lie) else lie
        if url.path == "/log/":
            return self.list({key: values[0] for key, values in parse_qs(url.query).items()})
        if url.path.startswith("/log/"):
            blob = self.objects.get(url.path.removeprefix("/log/"))
            return (404, b"") if blob is None else (200, blob)
        i, _, rest = url.path.removeprefix("/w").partition("/")
        what = rest.removeprefix(f"namespaces/{NAMESPACE}/")
        if what == "last-verified-epoch" and self.newest[int(i)]:
            return 200, json.dumps({"epoch": self.newest[int(i)]}).encode()
        found = self.cosigned[int(i)].get(int(what.removeprefix("audits/"))) if what.startswith("audits/") else None
        return (404, b"") if found is None else (200, json.dumps(found).encode())

    def list(self, query: dict[str, str]) -> Answer:
        names = sorted(found for found in self.objects if found.startswith(query.get("prefix", "")))
        names = [found for found in names if found > query.get("continuation-token", "")]
        return 200, listing([(found, len(self.objects[found])) for found in names], self.page_size)


def listing(entries: list[tuple[str, int]], page_size: int) -> bytes:
    """A page as S3 writes it."""
    shown = entries[:page_size]
    more = len(entries) > page_size
    rows = "".join(f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size></Contents>" for key, size in shown)
    token = f"<NextContinuationToken>{escape(shown[-1][0])}</NextContinuationToken>" if more else ""
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{rows}</ListBucketResult>"
    ).encode()


@contextmanager
def public_world(epochs: int, **options: Any) -> Iterator[World]:
    """Serves while the block runs."""
    world = World(**options)
    world.grow(epochs)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            world.asked.append(self.path)
            status, body = world.answer(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass  # a reader that hangs up

    server = Server(("127.0.0.1", 0), Handler)
    world.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield world
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
