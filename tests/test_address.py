"""Addresses as configuration, options and endpoints.json have them."""

import pytest

from ipls.address import network, parse_address, reachable, site


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:7400", "127.0.0.1", 7400),
        ("localhost:0", "localhost", 0),
        ("vault-1.example.org:65535", "vault-1.example.org", 65535),
        ("[::1]:7400", "::1", 7400),
        ("[fe80::1%eth0]:7400", "fe80::1%eth0", 7400),
    ],
)
def test_an_address_has_a_host_and_a_port(text: str, host: str, port: int) -> None:
    assert parse_address(text) == (host, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost",
        "localhost:",
        ":7400",
        "localhost:http",
        "localhost:-1",
        "localhost:+1",
        "localhost:65536",
        "localhost:" + "1" * 5000,
        "localhost:７４００",
        "::1:7400",
        "[::1]",
        "[]:7400",
        "[localhost]:7400",
        "[127.0.0.1]:7400",
        "local host:7400",
        "localhost:7400\n",
        "http://localhost:7400",
        "unix:/run/vault:7400",
        "user@localhost:7400",
    ],
)
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^not an address: host:port, or \[IPv6\]:port$"):
        parse_address(text)


@pytest.mark.parametrize(
    ("listened", "asked"),
    [
        ("0.0.0.0:7400", "127.0.0.1:7400"),
        ("[::]:7400", "[::1]:7400"),
        ("[0::0]:7400", "[::1]:7400"),
        ("192.0.2.1:7400", "192.0.2.1:7400"),
        ("[::1]:7400", "[::1]:7400"),
        ("localhost:7400", "localhost:7400"),
    ],
)
def test_who_listens_everywhere_is_asked_on_the_loopback(listened: str, asked: str) -> None:
    assert reachable(listened) == asked


def test_a_site_is_a_48_whatever_lines_it_has() -> None:
    lines = {network(f"2001:db8:1:{line:x}::7") for line in range(3)}
    assert len(lines) == 3
    assert {site(line) for line in lines} == {"2001:db8:1::/48"}
    others = [network("192.0.2.7"), "", "unix", "0" * 64]
    assert [site(other) for other in others] == others
