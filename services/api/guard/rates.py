"""How often a client may ask for music: counted together by all processes of a database."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING

from limits import RateLimitItemPerMinute
from limits.storage import Storage
from limits.storage.base import SlidingWindowCounterSupport
from limits.strategies import SlidingWindowCounterRateLimiter

from services import storage
from services.api.guard.scopes import ask_database, caller_of, refuse
from services.api.problems import PREFIX, ProblemError

if TYPE_CHECKING:
    from anyio import CapacityLimiter
    from limits import RateLimitItem
    from limits.util import WindowStats
    from sqlalchemy.orm import Session
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LIMITED_PATHS = frozenset({f"{PREFIX}/generate", f"{PREFIX}/generate/batch"})
INPUT_PATHS = frozenset({f"{PREFIX}/inputs"})


class DatabaseCounters(Storage, SlidingWindowCounterSupport):
    """The counters of `limits` in our database; it counts with the sliding window only."""

    STORAGE_SCHEME = None

    def __init__(self, session: Callable[..., AbstractContextManager[Session]]) -> None:
        """Say how a session is opened; as `services.storage.get_session`."""
        super().__init__()
        self._session = session

    @property
    def base_exceptions(self) -> type[Exception] | tuple[type[Exception], ...]:
        """What a database that is away raises; it is not wrapped."""
        return storage.StorageError

    def acquire_sliding_window_entry(
        self, key: str, limit: int, expiry: int, amount: int = 1
    ) -> bool:
        """Count hits if they are within the limit."""
        with self._session(read_only=True) as session:
            seen = storage.read_rate(session, key, expiry)
        # Whoever is past the limit keeps no one from writing.
        if seen.hits > seen.room(limit, amount):
            return False
        with self._session() as session:
            return storage.count_hit(session, key, expiry, limit, amount)

    def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """Give the hits before and their seconds left, the present hits and theirs."""
        with self._session(read_only=True) as session:
            seen = storage.read_rate(session, key, expiry)
        return seen.earlier, seen.left, seen.hits, seen.left + expiry

    def clear_sliding_window(self, key: str, expiry: int) -> None:
        """Begin to count anew."""
        with self._session() as session:
            storage.forget_rate(session, key, expiry)

    def check(self) -> bool:
        """Whether the database answers."""
        with self._session(read_only=True) as session:
            storage.read_rate(session, "check", 1)
        return True

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Not used with a sliding window."""
        raise NotImplementedError

    def get(self, key: str) -> int:
        """Not used with a sliding window."""
        raise NotImplementedError

    def get_expiry(self, key: str) -> float:
        """Not used with a sliding window."""
        raise NotImplementedError

    def reset(self) -> int | None:
        """Not used: the counters of others are in the same table."""
        raise NotImplementedError

    def clear(self, key: str) -> None:
        """Not used with a sliding window."""
        raise NotImplementedError


class Rates:
    """Refuses requests past the limit, before they make anything; loopback is left alone."""

    def __init__(
        self,
        app: ASGIApp,
        limiter: CapacityLimiter,
        per_minute: int,
        paths: Collection[str] = LIMITED_PATHS,
        apart: str = "",
    ) -> None:
        """Set the limit.

        Args:
            app: what is guarded.
            limiter: how many questions the database is asked at once.
            per_minute: POSTs of one client to all the paths together.
            paths: that are limited.
            apart: what tells these hits from those of another limit.
        """
        self._app = app
        self._limiter = limiter
        self._item = RateLimitItemPerMinute(per_minute)
        self._paths = frozenset(paths)
        self._apart = apart
        self._strategy = SlidingWindowCounterRateLimiter(DatabaseCounters(storage.get_session))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        caller = caller_of(scope) if self._is_limited(scope) else None
        if caller is None or caller.is_exempt:
            await self._app(scope, receive, send)
            return
        count = partial(_count, self._strategy, self._item, f"{self._apart}{caller.name}")
        try:
            is_within, stats = await ask_database(self._limiter, count)
        except ProblemError as error:
            await refuse(scope, send, error)
            return
        headers = self._headers(stats)
        if not is_within:
            await refuse(scope, send, self._refusal(headers))
            return

        async def send_with_rate(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
                message["headers"] = [*message.get("headers", []), *added]
            await send(message)

        await self._app(scope, receive, send_with_rate)

    def _is_limited(self, scope: Scope) -> bool:
        return (
            scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in self._paths
        )

    def _headers(self, stats: WindowStats) -> dict[str, str]:
        seconds = max(0, math.ceil(stats.reset_time - time.time()))
        return {
            "RateLimit-Limit": str(self._item.amount),
            "RateLimit-Remaining": str(stats.remaining),
            "RateLimit-Reset": str(seconds),
        }

    def _refusal(self, headers: dict[str, str]) -> ProblemError:
        wait = max(1, int(headers["RateLimit-Reset"]))
        return ProblemError(
            "rate-limited",
            f"More than {self._item.amount} such requests in a minute; ask again in {wait} s.",
            headers={**headers, "Retry-After": str(wait)},
        )


def _count(
    strategy: SlidingWindowCounterRateLimiter, item: RateLimitItem, name: str
) -> tuple[bool, WindowStats]:
    is_within = strategy.hit(item, name)
    return is_within, strategy.get_window_stats(item, name)
