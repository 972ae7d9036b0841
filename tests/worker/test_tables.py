"""The rows of the queue, and DBOS's tables beside ours, on every kind of database."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from services import storage
from services.errors import SettingsError
from services.jobs.dbos_queue import QueueManager
from services.jobs.dispatch import Dispatch
from services.storage import Priority
from services.storage.migrations import get_alembic_options
from tests.conftest import LIMIT_SECONDS
from tests.programs import start_python

if TYPE_CHECKING:
    from services.storage.connection import Database

pytestmark = pytest.mark.integration


def add(number: int, client: str = "", priority: str = "normal") -> storage.QueueEntry:
    with storage.get_session() as session:
        storage.lock_queue_order(session)
        row = storage.create_generation(
            session, f"beat {number}", "composer", 10.0, 8_000, 1, "x", generation_id=f"id-{number}"
        )
        return storage.add_queue_entry(session, row, client=client, priority=Priority(priority))


def enqueue(queue: QueueManager, *numbers: int) -> list[Dispatch]:
    dispatches = [Dispatch(f"id-{number}", 1) for number in numbers]
    with storage.get_session() as session:
        for dispatch in dispatches:
            queue.enqueue(session, dispatch, model="composer", place=5)
    return dispatches


def test_entries_are_ordered_by_priority_then_share_then_time(database: Database) -> None:
    clients = ["a", "a", "a", "b", "c"]
    places = {number: add(number, client).place for number, client in enumerate(clients)}
    places[5] = add(5, "a", "high").place
    places[6] = add(6, "d", "low").place
    assert sorted(places, key=places.__getitem__) == [5, 0, 3, 4, 1, 2, 6]
    with storage.get_session(read_only=True) as session:
        assert storage.count_jobs_ahead(session, places[1]) == (4, 40.0)
        assert storage.count_waiting(session)[0] == 7


def test_an_entry_is_deleted_with_its_generation(database: Database) -> None:
    add(1)
    with storage.get_session() as session:
        storage.delete_generation(session, "id-1")
    with storage.get_session(read_only=True) as session:
        assert storage.list_queue_entries(session) == []


def test_the_age_of_a_heartbeat_is_on_the_clock_of_the_database(database: Database) -> None:
    with storage.get_session() as session:
        storage.register_worker(
            session, worker_id="w", slot="s", process="p", host="h", pid=7,
            models=("composer", "other"), concurrency=2,
        )  # fmt: skip
    with storage.get_session() as session:
        session.execute(text("UPDATE workers SET beat_at = beat_at - 100"))
        (state,) = storage.list_workers(session)
        assert 100.0 <= state.age < 110.0
        assert (state.models, state.concurrency, state.draining) == (
            ("composer", "other"),
            2,
            False,
        )
        assert storage.record_heartbeat(session, "w", draining=True)
        assert not storage.record_heartbeat(session, "nobody")
        (state,) = storage.list_workers(session)
        assert 0.0 <= state.age < 10.0
        assert state.draining
        storage.remove_workers(session, ["w"])
        assert storage.list_workers(session) == []


def test_a_dispatch_is_enqueued_when_the_transaction_commits(
    database: Database,
) -> None:
    add(1)
    queue = QueueManager()
    (dispatch,) = enqueue(queue, 1)
    assert queue.find_lost([dispatch, Dispatch("id-2", 1)]) == [Dispatch("id-2", 1)]
    lost = Dispatch("id-1", 2)

    class ChangedMindError(Exception):
        pass

    def change_mind() -> None:
        with storage.get_session() as session:
            queue.enqueue(session, lost, model="composer", place=5)
            raise ChangedMindError

    with pytest.raises(ChangedMindError):
        change_mind()
    assert queue.find_lost([lost]) == [lost]
    queue.cancel([dispatch])
    assert queue.find_lost([dispatch]) == [dispatch]


def test_a_dispatch_that_is_enqueued_twice_is_stored_once(database: Database) -> None:
    add(1)
    queue = QueueManager()
    enqueue(queue, 1)
    enqueue(queue, 1)
    table = "workflow_status" if database.is_sqlite else "dbos.workflow_status"
    with storage.get_session(read_only=True) as session:
        assert session.execute(text(f"SELECT count(*) FROM {table}")).scalar_one() == 1
        inputs = session.execute(
            text(f"SELECT inputs FROM {table.replace('status', 'input')}")
        ).scalar_one()
    assert "id-1" in inputs
    assert inputs.startswith("{")


def test_the_tables_of_dbos_do_not_disturb_checks_and_backups(
    database: Database, tmp_path: Path
) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    queue = QueueManager()
    queue.prepare()
    add(1)
    dispatches = enqueue(queue, 1)
    assert storage.check_database() == storage.CheckResult(storage.HEAD_REVISION, ())
    with database.engine.connect() as connection:
        options = get_alembic_options()
        metadata = options.pop("target_metadata")
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata) == []
    backup = storage.backup_database(tmp_path / "copy.backup")
    storage.reset_database()
    with storage.get_session(read_only=True) as session:
        assert storage.count_generations(session) == 0
    add(2)
    storage.restore_database(backup, force=True)
    assert QueueManager().find_lost(dispatches) == []
    with storage.get_session(read_only=True) as session:
        assert [entry.generation_id for entry in storage.list_queue_entries(session)] == ["id-1"]
    assert storage.check_database().ok


def test_a_database_of_the_first_revision_is_upgraded_for_the_queue(database: Database) -> None:
    from services.storage.migrations import downgrade, upgrade

    with storage.get_session() as session:
        storage.create_generation(session, "old", "composer", 1.0, 8_000, 1, "x")
    downgrade(database, "001")
    upgrade(database)
    add(1)
    with storage.get_session(read_only=True) as session:
        assert storage.count_generations(session) == 2


def test_several_processes_can_prepare_the_queue_at_once(database_url: str, tmp_path: Path) -> None:
    program = (
        "import sys; from services import storage; storage.init_db(sys.argv[1]);"
        "from services.jobs.dbos_queue import QueueManager; QueueManager().prepare()"
    )
    running = [start_python(program, database_url, folder=tmp_path) for _ in range(3)]
    codes = [process.wait() for process in running]
    assert codes == [0, 0, 0], (tmp_path / "log").read_text()


def test_dbos_uses_our_sqlite_library_and_its_settings(sqlite_database: Database) -> None:
    with storage.get_queue_engine().connect() as connection:
        driver = connection.connection.driver_connection
        assert type(driver).__module__ == sqlite_module(sqlite_database)
        facts = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert facts == {
        "journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30_000,
    }  # fmt: skip


def sqlite_module(database: Database) -> str:
    with database.engine.connect() as connection:
        return type(connection.connection.driver_connection).__module__


def test_an_untested_version_of_dbos_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _: "3.5.0")
    with pytest.raises(SettingsError, match=r"dbos 3\.5\.0 is installed"):
        QueueManager()


def test_the_proprietary_part_of_dbos_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.jobs.dbos_queue.find_spec", lambda _: object())
    with pytest.raises(SettingsError, match="uninstall it"):
        QueueManager()


def test_a_job_without_a_worker_does_not_import_dbos(tmp_path: Path) -> None:
    program = (
        "import sys; sys.argv = ['dgx-music', 'generate', 'a beat', '-d', '1', '-q'];"
        "from services.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "sys.exit('dbos' in sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        check=False,
        timeout=LIMIT_SECONDS,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.endswith(b".wav\n")
