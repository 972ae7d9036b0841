"""Figures of all jobs, cheap enough to read every few seconds from a database of a million jobs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from services import storage
from services.jobs.living import living_workers
from services.operations.probes import CachedValue, NoAnswerError, Probe

if TYPE_CHECKING:
    from services.config import Settings

BOUNDS = (0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Upper bounds of the histogram buckets, seconds."""

RECOUNTED = timedelta(hours=1)
"""Jobs that finished within this time are counted again at each reading: a worker sets the time
before it commits, so a row may appear with a time in the past."""

FIRST_SECONDS = 4.0
"""Time that a reading waits for the first count of all jobs."""

STORE_MAX_AGE_SECONDS = 300.0
FINISHED_MAX_AGE_SECONDS = 60.0
"""Cached because the count of finished rows reads an index entry for every row."""


@dataclass(frozen=True, slots=True)
class JobFigures:
    """Figures of all jobs in the database."""

    totals: storage.JobTotals | None
    """Finished jobs; None during the first count."""
    statuses: dict[str, float]
    """Status -> number of jobs."""
    realtime: dict[str, float]
    """Model -> seconds of music per second of run time."""
    store_bytes: int
    workers: dict[str, float]
    """`taking`, `draining` or `outage` -> number of workers that are alive."""
    oldest_waiting_seconds: float


class FinishedJobs:
    """Totals of all jobs that ever finished, as counters that never decrease.

    All rows are read once, and later only those of the last hour or two. Deleted rows stay counted
    until the process ends.
    """

    def __init__(self, now: Callable[[], datetime] = storage.utc_now) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._first = Probe("finished jobs", self._count_first)
        self._settled: storage.JobTotals | None = None
        """Jobs that finished before `_settled_until`; they are not counted again."""
        self._settled_until = now() - RECOUNTED

    def count(self, patience: float = FIRST_SECONDS) -> storage.JobTotals | None:
        """Count the jobs that have finished.

        Args:
            patience: seconds to wait for the first count, which continues after that.

        Returns:
            The totals, or None during the first count.

        Raises:
            StorageError: the database does not answer.
        """
        if self._settled is None:
            try:
                self._first.answer(patience)
            except NoAnswerError:
                return None
        with self._lock, storage.get_session(read_only=True) as session:
            if self._settled is None:
                return None
            border = self._now() - RECOUNTED
            if border - self._settled_until > RECOUNTED:
                since = self._settled_until
                newly = storage.count_finished(session, BOUNDS, since=since, before=border)
                self._settled.add(newly)
                self._settled_until = border
            totals = deepcopy(self._settled)
            totals.add(storage.count_finished(session, BOUNDS, since=self._settled_until))
            return totals

    def _count_first(self) -> None:
        try:
            with storage.get_session(read_only=True) as session:
                settled = storage.count_finished(session, BOUNDS, before=self._settled_until)
        except storage.StorageError:
            return
        with self._lock:
            self._settled = settled


def _name_state(worker: storage.WorkerState) -> str:
    if worker.draining:
        return "draining"
    return "taking" if worker.outage is None else "outage"


def make_figures_reader(settings: Settings) -> Callable[[], JobFigures]:
    """Return a function that reads the figures and caches the expensive ones between calls.

    The function raises StorageError if the database does not answer.
    """
    finished = FinishedJobs()
    ended = CachedValue(_count_ended, seconds=FINISHED_MAX_AGE_SECONDS)
    store = CachedValue(_sum_store_bytes, seconds=STORE_MAX_AGE_SECONDS)

    def read() -> JobFigures:
        totals = finished.count()
        workers = {"taking": 0.0, "draining": 0.0, "outage": 0.0}
        for one in living_workers(settings.worker_ttl_seconds):
            workers[_name_state(one)] += 1
        with storage.get_session(read_only=True) as session:
            models = [] if totals is None else list(totals.audio_seconds)
            speeds = {model: storage.average_real_time_factor(session, model) for model in models}
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


def _sum_store_bytes() -> int:
    with storage.get_session(read_only=True) as session:
        return storage.sum_file_bytes(session)
