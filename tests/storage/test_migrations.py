"""Migrations keep every row, on both databases."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import inspect, text

from services import storage
from services.storage import migrations, snapshot
from services.storage.connection import Database, resolve_url
from services.storage.migrations import (
    State,
    downgrade,
    prepare_database,
    read_schema_status,
    upgrade,
)
from services.storage.schema import HEAD_REVISION, KNOWN_REVISIONS
from services.storage.sqlite_driver import load_library
from tests.programs import start_python

pytestmark = pytest.mark.integration

PROJECT = Path(__file__).parents[2]
ROWS = 10_000

SECOND = '''
"""A migration that rebuilds tables which other tables refer to."""

import sqlalchemy as sa
from alembic import op
from services.storage.models import Base

revision, down_revision, branch_labels, depends_on = "next", "HEAD", None, None


def rebuild(table):
    return op.batch_alter_table(table, copy_from=Base.metadata.tables[table], recreate="always")


def upgrade():
    if op.get_bind().dialect.name == "sqlite":
        with rebuild("generations") as batch:
            batch.add_column(sa.Column("mood", sa.Text(), server_default="calm"))
        with rebuild("prompts") as batch:
            batch.add_column(sa.Column("language", sa.Text(), server_default="en"))
    else:
        op.add_column("generations", sa.Column("mood", sa.Text(), server_default="calm"))
        op.add_column("prompts", sa.Column("language", sa.Text(), server_default="en"))


def downgrade():
    with op.batch_alter_table("generations") as batch:
        batch.drop_column("mood")
    with op.batch_alter_table("prompts") as batch:
        batch.drop_column("language")
'''.replace("HEAD", HEAD_REVISION)

AT_THE_END = "\n\n\ndef downgrade"
BROKEN = SECOND.replace(AT_THE_END, "\n    op.execute('SELECT * FROM nowhere')" + AT_THE_END)
ORPHANING = SECOND.replace(AT_THE_END, "\n    op.execute('DELETE FROM prompts')" + AT_THE_END)

BEFORE_REVISIONS = """
CREATE TABLE generations (
    id TEXT NOT NULL PRIMARY KEY, prompt TEXT NOT NULL, model_name TEXT NOT NULL,
    model_version TEXT, duration_seconds FLOAT NOT NULL, sample_rate INTEGER NOT NULL,
    channels INTEGER NOT NULL, file_path TEXT NOT NULL, file_size_bytes INTEGER,
    status TEXT NOT NULL, created_at DATETIME NOT NULL, completed_at DATETIME,
    generation_time_seconds FLOAT, error_message TEXT, metadata TEXT
);
CREATE TABLE prompts (
    id INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT NOT NULL UNIQUE, used_count INTEGER,
    first_used_at DATETIME NOT NULL, last_used_at DATETIME NOT NULL
);
CREATE INDEX idx_generations_status ON generations (status);
CREATE INDEX idx_generations_created_at ON generations (created_at DESC);
CREATE INDEX idx_prompts_text ON prompts (text);
INSERT INTO prompts VALUES (7, 'old beat', 2, '2025-11-07 09:00:00', '2025-11-07 10:00:00.5');
INSERT INTO generations VALUES ('a', 'old beat', 'musicgen-small', NULL, 16.0, 32000, 2, 'a.wav',
    NULL, 'pending', '2025-11-07 10:00:00', NULL, NULL, NULL, NULL);
INSERT INTO generations VALUES ('b', 'new loop', 'musicgen-small', '1.0', 30.0, 32000, 1, 'b.wav',
    5242880, 'completed', '2025-11-07 09:00:00.000001', '2025-11-07 09:00:22', 22.3, NULL,
    '{"bpm": 90}');
"""


@pytest.fixture
def scripts(tmp_path: Path) -> Callable[[str], Path]:
    """Copy the project's scripts and add one."""

    def make(second: str) -> Path:
        folder = tmp_path / "scripts"
        shutil.copytree(PROJECT / "alembic", folder, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "versions" / "002_second.py").write_text(second)
        return folder

    return make


def fill(rows: int) -> None:
    with storage.get_session() as session:
        for number in range(100):
            storage.track_prompt_usage(session, f"beat number {number}")
        session.execute(
            text(
                "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < "
                f"{rows - 1}) INSERT INTO generations (id, prompt, model_name, duration_seconds, "
                "sample_rate, channels, file_path, status, created_at, prompt_id) SELECT "
                "'id-' || i, 'beat number ' || (i % 100), 'm', 1.5, 8000, 1, 'p', 'completed', "
                "'2026-01-01 00:00:00.000000', 1 + i % 100 FROM n"
            )
        )
        session.execute(
            text(
                "INSERT INTO audio_analysis (generation_id, bpm, analysed_at) "
                "SELECT id, 90.5, created_at FROM generations"
            )
        )


