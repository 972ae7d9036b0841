"""Moving the database: what is copied, and when a move is refused."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from services import storage
from services.config import Settings
from services.errors import InvalidRequestError, StorageError
from services.jobs.attempt_token import AttemptToken
from services.jobs.dispatch import Dispatch
from services.machine.process_identity import ProcessIdentity
from services.operations.moving import move_database


@pytest.fixture
def settings(sqlite_rig):
    sqlite_rig.add("a beat")
    sqlite_rig.complete(prompt="a tone")
    return sqlite_rig.state.settings


@pytest.fixture
def target(tmp_path):
    return f"sqlite:///{tmp_path / 'target' / 'music.db'}"


def move(settings, target, **options):
    """Close the database as its last process does, and move it."""
    storage.close_db()
    return move_database(settings, target, **{"progress": lambda *_: None, **options})


def run_job(rig, token):
    job_id = rig.add()
    with storage.get_session() as session:
        assert storage.claim_generation(session, job_id, token)
    return job_id


def make_token(process):
    return str(AttemptToken(str(process), "nonce"))


def prompts_in(url):
    storage.init_db(url)
    with storage.get_session(read_only=True) as session:
        return sorted(row.prompt for row in storage.get_all_generations(session))


def test_move_copies_every_row_and_leaves_the_source(settings, target):
    moved = move(settings, target)
    assert moved.moved
    assert {table.name: table.rows for table in moved.tables}["generations"] == 2
    assert prompts_in(target) == prompts_in(settings.database_url) == ["a beat", "a tone"]


def test_progress_of_a_move_reaches_the_end(settings, target):
    reports = []
    move(settings, target, progress=lambda stage, share: reports.append((stage, share)))
    assert all(0.0 <= share <= 1.0 for _, share in reports)
    assert reports[-1][1] == 1.0
    assert any(stage.endswith(" generations") for stage, _ in reports)


def test_dry_run_checks_everything_and_copies_nothing(settings, target):
    moved = move(settings, target, dry_run=True)
    assert not moved.moved
    assert {table.name: table.rows for table in moved.tables}["generations"] == 2
    assert prompts_in(target) == []


def test_database_with_rows_is_not_moved_into(settings, target):
    move(settings, target)
    with pytest.raises(StorageError, match="rows"):
        move(settings, target)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "Name a database"),
        ("  ", "Name a database"),
        ("mysql://host/music", "mysql"),
        ("music.db", "Write it as sqlite:///path"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
    ],
)
def test_invalid_target_is_refused(settings, url, message):
    with pytest.raises(InvalidRequestError, match=rf"^--to: .*{re.escape(message)}"):
        move(settings, url)


def test_database_with_a_worker_is_not_moved(sqlite_rig, settings, target):
    sqlite_rig.start_worker("w", "here")
    with pytest.raises(StorageError, match=r"Workers use this database: here \(process 1\)\."):
        move(settings, target)


def test_worker_without_a_heartbeat_does_not_prevent_a_move(sqlite_rig, settings, target):
    sqlite_rig.start_worker("w", "here")
    age = settings.worker_ttl_seconds + 60
    with storage.get_session() as session:
        session.connection().exec_driver_sql("UPDATE workers SET beat_at = beat_at - ?", (age,))
    assert move(settings, target).moved


def test_job_of_a_running_command_prevents_a_move(sqlite_rig, settings, target):
    job_id = run_job(sqlite_rig, make_token(ProcessIdentity.current()))
    with pytest.raises(StorageError, match=f"is running the job {job_id}"):
        move(settings, target)


ENDED = replace(ProcessIdentity.current(), start_time="1")
ELSEWHERE = replace(ENDED, host="another-machine")


def test_job_of_a_command_on_another_machine_prevents_a_move(sqlite_rig, settings, target):
    run_job(sqlite_rig, make_token(ELSEWHERE))
    with pytest.raises(StorageError, match="perhaps on another machine"):
        move(settings, target)


@pytest.mark.parametrize(
    "owner",
    [ENDED, AttemptToken.for_dispatch(Dispatch("a-job", 1), "w").owner],
    ids=["command", "worker"],
)
def test_job_of_a_dead_process_is_moved(sqlite_rig, settings, target, owner):
    run_job(sqlite_rig, make_token(owner))
    moved = move(settings, target)
    assert {table.name: table.rows for table in moved.tables}["generations"] == 3


def test_missing_source_is_reported(tmp_path, target):
    missing = Settings(DATABASE_URL=f"sqlite:///{tmp_path / 'none.db'}")
    with pytest.raises(StorageError, match=r"none\.db"):
        move(missing, target)
