"""A state machine of all steps of servers and workers, including their deaths.

The machine acts as the workers, with the parts that real workers use, and keeps a simple model of
the expected state of every job. After each step it compares the rows, the queue and the files with
the model.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sqlalchemy import select, text

from services import storage
from services.api.caller import Caller
from services.api.server import make_state
from services.api.visible import find_visible_job
from services.config import Settings
from services.errors import (
    DGXMusicError,
    EngineError,
    InvalidRequestError,
    JobFinishedError,
    QueueFullError,
    RequestMismatchError,
    UnknownGenerationError,
)
from services.jobs.attempt_token import AttemptToken
from services.jobs.dbos_queue import APPLICATION_VERSION, QueueManager, queue_name
from services.jobs.dispatch import Dispatch
from services.jobs.models import parse_request
from services.jobs.submission import Repeatable
from services.library.takes import Take
from services.storage.models import Generation
from services.storage.queue_models import QueueEntry
from services.worker.claims import Attempt, Claims
from services.worker.lost_dispatches import replace_lost_dispatches
from tests.worker.conftest import load_engines

MODEL = "puppet"
QUEUE_LIMIT = 7
MAX_RETRIES = 1
PRIORITIES = ("high", "normal", "low")
OWNERS = (None, "mine", "theirs")


class KilledError(BaseException):
    """The simulated process is killed here."""


@dataclass
class World:
    """A database, an output folder, and the point at which the next process dies."""

    settings: Settings
    deadly: str = ""
    state: Any = None

    @classmethod
    def make(cls, url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> World:
        world = cls(
            Settings(
                DATABASE_URL=url,
                output_dir=folder,
                model_name=MODEL,
                queue_limit=QUEUE_LIMIT,
                max_retries=MAX_RETRIES,
                retry_delay_seconds=0.0,
            )
        )
        for module in ("worker.claims", "jobs.publication", "jobs.service"):
            monkeypatch.setattr(f"services.{module}.reach", world.reach)
        enqueue = QueueManager.enqueue

        def enqueue_at_once(*given: Any, delay: float = 0.0, **named: Any) -> None:
            enqueue(*given, **named)

        monkeypatch.setattr(QueueManager, "enqueue", enqueue_at_once)
        world.start()
        return world

    def reach(self, name: str) -> None:
        if name == self.deadly:
            raise KilledError

    @contextmanager
    def dying_at(self, point: str) -> Iterator[list[bool]]:
        """Kill the process of the block at that point; the list is not empty if it was."""
        died: list[bool] = []
        self.deadly = point
        try:
            yield died
        except KilledError:
            died.append(True)
        finally:
            self.deadly = ""

    def start(self) -> None:
        """Restart the server, which then knows only what is in the database."""
        storage.close_db()
        self.state = make_state(self.settings, load_engines().registry())

    @property
    def service(self) -> Any:
        return self.state.service

    def empty(self) -> None:
        dbos = "" if self.settings.database_url.startswith("sqlite") else "dbos."
        with storage.get_session() as session:
            for table in ("generations", "idempotency_keys", "prompts", f"{dbos}workflow_status"):
                session.execute(text(f"DELETE FROM {table}"))
        shutil.rmtree(self.settings.output_dir, ignore_errors=True)
        self.settings.output_dir.mkdir()

    def pick_up(self, worker_id: str) -> str | None:
        """Pick up a dispatch as the queue's listener does."""
        unlimited = ("concurrency", "limiter", "partition_concurrency", "partition_limiter")
        one = {f"_{name}": None for name in (*unlimited, "partition_worker_concurrency")}
        queue = SimpleNamespace(name=queue_name(MODEL), _worker_concurrency=1, **one)
        picked, _ = self.service.queue._system_database.start_queued_workflows(
            queue, worker_id, APPLICATION_VERSION, None, owner_xid=worker_id, is_latest_version=True
        )
        return picked[0] if picked else None

    def record_end(self, dispatch: Dispatch, worker_id: str) -> None:
        """Record that a dispatch has returned, as the listener does."""
        self.service.queue._system_database.update_workflow_outcome(
            dispatch.workflow_id, "SUCCESS", output="null", owner_xid=worker_id
        )


