"""Authentication by API key; a server without keys identifies callers by their address."""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

import anyio

from services import storage
from services.api.caller import Caller
from services.api.guard.scopes import (
    OPERATOR,
    get_headers,
    get_state,
    query_database,
    refuse,
)
from services.api.problems import ProblemError
from services.api.root_path import PREFIX

if TYPE_CHECKING:
    from anyio import CapacityLimiter
    from pydantic import SecretStr
    from starlette.types import ASGIApp, Receive, Scope, Send

    from services.api.guard.addresses import Client

OPEN_PATHS = frozenset(
    f"{PREFIX}/{path}"
    for path in ("health", "health/live", "health/ready", "openapi.json", "docs", "problems")
)
"""Paths that need no key: health checks and documentation."""

OPEN_FOLDERS = (f"{PREFIX}/docs/", f"{PREFIX}/problems/")

METRICS_PATH = "/metrics"
"""Answered without a check of the key while the database does not answer, with that fact alone."""

CACHE_SECONDS = 3.0
"""Time for which a valid key is cached, and so the longest that a revoked key still works."""

USE_RECORDED_SECONDS = 60.0
"""Shortest time between two records in the database, by this process, that a key is in use."""

_KEY_FORM = re.compile(r"dgxm_[A-Za-z0-9_-]{43}")
_BEARER = re.compile(r"bearer +(\S+) *", re.IGNORECASE)


@dataclass(slots=True)
class _CachedKey:
    key_id: str
    checked_at: float
    lock: anyio.Lock = field(default_factory=anyio.Lock)


