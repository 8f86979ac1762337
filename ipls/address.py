"""Where a service listens or is asked: `host:port`, or `[IPv6]:port`; whose an address is."""

import ipaddress
import re

STRANGER_SHARE = 9
"""One network, or one /48 of them, has at most a ninth of what is left free of a service's places: whatever 20 want, a
tenth is left (8/9 to the 20th) for who comes next, and of that he has a ninth."""

_FORM = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.]+(?:%\w+)?)\]|(?P<host>[\w.-]+)):(?P<port>[0-9]{1,5})", re.ASCII)


def parse_address(text: str) -> tuple[str, int]:
    """Host (without brackets) and port, 0 to 65535. Raises ValueError, which quotes nothing."""
    form = _FORM.fullmatch(text)
    if form is None or int(form["port"]) > 65535 or (form["v6"] and not _is_ipv6(form["v6"])):
        raise ValueError("not an address: host:port, or [IPv6]:port")
    return form["v6"] or form["host"], int(form["port"])


def reachable(listen: str) -> str:
    """Where this machine asks what listens there: on the loopback if it is every interface. Raises ValueError."""
    host, port = parse_address(listen)
    if host == "0.0.0.0":  # noqa: S104  # nothing is bound here
        return f"127.0.0.1:{port}"
    if ":" in host and ipaddress.IPv6Address(host).is_unspecified:
        return f"[::1]:{port}"
    return listen


def network(host: str, ipv6_prefix: int = 64) -> str:
    """The IPv4 address or IPv6 /64 of a peer's address, as text: what one party has many addresses of counts as one.
    A /64 is one line's, a /48 at most one site's.

    Raises ValueError.
    """
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return str(ipaddress.ip_network((address, ipv6_prefix), strict=False))
        address = address.ipv4_mapped
    return str(address)


def site(holder: str) -> str:
    """The /48 around an IPv6 /64 of `network`'s; whatever else it is, its own."""
    host, _, prefix = holder.partition("/")
    return network(host, 48) if prefix == "64" else holder


def cannot_listen(address: str) -> str:
    """What a server says that can't listen there."""
    return f"can't listen at {address}: the port is taken, or the host is not this machine's"


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True
