"""A network between a device and a service that can be cut, and from which others stand before the service."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ipls.address import parse_address


class Wire:
    """Listens on a free loopback port and passes on to `target`, host:port, while it is not cut."""

    def __init__(self, target: str) -> None:
        self._target = parse_address(target)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._whole = True
        self._open = set[socket.socket]()

    def __enter__(self) -> "Wire":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self._end()

    @contextmanager
    def cut(self) -> Iterator[None]:
        """All connections end, and no other comes about."""
        self._whole = False
        self._end()
        try:
            yield
        finally:
            self._whole = True

    @contextmanager
    def standing(self, connections: int) -> Iterator[None]:
        """So many that go as far as TLS and stay silent, from addresses that are not the devices'."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        stand = []
        try:
            for number in range(connections):
                with suppress(OSError):
                    bare = socket.create_connection(self._target, 5, (f"127.0.0.{2 + number % 20}", 0))
                    stand.append(bare)
                    stand.append(context.wrap_socket(bare, server_hostname="localhost"))
                    stand[-1].sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            yield
        finally:
            for one in stand:
                one.close()

    def _end(self) -> None:
        for one in tuple(self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._join, args=(near,), daemon=True).start()

    def _join(self, near: socket.socket) -> None:
        with suppress(OSError), near, socket.create_connection(self._target) as far:
            if not self._whole:
                return
            ends = {near, far}
            self._open |= ends
            try:
                back = threading.Thread(target=_pass, args=(far, near), daemon=True)
                back.start()
                _pass(near, far)
                back.join()
            finally:
                self._open -= ends


def _pass(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
