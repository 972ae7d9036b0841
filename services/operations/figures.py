"""The figures of all jobs, cheap enough to be asked for every few seconds of a million rows."""

from __future__ import annotations

import threading
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from services import storage
from services.jobs.living import living_workers
from services.operations.watching import Kept, NoAnswerError, Probe

if TYPE_CHECKING:
    from services.config import Settings

BOUNDS = (0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Of the histograms, seconds."""

OPEN = timedelta(hours=1)
"""Jobs that finished in the last hour are counted anew each time: a worker notes the time before
it commits, so that a row may turn up with a time that has passed."""

FIRST_SECONDS = 4.0
"""What a scrape waits for the first reading."""

STORE_KEPT_SECONDS = 300.0
FINISHED_KEPT_SECONDS = 60.0
"""Counting finished rows walks an index with an entry for every row."""


@dataclass(frozen=True, slots=True)
class JobFigures:
    """What the database says of all jobs."""

    totals: storage.Totals | None
    """None while they are read for the first time."""
    statuses: dict[str, float]
    realtime: dict[str, float]
    """Engine -> seconds of music that a second of work makes."""
    store_bytes: int
    workers: dict[str, float]
    """taking, draining -> how many live."""
    oldest_waiting_seconds: float


class FinishedJobs:
    """Totals of everything that ever finished, which only grow.

    The rows are read once; afterwards only those of the last hour or two. Rows that are deleted
    stay counted until the process ends.
    """

    def __init__(self, now: Callable[[], datetime] = storage.utc_now) -> None:
        """Count nothing yet.

        Args:
            now: the clock that the workers' times are compared with.
        """
        self._now = now
        self._lock = threading.Lock()
        self._first = Probe("finished jobs", self._read_first)
        self._closed: storage.Totals | None = None
        self._closed_until = now() - OPEN

    def totals(self, patience: float = FIRST_SECONDS) -> storage.Totals | None:
        """Count what finished until now.

        Args:
            patience: seconds to wait for the first reading, which goes on afterwards.

        Returns:
            None while the first reading goes on.

        Raises:
            StorageError: the database does not answer.
        """
        if self._closed is None:
            try:
                self._first.answer(patience)
            except NoAnswerError:
                return None
        with self._lock, storage.get_session(read_only=True) as session:
            if self._closed is None:
                return None
            border = self._now() - OPEN
            if border - self._closed_until > OPEN:
                since = self._closed_until
                newly = storage.count_finished(session, BOUNDS, since=since, before=border)
                self._closed.add(newly)
                self._closed_until = border
            totals = deepcopy(self._closed)
            totals.add(storage.count_finished(session, BOUNDS, since=self._closed_until))
            return totals

    def _read_first(self) -> None:
        try:
            with storage.get_session(read_only=True) as session:
                closed = storage.count_finished(session, BOUNDS, before=self._closed_until)
        except storage.StorageError:
            return
        with self._lock:
            self._closed = closed


def read_figures(settings: Settings) -> Callable[[], JobFigures]:
    """Give a function that reads the figures, and remembers what it need not read again.

    It raises StorageError where the database does not answer.
    """
    finished = FinishedJobs()
    ended = Kept(_count_ended, seconds=FINISHED_KEPT_SECONDS)
    store = Kept(_store_bytes, seconds=STORE_KEPT_SECONDS)

    def read() -> JobFigures:
        totals = finished.totals()
        workers = {"taking": 0.0, "draining": 0.0}
        for one in living_workers(settings.worker_ttl_seconds):
            workers["draining" if one.draining else "taking"] += 1
        with storage.get_session(read_only=True) as session:
            models = [] if totals is None else list(totals.audio_seconds)
            speeds = {model: storage.render_speed(session, model) for model in models}
            _, oldest = storage.count_waiting(session)
            counts = storage.count_statuses(session, only=storage.UNFINISHED_STATUSES)
        age = 0.0 if oldest is None else (storage.utc_now() - oldest).total_seconds()
        return JobFigures(
            totals=totals,
            statuses=dict.fromkeys(storage.STATUSES, 0.0) | ended.get() | counts,
            realtime={model: 1 / speed for model, speed in speeds.items() if speed},
            store_bytes=store.get(),
            workers=workers,
            oldest_waiting_seconds=max(0.0, age),
        )

    return read


def _count_ended() -> dict[str, int]:
    with storage.get_session(read_only=True) as session:
        return storage.count_statuses(session, only=storage.FINISHED_STATUSES)


def _store_bytes() -> int:
    with storage.get_session(read_only=True) as session:
        return storage.sum_file_bytes(session)
