"""Who calls, as far as limits go that hold before a call has said who it is."""

import hashlib
from typing import Any
from urllib.parse import unquote

from ipls.address import network


def network_of(context: Any) -> str:
    """The caller's IPv4 address or IPv6 /64, as text. All that come by Unix sockets are one, too."""
    kind, _, rest = unquote(context.peer()).partition(":")
    return network(rest.rpartition(":")[0].strip("[]")) if kind.startswith("ip") else kind


def peer_of(context: Any) -> str:
    """Whose the caller's places are: its client certificate's, else its network's."""
    certificates = context.auth_context().get("x509_pem_cert")
    return hashlib.sha256(certificates[0]).hexdigest() if certificates else network_of(context)