@dataclass
class HeldAttempt:
    """An attempt in the memory of a worker; it may have lost its job long ago."""

    real: Attempt
    worker: str
    claims: Claims
    job: JobModel
    take: Take | None = None


@dataclass
class JobModel:
    """The expected state of a job."""

    id: str
    number: int
    client: str
    priority: int
    rank: int
    owner: str | None
    status: str = "pending"
    attempts: int = 0
    crashes: int = 0
    dispatch: int = 1
    worker: str | None = None
    holder: HeldAttempt | None = None
    shown: tuple[str, float] = ("queued", 0.0)
    sha256: str | None = None
    is_littered: bool = False
    """A process died before it could remove its files; `files check` finds them."""

    @property
    def is_finished(self) -> bool:
        return self.status in {"completed", "failed", "cancelled"}

    @property
    def order(self) -> tuple[int, int, int]:
        return self.priority, self.rank, self.number

    @property
    def named(self) -> Dispatch:
        return Dispatch(self.id, self.dispatch)

    def leave(self, status: str) -> None:
        """Change the status and take the job from its holder."""
        self.status, self.holder = status, None
        if status == "pending":
            self.worker, self.shown = None, ("queued", 0.0)

    def send_again(self) -> None:
        self.leave("pending")
        self.dispatch += 1


PICK = st.sampled_from(range(24))
DEATHS = {
    "begin": ("attempt-before-commit", "attempt-after-commit"),
    "publish": (
        "publish-before-rename",
        "publish-after-rename",
        "publish-before-commit",
        "publish-after-commit",
    ),
    "fail": ("retry-before-commit", "retry-after-commit"),
}
ACTS = (
    "begin", "begin", "publish", "fail", "begin", "publish", "give up", "put off", "draft",
    "progress",
)  # fmt: skip
SOMETIMES = st.sampled_from([False, False, False, True])
STEPS = {
    "work": {
        "what": st.sampled_from(ACTS),
        "which": PICK,
        "fate": st.sampled_from(range(16)),
    },
    "submit": {
        "count": st.sampled_from([1, 1, 1, 2, 3, 10]),
        "client": st.sampled_from("ab"),
        "priority": st.sampled_from([1, 1, 0, 2]),
        "owner": st.sampled_from(OWNERS[:2]),
        "key": st.sampled_from(["", "", "one", "two"]),
        "words": st.sampled_from(["sleep 0", "sleep 1"]),
        "dies": st.sampled_from([*[""] * 4, "submit-before-commit", "submit-after-commit"]),
    },
    "cancel": {"which": PICK, "caller": st.sampled_from(OWNERS), "dies": SOMETIMES},
    "lose_worker": {
        "which": PICK,
        "how": st.sampled_from(["killed", "frozen", "drained"]),
        "noticed": st.sampled_from([True, False]),
    },
    "maintain": {
        "which": PICK,
        "what": st.sampled_from(
            ["take over", "lose", "find lost", "delete finished", "restart", "compare"]
        ),
    },
}
OFTEN = ("work",) * 6 + ("submit", "cancel", "lose_worker", "lose_worker", "maintain")
STEP = st.one_of(*(st.tuples(st.just(name), st.fixed_dictionaries(STEPS[name])) for name in OFTEN))