def contents(database: Database) -> dict[str, list[Any]]:
    names = {
        "generations": "id, prompt, status, duration_seconds, created_at, prompt_id, search_id",
        "prompts": "id, text, used_count, first_used_at",
        "audio_analysis": "generation_id, bpm, analysed_at",
    }
    with database.engine.connect() as connection:
        return {
            table: [
                tuple(row)
                for row in connection.exec_driver_sql(f"SELECT {columns} FROM {table} ORDER BY 1")
            ]
            for table, columns in names.items()
        }


def clauses(statement: str) -> list[str]:
    """Return the parts of a CREATE statement, regardless of order, brackets and spaces."""
    return sorted(re.sub(r"[\s\"()]+", " ", part).strip() for part in statement.split(","))


def shape(database: Database) -> Any:
    """Return the schema in a form that does not depend on how it was created."""
    if database.is_sqlite:
        with database.engine.connect() as connection:
            rows = connection.exec_driver_sql(
                "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name"
            ).fetchall()
        return [(*row[:3], clauses(row[3] or "")) for row in rows]
    found: dict[str, Any] = {}
    inspector = inspect(database.engine)
    for table in sorted(inspector.get_table_names()):
        columns = sorted(inspector.get_columns(table), key=lambda column: column["name"])
        found[table] = (
            [{**column, "type": repr(column["type"])} for column in columns],
            inspector.get_foreign_keys(table),
            sorted(inspector.get_check_constraints(table), key=lambda check: str(check["name"])),
            inspector.get_pk_constraint(table),
        )
    with database.engine.connect() as connection:
        for statement in (
            "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1",
            "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname LIKE 'dgx_music%%'",
            "SELECT cfgname, maptokentype, mapdict::regdictionary::text FROM pg_ts_config "
            "JOIN pg_ts_config_map ON mapcfg = oid WHERE cfgname = 'dgx_music' ORDER BY 2",
            "SELECT dictname, dictinitoption FROM pg_ts_dict WHERE dictname LIKE 'dgx_music%%'",
            "SELECT sequencename, data_type::text FROM pg_sequences ORDER BY 1",
        ):
            rows = connection.exec_driver_sql(statement).fetchall()
            found[statement] = [tuple(row) for row in rows]
    return found


def test_new_and_migrated_databases_have_the_same_schema(
    database: Database, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = (
        f"sqlite:///{tmp_path}/migrated.db"
        if database.is_sqlite
        else request.getfixturevalue("postgres_server").new_database()
    )
    migrated = Database(resolve_url(url))
    upgrade(migrated)
    assert shape(migrated) == shape(database)
    assert len(shape(database)) > 5
    migrated.close()


def test_alembic_finds_no_difference_to_the_models(database: Database) -> None:
    from alembic.config import Config

    from alembic import command

    config = Config()
    config.set_main_option("script_location", str(migrations.find_scripts_folder()))
    config.set_main_option("path_separator", "os")
    with migrations.migration_transaction(database) as connection:
        connection.exec_driver_sql("CREATE TABLE of_others (number INTEGER)")
        config.attributes["connection"] = connection
        command.check(config)


def test_known_revisions_are_those_of_the_scripts() -> None:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(PROJECT / "alembic"))
    config.set_main_option("path_separator", "os")
    scripts = ScriptDirectory.from_config(config)
    walked = [script.revision for script in scripts.walk_revisions()]
    assert tuple(reversed(walked)) == KNOWN_REVISIONS
    assert scripts.get_heads() == [HEAD_REVISION]


def test_upgrade_and_downgrade_keep_every_row(
    database: Database, scripts: Callable[[str], Path]
) -> None:
    fill(ROWS)
    before = contents(database)
    folder = scripts(SECOND)
    upgrade(database, "next", scripts=folder)
    assert read_schema_status(database).revision == "next"
    assert contents(database) == before
    with database.engine.begin() as connection:
        moods = connection.exec_driver_sql("SELECT count(*) FROM generations WHERE mood = 'calm'")
        assert moods.scalar_one() == ROWS
    downgrade(database, HEAD_REVISION, scripts=folder)
    assert contents(database) == before
    result = storage.check_database()
    assert result.problems == ()
    with storage.get_session() as session:
        assert len(storage.search_generations(session, "number 42", limit=1000).items) == 100
        storage.delete_generation(session, "id-0")
        assert storage.get_analysis(session, "id-0") is None


