"""Submit, run, look up: the one door that the CLI, the API and Python use."""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from services import storage
from services.generation.database import open_database, storage_errors
from services.generation.dispatch import Dispatch
from services.generation.drafts import clear_files
from services.generation.engine import SEED_LIMIT, Progress, ShouldStop
from services.generation.errors import (
    InvalidRequestError,
    JobFinishedError,
    UnknownGenerationError,
)
from services.generation.failpoints import reach
from services.generation.follow import LOOK_SECONDS, follow
from services.generation.jobs import job_of, with_outlook
from services.generation.models import GenerationRequest, Job
from services.generation.pipeline import (
    Task,
    cancel_job,
    fail_abandoned_jobs,
    run_job,
    task_of,
)
from services.generation.space import require_floor
from services.generation.takes import Delivery, require_space

STATUSES = tuple(storage.GenerationStatus)

LARGEST_BATCH = 10

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from services.generation.config import Settings
    from services.generation.engine import Engine
    from services.generation.queue_manager import QueueManager
    from services.generation.registry import EngineEntry, Registry


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """Some jobs, newest first, and the cursor of the next ones."""

    jobs: list[Job]
    next_cursor: str | None


class MusicService:
    """What can be done with generations, on one database and one output folder."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self.settings = settings
        self.registry = registry
        self._engines: dict[str, Engine] = {}
        open_database(settings)
        with storage_errors():
            fail_abandoned_jobs()

    @property
    def delivery(self) -> Delivery:
        """How takes are delivered under the settings."""
        return Delivery(
            output_dir=self.settings.output_dir,
            target_lufs=self.settings.target_lufs,
            true_peak_dbtp=self.settings.true_peak_dbtp,
            bit_depth=self.settings.bit_depth,
        )

    @cached_property
    def queue(self) -> QueueManager:
        """The queue of the database, ready for use; the library behind it is slow to import."""
        from services.generation.queue_manager import QueueManager

        queue = QueueManager()
        with storage_errors():
            queue.prepare()
        return queue

    def submit(
        self, request: GenerationRequest, client: str | None = None, priority: str = "normal"
    ) -> Job:
        """Put a job into the queue, for any worker of this database.

        Args:
            request: what is wanted.
            client: whose share of the workers it takes; None for those without a name.
            priority: high, normal or low.

        Raises:
            InvalidRequestError: the engine cannot do what is asked.
            EngineUnavailableError: no such engine, or not here.
            StorageError, OutputError: there is no room for it.
        """
        return self.submit_batch([request], client, priority)[0]

    def submit_batch(
        self,
        requests: Sequence[GenerationRequest],
        client: str | None = None,
        priority: str = "normal",
    ) -> list[Job]:
        """Put 1 to 10 jobs into the queue, all or none; as `submit`."""
        if not 1 <= len(requests) <= LARGEST_BATCH:
            raise InvalidRequestError(f"A batch has 1 to {LARGEST_BATCH} requests.")
        if priority not in list(storage.Priority):
            raise InvalidRequestError(f"The priority is high, normal or low, not {priority!r}.")
        checked = [(request, self._check(request)) for request in requests]
        require_floor(self.settings)
        queue = self.queue
        with storage_errors(), storage.get_session() as session:
            made = []
            storage.take_turn(session)
            for request, engine in checked:
                row = self._add_row(session, request, engine)
                entry = storage.add_queue_entry(
                    session, row, client=client or "", priority=storage.Priority(priority)
                )
                dispatch = Dispatch(row.id, entry.attempt)
                queue.enqueue(session, dispatch, model=row.model_name, place=entry.place)
                made.append((row, entry))
            reach("submit-before-commit")
        reach("submit-after-commit")
        return [job_of(row, entry, self.settings.output_dir) for row, entry in made]

    def prepare(self, request: GenerationRequest) -> Task:
        """Write the row of a job that is to be run here; it is not in the queue. As `submit`."""
        engine = self._check(request)
        with storage_errors(), storage.get_session() as session:
            return task_of(self._add_row(session, request, engine))

    def _check(self, request: GenerationRequest) -> EngineEntry:
        entry = self.registry.resolve(request.model or self.settings.model_name)
        _check_duration(request, entry)
        require_space(self.delivery, request.duration, entry.facts)
        return entry

    def _add_row(
        self, session: Session, request: GenerationRequest, entry: EngineEntry
    ) -> storage.Generation:
        seed = secrets.randbelow(SEED_LIMIT) if request.seed is None else request.seed
        generation_id = str(uuid.uuid4())
        return storage.create_generation(
            session,
            prompt=request.prompt,
            model_name=entry.facts.name,
            model_version=entry.facts.version,
            duration_seconds=request.duration,
            sample_rate=entry.facts.sample_rate,
            channels=entry.facts.channels,
            file_path=f"{datetime.now(UTC):%Y/%m/%d}/{generation_id}.wav",
            metadata={"seed": seed, **_sampling(request)},
            generation_id=generation_id,
        )

    def cancel(self, id_or_prefix: str) -> Job:
        """Stop a job that waits or runs, wherever it does; what it made is removed.

        Raises:
            UnknownGenerationError: none, or several.
            JobFinishedError: it is finished already.
        """
        job_id = self.get(id_or_prefix).job_id
        with storage_errors(), storage.get_session() as session:
            row = storage.lock_generation(session, job_id)
            entry = storage.get_queue_entry(session, job_id, to_change=True)
            if row is None or not storage.cancel_generation(session, job_id):
                status = "gone" if row is None else row.status
                raise JobFinishedError(f"The generation {job_id} is {status} already.")
            storage.remove_queue_entry(session, job_id)
        reach("cancel-after-commit")
        if entry is None:
            return self.get(job_id)
        if entry.worker_id is None:
            # The row says it all; a dispatch that cannot be taken back ends without an attempt, as
            # does that of a job at work, whose worker sees the row.
            with suppress(storage.StorageError):
                self.queue.cancel([Dispatch(job_id, entry.attempt)])
        clear_files(self.settings.output_dir / row.file_path)
        return self.get(job_id)

    def wait(self, job_id: str, timeout: float) -> Job:
        """Give the job once it is finished, or as it is after that many seconds."""
        end = time.monotonic() + timeout
        while not (job := self.get(job_id)).is_finished and time.monotonic() < end:
            time.sleep(min(LOOK_SECONDS, max(0.0, end - time.monotonic())))
        return job

    def make(self, request: GenerationRequest, progress: Progress, should_stop: ShouldStop) -> Job:
        """Have a request made, by a worker of this database where one lives, else here.

        No way out leaves an open row.

        Raises:
            DGXMusicError: as `submit` and `run`.
        """
        if self.is_served(self._check(request).facts.name):
            return follow(self, self.submit(request), progress, should_stop)
        return self.make_here(self.prepare(request), progress, should_stop)

    def make_here(self, task: Task, progress: Progress, should_stop: ShouldStop) -> Job:
        """Run a prepared job here; no way out leaves an open row. As `run`."""
        try:
            return self.run(task, progress, should_stop)
        except BaseException:
            cancel_job(task)
            raise

    def is_served(self, model: str) -> bool:
        """Whether a worker lives that takes jobs for that engine."""
        from services.generation.liveness import living_workers

        with storage_errors():
            living = living_workers(self.settings.worker_ttl_seconds)
        return any(model in state.models and not state.draining for state in living)

    def run(self, task: Task, progress: Progress, should_stop: ShouldStop) -> Job:
        """Run a submitted job here, in this process, and return its finished state.

        Raises:
            CancelledError: it was cancelled.
            DGXMusicError: it failed; its row says the same.
        """
        with storage_errors():
            job = self.get(task.generation_id)
            engine = self.engine(self.registry.resolve(job.model))
            run_job(task, engine, self.delivery, progress, should_stop)
            return self.get(task.generation_id)

    def engine(self, entry: EngineEntry) -> Engine:
        """The engine of an entry, loaded once."""
        name = entry.facts.name
        if name not in self._engines:
            self._engines[name] = entry.load()
        return self._engines[name]

    def get(self, id_or_prefix: str) -> Job:
        """The job of that id, or of the one id that starts so.

        Raises:
            UnknownGenerationError: none, or several.
        """
        with storage_errors(), storage.get_session(read_only=True) as session:
            found = storage.find_generations_by_prefix(session, id_or_prefix.strip().lower())
            if not found:
                raise UnknownGenerationError(
                    f"There is no generation {id_or_prefix!r}. `dgx-music history` lists them."
                )
            if len(found) > 1:
                raise UnknownGenerationError(
                    f"Several generations start with {id_or_prefix!r}. Give more of the id."
                )
            row = found[0]
            entry = None if row.is_finished else storage.get_queue_entry(session, row.id)
            job = job_of(row, entry, self.settings.output_dir)
            return job if entry is None else with_outlook(session, job, entry, self.settings)

    def history(
        self,
        *,
        limit: int = 20,
        search: str | None = None,
        status: str | None = None,
        model: str | None = None,
        cursor: str | None = None,
    ) -> HistoryPage:
        """Jobs newest first, all of them or those whose prompt has the words of `search`.

        Raises:
            InvalidRequestError: no such status, or a cursor that was not given out.
        """
        if status is not None and status not in STATUSES:
            raise InvalidRequestError(
                f"There is no status {status!r}; it is one of {', '.join(STATUSES)}."
            )
        with storage_errors(), storage.get_session(read_only=True) as session:
            if search:
                page = storage.search_generations(
                    session, search, status=status, model_name=model, limit=limit, cursor=cursor
                )
            else:
                page = storage.list_generations(
                    session, status=status, model_name=model, limit=limit, cursor=cursor
                )
            unfinished = [row.id for row in page.items if not row.is_finished]
            entries = storage.get_queue_entries(session, unfinished) if unfinished else {}
        jobs = [job_of(row, entries.get(row.id), self.settings.output_dir) for row in page.items]
        return HistoryPage(jobs, page.next_cursor)


def _check_duration(request: GenerationRequest, entry: EngineEntry) -> None:
    facts = entry.facts
    if not facts.shortest_seconds <= request.duration <= facts.longest_seconds:
        raise InvalidRequestError(
            f"The duration must be from {facts.shortest_seconds:g} to {facts.longest_seconds:g} "
            f"seconds with the model {facts.name!r}, not {request.duration}."
        )


def _sampling(request: GenerationRequest) -> dict[str, Any]:
    """The sampling fields that differ from their defaults: enough to ask for the same again."""
    fields = request.model_dump(include={"temperature", "top_k", "top_p", "cfg_coef"})
    return {
        name: value
        for name, value in fields.items()
        if value != GenerationRequest.model_fields[name].default
    }
