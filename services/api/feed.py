"""The feed of job events: one poll of the database serves every subscriber.

Events are derived from the rows, so every API process sees them, whichever worker runs the job.
Events are numbered, and the latest are kept: a subscriber that reconnects with the last number it
received misses nothing, and one whose number has expired gets a new snapshot.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING

from anyio import to_thread

from services import storage
from services.api.problems import ProblemError
from services.api.schemas import JobView
from services.errors import StorageError
from services.jobs.view import rank_job, rank_state
from services.machine.open_files import count_allowed_connections

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.jobs.models import Job
    from services.jobs.service import MusicService
    from services.jobs.view import Rank
    from services.storage import JobState

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
SECONDS_PER_SUBSCRIBER = 0.001
"""The poll interval is at least this long per subscriber, because writing to each takes time."""

IDLE_SECONDS = 60.0
"""Seconds of polling after the last subscriber leaves: one that reconnects misses nothing."""

HEARTBEAT_SECONDS = 15.0
"""Longest time without a byte on a stream."""

KEPT_EVENTS = 1024
MAX_SUBSCRIBERS = 2_000
_CLOCK_SLACK = timedelta(seconds=10)
"""How far the clocks of machines that share a database may differ."""


@dataclass(frozen=True, slots=True)
class Event:
    """A change of one job."""

    name: str
    """`progress` or `done`."""
    job_id: str
    owner: str | None
    rank: Rank
    """Increases with every step of a job."""
    encoded: bytes
    """The server-sent event, with the job as JSON."""


class EventBatch:
    """The events after a position; subscribers at the same position share one batch."""

    def __init__(self, events: list[Event]) -> None:
        self.events = events

    def encode(self, some: list[Event]) -> bytes:
        """Join a subset of the events into one piece; the whole batch is joined only once."""
        if len(some) == len(self.events):
            return self._encoded
        return b"".join(event.encoded for event in some)

    @cached_property
    def _encoded(self) -> bytes:
        return b"".join(event.encoded for event in self.events)


class Feed:
    """The events of one server process."""

    def __init__(self, service: MusicService) -> None:
        self._service = service
        self._epoch = ""
        self._number = 0
        self._events: deque[Event] = deque(maxlen=KEPT_EVENTS)
        self._latest: tuple[str, EventBatch] | None = None
        """The position last asked for, where most subscribers are, and its batch."""
        self._subscribers = 0
        self._changed = asyncio.Event()
        self._closed = asyncio.Event()
        self._ready = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None
        self._ranks: dict[str, Rank] = {}
        self._since = storage.utc_now()

    @property
    def is_closed(self) -> bool:
        return self._closed.is_set()

    @property
    def position(self) -> str:
        """Id of the last event; a subscriber resumes after it."""
        return f"{self._epoch}-{self._number}"

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Close the feed and stop polling at the end of the block."""
        try:
            yield
        finally:
            self.close()
            if self._watcher is not None:
                await self._watcher

    def close(self) -> None:
        """End every stream and every wait."""
        self._closed.set()
        self._wake()

    @property
    def subscriber_count(self) -> int:
        """Number of open event streams and of requests that wait for a job."""
        return self._subscribers

    @property
    def has_capacity(self) -> bool:
        # The other half of the connections is for requests.
        most = min(MAX_SUBSCRIBERS, count_allowed_connections() // 2)
        return self.subscriber_count < most

    def require_capacity(self) -> None:
        """Refuse a subscriber too many before its stream begins, while a status can be sent.

        Raises:
            ProblemError: `unavailable`; as many as may be are subscribed.
        """
        if not self.has_capacity:
            raise ProblemError(
                "unavailable",
                "Too many event streams are open; try again in 10 s.",
                headers={"Retry-After": "10"},
            )

    @contextmanager
    def subscribe(self) -> Iterator[None]:
        """Count as a subscriber inside the block; the first one starts the polling."""
        self._subscribers += 1
        try:
            if self._watcher is None or self._watcher.done():
                self._start()
            yield
        finally:
            self._subscribers -= 1

    async def wait_until_ready(self, seconds: float) -> bool:
        """Wait until every later change becomes an event; return False after the time-out."""
        return await _wait_until_set(self._ready, seconds)

    def get_events_after(self, position: str) -> EventBatch | None:
        """Return the events after a position, or None if the position is unknown or expired."""
        if self._latest is None or self._latest[0] != position:
            events = self._find_events_after(position)
            if events is None:
                return None
            self._latest = position, EventBatch(events)
        return self._latest[1]

    def _find_events_after(self, position: str) -> list[Event] | None:
        epoch, _, text = position.rpartition("-")
        if epoch != self._epoch or not (text.isascii() and text.isdigit() and len(text) < 16):
            return None
        number = int(text)
        oldest = self._number - len(self._events)
        if not oldest <= number <= self._number:
            return None
        count = self._number - number
        return [self._events[index] for index in range(-count, 0)]

    async def wait_for_change(self) -> None:
        """Wait for events, a heartbeat or the close of the feed; return at once if it is closed."""
        # There is no time-out: it would cost a task and a timer for each subscriber.
        if not self.is_closed:
            await self._changed.wait()

    async def wait_for_job(
        self, job_id: str, seconds: float, is_disconnected: Callable[[], Awaitable[bool]]
    ) -> JobView:
        """Return a job when it is finished, the time is up, or the client has disconnected."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        with self.subscribe():
            await self.wait_until_ready(seconds)
            position = self.position
            job = await self._find(job_id)
            while not job.is_finished and not self.is_closed and (left := end - loop.time()) > 0:
                # An event may have come while the job was read.
                if self.position == position:
                    await _wait_until_set(self._changed, min(left, 1.0))
                batch = self.get_events_after(position)
                position = self.position
                if batch is None or any(each.job_id == job_id for each in batch.events):
                    job = await self._find(job_id)
                elif await is_disconnected():
                    break
            return JobView.from_job(await self._find(job_id))

    async def _find(self, job_id: str) -> Job:
        return await to_thread.run_sync(self._service.find, job_id)

    def _start(self) -> None:
        self._epoch = secrets.token_hex(4)
        self._number = 0
        self._events.clear()
        self._latest = None
        self._ranks.clear()
        self._ready.clear()
        self._since = storage.utc_now()
        self._watcher = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        idle_since = heartbeat_at = loop.time()
        while not self.is_closed:
            if self._subscribers:
                idle_since = loop.time()
            elif loop.time() - idle_since > IDLE_SECONDS:
                return
            try:
                states, changed = await to_thread.run_sync(self._poll)
            except StorageError as error:
                log.warning("the database does not answer: %s", error)
            else:
                self._record(states, changed)
                self._ready.set()
            if loop.time() - heartbeat_at > HEARTBEAT_SECONDS:
                heartbeat_at = loop.time()
                self._wake()
            pause = max(POLL_SECONDS, self._subscribers * SECONDS_PER_SUBSCRIBER)
            await _wait_until_set(self._closed, pause)

    def _poll(self) -> tuple[list[JobState], list[Job]]:
        began = storage.utc_now()
        running = [job_id for job_id, rank in self._ranks.items() if _is_running(rank)]
        found = self._service.changes_since(self._since - _CLOCK_SLACK, running, self._has_changed)
        self._since = began
        return found

    def _has_changed(self, state: JobState) -> bool:
        # The first poll only records the jobs that exist.
        return self._ready.is_set() and self._ranks.get(state.id) != rank_state(state)

    def _record(self, states: list[JobState], changed: list[Job]) -> None:
        before = self._number
        ranks = {state.id: rank_state(state) for state in states}
        for job in changed:
            # The job is read after its state, so its rank may be higher.
            ranks[job.job_id] = rank_job(job)
            self._add(job, ranks[job.job_id])
        # Keep the ranks of jobs that later polls return again: running ones and recent ones.
        oldest = self._since - 2 * _CLOCK_SLACK
        self._ranks = {each.id: ranks[each.id] for each in states if _will_return(each, oldest)}
        if self._number > before:
            self._wake()

    def _add(self, job: Job, rank: Rank) -> None:
        self._number += 1
        self._latest = None
        name = "done" if job.is_finished else "progress"
        data = JobView.from_job(job).model_dump_json().encode()
        encoded = encode_event(self.position, name, data)
        self._events.append(Event(name, job.job_id, job.owner, rank, encoded))

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def encode_event(position: str, name: str, data: bytes) -> bytes:
    """Encode a server-sent event (WHATWG HTML, 9.2.6)."""
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (position.encode(), name.encode(), data)


def _is_running(rank: Rank) -> bool:
    is_finished, _, has_begun, *_ = rank
    return bool(has_begun and not is_finished)


def _will_return(state: JobState, oldest: datetime) -> bool:
    if state.status == storage.GenerationStatus.PROCESSING:
        return True
    return (state.completed_at or state.created_at) >= oldest


async def _wait_until_set(event: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
    return True