def test_failed_migration_changes_nothing(
    database: Database, scripts: Callable[[str], Path]
) -> None:
    fill(50)
    before, looks = contents(database), shape(database)
    with pytest.raises(storage.MigrationError, match="nowhere"):
        upgrade(database, "next", scripts=scripts(BROKEN))
    assert contents(database) == before
    assert shape(database) == looks
    assert read_schema_status(database).state is State.CURRENT


def test_migration_that_breaks_references_changes_nothing(
    sqlite_database: Database, scripts: Callable[[str], Path]
) -> None:
    fill(50)
    before = contents(sqlite_database)
    with pytest.raises(storage.MigrationError, match="without its row of prompts"):
        upgrade(sqlite_database, "next", scripts=scripts(ORPHANING))
    assert contents(sqlite_database) == before


def test_downgrade_to_base_drops_only_our_tables(database: Database) -> None:
    with database.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE of_others (number INTEGER)")
    downgrade(database, "base")
    tables = set(inspect(database.engine).get_table_names())
    assert tables == {"alembic_version", "of_others"}
    assert read_schema_status(database).state is State.EMPTY
    prepare_database(database)
    assert read_schema_status(database).state is State.CURRENT


def test_empty_versioned_database_is_upgraded(bare_database: Database) -> None:
    with bare_database.engine.begin() as connection:
        migrations.set_revision(connection, None)
    upgrade(bare_database)
    assert read_schema_status(bare_database).state is State.CURRENT


UNREAD_COLUMNS = ("queue_entries.not_before", "workers.started_at")

ROWS_OF_003 = (
    "INSERT INTO prompts VALUES (1, 'calm piano', 2, '2026-01-01 00:00:00.000000', "
    "'2026-01-02 00:00:00.000000')",
    "INSERT INTO generations (id, prompt, model_name, duration_seconds, sample_rate, channels, "
    "file_path, status, created_at, prompt_id, owner) VALUES ('job', 'calm piano', 'composer', "
    "16.0, 48000, 2, 'a.wav', 'pending', '2026-01-01 00:00:00.000000', 1, 'key')",
    "INSERT INTO audio_analysis (generation_id, bpm, analysed_at) "
    "VALUES ('job', 90.5, '2026-01-01 00:00:00.000000')",
    "INSERT INTO models VALUES ('small', 'abc', 'MIT', 32000, 1, 30.0, 1, 'small', "
    "'2026-01-01 00:00:00.000000')",
    "INSERT INTO queue_entries (generation_id, client, priority, rank, place, duration_seconds, "
    "attempt, crashes, worker_id, step, progress, not_before, created_at) VALUES ('job', 'key', 1, "
    "3, 700003000, 16.0, 2, 1, 'w', 'generating', 0.5, '2026-01-01 00:00:09.000000', "
    "'2026-01-01 00:00:00.000000')",
    "INSERT INTO workers (id, slot, process, host, pid, models, concurrency, started_at, beat_at) "
    "VALUES ('w', 's', 'p', 'h', 7, 'composer', 1, 1.5, 2.5)",
    "INSERT INTO api_keys (id, name, key_sha256, created_at) "
    "VALUES ('key', 'studio', X'ab', '2026-01-01 00:00:00.000000')",
    "INSERT INTO idempotency_keys VALUES ('key', 'once', X'cd', '[\"job\"]', "
    "'2026-01-01 00:00:00.000000')",
    "INSERT INTO rate_counters VALUES ('key/1', 4, 120.0)",
)


def rows_of_every_table(database: Database) -> dict[str, list[dict[str, Any]]]:
    with database.engine.connect() as connection:
        present = inspect(connection).get_table_names()
        return {
            table: [
                dict(row) for row in connection.exec_driver_sql(f"SELECT * FROM {table}").mappings()
            ]
            for table in storage.Base.metadata.tables
            if table in present
        }


def without(rows: dict[str, list[dict[str, Any]]], *dropped: str) -> dict[str, list[Any]]:
    return {
        table: [
            {name: value for name, value in row.items() if f"{table}.{name}" not in dropped}
            for row in of_table
        ]
        for table, of_table in rows.items()
    }