class Keys:
    """Cached access to the keys of the database."""

    def __init__(
        self,
        limiter: CapacityLimiter,
        seconds: float = CACHE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create an empty cache.

        Args:
            limiter: bounds the database queries at once.
            seconds: time for which an answer is cached.
            clock: monotonic, seconds.
        """
        self._limiter = limiter
        self._seconds = seconds
        self._clock = clock
        self._cached: dict[str, _CachedKey] = {}
        self._recorded_at: dict[str, float] = {}
        self._has_any = False
        self._has_none_until = -inf
        self._any_lock = anyio.Lock()

    async def has_any(self) -> bool:
        """Whether a key was ever created; once True, it stays so for the life of the process.

        Raises:
            ProblemError: the database does not answer.
        """
        if not self._has_any and self._clock() >= self._has_none_until:
            async with self._any_lock:
                if self._clock() >= self._has_none_until:
                    asked_at = self._clock()
                    self._has_any = await query_database(self._limiter, _has_keys)
                    self._has_none_until = asked_at + self._seconds
        return self._has_any

    async def find_id(self, secret: str) -> str | None:
        """Return the id of a key, or None if it is unknown or revoked.

        Raises:
            ProblemError: the database does not answer.
        """
        if not _KEY_FORM.fullmatch(secret):
            return None
        digest = hashlib.sha256(secret.encode()).hexdigest()
        known = self._cached.get(digest)
        if known is None:
            return await self._look_up(digest, secret)
        if self._is_fresh(known):
            return known.key_id
        # Of concurrent requests with the same key, only the first queries the database.
        async with known.lock:
            if self._is_fresh(known):
                return known.key_id
            return await self._look_up(digest, secret)

    async def record_use(self, key_id: str) -> None:
        """Record that a key was used, at most once in `USE_RECORDED_SECONDS`."""
        now = self._clock()
        if now < self._recorded_at.get(key_id, -inf) + USE_RECORDED_SECONDS:
            return
        self._recorded_at[key_id] = now
        # The request is already answered, so a failure here must not turn it into an error.
        with suppress(ProblemError):
            await query_database(self._limiter, lambda: _touch_key(key_id))

    def _is_fresh(self, known: _CachedKey) -> bool:
        return self._clock() < known.checked_at + self._seconds

    async def _look_up(self, digest: str, secret: str) -> str | None:
        asked_at = self._clock()
        key_id = await query_database(self._limiter, lambda: _find_key(secret))
        if key_id is None:
            self._cached.pop(digest, None)
            return None
        known = self._cached.setdefault(digest, _CachedKey(key_id, asked_at))
        known.checked_at = asked_at
        return key_id


class Authentication:
    """Identifies the caller of a request, and refuses the request if a key is required."""

    def __init__(
        self,
        app: ASGIApp,
        keys: Keys,
        operator_key: SecretStr | None,
        *,
        may_be_open: bool,
        open_paths: Collection[str] = OPEN_PATHS,
        open_folders: Collection[str] = OPEN_FOLDERS,
    ) -> None:
        """Wrap an application.

        Args:
            app: the application.
            keys: keys of the database.
            operator_key: key of the settings.
            may_be_open: serve every caller while no key exists; set only if nothing but this
                machine, and the proxies on it, can connect.
            open_paths: paths that never need a key.
            open_folders: prefixes of paths that never need a key.
        """
        self._app = app
        self._keys = keys
        self._operator = None if operator_key is None else _digest(operator_key.get_secret_value())
        self._may_be_open = may_be_open
        self._open_paths = frozenset(open_paths)
        self._open_folders = tuple(open_folders)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client: Client = get_state(scope)["client"]
        try:
            caller = await self._identify(scope, client)
        except ProblemError as error:
            await refuse(scope, send, error)
            return
        get_state(scope)["caller"] = caller
        await self._app(scope, receive, send)
        if caller.owner is not None:
            await self._keys.record_use(caller.owner)

    async def _identify(self, scope: Scope, client: Client) -> Caller:
        if self._is_open_path(scope["path"]):
            return Caller(
                owner=None, sees_all=False, name=client.subject, is_exempt=client.is_loopback
            )
        secret = _read_key(scope)
        if secret is not None and self._is_operator_key(secret):
            return Caller(owner=None, sees_all=True, name=OPERATOR, is_exempt=client.is_loopback)
        try:
            key_id = None if secret is None else await self._keys.find_id(secret)
            is_open = key_id is None and await self._is_open()
        except ProblemError:
            if scope["path"] != METRICS_PATH:
                raise
            return Caller(
                owner=None, sees_all=False, name=client.subject, is_exempt=client.is_loopback
            )
        if key_id is not None:
            return Caller(owner=key_id, sees_all=False, name=key_id, is_exempt=client.is_loopback)
        if is_open:
            return Caller(
                owner=None, sees_all=True, name=client.subject, is_exempt=client.is_loopback
            )
        raise _require_key("This API key is unknown or revoked." if secret else "Send an API key.")

    def _is_open_path(self, path: str) -> bool:
        return path in self._open_paths or path.startswith(self._open_folders)

    def _is_operator_key(self, secret: str) -> bool:
        # Digests have one length whatever was sent; `compare_digest` takes no non-ASCII text.
        return self._operator is not None and secrets.compare_digest(
            _digest(secret), self._operator
        )

    async def _is_open(self) -> bool:
        if not self._may_be_open or self._operator is not None:
            return False
        return not await self._keys.has_any()


def _read_key(scope: Scope) -> str | None:
    """Return the key in the headers, or None.

    Raises:
        ProblemError: several different keys were sent.
    """
    found = {value.strip() for value in get_headers(scope, "x-api-key")}
    for value in get_headers(scope, "authorization"):
        match = _BEARER.fullmatch(value)
        if match is not None:
            found.add(match[1])
    if len(found) > 1:
        raise _require_key("Several different API keys were sent; send one.")
    return next(iter(found), None)


def _require_key(detail: str) -> ProblemError:
    return ProblemError("key-required", detail, headers={"WWW-Authenticate": "Bearer"})


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _has_keys() -> bool:
    with storage.get_session(read_only=True) as session:
        return storage.has_api_keys(session)


def _touch_key(key_id: str) -> None:
    with storage.get_session() as session:
        storage.touch_api_key(session, key_id)


def _find_key(secret: str) -> str | None:
    with storage.get_session(read_only=True) as session:
        row = storage.find_api_key(session, secret)
    return None if row is None else row.id
