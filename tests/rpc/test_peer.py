"""What one party has many addresses of counts as one."""

from functools import partial
from types import SimpleNamespace

import pytest

from ipls.rpc.peer import CALLER_METADATA, network_of, peer_of


@pytest.mark.parametrize(
    ("peer", "network"),
    [
        ("ipv4:192.0.2.7:41234", "192.0.2.7"),
        ("ipv6:%5B2001:db8:0:1:a:b:c:d%5D:41234", "2001:db8:0:1::/64"),
        ("ipv6:[2001:db8:0:1::2]:7", "2001:db8:0:1::/64"),
        ("ipv6:%5B::ffff:192.0.2.7%5D:41234", "192.0.2.7"),
        ("unix:", "unix"),
        ("ipv6:%5Bfe80::1%25eth0%5D:41234", "fe80::/64"),
    ],
)
def test_a_caller_is_its_network(peer: str, network: str) -> None:
    assert network_of(SimpleNamespace(peer=lambda: peer, auth_context=dict)) == network


@pytest.mark.parametrize(
    ("role", "network"), [("router", "198.51.100.1"), ("reader", "192.0.2.7"), (None, "192.0.2.7")]
)
def test_only_a_router_says_for_whom_it_calls(role: str | None, network: str) -> None:
    names = {"x509_subject_alternative_name": [f"ipls://role/{role}".encode()]} if role else {}
    context = SimpleNamespace(
        peer=lambda: "ipv4:192.0.2.7:1",
        auth_context=lambda: names,
        invocation_metadata=lambda: (("other", "1"), (CALLER_METADATA, "198.51.100.1")),
    )
    assert network_of(context) == network


def test_a_site_has_many_lines() -> None:
    lines = (f"ipv6:[2001:db8:0:{line:x}::2]:7" for line in (0, 1, 0xFFFF))
    contexts = [SimpleNamespace(peer=partial(str, line), auth_context=dict) for line in lines]
    assert {network_of(context, 48) for context in contexts} == {"2001:db8::/48"}


def test_who_shows_a_certificate_is_that_wherever_it_calls_from() -> None:
    def shown(*certificates: bytes) -> str:
        auth = {"x509_pem_cert": certificates} if certificates else {}
        return peer_of(SimpleNamespace(peer=lambda: "ipv4:192.0.2.7:1", auth_context=lambda: auth))

    assert shown() == "192.0.2.7"
    assert shown(b"one") != shown(b"other")
