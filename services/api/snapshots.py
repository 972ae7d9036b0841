"""Snapshots for listeners that begin: of many that want the same at once, one asks the database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anyio import to_thread

from services.api.feed import wire_form

if TYPE_CHECKING:
    from services.api.feed import Feed
    from services.jobs.view import Rank

FRESH_SECONDS = 0.25
"""How old a snapshot may be that is given out again."""


@dataclass(frozen=True, slots=True)
class View:
    """What a caller may see, as it is now."""

    data: bytes
    """As JSON."""
    ranks: dict[str, Rank]
    """Of the jobs in it."""
    is_over: bool = False
    """Whether nothing will follow."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A view, and the position in the feed from which on events complete it."""

    position: str
    view: View
    wire: bytes
    """As it is sent."""


@dataclass(slots=True)
class _Flight:
    position: str
    begun: float
    """On the clock of the loop."""
    taken: asyncio.Task[Snapshot]


class Snapshots:
    """The snapshots of one feed, by what their listeners may see."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._flights: dict[str, _Flight] = {}

    async def get(self, name: str, look: Callable[[], View]) -> Snapshot:
        """Give a snapshot whose position was noted before the database was read.

        Whatever happened in between is in the snapshot, and among the events after it: the ranks
        tell a listener what it has seen.

        Args:
            name: the same for all who may see the same.
            look: reads the database; runs in a thread.
        """
        now = asyncio.get_running_loop().time()
        flight = self._flights.get(name)
        if flight is None or not self._holds(flight, now):
            self._flights = {
                each: one for each, one in self._flights.items() if self._holds(one, now)
            }
            position = self._feed.position()
            task = asyncio.create_task(_take(position, look))
            # Where everybody who waited has left, nobody asks what became of it.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            flight = self._flights[name] = _Flight(position, now, task)
        # Who leaves takes the snapshot from nobody else.
        return await asyncio.shield(flight.taken)

    def _holds(self, flight: _Flight, now: float) -> bool:
        if flight.taken.done() and (flight.taken.cancelled() or flight.taken.exception()):
            return False
        return flight.position == self._feed.position() and now - flight.begun < FRESH_SECONDS


async def _take(position: str, look: Callable[[], View]) -> Snapshot:
    view = await to_thread.run_sync(look)
    return Snapshot(position, view, wire_form(position, "snapshot", view.data))
