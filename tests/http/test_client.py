"""The HTTP client against servers that misbehave."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from ipls.http.client import HttpClient, HttpTooLarge, HttpUnavailable


@contextmanager
def server(*connections: list[bytes]) -> Iterator[tuple[str, list[int]]]:
    """Answers the requests of each connection in turn with these bytes, then closes it; counts requests."""
    asked: list[int] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for number, answers in enumerate(connections):
            connection, _ = listener.accept()
            with connection:
                for answer in answers:
                    connection.recv(65536)
                    asked.append(number)
                    try:
                        connection.sendall(answer)
                    except OSError:
                        break

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked
    listener.close()


def ok(body: bytes, length: int | None = None) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(body) if length is None else length) + body


def test_a_connection_is_used_again_and_made_anew_when_the_other_side_closed_it() -> None:
    with server([ok(b"one"), ok(b"two")], [ok(b"three")]) as (url, asked):
        client = HttpClient()
        assert [client.get(url, limit=9)[1] for _ in range(3)] == [b"one", b"two", b"three"]
        assert asked == [0, 0, 1]


def test_an_answer_of_exactly_the_limit_is_read_and_a_longer_one_is_not() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n"
    with server([ok(b"abcd"), ok(b"abcde")], [chunked], [b"HTTP/1.1 200 OK\r\n\r\nabcde"]) as (url, _):
        client = HttpClient()
        assert client.get(url, limit=4) == (200, b"abcd")
        for _ in range(3):
            with pytest.raises(HttpTooLarge):
                client.get(url, limit=4)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 1000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\na: " + b"b" * 100_000 + b"\r\n\r\n",
        ok(b"short", 100),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_no_whole_http_answer_is_unavailable(answer: bytes) -> None:
    with server([answer]) as (url, _), pytest.raises(HttpUnavailable):
        HttpClient().get(url, limit=1000)


def test_nobody_there_is_unavailable_and_so_is_a_silent_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(HttpUnavailable):
            HttpClient(0.05).get(url, limit=1)
    with pytest.raises(HttpUnavailable):
        HttpClient(5).get(url, limit=1)


def test_interim_answers_without_end_are_given_up() -> None:
    """They come one after another for as long as anybody reads, and no read of the socket ever waits."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            while True:
                connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(HttpUnavailable):
            HttpClient(0.2).get(f"http://127.0.0.1:{listener.getsockname()[1]}", limit=1)
        thread.join()


def test_a_redirect_is_not_followed() -> None:
    away = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    with server([away]) as (url, _):
        assert HttpClient().get(url, limit=10) == (302, b"")