def test_revision_004_keeps_everything_but_the_unread_columns(
    bare_database: Database,
) -> None:
    upgrade(bare_database, "003")
    with bare_database.engine.begin() as connection:
        for statement in ROWS_OF_003:
            literal = r"'\\x\1'" if not bare_database.is_sqlite else r"X'\1'"
            connection.exec_driver_sql(re.sub(r"X'(\w+)'", literal, statement))
    before = rows_of_every_table(bare_database)
    assert all(len(rows) == 1 for rows in before.values())
    upgrade(bare_database, "004")
    after = rows_of_every_table(bare_database)
    assert after == without(before, *UNREAD_COLUMNS)
    assert after != before
    downgrade(bare_database, "003")
    empty = {"queue_entries": {"not_before": None}, "workers": {"started_at": 0.0}}
    assert rows_of_every_table(bare_database) == {
        table: [row | empty.get(table, {}) for row in rows] for table, rows in before.items()
    }


def test_revision_005_adds_why_a_worker_takes_no_jobs(bare_database: Database) -> None:
    upgrade(bare_database, "003")
    with bare_database.engine.begin() as connection:
        (worker,) = [row for row in ROWS_OF_003 if "INTO workers" in row]
        connection.exec_driver_sql(worker)
    upgrade(bare_database, "004")
    (before,) = rows_of_every_table(bare_database)["workers"]
    prepare_database(bare_database)
    assert read_schema_status(bare_database).state is State.CURRENT
    assert rows_of_every_table(bare_database)["workers"] == [before | {"outage": None}]
    downgrade(bare_database, "004")
    assert rows_of_every_table(bare_database)["workers"] == [before]


def test_revision_006_adds_the_files_of_takes_and_keeps_the_rest(bare_database: Database) -> None:
    upgrade(bare_database, "005")
    with bare_database.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO prompts (text, first_used_at, last_used_at) VALUES "
            "('words', '2026-01-01 00:00:00.000000', '2026-01-01 00:00:00.000000')"
        )
    before = rows_of_every_table(bare_database)
    assert "attachments" not in before
    prepare_database(bare_database)
    assert rows_of_every_table(bare_database) == before | {"attachments": []}
    downgrade(bare_database, "005")
    assert rows_of_every_table(bare_database) == before


def test_unknown_target_revision_is_refused(database: Database) -> None:
    with pytest.raises(storage.MigrationError, match="777"):
        upgrade(database, "777")


@pytest.fixture
def before_revisions(tmp_path: Path) -> Path:
    file = tmp_path / "old.db"
    with closing(load_library().connect(file)) as connection:
        connection.executescript(BEFORE_REVISIONS)
    return file


@pytest.mark.parametrize("stamped", [False, True])
def test_database_from_before_revisions_is_upgraded_with_its_rows(
    before_revisions: Path, sqlite_database: Database, stamped: bool
) -> None:
    if stamped:
        with closing(load_library().connect(before_revisions)) as connection:
            connection.executescript(
                "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL, "
                "CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num));"
                "INSERT INTO alembic_version VALUES ('001');"
            )
    expected = shape(sqlite_database)
    storage.init_db(f"sqlite:///{before_revisions}")
    with storage.get_session(read_only=True) as session:
        first = storage.get_generation(session, "a")
        second = storage.get_generation(session, "b")
        prompt = storage.get_prompt(session, 7)
        assert [row.id for row in storage.search_generations(session, "beats").items] == ["a"]
    assert first is not None
    assert second is not None
    assert prompt is not None
    assert (first.prompt_id, second.prompt_id, first.attempts) == (7, None, 0)
    assert (second.get_metadata(), second.generation_time_seconds) == ({"bpm": 90}, 22.3)
    assert prompt.used_count == 2
    assert storage.check_database().ok
    from services.storage.database import get_database

    assert shape(get_database()) == expected


def test_database_is_copied_before_it_is_upgraded(before_revisions: Path) -> None:
    storage.init_db(f"sqlite:///{before_revisions}")
    (copy,) = before_revisions.parent.glob(f"old.before-{HEAD_REVISION}.*.db")
    assert copy.stat().st_mode & 0o777 == 0o600
    with closing(load_library().connect(copy)) as connection:
        assert connection.execute("SELECT count(*) FROM generations").fetchone() == (2,)
    assert snapshot.find_damage(copy) == []


def test_empty_database_is_upgraded_without_a_copy(before_revisions: Path) -> None:
    with closing(load_library().connect(before_revisions)) as connection:
        connection.execute("DELETE FROM generations")
        connection.execute("DELETE FROM prompts")
        connection.commit()
    storage.init_db(f"sqlite:///{before_revisions}")
    assert list(before_revisions.parent.glob("*.before-*")) == []


