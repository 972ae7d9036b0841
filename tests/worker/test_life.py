"""The state machine of job_life.py, and proof that it detects bugs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from services import storage
from services.errors import DGXMusicError
from services.jobs import publication
from services.jobs.dispatch import Dispatch
from services.worker import claims
from tests.worker.job_life import JobLife, World

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from services.jobs.attempt_token import AttemptToken
    from services.library.orders import Order
    from services.library.store import FileStore
    from services.library.takes import Take
    from services.storage import Generation
    from services.worker.claims import Claims

pytestmark = pytest.mark.integration

QUIET = {
    "deadline": None,
    "database": None,
    "suppress_health_check": list(HealthCheck),
    "report_multiple_bugs": False,
}
SHORT = settings(max_examples=10, stateful_step_count=50, **QUIET)
LONG = settings(max_examples=600, stateful_step_count=100, **QUIET)
FIXED = settings(max_examples=100, stateful_step_count=50, phases=[Phase.generate], **QUIET)

DETECTED = (
    AssertionError,
    pytest.fail.Exception,
    DGXMusicError,
    LookupError,
    OSError,
    ValueError,
)
"""A broken invariant, an unexpected error, or a missing one."""


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def world(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    name = "postgres_url" if request.param == "postgresql" else "sqlite_url"
    return World.make(request.getfixturevalue(name), tmp_path / "outputs", monkeypatch)


@pytest.fixture
def sqlite_world(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World.make(sqlite_url, tmp_path / "outputs", monkeypatch)


def live(world: World, chosen: settings, number: int | None = None) -> None:
    def life() -> JobLife:
        return JobLife(world)

    run_state_machine_as_test(life if number is None else seed(number)(life), settings=chosen)


def test_no_sequence_of_steps_loses_a_job_or_publishes_it_twice(world: World) -> None:
    live(world, SHORT)


@pytest.mark.nightly
def test_no_long_sequence_of_steps_loses_a_job_or_publishes_it_twice(world: World) -> None:
    live(world, LONG)


def without_token_check(patch: pytest.MonkeyPatch) -> None:
    def lock_held(session: Session, generation_id: str, _token: AttemptToken) -> Generation | None:
        return storage.lock_generation(session, generation_id)

    patch.setattr(publication, "lock_held", lock_held)
    patch.setattr(claims, "lock_held", lock_held)


def row_before_file(patch: pytest.MonkeyPatch) -> None:
    def publish_take(order: Order, token: AttemptToken, take: Take, store: FileStore) -> bool:
        name = publication.final_name(order, token, store)
        with storage.get_session() as session:
            if publication.lock_held(session, order.generation_id, token) is None:
                return False
            storage.publish_generation(
                session,
                order.generation_id,
                str(token),
                generation_time=take.seconds,
                file_size_bytes=take.bytes,
                file_sha256=take.sha256,
            )
            storage.remove_queue_entry(session, order.generation_id)
        publication.reach("publish-before-rename")
        store.publish(take.path, name)
        for point in ("publish-after-rename", "publish-before-commit", "publish-after-commit"):
            publication.reach(point)
        return True

    patch.setattr(claims, "publish_take", publish_take)


def leave_out(patch: pytest.MonkeyPatch, module: str, name: str) -> None:
    """Make a storage function do nothing when this module calls it."""
    there = {each: getattr(storage, each) for each in dir(storage)}
    broken = SimpleNamespace(**there | {name: lambda *_given, **_named: None})
    patch.setattr(f"services.{module}.storage", broken)


def cancelled_stays_in_the_queue(patch: pytest.MonkeyPatch) -> None:
    leave_out(patch, "jobs.service", "remove_queue_entry")


def key_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    leave_out(patch, "jobs.service", "record_request")


def retry_keeps_its_slot(patch: pytest.MonkeyPatch) -> None:
    def enqueue_again(
        self: Claims, session: Session, dispatch: Dispatch, model: str, _delay: float
    ) -> None:
        entry = storage.get_queue_entry(session, dispatch.generation_id, for_update=True)
        assert entry is not None
        entry.attempt += 1
        session.flush()
        again = Dispatch(dispatch.generation_id, entry.attempt)
        self._queue.enqueue(session, again, model=model, place=entry.place)

    patch.setattr(claims.Claims, "_enqueue_again", enqueue_again)


def first_come_first_served(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("services.storage.queue.compute_rank", lambda *_ranks: 1)


def crashed_jobs_never_pause(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(claims, "crash_pause", lambda _crashes: 0.0)


@pytest.mark.parametrize(
    ("break_it", "number"),
    [
        (without_token_check, 2),
        (row_before_file, 1),
        *(
            pytest.param(break_it, number, marks=pytest.mark.nightly)
            for break_it, number in (
                (cancelled_stays_in_the_queue, 2),
                (key_is_forgotten, 5),
                (retry_keeps_its_slot, 4),
                (first_come_first_served, 3),
                (crashed_jobs_never_pause, 1),
            )
        ),
    ],
)
def test_the_state_machine_detects_each_planted_bug(
    sqlite_world: World,
    break_it: Callable[[pytest.MonkeyPatch], None],
    number: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    break_it(monkeypatch)
    with pytest.raises(DETECTED):
        live(sqlite_world, FIXED, number)
