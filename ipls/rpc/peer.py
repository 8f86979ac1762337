"""Who calls, as far as limits go that hold before a call has said who it is."""

import hashlib
import ipaddress
from typing import Any
from urllib.parse import unquote


def network_of(context: Any) -> str:
    """The caller's IPv4 address or IPv6 /64, as text: what one party has many addresses of counts as one. All that come
    by Unix sockets are one, too."""
    kind, _, rest = unquote(context.peer()).partition(":")
    if not kind.startswith("ip"):
        return kind
    address = ipaddress.ip_address(rest.rpartition(":")[0].strip("[]").partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return str(ipaddress.ip_network((address, 64), strict=False))
        address = address.ipv4_mapped
    return str(address)


def peer_of(context: Any) -> str:
    """Whose the caller's places are: its client certificate's, else its network's."""
    certificates = context.auth_context().get("x509_pem_cert")
    return hashlib.sha256(certificates[0]).hexdigest() if certificates else network_of(context)
