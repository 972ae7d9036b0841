"""Rate limits, counted in the database and so shared by all server processes."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING

from limits import RateLimitItemPerMinute
from limits.storage import Storage
from limits.storage.base import SlidingWindowCounterSupport
from limits.strategies import SlidingWindowCounterRateLimiter

from services import storage
from services.api.guard.scopes import get_caller, query_database, refuse
from services.api.problems import ProblemError
from services.api.root_path import PREFIX

if TYPE_CHECKING:
    from anyio import CapacityLimiter
    from limits import RateLimitItem
    from limits.util import WindowStats
    from sqlalchemy.orm import Session
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LIMITED_PATHS = re.compile(rf"{PREFIX}/(generate|generate/batch|jobs/[^/]+/retry)")
INPUT_PATHS = re.compile(rf"{PREFIX}/inputs")


class DatabaseCounters(Storage, SlidingWindowCounterSupport):
    """Storage of the package `limits` in the database; supports only the sliding window."""

    STORAGE_SCHEME = None

    def __init__(self, session: Callable[..., AbstractContextManager[Session]]) -> None:
        super().__init__()
        self._session = session

    @property
    def base_exceptions(self) -> type[Exception] | tuple[type[Exception], ...]:
        """Errors of a database that does not answer; they are not wrapped."""
        return storage.StorageError

    def acquire_sliding_window_entry(
        self, key: str, limit: int, expiry: int, amount: int = 1
    ) -> bool:
        """Count hits if they are within the limit; return whether they were counted."""
        with self._session(read_only=True) as session:
            seen = storage.read_rate(session, key, expiry)
        # A client over the limit must not take the write lock.
        if seen.hits > seen.compute_threshold(limit, amount):
            return False
        with self._session() as session:
            return storage.count_hit(session, key, expiry, limit, amount)

    def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """Return the hits of the previous window, its seconds left, and the same for this one."""
        with self._session(read_only=True) as session:
            seen = storage.read_rate(session, key, expiry)
        return seen.earlier, seen.left, seen.hits, seen.left + expiry

    def clear_sliding_window(self, key: str, expiry: int) -> None:
        with self._session() as session:
            storage.reset_rate(session, key, expiry)

    def check(self) -> bool:
        """Return True, or raise StorageError if the database does not answer."""
        with self._session(read_only=True) as session:
            storage.read_rate(session, "check", 1)
        return True

    # The base class requires the rest, which a sliding window does not use.

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        raise NotImplementedError

    def get(self, key: str) -> int:
        raise NotImplementedError

    def get_expiry(self, key: str) -> float:
        raise NotImplementedError

    def reset(self) -> int | None:
        raise NotImplementedError

    def clear(self, key: str) -> None:
        raise NotImplementedError


class RateLimit:
    """Refuses POST requests over the limit; loopback is exempt."""

    def __init__(
        self,
        app: ASGIApp,
        limiter: CapacityLimiter,
        per_minute: int,
        paths: re.Pattern[str] = LIMITED_PATHS,
        prefix: str = "",
    ) -> None:
        """Wrap an application.

        Args:
            app: the application.
            limiter: bounds the database queries at once.
            per_minute: POST requests of one client to all the paths together.
            paths: paths the limit applies to.
            prefix: prefix of the counters, which separates them from those of another limit.
        """
        self._app = app
        self._limiter = limiter
        self._item = RateLimitItemPerMinute(per_minute)
        self._paths = paths
        self._prefix = prefix
        self._strategy = SlidingWindowCounterRateLimiter(DatabaseCounters(storage.get_session))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller = get_caller(scope) if self._is_limited(scope) else None
        if caller is None or caller.is_exempt:
            await self._app(scope, receive, send)
            return
        count = partial(_count, self._strategy, self._item, f"{self._prefix}{caller.name}")
        try:
            is_within, stats = await query_database(self._limiter, count)
        except ProblemError as error:
            await refuse(scope, send, error)
            return
        headers = self._build_headers(stats)
        if not is_within:
            await refuse(scope, send, self._build_refusal(headers))
            return

        async def send_with_rate(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
                message["headers"] = [*message.get("headers", []), *added]
            await send(message)

        await self._app(scope, receive, send_with_rate)

    def _is_limited(self, scope: Scope) -> bool:
        is_post = scope["type"] == "http" and scope["method"] == "POST"
        return is_post and self._paths.fullmatch(scope["path"]) is not None

    def _build_headers(self, stats: WindowStats) -> dict[str, str]:
        seconds = max(0, math.ceil(stats.reset_time - time.time()))
        return {
            "RateLimit-Limit": str(self._item.amount),
            "RateLimit-Remaining": str(stats.remaining),
            "RateLimit-Reset": str(seconds),
        }

    def _build_refusal(self, headers: dict[str, str]) -> ProblemError:
        wait = max(1, int(headers["RateLimit-Reset"]))
        return ProblemError(
            "rate-limited",
            f"More than {self._item.amount} such requests a minute; try again in {wait} s.",
            headers={**headers, "Retry-After": str(wait)},
        )


def _count(
    strategy: SlidingWindowCounterRateLimiter, item: RateLimitItem, name: str
) -> tuple[bool, WindowStats]:
    is_within = strategy.hit(item, name)
    return is_within, strategy.get_window_stats(item, name)
