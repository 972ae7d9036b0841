"""A process killed during a change leaves the old state of the database or the new one."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from services import storage
from services.storage.sqlite_driver import load_library

pytestmark = pytest.mark.integration

ROWS = 3000
MOMENTS = [number * 0.01 for number in range(9)]

OLD = f"""
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
INSERT INTO generations (id, prompt, model_name, duration_seconds, sample_rate, channels,
    file_path, status, created_at)
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})
SELECT 'id-' || i, 'old beat ' || i, 'm', 1.0, 8000, 1, 'p', 'pending', '2026-01-01 00:00:00'
FROM n;
"""


def kill_after(seconds: float, action: Callable[[], object]) -> None:
    process = multiprocessing.get_context("fork").Process(target=action)
    process.start()
    process.join(seconds)
    process.kill()
    process.join()


def held() -> int:
    with storage.get_session(read_only=True) as session:
        return storage.count_generations(session)


@pytest.fixture(scope="module")
def old_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("old") / "old.db"
    with closing(load_library().connect(file)) as connection:
        connection.executescript(OLD)
    return file


def test_killed_upgrade_loses_no_row(old_file: Path, tmp_path: Path) -> None:
    unfinished = 0
    for moment in MOMENTS:
        file = tmp_path / f"{moment:.3f}.db"
        shutil.copy(old_file, file)
        kill_after(moment * 3, lambda url=f"sqlite:///{file}": storage.init_db(url))
        with closing(load_library().connect(file)) as connection:
            columns = {row[1] for row in connection.execute("PRAGMA table_info(generations)")}
        unfinished += "search_id" not in columns
        storage.init_db(f"sqlite:///{file}")
        assert held() == ROWS
        assert storage.check_database().ok
        storage.close_db()
    assert unfinished > 0


def test_killed_restore_leaves_the_old_or_the_new_database(old_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "generations.db"
    shutil.copy(old_file, file)
    url = f"sqlite:///{file}"
    storage.init_db(url)
    large = storage.backup_database(tmp_path / "large.db")
    storage.reset_database()
    with storage.get_session() as session:
        storage.create_generation(session, "the only one", "m", 1.0, 8000, 1, "p.wav")
    small = storage.backup_database(tmp_path / "small.db")
    storage.close_db()
    for number, moment in enumerate(MOMENTS):
        source = (large, small)[number % 2]
        kill_after(
            moment,
            lambda source=source: storage.restore_database(source, force=True, database_url=url),
        )
        storage.init_db(url)
        assert held() in {ROWS, 1}
        assert storage.check_database().ok
        storage.close_db()
    storage.restore_database(large, force=True, database_url=url)
    assert held() == ROWS