class JobLife(RuleBasedStateMachine):
    """Servers, three workers at a time, and the deaths of workers."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        world.empty()
        self.jobs: dict[str, JobModel] = {}
        self.keys: dict[tuple[str, str], tuple[str, list[str]]] = {}
        self.dispatches: dict[Dispatch, str | None] = {}
        """Unfinished dispatches -> the worker that has picked it up."""
        self.attempts: list[HeldAttempt] = []
        self.workers: dict[str, Claims] = {}
        self.picked: list[tuple[str, Dispatch]] = []
        self.dead: set[str] = set()
        self.ends: dict[str, tuple[Any, ...]] = {}
        self.hired = 0
        while len(self.workers) < 3:
            self.hire()

    @rule(step=STEP)
    def take_step(self, step: tuple[str, dict[str, Any]]) -> None:
        """Take one step; with a rule for each, a run would leave some out at random."""
        name, how = step
        getattr(self, name)(**how)

    # Clients

    @initialize(clients=st.sampled_from(["ab", "aab", "aaab", "a"]))
    def submit_some(self, clients: str) -> None:
        for client in clients:
            self.submit(1, client, 1, None, "", "sleep 0", "")

    def accept(self, ids: list[str], client: str, priority: int, owner: str | None) -> None:
        for job_id in ids:
            assert job_id not in self.jobs
            rank = self.fair_rank(client, priority)
            job = JobModel(job_id, len(self.jobs), client, priority, rank, owner)
            self.jobs[job_id] = job
            self.dispatches[job.named] = None

    def fair_rank(self, client: str, priority: int) -> int:
        """One turn after the client's own last, and not before the turn that is being served."""
        of_class = [job for job in self.unfinished() if job.priority == priority]
        own = [job.rank for job in of_class if job.client == client]
        at_work = [job.rank for job in of_class if job.worker is not None]
        waiting = [job.rank for job in of_class if job.worker is None]
        now = max(at_work) if at_work else min(waiting, default=1) - 1
        return max([now, *own]) + 1

    def submit(
        self,
        count: int,
        client: str,
        priority: int,
        owner: str | None,
        key: str,
        words: str,
        dies: str,
    ) -> None:
        """Submit jobs: once, again, in batches, with a key, and more than the queue holds."""
        requests = [parse_request(prompt=words, duration=1)] * count
        asked = hashlib.sha256(f"{count} {words}".encode()).hexdigest()
        repeatable = Repeatable(key, asked) if key else None
        before = self.keys.get((owner or "", key)) if key else None
        waiting = sum(job.worker is None for job in self.unfinished())
        made: list[Any] = []

        def send() -> None:
            made.extend(
                self.world.service.submit_batch(
                    requests, client, PRIORITIES[priority], owner=owner, repeatable=repeatable
                )
            )

        if before is not None and before[0] != asked:
            with pytest.raises(RequestMismatchError):
                send()
        elif before is None and waiting + count > QUEUE_LIMIT:
            with pytest.raises(QueueFullError):
                send()
        elif before is not None:
            send()
            assert [job.job_id for job in made] == before[1]
        else:
            with self.world.dying_at(dies):
                send()
            ids = [job.job_id for job in made] or self.unheard_of()
            assert len(ids) == (0 if dies == "submit-before-commit" else count)
            self.accept(ids, client, priority, owner)
            if key and ids:
                self.keys[owner or "", key] = (asked, ids)

    def unheard_of(self) -> list[str]:
        """Return the jobs whose client died before it got their ids, in the order of the queue."""
        with storage.get_session(read_only=True) as session:
            entries = storage.list_queue_entries(session)
        new = [entry for entry in entries if entry.generation_id not in self.jobs]
        return [entry.generation_id for entry in sorted(new, key=lambda each: each.place)]

    def cancel(self, which: int, caller: str | None, dies: bool) -> None:
        """Cancel a job of any owner that waits, runs or is finished."""
        if not self.jobs:
            return
        job = self.choose(list(self.jobs.values()), which)
        visitor = Caller(owner=caller, sees_all=caller is None, name="visitor")
        if not visitor.can_see(job.owner):
            with pytest.raises(UnknownGenerationError):
                find_visible_job(self.world.state, visitor, job.id)
            return
        find_visible_job(self.world.state, visitor, job.id)
        if job.is_finished:
            with pytest.raises(JobFinishedError):
                self.world.service.cancel(job.id)
            return
        with self.world.dying_at("cancel-after-commit" if dies else "") as died:
            assert self.world.service.cancel(job.id).status == "cancelled"
        if not died and job.worker is None:
            self.dispatches.pop(job.named, None)
        job.is_littered = bool(died)
        job.leave("cancelled")

    # Workers

    def claims(self, worker_id: str) -> Claims:
        service = self.world.service
        return Claims(self.world.settings, service.queue, worker_id, service.store)

    def hire(self) -> None:
        self.hired += 1
        self.workers[f"worker-{self.hired}"] = self.claims(f"worker-{self.hired}")

    def work(self, what: str, which: int, fate: int) -> None:
        """Let a worker pick up a dispatch, claim it or continue an attempt, and perhaps die."""
        points = DEATHS.get(what, ())
        dies = points[fate - 1] if 0 < fate <= len(points) else ""
        if what in {"begin", "pick up"} or not self.attempts:
            self.pick_up(which)
            if self.picked and what != "pick up":
                self.begin(which, dies if what == "begin" else "")
            return
        attempt = self.choose(self.attempts, which)
        if what == "publish":
            self.publish(attempt, dies)
        elif what in {"fail", "give up"}:
            error = EngineError("again") if what == "fail" else InvalidRequestError("never")
            self.fail(attempt, error, dies)
        elif what == "put off":
            self.put_off(attempt, is_suspect=fate % 2 == 0)
        elif what == "draft":
            self.draft(attempt)
        else:
            self.note_progress(attempt, fate / 16)

    def pick_up(self, which: int) -> None:
        worker = self.choose(list(self.workers), which)
        name = self.world.pick_up(worker)
        waiting = [each for each, holder in self.dispatches.items() if holder is None]
        assert (name is None) == (not waiting)
        if name is None:
            return
        (dispatch,) = [each for each in waiting if each.workflow_id == name]
        ready = [job for job in self.unfinished() if job.named in waiting]
        if not self.jobs[dispatch.generation_id].is_finished and ready:
            first = min(ready, key=lambda job: job.order)
            assert dispatch in {first.named} | {each for each in waiting if self.is_old(each)}
        self.dispatches[dispatch] = worker
        self.picked.append((worker, dispatch))

    def is_old(self, dispatch: Dispatch) -> bool:
        return self.jobs[dispatch.generation_id].dispatch != dispatch.attempt

    def begin(self, which: int, dies: str) -> None:
        """Claim a dispatch, perhaps in a worker that counts as dead by now."""
        worker, dispatch = self.picked.pop(-1 - which % len(self.picked))
        job = self.jobs[dispatch.generation_id]
        claims = self.workers.get(worker) or self.claims(worker)
        may_begin = not job.is_finished and not self.is_old(dispatch)
        crashed = may_begin and job.status == "processing"
        pauses = crashed and job.crashes > 0
        if crashed:
            assert job.holder is not None
            assert job.holder.real.dispatch == dispatch
        real: Attempt | None = None
        with self.world.dying_at(dies) as died:
            real = claims.claim(dispatch)
        if may_begin and not (died and dies == "attempt-before-commit"):
            job.crashes += crashed
            job.attempts -= crashed
            if pauses:
                job.send_again()
                self.dispatches[job.named] = None
            else:
                job.status, job.worker, job.shown = "processing", worker, ("loading_model", 0.0)
                job.attempts += 1
                job.holder = HeldAttempt(real or self.unseen(dispatch, worker), worker, claims, job)
                job.is_littered = job.is_littered and bool(died)
        if died:
            self.kill(worker)
        elif real is None:
            assert not may_begin or pauses
            self.end(dispatch, worker)
        else:
            assert job.holder is not None
            self.attempts.append(job.holder)

    def unseen(self, dispatch: Dispatch, worker: str) -> Attempt:
        """Return the attempt of a worker that died after the commit of its claim."""
        token = AttemptToken.for_dispatch(dispatch, worker)
        return Attempt(dispatch=dispatch, token=token, worker_id=worker, order=None, number=0)  # type: ignore[arg-type]  # never looked at

    def end(self, dispatch: Dispatch, worker: str) -> None:
        self.world.record_end(dispatch, worker)
        if self.dispatches.get(dispatch) == worker:
            del self.dispatches[dispatch]

    def note_progress(self, attempt: HeldAttempt, fraction: float) -> None:
        attempt.claims.note_progress(attempt.real, "generating", fraction)
        job = attempt.job
        if not job.is_finished and job.worker == attempt.worker:
            job.shown = ("generating", fraction)

    def draft(self, attempt: HeldAttempt) -> Take:
        path = Path(attempt.claims.draft_path(attempt.real))
        path.parent.mkdir(parents=True, exist_ok=True)
        content = attempt.real.token.nonce.encode()
        path.write_bytes(content)
        attempt.take = Take(
            path=path,
            bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            seconds=0.5,
            metadata={"made_by": attempt.worker},
            measurements={},
        )
        return attempt.take

    def publish(self, attempt: HeldAttempt, dies: str) -> None:
        """Publish a take; an attempt that lost its job changes nothing."""
        job = attempt.job
        is_ours = job.holder is attempt
        take = self.draft(attempt)
        published = False
        with self.world.dying_at(dies) as died:
            attempt.claims.upload(attempt.real, take)
            published = attempt.claims.publish(attempt.real, take)
        assert bool(died) == (is_ours and bool(dies))
        assert published == (is_ours and not died)
        if is_ours and dies in {"", "publish-after-commit"}:
            job.leave("completed")
            job.sha256 = take.sha256
        self.over(attempt, is_killed=bool(died))

    def over(self, attempt: HeldAttempt, *, is_killed: bool) -> None:
        if is_killed:
            self.kill(attempt.worker)
            return
        attempt.claims.clean_up(attempt.real)
        self.attempts.remove(attempt)
        self.end(attempt.real.dispatch, attempt.worker)

    def fail(self, attempt: HeldAttempt, error: DGXMusicError, dies: str) -> None:
        """Fail, to be tried again or for good; an attempt that lost its job changes nothing."""
        job = attempt.job
        is_ours = job.holder is attempt
        is_retried = is_ours and error.retryable and job.attempts <= MAX_RETRIES
        with self.world.dying_at(dies) as died:
            delay = attempt.claims.retry_or_fail(attempt.real, error)
            assert (delay is not None) == is_retried
        if is_ours and dies != "retry-before-commit":
            if is_retried:
                job.send_again()
                self.dispatches[job.named] = None
            else:
                job.leave("failed")
        self.over(attempt, is_killed=bool(died))

    def put_off(self, attempt: HeldAttempt, *, is_suspect: bool) -> None:
        """Queue a job again without counting the attempt."""
        job = attempt.job
        attempt.claims.put_off(attempt.real, 0.0, is_suspect=is_suspect)
        if job.holder is attempt:
            job.send_again()
            job.attempts -= 1
            job.crashes += is_suspect
            self.dispatches[job.named] = None
        self.over(attempt, is_killed=False)

    def lose_worker(self, which: int, how: str, noticed: bool) -> None:
        """Lose a worker; a frozen one continues later."""
        busy = [each.worker for each in self.attempts if each.worker in self.workers]
        worker = self.choose(busy or list(self.workers), which)
        if how == "killed":
            self.kill(worker)
        elif how == "frozen":
            self.replace(worker)
        else:
            self.drain(worker)
        if noticed:
            self.take_over()

    def drain(self, worker: str) -> None:
        """Give back the worker's jobs, without counting the attempts."""
        for attempt in [each for each in self.attempts if each.worker == worker]:
            attempt.claims.give_back(attempt.real)
            if attempt.job.holder is attempt:
                attempt.job.leave("pending")
                attempt.job.attempts -= 1
            attempt.claims.clean_up(attempt.real)
            self.attempts.remove(attempt)
        self.picked = [each for each in self.picked if each[0] != worker]
        self.replace(worker)
        self.give_back({worker})

    def kill(self, worker: str) -> None:
        for attempt in [each for each in self.attempts if each.worker == worker]:
            self.attempts.remove(attempt)
            if attempt.take is not None and attempt.job.holder is not attempt:
                attempt.job.is_littered = True
        self.picked = [each for each in self.picked if each[0] != worker]
        self.replace(worker)

    def replace(self, worker: str) -> None:
        """A worker's id is never used again."""
        if worker in self.workers:
            del self.workers[worker]
            self.dead.add(worker)
            self.hire()

    def take_over(self) -> None:
        self.give_back(self.dead)

    def give_back(self, workers: set[str]) -> None:
        theirs = [each for each, holder in self.dispatches.items() if holder in workers]
        assert self.world.service.queue.give_back(workers) == len(theirs)
        self.dispatches.update(dict.fromkeys(theirs))

    # Upkeep of the queue

    def maintain(self, which: int, what: str) -> None:
        """Take over, lose or find dispatches, delete finished ones, or restart the server."""
        if what == "take over":
            self.take_over()
        elif what == "lose" and self.dispatches:
            self.lose_dispatch(which)
        elif what == "find lost":
            self.find_lost_dispatches()
        elif what == "compare":
            self.displayed_jobs_match()
        elif what == "delete finished":
            self.world.service.queue.delete_finished(older_than_seconds=0.0)
        elif what == "restart":
            self.world.start()
            self.workers = {worker_id: self.claims(worker_id) for worker_id in self.workers}

    def lose_dispatch(self, which: int) -> None:
        dispatch = self.choose(list(self.dispatches), which)
        self.world.service.queue.cancel([dispatch])
        del self.dispatches[dispatch]

    def find_lost_dispatches(self) -> None:
        lost = [job for job in self.unfinished() if job.named not in self.dispatches]
        assert replace_lost_dispatches(self.world.service.queue) == len(lost)
        for job in lost:
            job.attempts -= job.status == "processing"
            job.send_again()
            self.dispatches[job.named] = None

    # What must be true

    def unfinished(self) -> list[JobModel]:
        return [job for job in self.jobs.values() if not job.is_finished]

    def choose(self, some: list[Any], which: int) -> Any:
        return some[which % len(some)]

    @invariant()
    def rows_are_what_the_model_says(self) -> None:
        with storage.get_session(read_only=True) as session:
            rows = {row.id: row for row in session.scalars(select(Generation))}
            entries = {each.generation_id: each for each in session.scalars(select(QueueEntry))}
        assert rows.keys() == self.jobs.keys()
        assert entries.keys() == {job.id for job in self.unfinished()}
        for job in self.jobs.values():
            self.check_row(job, rows[job.id])
        for job in self.unfinished():
            entry = entries[job.id]
            assert (entry.attempt, entry.crashes) == (job.dispatch, job.crashes)
            assert (entry.worker_id, (entry.step, entry.progress)) == (job.worker, job.shown)
        waiting = [job for job in self.unfinished() if job.worker is None]
        by_place = sorted(waiting, key=lambda job: entries[job.id].place)
        assert by_place == sorted(waiting, key=lambda job: job.order)
        assert len({entries[job.id].place for job in waiting}) == len(waiting)

    def check_row(self, job: JobModel, row: Generation) -> None:
        assert (row.status, row.attempts, row.file_sha256) == (job.status, job.attempts, job.sha256)
        assert (row.attempt_token is None) == (job.holder is None)
        assert 0 <= row.attempts <= 1 + MAX_RETRIES
        if job.is_finished:
            end = (row.status, row.completed_at, row.file_sha256, row.error_message, row.attempts)
            assert self.ends.setdefault(job.id, end) == end
            self.check_files(job, self.world.settings.output_dir / row.file_path)

    def check_files(self, job: JobModel, take: Path) -> None:
        if job.is_littered:
            return
        if job.status == "completed":
            assert hashlib.sha256(take.read_bytes()).hexdigest() == job.sha256
        else:
            assert not take.exists()
        drafts = {path.suffix[1:] for path in take.parent.glob(f".dgx-{job.id}.*")}
        assert drafts <= {each.real.token.nonce for each in self.attempts if each.job is job}

    def displayed_jobs_match(self) -> None:
        """Compare the jobs as displayed; queue positions are 1 to n in the order of the queue."""
        waiting = sorted(
            (job for job in self.unfinished() if job.worker is None), key=lambda job: job.order
        )
        for position, job in enumerate(waiting, 1):
            shown = self.world.service.find(job.id)
            ahead = position if job.status == "pending" else None
            assert (shown.status, shown.queue_position) == (job.status, ahead)
        listed = self.world.service.history(limit=1000).jobs
        assert {job.job_id: job.status for job in listed} == {
            job.id: job.status for job in self.jobs.values()
        }
