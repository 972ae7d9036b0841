"""The middleware between the network and the application (docs/security.md)."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from anyio import CapacityLimiter

from services import storage
from services.api.guard.addresses import Client, ClientFinder, is_loopback_host
from services.api.guard.authentication import (
    OPEN_FOLDERS,
    OPEN_PATHS,
    Authentication,
    Keys,
)
from services.api.guard.bodies import BodyLimits
from services.api.guard.connections import BoundedConnection
from services.api.guard.headers import SecurityHeaders
from services.api.guard.hosts import HostCheck
from services.api.guard.logs import AccessLog
from services.api.guard.rates import INPUT_PATHS, RateLimit
from services.api.guard.request_id import RequestId
from services.api.guard.scopes import get_caller, get_request_id
from services.database import storage_errors
from services.errors import SettingsError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from services.api.route_names import RouteNames
    from services.config import Settings

__all__ = [
    "OPEN_FOLDERS",
    "OPEN_PATHS",
    "BoundedConnection",
    "Client",
    "assemble",
    "get_caller",
    "get_request_id",
    "is_loopback_host",
    "require_key",
]

CONCURRENT_QUERIES = 4
"""Database queries of the guard at once; the rest of the connections are the application's."""


def assemble(
    app: ASGIApp,
    settings: Settings,
    names: RouteNames,
    *,
    host: str | None = None,
    open_paths: Collection[str] = OPEN_PATHS,
    open_folders: Collection[str] = OPEN_FOLDERS,
) -> ASGIApp:
    """Put the guard around an application; the database must be open before the first request.

    Args:
        app: the application.
        settings: of the process.
        names: templates of the application's routes, for the log.
        host: name or address the server listens on; None for that of the settings.
        open_paths: paths that need no key.
        open_folders: prefixes of paths that need no key.
    """
    bound = host or settings.api_host
    limiter = CapacityLimiter(CONCURRENT_QUERIES)
    guarded: ASGIApp = BodyLimits(app, settings.api_max_body_bytes, settings.input_max_bytes)
    if settings.rate_limit_enabled:
        per_minute = settings.rate_limit_per_minute
        guarded = RateLimit(guarded, limiter, per_minute)
        guarded = RateLimit(guarded, limiter, per_minute, INPUT_PATHS, prefix="inputs ")
    guarded = Authentication(
        guarded,
        Keys(limiter),
        settings.api_key,
        may_be_open=is_loopback_host(bound),
        open_paths=open_paths,
        open_folders=open_folders,
    )
    guarded = HostCheck(guarded, bound, settings.api_allowed_hosts)
    # Outermost, so that a refused request is logged too, and its answer has an id and the headers.
    guarded = SecurityHeaders(guarded)
    guarded = AccessLog(guarded, ClientFinder(settings.api_trusted_proxies), names)
    return RequestId(guarded)


def require_key(settings: Settings, host: str) -> None:
    """Check that an address other machines can reach is protected by a key.

    Raises:
        SettingsError: other machines can reach the address, and no key was ever created or set.
        StorageError: the database cannot be read.
    """
    if is_loopback_host(host) or settings.api_key is not None:
        return
    with storage_errors(), storage.get_session(read_only=True) as session:
        if storage.has_api_keys(session):
            return
    raise SettingsError(
        f"Other machines can reach {host}, but the API has no key. Create one with "
        "`dgx-music keys create NAME`, set DGX_MUSIC_API_KEY, or listen on 127.0.0.1."
    )
