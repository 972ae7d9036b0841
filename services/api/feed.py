"""What happens to jobs, as it happens: one look at the database serves every listener.

The rows are the truth, so every API process sees the same, whoever makes the jobs. Events are kept
for a while under numbers; a listener that comes back with the last number it saw misses nothing,
and one whose number is no longer known gets the state of now.
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
from services.jobs.view import rank_of, rank_of_state

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.jobs.models import Job
    from services.jobs.service import MusicService
    from services.jobs.view import Rank
    from services.storage import JobState

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.25
LISTENER_SECONDS = 0.001
"""Between two looks for each listener: telling all of them takes time, and others ask as well."""

IDLE_SECONDS = 60.0
"""The feed goes on for so long without a listener, so that one who comes back misses nothing."""

HEARTBEAT_SECONDS = 15.0
"""How often a listener hears at least that the line is open."""

KEPT_EVENTS = 1024
MOST_LISTENERS = 2_000
_CLOCK_SLACK = timedelta(seconds=10)
"""How far the clocks of machines that share a database may differ."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a job."""

    name: str
    """progress, or done."""
    job_id: str
    owner: str | None
    rank: Rank
    """Grows with every step of a job."""
    wire: bytes
    """As it is sent, with the job as JSON."""


class News:
    """The events after a position, the same object for all who ask from there."""

    def __init__(self, events: list[Event]) -> None:
        self.events = events

    def wire_of(self, some: list[Event]) -> bytes:
        """Write all or some of them in one piece; all of them only once."""
        if len(some) == len(self.events):
            return self._wire
        return b"".join(event.wire for event in some)

    @cached_property
    def _wire(self) -> bytes:
        return b"".join(event.wire for event in self.events)


