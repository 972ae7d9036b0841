"""Submitting, cancelling and finding jobs, for the CLI, the REST API and Python."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from services import storage
from services.database import open_database, storage_errors
from services.errors import (
    DGXMusicError,
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
    audio_references,
    check_abilities,
    check_batch,
    check_duration,
    find_repeated,
    list_demands,
    require_queue_space,
    settle_length,
)
from services.jobs.view import HistoryPage, add_estimates, build_job
from services.library.inputs import InputStore
from services.library.reconcile import has_take
from services.library.store import FileStore, open_store, try_remove_leftovers
from services.library.takes import Delivery, require_space
from services.machine.space import require_disk_floor

STATUSES = tuple(storage.GenerationStatus)
LAST = "last"
"""Stands for the newest job where the start of an id is enough."""
POLL_SECONDS = 0.1
"""Pause between two reads of the row of a job that a caller waits for."""

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from services.config import Settings
    from services.generation.registry import Registry
    from services.jobs.dbos_queue import QueueManager
    from services.jobs.models import GenerationRequest, Job


class MusicService:
    """All operations on jobs, on one database and one store."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self.settings = settings
        self.registry = registry
        open_database(settings)
        with storage_errors():
            fail_abandoned_jobs()

    @cached_property
    def store(self) -> FileStore:
        return open_store(self.settings)

    @cached_property
    def inputs(self) -> InputStore:
        return InputStore(self.settings, self.store)

    @cached_property
    def queue(self) -> QueueManager:
        # DBOS is slow to import, and running a job in this process does not need it.
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
        """Queue a job for any worker of this database.

        Args:
            request: the music to make.
            client: whose share of the workers it uses; None for unnamed callers, who share one.
            priority: high, normal or low.
            owner: the id of the API key that may see it; None for every caller.
            repeatable: lets the client repeat the submission and get the same job.

        Raises:
            InvalidRequestError: the engine cannot render the request.
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
        """Queue 1 to 10 jobs, all or none; as `submit`, with one priority or one for each."""
        check_batch(len(requests), priority)
        checked = []
        for place, request in enumerate(requests):
            with _at_place(place):
                checked.append(self.check(request))
        return self.enqueue(checked, client, priority, owner=owner, repeatable=repeatable)

    def check(self, request: GenerationRequest, **files: Path | None) -> CheckedRequest:
        """Resolve the engine of a request and check that it can render it here; raises as `submit`.

        Args:
            request: the music to make.
            files: field of the request -> a local audio file, which is copied to the inputs if
                the engine can use it.
        """
        named = {field: path for field, path in files.items() if path is not None}
        choice = self.registry.choose(request.model or self.settings.model_name)
        request = settle_length(request, choice.entry, self.registry)
        check_duration(request, choice.entry)
        check_abilities({*list_demands(request), *named}, choice.entry, self.registry)
        delivery, facts = Delivery.of(self.settings), choice.entry.facts
        require_space(delivery, request.duration, facts, stems=request.stems)
        kept = {field: self.inputs.add(path) for field, path in named.items()}
        request = request.model_copy(update={field: found.id for field, found in kept.items()})
        remarks = tuple(
            f"{path} is {remark}."
            for field, path in named.items()
            for remark in kept[field].remarks
        )
        return CheckedRequest(request, choice.entry, choice.passed_over, remarks=remarks)

    def enqueue(
        self,
        batch: Sequence[CheckedRequest],
        client: str | None = None,
        priority: str | Sequence[str] = "normal",
        *,
        owner: str | None = None,
        repeatable: Repeatable | None = None,
    ) -> list[Job]:
        """As `submit_batch`, for requests that were checked."""
        priorities = check_batch(len(batch), priority)
        require_disk_floor(self.settings)
        inputs = []
        for place, checked in enumerate(batch):
            references, chosen = audio_references(checked.request), checked.choose_owner(owner)
            with _at_place(place), storage_errors():
                inputs.append(self.inputs.resolve(references, chosen))
        queue = self.queue
        with storage_errors(), storage.get_session() as session:
            made = []
            storage.lock_queue_order(session)
            if repeatable and (before := find_repeated(session, owner, repeatable)):
                entries = storage.get_queue_entries(session, [row.id for row in before])
                return [build_job(row, entries.get(row.id), self.store) for row in before]
            require_queue_space(session, len(batch), self.settings.queue_limit)
            for checked, named, rank in zip(batch, inputs, priorities, strict=True):
                row = add_row(session, checked, checked.choose_owner(owner), named)
                entry = storage.add_queue_entry(session, row, client=client or "", priority=rank)
                dispatch = Dispatch(row.id, entry.attempt)
                queue.enqueue(session, dispatch, model=row.model_name, place=entry.place)
                made.append((row, entry))
            if repeatable:
                storage.record_request(
                    session,
                    owner or "",
                    repeatable.key,
                    fingerprint=repeatable.fingerprint,
                    job_ids=[row.id for row, _ in made],
                )
            reach("submit-before-commit")
        reach("submit-after-commit")
        return [build_job(row, entry, self.store) for row, entry in made]

    def cancel(self, id_or_prefix: str) -> Job:
        """Cancel a job that waits or runs, on any machine, and remove its files.

        Raises:
            UnknownGenerationError: no job has this id, or several ids start with it.
            JobFinishedError: the job is finished already.
        """
        job_id = self.get(id_or_prefix).job_id
        with storage_errors(), storage.get_session() as session:
            row = storage.lock_generation(session, job_id)
            entry = storage.get_queue_entry(session, job_id, for_update=True)
            if row is None or not storage.cancel_generation(session, job_id):
                status = "gone" if row is None else row.status
                raise JobFinishedError(f"The generation {job_id} is {status} already.")
            storage.remove_queue_entry(session, job_id)
        reach("cancel-after-commit")
        if entry is None:
            return self.get(job_id)
        if entry.worker_id is None:
            # Only saves a worker the work: a dispatch of a cancelled row ends without an attempt.
            with suppress(storage.StorageError):
                self.queue.cancel([Dispatch(job_id, entry.attempt)])
        try_remove_leftovers(self.store, row.file_path)
        return self.get(job_id)

    def wait(self, job_id: str, timeout: float) -> Job:
        """Return the job when it is finished, or unfinished after `timeout` seconds."""
        end = time.monotonic() + timeout
        while not (job := self.get(job_id)).is_finished and time.monotonic() < end:
            time.sleep(min(POLL_SECONDS, max(0.0, end - time.monotonic())))
        return job

    def get(self, id_or_prefix: str) -> Job:
        """Return the job with this id, the only one whose id starts with it, or the `last` one.

        Raises:
            UnknownGenerationError: no job has this id, or several ids start with it.
        """
        wanted = id_or_prefix.strip().lower()
        with storage_errors(), storage.get_session(read_only=True) as session:
            if wanted == LAST:
                found = storage.get_all_generations(session, limit=1)
            else:
                found = storage.find_generations_by_prefix(session, wanted)
            if not found:
                raise UnknownGenerationError(
                    f"There is no generation {id_or_prefix!r}. `dgx-music history` lists them."
                )
            if len(found) > 1:
                raise UnknownGenerationError(
                    f"Several generations start with {id_or_prefix!r}. Give more of the id."
                )
            return self._build_detailed(session, found[0])

    def find(self, job_id: str) -> Job:
        """Return the job with exactly this id.

        Raises:
            UnknownGenerationError: there is none.
        """
        with storage_errors(), storage.get_session(read_only=True) as session:
            row = storage.get_generation(session, job_id)
            if row is None:
                raise UnknownGenerationError(f"There is no job {job_id!r}.")
            return self._build_detailed(session, row)

    def find_all(self, job_ids: Sequence[str]) -> dict[str, Job]:
        """Return id -> job; ids without a job are left out."""
        with storage_errors(), storage.get_session(read_only=True) as session:
            rows = storage.get_generations(session, job_ids)
            return {row.id: self._build_detailed(session, row) for row in rows}

    def changes_since(
        self,
        since: datetime,
        also: Sequence[str],
        is_news: Callable[[storage.JobState], bool],
    ) -> tuple[list[storage.JobState], list[Job]]:
        """Return the jobs that run, or were created or finished since a time.

        Args:
            since: by the clocks of the machines that wrote the rows.
            also: ids of further jobs to include.
            is_news: selects the jobs to return in full.

        Returns:
            The states of all of them, and the selected jobs.
        """
        with storage_errors(), storage.get_session(read_only=True) as session:
            states = storage.list_changed_states(session, since=since, also=also)
            news = [state.id for state in states if is_news(state)]
            return states, self._build(session, storage.get_generations(session, news))

    def list_unfinished(self, owner: str | None = None) -> list[Job]:
        """Return the jobs that wait or run, newest first, at most 100."""
        with storage_errors(), storage.get_session(read_only=True) as session:
            return self._build(session, storage.list_unfinished_generations(session, owner=owner))

    def _build(self, session: Session, rows: Sequence[storage.Generation]) -> list[Job]:
        unfinished = [row.id for row in rows if not row.is_finished]
        entries = storage.get_queue_entries(session, unfinished) if unfinished else {}
        return [build_job(row, entries.get(row.id), self.store) for row in rows]

    def _build_detailed(self, session: Session, row: storage.Generation) -> Job:
        entry = None if row.is_finished else storage.get_queue_entry(session, row.id)
        job = build_job(row, entry, self.store)
        return job if entry is None else add_estimates(session, job, entry, self.settings)

    def local_copy(self, job_id: str) -> Path:
        """Return a path on this machine to read a job's file from; a bucket's is downloaded.

        Raises:
            UnknownGenerationError: there is no such job, or it has no file.
            FileGoneError: the file is gone.
            FileDamagedError: it is not the one that was written.
            OutputError: the store cannot be used now.
        """
        with storage_errors(), storage.get_session(read_only=True) as session:
            row = storage.get_generation(session, job_id)
        if row is None or not has_take(row):
            raise UnknownGenerationError(f"The generation {job_id!r} has no file.")
        try:
            return self.store.local_copy(row.file_path, row.file_sha256)
        except ValueError as error:
            # A link that leads out of the library: what it shows is not ours.
            raise UnknownGenerationError(f"The generation {job_id!r} has no file.") from error
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
        """Return a page of jobs, newest first; each argument that is set narrows the list.

        Args:
            limit: jobs on the page.
            offset: jobs to skip.
            search: words that the prompt must have.
            status: of the jobs.
            model: the engine that renders them.
            owner: the id of an API key.
            created_after: inclusive.
            created_before: exclusive.
            cursor: of the page before.
            count: whether to count the jobs of all pages.

        Raises:
            InvalidRequestError: the status is unknown, or the cursor is of no page.
        """
        if status is not None and status not in STATUSES:
            raise InvalidRequestError(
                f"There is no status {status!r}; it is one of {', '.join(STATUSES)}."
            )
        which: storage.GenerationFilters = {
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
            jobs = self._build(session, page.items)
        return HistoryPage(jobs, page.next_cursor, total)


@contextmanager
def _at_place(place: int) -> Iterator[None]:
    """Note in an error which of several requests is at fault."""
    try:
        yield
    except DGXMusicError as error:
        error.place = place
        raise
