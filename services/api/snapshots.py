"""Snapshots for new subscribers: one database query serves all that want the same one at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anyio import to_thread

from services.api.feed import encode_event

if TYPE_CHECKING:
    from services.api.feed import Feed
    from services.jobs.view import Rank

FRESH_SECONDS = 0.25
"""Longest time for which a snapshot is reused."""


@dataclass(frozen=True, slots=True)
class View:
    """The current state of one job, or of all jobs a caller can see."""

    data: bytes
    """JSON."""
    ranks: dict[str, Rank]
    """Job id -> rank, of the jobs in `data`."""
    is_final: bool = False
    """Whether no event can follow."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A view, and the position in the feed after which events continue it."""

    position: str
    view: View
    encoded: bytes
    """The server-sent event."""


@dataclass(slots=True)
class _Entry:
    position: str
    begun_at: float
    """On the clock of the loop."""
    task: asyncio.Task[Snapshot]


class Snapshots:
    """The latest snapshots of a feed, by the name of what they show."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._entries: dict[str, _Entry] = {}

    async def get(self, name: str, read: Callable[[], View]) -> Snapshot:
        """Return a snapshot whose position was read before the database.

        A change between the two is in the snapshot and also among the events after it; the ranks
        let a stream skip such events.

        Args:
            name: the same for all callers that see the same.
            read: reads the database; runs in a thread.
        """
        now = asyncio.get_running_loop().time()
        entry = self._entries.get(name)
        if entry is None or not self._is_fresh(entry, now):
            self._entries = {
                each: one for each, one in self._entries.items() if self._is_fresh(one, now)
            }
            position = self._feed.position
            task = asyncio.create_task(_read_snapshot(position, read))
            # Retrieve the exception: asyncio warns about it if every caller was cancelled.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            entry = self._entries[name] = _Entry(position, now, task)
        # A cancelled caller must not cancel the snapshot of the others.
        return await asyncio.shield(entry.task)

    def _is_fresh(self, entry: _Entry, now: float) -> bool:
        if entry.task.done() and (entry.task.cancelled() or entry.task.exception()):
            return False
        return entry.position == self._feed.position and now - entry.begun_at < FRESH_SECONDS


async def _read_snapshot(position: str, read: Callable[[], View]) -> Snapshot:
    view = await to_thread.run_sync(read)
    return Snapshot(position, view, encode_event(position, "snapshot", view.data))
