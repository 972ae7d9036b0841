"""Submit, run, look up: the one door that the CLI, the API and Python use."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from services import storage
from services.database import open_database, storage_errors
from services.errors import (
    FileGoneError,
    InvalidRequestError,
    JobFinishedError,
    UnknownGenerationError,
)
from services.jobs.dispatch import Dispatch
from services.jobs.failpoints import reach
from services.jobs.pipeline import fail_abandoned_jobs
from services.jobs.submission import (
    CheckedRequest,
    Repeatable,
    add_row,
    check_batch,
    check_duration,
    check_files,
    references_of,
    require_room,
    sent_before,
)
from services.jobs.view import HistoryPage, job_of, with_outlook
from services.library.inputs import Inputs
from services.library.reconcile import has_file
from services.library.store import FileStore, clear_quietly, open_store
from services.library.takes import Delivery, require_space
from services.machine.space import require_floor

STATUSES = tuple(storage.GenerationStatus)
POLL_SECONDS = 0.1
"""Between two looks at the row of a job that a caller waits for."""

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from services.config import Settings
    from services.generation.registry import Registry
    from services.jobs.dbos_queue import QueueManager
    from services.jobs.models import GenerationRequest, Job


class MusicService:
    """What can be done with generations, on one database and one output folder."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self.settings = settings
        self.registry = registry
        open_database(settings)
        with storage_errors():
            fail_abandoned_jobs()

    @cached_property
    def store(self) -> FileStore:
        """Where finished files are kept."""
        return open_store(self.settings)

    @cached_property
    def inputs(self) -> Inputs:
        """The audio files that requests name."""
        return Inputs(self.settings, self.store)

    @cached_property
    def queue(self) -> QueueManager:
        """The queue of the database, ready for use; the library behind it is slow to import."""
        from services.jobs.dbos_queue import QueueManager

        queue = QueueManager()
        with storage_errors():
            queue.prepare()
        return queue

    def submit(
        self,
        request: GenerationRequest,
        client: str | None = None,
        priority: str = "normal",
        *,
        owner: str | None = None,
        repeatable: Repeatable | None = None,
    ) -> Job:
        """Put a job into the queue, for any worker of this database.

        Args:
            request: what is wanted.
            client: whose share of the workers it takes; None for callers without a name.
            priority: high, normal or low.
            owner: the id of the API key that may see it; None: every caller may.
            repeatable: marks a submission that the client may repeat to get the same job.

        Raises:
            InvalidRequestError: the engine cannot do what is asked.
            RequestMismatchError: the key of `repeatable` was used for another request.
            EngineUnavailableError: the engine is unknown, or cannot run here.
            QueueFullError, StorageError, OutputError: there is no space for it.
        """
        (job,) = self.submit_batch([request], client, priority, owner=owner, repeatable=repeatable)
        return job

    def submit_batch(
        self,
        requests: Sequence[GenerationRequest],
        client: str | None = None,
        priority: str | Sequence[str] = "normal",
        *,
        owner: str | None = None,
        repeatable: Repeatable | None = None,
    ) -> list[Job]:
        """Put 1 to 10 jobs into the queue, all or none; as `submit`, with a priority for each."""
        check_batch(len(requests), priority)
        checked = [self.check(request) for request in requests]
        return self.enqueue(checked, client, priority, owner=owner, repeatable=repeatable)

    def check(self, request: GenerationRequest, **files: Path | None) -> CheckedRequest:
        """Resolve the engine of a request, and check that it can render it here; as `submit`.

        Args:
            request: what is wanted.
            files: field of the request -> a local audio file, which becomes an input. Nothing is
                copied when the engine could not use it.
        """
        named = {field: path for field, path in files.items() if path is not None}
        choice = self.registry.choose(request.model or self.settings.model_name)
        check_duration(request, choice.entry)
        check_files({*references_of(request), *named}, choice.entry, self.registry)
        require_space(Delivery.of(self.settings), request.duration, choice.entry.facts)
        if named:
            kept = {field: self.inputs.add(path).id for field, path in named.items()}
            request = request.model_copy(update=kept)
        return CheckedRequest(request, choice.entry, choice.passed_over)

    def enqueue(
        self,
        batch: Sequence[CheckedRequest],
        client: str | None = None,
        priority: str | Sequence[str] = "normal",
        *,
        owner: str | None = None,
        repeatable: Repeatable | None = None,
    ) -> list[Job]:
        """As `submit_batch`, of requests that were checked."""
        priorities = check_batch(len(batch), priority)
        require_floor(self.settings)
        with storage_errors():
            inputs = [
                self.inputs.resolve(references_of(checked.request), owner) for checked in batch
            ]
        queue = self.queue
        with storage_errors(), storage.get_session() as session:
            made = []
            storage.take_turn(session)
            if repeatable and (before := sent_before(session, owner, repeatable)):
                entries = storage.get_queue_entries(session, [row.id for row in before])
                return [job_of(row, entries.get(row.id), self.store) for row in before]
            require_room(session, len(batch), self.settings.queue_limit)
            for checked, named, rank in zip(batch, inputs, priorities, strict=True):
                row = add_row(session, checked, owner, named)
                entry = storage.add_queue_entry(session, row, client=client or "", priority=rank)
                dispatch = Dispatch(row.id, entry.attempt)
                queue.enqueue(session, dispatch, model=row.model_name, place=entry.place)
                made.append((row, entry))
            if repeatable:
                storage.remember_request(
                    session,
                    owner or "",
                    repeatable.key,
                    fingerprint=repeatable.fingerprint,
                    job_ids=[row.id for row, _ in made],
                )
            reach("submit-before-commit")
        reach("submit-after-commit")
        return [job_of(row, entry, self.store) for row, entry in made]

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
        clear_quietly(self.store, row.file_path)
        return self.get(job_id)

    def wait(self, job_id: str, timeout: float) -> Job:
        """Give the job once it is finished, or as it is after that many seconds."""
        end = time.monotonic() + timeout
        while not (job := self.get(job_id)).is_finished and time.monotonic() < end:
            time.sleep(min(POLL_SECONDS, max(0.0, end - time.monotonic())))
        return job

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
            return self._shown(session, found[0])

    def find(self, job_id: str) -> Job:
        """The job of exactly that id.

        Raises:
            UnknownGenerationError: there is none.
        """
        with storage_errors(), storage.get_session(read_only=True) as session:
            row = storage.get_generation(session, job_id)
            if row is None:
                raise UnknownGenerationError(f"There is no job {job_id!r}.")
            return self._shown(session, row)

    def find_all(self, job_ids: Sequence[str]) -> dict[str, Job]:
        """The jobs of exactly those ids; ids without one are left out."""
        with storage_errors(), storage.get_session(read_only=True) as session:
            rows = storage.get_generations(session, job_ids)
            return {row.id: self._shown(session, row) for row in rows}

    def changed(
        self,
        since: datetime,
        also: Sequence[str],
        is_news: Callable[[storage.JobState], bool],
    ) -> tuple[list[storage.JobState], list[Job]]:
        """Tell which jobs were asked for or finished since then, or are at work.

        Args:
            since: on the clocks of those who wrote the rows.
            also: ids of others to tell of.
            is_news: picks those that are to be shown in full.

        Returns:
            All of them in short, and those that were picked.
        """
        with storage_errors(), storage.get_session(read_only=True) as session:
            states = storage.changed_states(session, since=since, also=also)
            news = [state.id for state in states if is_news(state)]
            return states, self._list(session, storage.get_generations(session, news))

    def unfinished(self, owner: str | None = None) -> list[Job]:
        """Jobs that wait or are at work, the newest first, at most a hundred."""
        with storage_errors(), storage.get_session(read_only=True) as session:
            return self._list(session, storage.unfinished_generations(session, owner=owner))

    def _list(self, session: Session, rows: Sequence[storage.Generation]) -> list[Job]:
        unfinished = [row.id for row in rows if not row.is_finished]
        entries = storage.get_queue_entries(session, unfinished) if unfinished else {}
        return [job_of(row, entries.get(row.id), self.store) for row in rows]

    def _shown(self, session: Session, row: storage.Generation) -> Job:
        entry = None if row.is_finished else storage.get_queue_entry(session, row.id)
        job = job_of(row, entry, self.store)
        return job if entry is None else with_outlook(session, job, entry, self.settings)

    def local_copy(self, job_id: str) -> Path:
        """A path on this machine to read the file of a job from, wherever it is kept.

        Raises:
            UnknownGenerationError: no such job, or it has no file.
            FileGoneError: the file is gone.
            OutputError: it cannot be had now.
        """
        with storage_errors(), storage.get_session(read_only=True) as session:
            row = storage.get_generation(session, job_id)
        if row is None or not has_file(row):
            raise UnknownGenerationError(f"The generation {job_id!r} has no file.")
        try:
            return self.store.local_copy(row.file_path, row.file_sha256)
        except FileNotFoundError as error:
            raise FileGoneError(
                f"The file of the generation {job_id!r} is gone. `dgx-music files check` compares "
                "all of them."
            ) from error

    def find_analysis(self, job_id: str) -> dict[str, float | str] | None:
        """Return the figures measured on the file of a job, by name; None before it is completed.

        Names and units are those of `storage.Measurements`; a figure that the audio does not have
        is left out.
        """
        with storage_errors(), storage.get_session(read_only=True) as session:
            analysis = storage.get_analysis(session, job_id)
        if analysis is None:
            return None
        names = [field.name for field in fields(storage.Measurements)]
        figures = {name: getattr(analysis, name) for name in names}
        return {name: value for name, value in figures.items() if value is not None}

    def history(
        self,
        *,
        limit: int = 20,
        offset: int = 0,
        search: str | None = None,
        status: str | None = None,
        model: str | None = None,
        owner: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        cursor: str | None = None,
        count: bool = False,
    ) -> HistoryPage:
        """Jobs newest first, all of them or those whose prompt has the words of `search`.

        Args:
            limit: jobs a page.
            offset: jobs to leave out.
            search: words that the prompt must have.
            status: only these.
            model: only from this engine.
            owner: only of this one.
            created_after: only of this moment or later.
            created_before: only earlier than this moment.
            cursor: of the page before.
            count: whether to count all that there are.

        Raises:
            InvalidRequestError: no such status, or a cursor that was not given out.
        """
        if status is not None and status not in STATUSES:
            raise InvalidRequestError(
                f"There is no status {status!r}; it is one of {', '.join(STATUSES)}."
            )
        which: storage.Narrowed = {
            "model_name": model,
            "owner": owner,
            "created_after": created_after,
            "created_before": created_before,
        }
        total = None
        with storage_errors(), storage.get_session(read_only=True) as session:
            if search:
                page = storage.search_generations(
                    session,
                    search,
                    status=status,
                    limit=limit,
                    offset=offset,
                    cursor=cursor,
                    **which,
                )
                if count:
                    total = storage.count_matches(session, search, status=status, **which)
            else:
                page = storage.list_generations(
                    session, status=status, limit=limit, offset=offset, cursor=cursor, **which
                )
                if count:
                    total = storage.count_generations(session, status, **which)
            jobs = self._list(session, page.items)
        return HistoryPage(jobs, page.next_cursor, total)
