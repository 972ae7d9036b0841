"""Whose request it is: by its key, or by its address where the server needs no keys."""

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
    ask_database,
    headers_of,
    refuse,
    state_of,
)
from services.api.problems import PREFIX, ProblemError

if TYPE_CHECKING:
    from anyio import CapacityLimiter
    from pydantic import SecretStr
    from starlette.types import ASGIApp, Receive, Scope, Send

    from services.api.guard.addresses import Client

OPEN_PATHS = frozenset(
    f"{PREFIX}/{path}"
    for path in ("health", "health/live", "health/ready", "openapi.json", "docs", "problems")
)
"""Open to everybody: how the server is, and how it is used."""

OPEN_FOLDERS = (f"{PREFIX}/docs/", f"{PREFIX}/problems/")

CACHE_SECONDS = 3.0
"""How long a key that was found is taken for good: a revoked one opens nothing after that."""

USE_NOTED_SECONDS = 60.0
"""How often at most this process notes in the database that a key is used."""

_KEY_FORM = re.compile(r"dgxm_[A-Za-z0-9_-]{43}")
_BEARER = re.compile(r"bearer +(\S+) *", re.IGNORECASE)


@dataclass(slots=True)
class _Remembered:
    """A key that was found in the database."""

    key_id: str
    checked_at: float
    lock: anyio.Lock = field(default_factory=anyio.Lock)


class Keys:
    """The keys of the database, each asked for at most once in `seconds`."""

    def __init__(
        self,
        limiter: CapacityLimiter,
        seconds: float = CACHE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start with nothing known.

        Args:
            limiter: how many questions the database is asked at once.
            seconds: how long an answer holds.
            clock: seconds, ever rising.
        """
        self._limiter = limiter
        self._seconds = seconds
        self._clock = clock
        self._remembered: dict[str, _Remembered] = {}
        self._noted_at: dict[str, float] = {}
        self._any = False
        self._none_until = -inf
        self._any_lock = anyio.Lock()

    async def exist(self) -> bool:
        """Whether a key was ever made; once one was, for the life of the process.

        Raises:
            ProblemError: the database does not answer.
        """
        if not self._any and self._clock() >= self._none_until:
            async with self._any_lock:
                if self._clock() >= self._none_until:
                    asked_at = self._clock()
                    self._any = await ask_database(self._limiter, _any_keys)
                    self._none_until = asked_at + self._seconds
        return self._any

    async def id_of(self, secret: str) -> str | None:
        """Give the id of a key; None when there is none, or it was revoked.

        Raises:
            ProblemError: the database does not answer.
        """
        if not _KEY_FORM.fullmatch(secret):
            return None
        digest = hashlib.sha256(secret.encode()).hexdigest()
        known = self._remembered.get(digest)
        if known is None:
            return await self._ask(digest, secret)
        if self._holds(known):
            return known.key_id
        # Of many requests with one key only the first asks.
        async with known.lock:
            if self._holds(known):
                return known.key_id
            return await self._ask(digest, secret)

    async def note_use(self, key_id: str) -> None:
        """Write down that a key was used, unless that was done of late; never fails."""
        now = self._clock()
        if now < self._noted_at.get(key_id, -inf) + USE_NOTED_SECONDS:
            return
        self._noted_at[key_id] = now
        # The request is answered; that this is not known matters less than that it is.
        with suppress(ProblemError):
            await ask_database(self._limiter, lambda: _touch_key(key_id))

    def _holds(self, known: _Remembered) -> bool:
        return self._clock() < known.checked_at + self._seconds

    async def _ask(self, digest: str, secret: str) -> str | None:
        asked_at = self._clock()
        key_id = await ask_database(self._limiter, lambda: _find_key(secret))
        if key_id is None:
            self._remembered.pop(digest, None)
            return None
        known = self._remembered.setdefault(digest, _Remembered(key_id, asked_at))
        known.checked_at = asked_at
        return key_id


class Authentication:
    """Finds the caller of a request, and refuses the request where there has to be a key."""

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
        """Set who comes in.

        Args:
            app: what is guarded.
            keys: of the database.
            operator_key: of the settings.
            may_be_open: serve everybody as long as there are no keys; where only this machine,
                and the proxies on it, can connect.
            open_paths: that need none ever.
            open_folders: beginnings of such paths.
        """
        self._app = app
        self._keys = keys
        self._operator = None if operator_key is None else _digest(operator_key.get_secret_value())
        self._may_be_open = may_be_open
        self._open_paths = frozenset(open_paths)
        self._open_folders = tuple(open_folders)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client: Client = state_of(scope)["client"]
        try:
            caller = await self._caller(scope, client)
        except ProblemError as error:
            await refuse(scope, send, error)
            return
        state_of(scope)["caller"] = caller
        await self._app(scope, receive, send)
        if caller.owner is not None:
            await self._keys.note_use(caller.owner)

    async def _caller(self, scope: Scope, client: Client) -> Caller:
        if self._is_open_path(scope["path"]):
            return Caller(
                owner=None, sees_all=False, name=client.subject, is_exempt=client.is_loopback
            )
        secret = _sent_key(scope)
        if secret is not None and self._is_operators(secret):
            return Caller(owner=None, sees_all=True, name=OPERATOR, is_exempt=client.is_loopback)
        key_id = None if secret is None else await self._keys.id_of(secret)
        if key_id is not None:
            return Caller(owner=key_id, sees_all=False, name=key_id, is_exempt=client.is_loopback)
        if await self._is_open():
            return Caller(
                owner=None, sees_all=True, name=client.subject, is_exempt=client.is_loopback
            )
        raise _key_required("This key opens nothing here." if secret else "No key was sent.")

    def _is_open_path(self, path: str) -> bool:
        return path in self._open_paths or path.startswith(self._open_folders)

    def _is_operators(self, secret: str) -> bool:
        # Digests are of one length whatever was sent, and bytes of any kind can be compared.
        return self._operator is not None and secrets.compare_digest(
            _digest(secret), self._operator
        )

    async def _is_open(self) -> bool:
        if not self._may_be_open or self._operator is not None:
            return False
        return not await self._keys.exist()


def _sent_key(scope: Scope) -> str | None:
    """The one key that was sent; None when none was.

    Raises:
        ProblemError: several different ones were.
    """
    found = {value.strip() for value in headers_of(scope, "x-api-key")}
    for value in headers_of(scope, "authorization"):
        match = _BEARER.fullmatch(value)
        if match is not None:
            found.add(match[1])
    if len(found) > 1:
        raise _key_required("Several keys were sent; send one.")
    return next(iter(found), None)


def _key_required(detail: str) -> ProblemError:
    return ProblemError("key-required", detail, headers={"WWW-Authenticate": "Bearer"})


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _any_keys() -> bool:
    with storage.get_session(read_only=True) as session:
        return storage.any_api_keys(session)


def _touch_key(key_id: str) -> None:
    with storage.get_session() as session:
        storage.touch_api_key(session, key_id)


def _find_key(secret: str) -> str | None:
    with storage.get_session(read_only=True) as session:
        row = storage.find_api_key(session, secret)
    return None if row is None else row.id