@pytest.mark.parametrize("missing", ["prompts", "generations"])
def test_database_with_only_one_of_the_old_tables_is_upgraded(
    before_revisions: Path, missing: str
) -> None:
    with closing(load_library().connect(before_revisions)) as connection:
        connection.execute(f"DROP TABLE {missing}")
    storage.init_db(f"sqlite:///{before_revisions}")
    with storage.get_session(read_only=True) as session:
        stats = storage.get_database_stats(session)
    expected = (2, 0) if missing == "prompts" else (0, 1)
    assert (stats["total_generations"], stats["total_prompts"]) == expected
    assert storage.check_database().ok
    assert len(list(before_revisions.parent.glob("old.before-*"))) == 1


def test_upgrade_does_not_start_when_the_copy_fails(before_revisions: Path) -> None:
    database = Database(resolve_url(f"sqlite:///{before_revisions}"))
    before_revisions.write_bytes(b"no database")
    with pytest.raises(storage.MigrationError, match="copied"):
        migrations.save_before_upgrade(database)


def test_upgrade_stops_at_rows_that_the_new_tables_refuse(before_revisions: Path) -> None:
    with closing(load_library().connect(before_revisions)) as connection:
        connection.execute("UPDATE generations SET status = 'done' WHERE id = 'a'")
        connection.commit()
    with pytest.raises(storage.MigrationError, match="status"):
        storage.init_db(f"sqlite:///{before_revisions}")
    with closing(load_library().connect(before_revisions)) as connection:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
        assert connection.execute("SELECT count(*) FROM generations").fetchone() == (2,)
    assert "audio_analysis" not in tables


def test_older_backup_is_upgraded_when_restored(before_revisions: Path, sqlite_url: str) -> None:
    storage.init_db(sqlite_url)
    storage.restore_database(before_revisions)
    with storage.get_session(read_only=True) as session:
        assert storage.count_generations(session) == 2
    assert storage.check_database().ok
    with closing(load_library().connect(before_revisions)) as connection:
        names = {row[1] for row in connection.execute("PRAGMA table_info(generations)")}
    assert "search_id" not in names


def test_tables_of_another_program_on_postgresql_are_kept(postgres_url: str) -> None:
    database = Database(resolve_url(postgres_url))
    with database.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE generations (father TEXT)")
    with pytest.raises(storage.MigrationError, match="other tables"):
        storage.init_db(postgres_url)
    with database.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT father FROM generations").fetchall() == []
    database.close()


def test_threads_that_open_at_once_create_one_database(database_url: str) -> None:
    failures: list[BaseException] = []

    def start() -> None:
        opened = Database(resolve_url(database_url))
        try:
            prepare_database(opened)
        except storage.StorageError as error:
            failures.append(error)
        finally:
            opened.close()

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    storage.init_db(database_url)
    assert storage.check_database().ok


def test_processes_that_open_at_once_upgrade_once(before_revisions: Path, tmp_path: Path) -> None:
    program = (
        f"from services import storage; storage.init_db('sqlite:///{before_revisions}'); "
        "print(storage.check_database().ok)"
    )
    running = [start_python(program, folder=tmp_path) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "True\n" * 3


def alembic(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=PROJECT, env=os.environ | {"DATABASE_URL": url}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def test_alembic_command_line_works(sqlite_url: str) -> None:
    assert alembic(sqlite_url, "upgrade", "head").returncode == 0
    assert alembic(sqlite_url, "current").stdout.strip() == f"{HEAD_REVISION} (head)"
    storage.init_db(sqlite_url)
    assert storage.check_database().ok
    offline = alembic(sqlite_url, "upgrade", "head", "--sql")
    assert offline.returncode != 0
    assert "--sql" in offline.stderr


def test_scripts_are_found_beside_or_inside_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert migrations.find_scripts_folder() == PROJECT / "alembic"
    assert not (PROJECT / "alembic" / "__init__.py").exists()
    inside = tmp_path / "services" / "storage"
    monkeypatch.setattr(migrations, "__file__", str(inside / "migrations.py"))
    with pytest.raises(storage.MigrationError, match="Install"):
        migrations.find_scripts_folder()
    (inside / "alembic").mkdir(parents=True)
    (inside / "alembic" / "env.py").touch()
    assert migrations.find_scripts_folder() == inside / "alembic"
