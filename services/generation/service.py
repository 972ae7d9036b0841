"""Submit, run, look up: the one door that the CLI, the API and Python use."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from services import storage
from services.generation.engine import SEED_LIMIT, GenerationParams, Progress, ShouldStop
from services.generation.errors import (
    InvalidRequestError,
    StorageError,
    UnknownGenerationError,
)
from services.generation.models import GenerationRequest, Job
from services.generation.pipeline import Task, cancel_job, fail_abandoned_jobs, run_job
from services.generation.takes import Delivery, require_space

STATUSES = tuple(storage.GenerationStatus)

if TYPE_CHECKING:
    from services.generation.config import Settings
    from services.generation.engine import Engine
    from services.generation.registry import EngineEntry, Registry


@contextmanager
def storage_errors() -> Iterator[None]:
    """Bring what the storage says into the one tree of errors."""
    try:
        yield
    except (storage.InvalidCursorError, storage.InvalidSearchError) as error:
        raise InvalidRequestError(str(error)) from error
    except storage.InvalidDatabaseURLError as error:
        raise StorageError(f"DATABASE_URL: {error}") from error
    except storage.StorageError as error:
        raise StorageError(str(error)) from error


def open_database(settings: Settings) -> None:
    """Open the database of the settings; make it where there is none, upgrade an old one.

    Raises:
        StorageError: it cannot be used.
    """
    with storage_errors():
        storage.init_db(
            settings.database_url, busy_timeout_seconds=settings.database_timeout_seconds
        )


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

    def submit(self, request: GenerationRequest) -> Task:
        """Write the row of a new job.

        Raises:
            InvalidRequestError: the engine cannot do what is asked.
            EngineUnavailableError: no such engine, or not here.
            StorageError, OutputError: there is no room for it.
        """
        entry = self.registry.resolve(request.model or self.settings.model_name)
        _check_duration(request, entry)
        require_space(self.delivery, request.duration, entry.facts)
        seed = secrets.randbelow(SEED_LIMIT) if request.seed is None else request.seed
        generation_id = str(uuid.uuid4())
        file_path = f"{datetime.now(UTC):%Y/%m/%d}/{generation_id}.wav"
        with storage_errors(), storage.get_session() as session:
            generation = storage.create_generation(
                session,
                prompt=request.prompt,
                model_name=entry.facts.name,
                model_version=entry.facts.version,
                duration_seconds=request.duration,
                sample_rate=entry.facts.sample_rate,
                channels=entry.facts.channels,
                file_path=file_path,
                metadata={"seed": seed, **_sampling(request)},
                generation_id=generation_id,
            )
            return _task(generation)

    def make(self, request: GenerationRequest, progress: Progress, should_stop: ShouldStop) -> Job:
        """Submit a request and run it here; no way out leaves an open row.

        Raises:
            DGXMusicError: as `submit` and `run`.
        """
        task = self.submit(request)
        try:
            return self.run(task, progress, should_stop)
        except BaseException:
            cancel_job(task)
            raise

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
        return self._job(found[0])

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
        return HistoryPage([self._job(row) for row in page.items], page.next_cursor)

    def _job(self, row: storage.Generation) -> Job:
        done = row.is_complete
        return Job(
            job_id=row.id,
            status=row.status,
            prompt=row.prompt,
            model=row.model_name,
            duration_seconds=row.duration_seconds,
            file=str(self.settings.output_dir / row.file_path) if done else None,
            metadata=row.get_metadata(),
            generation_time_seconds=row.generation_time_seconds,
            error_message=row.error_message,
            retry_count=max(0, row.attempts - 1),
            created_at=row.created_at,
            completed_at=row.completed_at,
        )


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


def _task(generation: storage.Generation) -> Task:
    """A task from a row, so that a worker can run what another process accepted."""
    metadata = generation.get_metadata()
    sampling = {
        name: metadata[name]
        for name in ("temperature", "top_k", "top_p", "cfg_coef")
        if name in metadata
    }
    return Task(
        generation_id=generation.id,
        file_path=generation.file_path,
        params=GenerationParams(
            prompt=generation.prompt,
            duration_seconds=generation.duration_seconds,
            seed=metadata["seed"],
            **sampling,
        ),
    )
