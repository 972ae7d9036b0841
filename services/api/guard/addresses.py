"""Where a request comes from: the address of the socket, or what a trusted proxy says it is."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.api.guard.scopes import headers_of

if TYPE_CHECKING:
    from starlette.types import Scope

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

UNKNOWN = "unknown"
SUBSCRIBER_BITS = 64
"""Of an IPv6 address: one subscriber has all addresses behind them, and can take a new one for
every request."""


@dataclass(frozen=True, slots=True)
class Client:
    """The machine behind a request."""

    address: str
    """As text, `unknown` where the socket has none."""
    subject: str
    """Whom it is counted as: the address, of IPv6 the network of the subscriber."""
    is_loopback: bool
    """On this machine, and not come through a proxy from another one."""


def parse_address(text: str) -> Address | None:
    """Read an address; None when it is none. IPv4 written as IPv6 is given as IPv4."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def is_loopback_host(host: str) -> bool:
    """Whether a server bound to this name or address is reached from this machine only."""
    if host.lower() == "localhost":
        return True
    address = parse_address(host.removeprefix("[").removesuffix("]"))
    return address is not None and address.is_loopback


class ClientFinder:
    """Finds the client of a request."""

    def __init__(self, trusted_proxies: Sequence[str]) -> None:
        """Name the proxies whose X-Forwarded-For is believed: addresses or networks."""
        self._trusted = [ipaddress.ip_network(each, strict=False) for each in trusted_proxies]

    def __call__(self, scope: Scope) -> Client:
        """Give the client; headers count only where the socket is a trusted proxy's."""
        peer = parse_address(scope["client"][0]) if scope.get("client") else None
        if peer is None:
            return Client(UNKNOWN, UNKNOWN, is_loopback=False)
        found = self._forwarded(scope, peer) if self._is_trusted(peer) else peer
        return Client(
            str(found), _subject(found), is_loopback=peer.is_loopback and found.is_loopback
        )

    def _is_trusted(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)

    def _forwarded(self, scope: Scope, peer: Address) -> Address:
        """The right-most address that is no proxy's; left of it is what anybody may write."""
        found = peer
        hops = ",".join(headers_of(scope, "x-forwarded-for")).split(",")
        for hop in reversed(hops):
            address = parse_address(_without_port(hop.strip()))
            if address is None:
                break
            found = address
            if not self._is_trusted(address):
                break
        return found


def _without_port(hop: str) -> str:
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop


def _subject(address: Address) -> str:
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, SUBSCRIBER_BITS), strict=False))
    return str(address)
