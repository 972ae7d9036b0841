"""Which names the server answers to, and that pages of other sites change nothing.

A page of another site can have a browser send requests here. Where it has pointed a name of its own
at this machine (DNS rebinding), the name in Host gives it away; else the browser says in
Sec-Fetch-Site or Origin where the request comes from. Programs send neither.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from services.api.guard.addresses import parse_address
from services.api.guard.scopes import header_of, headers_of, refuse
from services.api.problems import ProblemError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

EVERY_NAME = "*"
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
CHANGING = frozenset({"POST", "PUT", "PATCH", "DELETE"})
OWN_SITE = frozenset({"same-origin", "none"})
"""What Sec-Fetch-Site says of our own pages, and of a person's own doing."""

DEFAULT_PORTS = {"http": 80, "https": 443}

_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::([0-9]{1,5}))?")


def split_host(text: str) -> tuple[str, int | None] | None:
    """Give name and port of a Host header; None when it is none. IPv6 comes without brackets."""
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        return None
    name = match[1].lower()
    if name.startswith("["):
        address = parse_address(name[1:-1])
        if address is None:
            return None
        name = str(address)
    return name, int(match[2]) if match[2] else None


class Hosts:
    """Refuses other names than those of the server, and changes asked for by other sites."""

    def __init__(self, app: ASGIApp, bound: str, allowed: Sequence[str]) -> None:
        """Name what is answered to.

        Args:
            app: what is guarded.
            bound: name or address that the server listens on.
            allowed: more names; `*` for every name.
        """
        self._app = app
        self._allows_all = EVERY_NAME in allowed
        self._names = LOCAL_NAMES | {*allowed, *_name_of(bound)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "http":
            try:
                self._check_host(scope)
                _check_site(scope)
            except ProblemError as error:
                await refuse(scope, send, error)
                return
        await self._app(scope, receive, send)

    def _check_host(self, scope: Scope) -> None:
        if self._allows_all:
            return
        host = split_host(header_of(scope, "host") or "")
        if host is None:
            raise ProblemError("host-not-allowed", "The request has no header Host, or a bad one.")
        name = host[0]
        if name not in self._names and not self._is_own_address(scope, name):
            raise ProblemError(
                "host-not-allowed", f"This server does not answer to the name {name!r}."
            )

    def _is_own_address(self, scope: Scope, name: str) -> bool:
        """Whether it is the address that the connection came in on, where all are listened on.

        No page can be served under an address of this machine but by this machine.
        """
        server = scope.get("server")
        address = parse_address(name)
        return server is not None and address is not None and address == parse_address(server[0])


def _name_of(bound: str) -> list[str]:
    """The name that a bound address gives the server; none where it listens on all addresses."""
    address = parse_address(bound.strip("[]"))
    if address is None:
        return [bound.lower()]
    return [] if address.is_unspecified else [str(address)]


def _check_site(scope: Scope) -> None:
    if scope["method"] not in CHANGING:
        return
    sites = headers_of(scope, "sec-fetch-site")
    # No script can set this header, and a proxy does not change it as it may change Host.
    is_own = all(site in OWN_SITE for site in sites) if sites else _is_own_origin(scope)
    if not is_own:
        raise ProblemError(
            "cross-site", "A page of another site asked for a change, and changes nothing here."
        )


def _is_own_origin(scope: Scope) -> bool:
    origins = headers_of(scope, "origin")
    if not origins:
        return True
    host = split_host(header_of(scope, "host") or "")
    scheme, separator, authority = origins[0].partition("://")
    default = DEFAULT_PORTS.get(scheme.lower())
    origin = split_host(authority)
    if len(origins) > 1 or not separator or default is None or host is None or origin is None:
        return False
    return (origin[0], origin[1] or default) == (host[0], host[1] or default)
