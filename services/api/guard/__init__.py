"""What stands between the network and the application: docs/security.md."""

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
from services.api.guard.bodies import Bodies
from services.api.guard.connections import BoundedConnection
from services.api.guard.headers import SecurityHeaders
from services.api.guard.hosts import Hosts
from services.api.guard.logs import AccessLog
from services.api.guard.rates import INPUT_PATHS, Rates
from services.api.guard.request_id import RequestId
from services.api.guard.scopes import caller_of, request_id_of
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
    "caller_of",
    "is_loopback_host",
    "request_id_of",
    "require_guarded",
]

QUESTIONS_AT_ONCE = 4
"""Of the guard to the database, so that the connections of the application stay free."""


def assemble(
    app: ASGIApp,
    settings: Settings,
    names: RouteNames,
    *,
    host: str | None = None,
    open_paths: Collection[str] = OPEN_PATHS,
    open_folders: Collection[str] = OPEN_FOLDERS,
) -> ASGIApp:
    """Put the guard around an application. The database is open when the first request comes.

    Args:
        app: what is guarded.
        settings: of the process.
        names: of the application's routes, for the log.
        host: name or address that the server listens on; None is the settings'.
        open_paths: that need no key.
        open_folders: beginnings of such paths.
    """
    bound = host or settings.api_host
    questions = CapacityLimiter(QUESTIONS_AT_ONCE)
    guarded: ASGIApp = Bodies(app, settings.api_max_body_bytes, settings.input_max_bytes)
    if settings.rate_limit_enabled:
        per_minute = settings.rate_limit_per_minute
        guarded = Rates(guarded, questions, per_minute)
        guarded = Rates(guarded, questions, per_minute, INPUT_PATHS, apart="inputs ")
    guarded = Authentication(
        guarded,
        Keys(questions),
        settings.api_key,
        may_be_open=is_loopback_host(bound),
        open_paths=open_paths,
        open_folders=open_folders,
    )
    guarded = Hosts(guarded, bound, settings.api_allowed_hosts)
    # What is refused further in is logged, and has an id and the headers, as everything has.
    guarded = SecurityHeaders(guarded)
    guarded = AccessLog(guarded, ClientFinder(settings.api_trusted_proxies), names)
    return RequestId(guarded)


def require_guarded(settings: Settings, host: str) -> None:
    """Refuse an address that other machines reach as long as nobody needs a key.

    Raises:
        SettingsError: there is no key.
        StorageError: the database, which has the keys, cannot be read.
    """
    if is_loopback_host(host) or settings.api_key is not None:
        return
    with storage_errors(), storage.get_session(read_only=True) as session:
        if storage.any_api_keys(session):
            return
    raise SettingsError(
        f"Other machines reach {host}, and the API has no key. Make one with "
        "`dgx-music keys create NAME`, set DGX_MUSIC_API_KEY, or listen on 127.0.0.1."
    )
