"""Who calls, as far as limits go that hold before a call has said who it is."""

import hashlib
from collections.abc import Callable
from typing import Any, Generic, TypeVar
from urllib.parse import unquote

from ipls.address import network

Kept = TypeVar("Kept")

ROLE_PREFIX = "ipls://role/"
ROUTER_ROLE = "router"
CALLER_METADATA = "ipls-caller"
"""The network for which a router calls; from anybody else it says nothing."""


def network_of(context: Any, ipv6_prefix: int = 64) -> str:
    """The caller's IPv4 address or IPv6 /64, as text; of a router's caller as the router says. All that come by Unix
    sockets are one, too."""
    if ROUTER_ROLE in peer_roles(context):
        for key, value in context.invocation_metadata() or ():
            if key == CALLER_METADATA:
                return str(value)
    kind, _, rest = unquote(context.peer()).partition(":")
    return network(rest.rpartition(":")[0].strip("[]"), ipv6_prefix) if kind.startswith("ip") else kind


def peer_of(context: Any) -> str:
    """Whose the caller's places are: its client certificate's, else its network's."""
    certificates = context.auth_context().get("x509_pem_cert")
    return hashlib.sha256(certificates[0]).hexdigest() if certificates else network_of(context)


def peer_roles(context: Any) -> set[str]:
    """The roles in the certificate that a caller showed; none on a port that asks for no certificate."""
    names = context.auth_context().get("x509_subject_alternative_name", ())
    uris = (bytes(name).decode("utf-8", "replace") for name in names)
    return {uri.removeprefix(ROLE_PREFIX) for uri in uris if uri.startswith(ROLE_PREFIX)}


class Parted(Generic[Kept]):
    """Two of what callers use up: strangers, however many, take nothing of what the deployment's own parts need, which
    show the certificate of a role."""

    def __init__(self, make: Callable[[], Kept], make_for_roles: Callable[[], Kept] | None = None) -> None:
        self.strangers = make()
        self.roles = (make_for_roles or make)()

    def of(self, context: Any) -> Kept:
        """The caller's."""
        return self.roles if peer_roles(context) else self.strangers
