"""A TCP proxy that can lose an HTTP answer after the server has done what it was asked."""

import contextlib
import select
import socket
import threading
from types import TracebackType


class Proxy:
    """Listens on a free loopback port and passes on to the loopback port `target`."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.lost = 0
        """Answers that did not arrive."""
        self._lose, self._times, self._after = b"", 0, 0

    def lose_reply_to(self, beginning: bytes, *, times: int, after: int = 0) -> None:
        """Cut the answer to the next `times` requests that begin so, after so many bytes of it."""
        self._lose, self._times, self._after = beginning, times, after

    def __enter__(self) -> "Proxy":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, where: TracebackType | None) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with contextlib.suppress(OSError), near, socket.create_connection(("127.0.0.1", self._target)) as far:
            left: int | None = None  # bytes of the answer that may still pass; None: all
            while True:
                request = answer = b"-"
                ready, _, _ = select.select([near, far], [], [])
                if near in ready:
                    request = near.recv(65536)
                    if self._times and request.startswith(self._lose):
                        self._times -= 1
                        left = self._after
                    far.sendall(request)
                if far in ready:
                    answer = far.recv(65536)
                    if left is None or answer.startswith(b"HTTP/1.1 100 "):
                        near.sendall(answer)
                    else:
                        near.sendall(answer[:left])
                        left -= len(answer)
                        if left <= 0:
                            self.lost += 1
                            return
                if b"" in (request, answer):
                    return
