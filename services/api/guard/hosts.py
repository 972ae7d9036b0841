"""Checks of the Host header, and of the site that a browser sends a request for.

A page of another site can make a browser send requests to this server. If the page points its own
host name at this machine (DNS rebinding), the Host header shows that name. Otherwise the browser
names the site in Sec-Fetch-Site or Origin; programs send neither.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from services.api.guard.addresses import parse_address
from services.api.guard.scopes import get_header, get_headers, refuse
from services.api.problems import ProblemError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

EVERY_NAME = "*"
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
WRITE_METHODS = frozenset({"POST", "PUT", "PATCH", "DELETE"})
OWN_SITE = frozenset({"same-origin", "none"})
"""Sec-Fetch-Site of the server's own pages, and of addresses that the user enters."""

DEFAULT_PORTS = {"http": 80, "https": 443}

_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::([0-9]{1,5}))?")


def split_host(text: str) -> tuple[str, int | None] | None:
    """Parse a Host header into name and port; return None if it is invalid.

    The name is in lower case, and an IPv6 address is without brackets.
    """
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


class HostCheck:
    """Refuses requests to unknown host names, and write requests from pages of other sites."""

    def __init__(self, app: ASGIApp, bound: str, allowed: Sequence[str]) -> None:
        """Wrap an application.

        Args:
            app: the application.
            bound: name or address that the server listens on.
            allowed: more names; `*` allows every name.
        """
        self._app = app
        self._allows_all = EVERY_NAME in allowed
        self._names = LOCAL_NAMES | {*allowed, *_get_bound_names(bound)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
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
        host = split_host(get_header(scope, "host") or "")
        if host is None:
            raise ProblemError("host-not-allowed", "The Host header is missing or invalid.")
        name = host[0]
        if name not in self._names and not self._is_own_address(scope, name):
            raise ProblemError(
                "host-not-allowed", f"This server does not answer to the host name {name!r}."
            )

    def _is_own_address(self, scope: Scope, name: str) -> bool:
        # The address the connection was made to. Only this machine can serve a page under it, so
        # it cannot be used for DNS rebinding.
        server = scope.get("server")
        address = parse_address(name)
        return server is not None and address is not None and address == parse_address(server[0])


def _get_bound_names(bound: str) -> list[str]:
    address = parse_address(bound.strip("[]"))
    if address is None:
        return [bound.lower()]
    return [] if address.is_unspecified else [str(address)]


def _check_site(scope: Scope) -> None:
    if scope["method"] not in WRITE_METHODS:
        return
    sites = get_headers(scope, "sec-fetch-site")
    # Preferred to Origin: scripts cannot set it, and comparing Origin needs Host, which a proxy
    # may change.
    is_own = all(site in OWN_SITE for site in sites) if sites else _is_own_origin(scope)
    if not is_own:
        raise ProblemError(
            "cross-site", "This request comes from a page of another site, which may only read."
        )


def _is_own_origin(scope: Scope) -> bool:
    origins = get_headers(scope, "origin")
    if not origins:
        return True
    host = split_host(get_header(scope, "host") or "")
    scheme, separator, authority = origins[0].partition("://")
    default = DEFAULT_PORTS.get(scheme.lower())
    origin = split_host(authority)
    if len(origins) > 1 or not separator or default is None or host is None or origin is None:
        return False
    return (origin[0], origin[1] or default) == (host[0], host[1] or default)