class Feed:
    """The events of one server process."""

    def __init__(self, service: MusicService) -> None:
        self._service = service
        self._epoch = ""
        self._number = 0
        self._events: deque[Event] = deque(maxlen=KEPT_EVENTS)
        self._asked: tuple[str, News] | None = None
        """The position last asked for: that of most listeners, until there are more events."""
        self._listeners = 0
        self._changed = asyncio.Event()
        self._closed = asyncio.Event()
        self._ready = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None
        self._known: dict[str, Rank] = {}
        self._since = storage.utc_now()

    @property
    def is_closed(self) -> bool:
        """Whether every stream is to end."""
        return self._closed.is_set()

    def position(self) -> str:
        """Name the last event, for a listener to come back with."""
        return f"{self._epoch}-{self._number}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve listeners while the block runs."""
        try:
            yield
        finally:
            self.close()
            if self._watcher is not None:
                await self._watcher

    def close(self) -> None:
        """End every stream."""
        self._closed.set()
        self._wake()

    @property
    def listeners(self) -> int:
        """How many listen, or wait for a job."""
        return self._listeners

    @property
    def has_room(self) -> bool:
        """Whether another may listen, or wait for a job."""
        return self._listeners < MOST_LISTENERS

    def require_room(self) -> None:
        """Look whether another may listen, while there is still a status to say no with.

        Raises:
            ProblemError: there are too many already.
        """
        if not self.has_room:
            raise ProblemError(
                "unavailable", "Too many event streams are open.", headers={"Retry-After": "10"}
            )

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Count as a listener while the block runs."""
        self._listeners += 1
        try:
            if self._watcher is None or self._watcher.done():
                self._begin()
            yield
        finally:
            self._listeners -= 1

    async def ready(self, seconds: float) -> bool:
        """Wait until whatever happens from now on becomes an event; False after that long."""
        return await _is_set(self._ready, seconds)

    def after(self, position: str) -> News | None:
        """Give the events after that one; None when they are no longer known."""
        if self._asked is None or self._asked[0] != position:
            events = self._events_after(position)
            if events is None:
                return None
            self._asked = position, News(events)
        return self._asked[1]

    def _events_after(self, position: str) -> list[Event] | None:
        epoch, _, text = position.rpartition("-")
        if epoch != self._epoch or not (text.isascii() and text.isdigit() and len(text) < 16):
            return None
        number = int(text)
        oldest = self._number - len(self._events)
        if not oldest <= number <= self._number:
            return None
        news = self._number - number
        return [self._events[index] for index in range(-news, 0)]

    async def next_change(self) -> None:
        """Wait for the next events, a heartbeat, or the end; after the end nobody waits.

        Without a time-out: a thousand listeners would each have a task and a timer for it.
        """
        if not self.is_closed:
            await self._changed.wait()

    async def wait(
        self, job_id: str, seconds: float, is_disconnected: Callable[[], Awaitable[bool]]
    ) -> JobView:
        """Give a job once it is finished, or as it is after that many seconds."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        with self.listening():
            await self.ready(seconds)
            position = self.position()
            job = await self._find(job_id)
            while not job.is_finished and not self.is_closed and (left := end - loop.time()) > 0:
                await _is_set(self._changed, min(left, 1.0))
                news = self.after(position)
                position = self.position()
                if news is None or any(each.job_id == job_id for each in news.events):
                    job = await self._find(job_id)
                elif await is_disconnected():
                    break
            return JobView.of(await self._find(job_id))

    async def _find(self, job_id: str) -> Job:
        return await to_thread.run_sync(self._service.find, job_id)

    def _begin(self) -> None:
        self._epoch = secrets.token_hex(4)
        self._number = 0
        self._events.clear()
        self._asked = None
        self._known.clear()
        self._ready.clear()
        self._since = storage.utc_now()
        self._watcher = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        idle_since = beaten = loop.time()
        while not self.is_closed:
            if self._listeners:
                idle_since = loop.time()
            elif loop.time() - idle_since > IDLE_SECONDS:
                return
            try:
                states, news = await to_thread.run_sync(self._look)
            except StorageError as error:
                log.warning("the database does not answer: %s", error)
            else:
                self._note(states, news)
                self._ready.set()
            if loop.time() - beaten > HEARTBEAT_SECONDS:
                beaten = loop.time()
                self._wake()
            pause = max(LOOK_SECONDS, self._listeners * LISTENER_SECONDS)
            await _is_set(self._closed, pause)

    def _look(self) -> tuple[list[JobState], list[Job]]:
        began = storage.utc_now()
        at_work = [job_id for job_id, rank in self._known.items() if _is_at_work(rank)]
        found = self._service.changed(self._since - _CLOCK_SLACK, at_work, self._is_news)
        self._since = began
        return found

    def _is_news(self, state: JobState) -> bool:
        # Of what there was before the first look nobody is told.
        return self._ready.is_set() and self._known.get(state.id) != rank_of_state(state)

    def _note(self, states: list[JobState], news: list[Job]) -> None:
        before = self._number
        ranks = {state.id: rank_of_state(state) for state in states}
        for job in news:
            # It may have gone on since the short look.
            ranks[job.job_id] = rank_of(job)
            self._add(job, ranks[job.job_id])
        # What neither is at work nor would be found again by its times needs no second look.
        oldest = self._since - 2 * _CLOCK_SLACK
        self._known = {each.id: ranks[each.id] for each in states if _is_lively(each, oldest)}
        if self._number > before:
            self._wake()

    def _add(self, job: Job, rank: Rank) -> None:
        self._number += 1
        self._asked = None
        name = "done" if job.is_finished else "progress"
        data = JobView.of(job).model_dump_json().encode()
        wire = wire_form(self.position(), name, data)
        self._events.append(Event(name, job.job_id, job.owner, rank, wire))

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def wire_form(position: str, name: str, data: bytes) -> bytes:
    """Write an event as it is sent (WHATWG HTML, 9.2.6)."""
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (position.encode(), name.encode(), data)


def _is_at_work(rank: Rank) -> bool:
    is_finished, _, has_begun, *_ = rank
    return bool(has_begun and not is_finished)


def _is_lively(state: JobState, moment: datetime) -> bool:
    if state.status == storage.GenerationStatus.PROCESSING:
        return True
    return (state.completed_at or state.created_at) >= moment


async def _is_set(event: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
    return True
