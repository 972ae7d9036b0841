"""The address a request comes from: that of the socket, or the one a trusted proxy reports."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.api.guard.scopes import get_headers

if TYPE_CHECKING:
    from starlette.types import Scope

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

UNKNOWN = "unknown"
SUBSCRIBER_BITS = 64
"""Network part of an IPv6 address. One client has the whole network, and can use another address
for every request."""


@dataclass(frozen=True, slots=True)
class Client:
    """The machine that sent a request."""

    address: str
    """`unknown` if the socket has no address."""
    subject: str
    """Key for the rate limit: the IPv4 address, or the network of an IPv6 address."""
    is_loopback: bool
    """Whether it is this machine; False for another machine behind a proxy on this one."""


def parse_address(text: str) -> Address | None:
    """Parse an address; return None if it is not one. IPv4-mapped IPv6 becomes IPv4."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def is_loopback_host(host: str) -> bool:
    """Whether a server on this name or address is reachable from this machine only."""
    if host.lower() == "localhost":
        return True
    address = parse_address(host.removeprefix("[").removesuffix("]"))
    return address is not None and address.is_loopback


class ClientFinder:
    """Finds the client of a request.

    `trusted_proxies` are the addresses or networks whose X-Forwarded-For is believed.
    """

    def __init__(self, trusted_proxies: Sequence[str]) -> None:
        self._trusted = [ipaddress.ip_network(each, strict=False) for each in trusted_proxies]

    def __call__(self, scope: Scope) -> Client:
        peer = parse_address(scope["client"][0]) if scope.get("client") else None
        if peer is None:
            return Client(UNKNOWN, UNKNOWN, is_loopback=False)
        found = self._find_forwarded(scope, peer) if self._is_trusted(peer) else peer
        return Client(
            str(found), _get_subject(found), is_loopback=peer.is_loopback and found.is_loopback
        )

    def _is_trusted(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)

    def _find_forwarded(self, scope: Scope, peer: Address) -> Address:
        # The right-most address that is not a proxy's: those left of it can be forged.
        found = peer
        hops = ",".join(get_headers(scope, "x-forwarded-for")).split(",")
        for hop in reversed(hops):
            address = parse_address(_strip_port(hop.strip()))
            if address is None:
                break
            found = address
            if not self._is_trusted(address):
                break
        return found


def _strip_port(hop: str) -> str:
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop


def _get_subject(address: Address) -> str:
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, SUBSCRIBER_BITS), strict=False))
    return str(address)
