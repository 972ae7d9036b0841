"""`dgx-music db`: backup, restore, reset, check and cleanup."""

import json
import shutil
import sqlite3
from contextlib import closing

import pytest

pytestmark = pytest.mark.integration

SHORT = ("house at 120 BPM", "--duration", "1", "--quiet")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def anywhere(request, home):
    """The home with its database in a file or on a PostgreSQL server."""
    if request.param == "postgresql":
        home.environment["DATABASE_URL"] = request.getfixturevalue("postgres_url")
    return home


def count(home) -> int:
    return json.loads(home.call("db", "stats", "--json").stdout)["total_generations"]


def test_restore_brings_back_what_reset_deleted(anywhere):
    home = anywhere
    if "DATABASE_URL" in home.environment and shutil.which("pg_dump") is None:
        pytest.skip("pg_dump is not on the path")
    assert home.call("db", "init").returncode == 0
    made = home.call("generate", *SHORT).stdout.strip()
    assert count(home) == 1
    assert home.call("db", "backup", "copy.db").stdout == "copy.db\n"
    again = home.call("db", "backup", "copy.db")
    assert again.returncode == 6
    assert "copy.db" in again.stderr
    assert home.call("db", "backup", "copy.db", "--force").returncode == 0
    assert home.call("db", "reset").returncode == 2
    assert home.call("db", "reset", "--yes").returncode == 0
    assert count(home) == 0
    assert (home.path / made).is_file()
    assert home.call("db", "restore", "copy.db").returncode == 0
    assert count(home) == 1
    refused = home.call("db", "restore", "copy.db")
    assert refused.returncode == 6
    assert "force" in refused.stderr
    forced = home.call("db", "restore", "copy.db", "--force")
    assert forced.returncode == 0
    assert "kept as" in forced.stderr
    assert home.call("history", "--search", "house").stdout.count("\n") == 1
    assert home.call("db", "check").stdout == "ok, revision 003\n"
    assert home.call("db", "migrate").returncode == 0


def test_cleanup_lists_first_and_deletes_jobs_with_their_files_on_yes(anywhere):
    home = anywhere
    made = home.path / home.call("generate", *SHORT).stdout.strip()
    young = json.loads(home.call("db", "cleanup", "--older-than", "1", "--json").stdout)
    assert young == {"deleted": False, "generations": []}
    shown = home.call("db", "cleanup", "--older-than", "0")
    assert shown.returncode == 0
    assert made.stem in shown.stdout
    assert made.exists()
    assert count(home) == 1
    deleted = json.loads(home.call("db", "cleanup", "--older-than", "0", "--yes", "--json").stdout)
    assert deleted["deleted"] is True
    assert [row["job_id"] for row in deleted["generations"]] == [made.stem]
    assert not made.exists()
    assert count(home) == 0


def test_damaged_database_is_found_and_replaced_by_a_backup(home):
    for _ in range(2):
        home.call("generate", *SHORT)
    assert home.call("db", "backup", "copy.db").returncode == 0
    with closing(sqlite3.connect(home.database)) as connection, connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute("UPDATE generations SET channels = 7")
    checked = home.call("db", "check")
    assert checked.returncode == 6
    assert "channels" in checked.stdout or "CHECK" in checked.stdout
    assert "db restore" in checked.stderr
    data = bytearray(home.database.read_bytes())
    data[100:4096] = bytes(3996)
    home.database.write_bytes(data)
    broken = home.call("history")
    assert broken.returncode == 6
    assert "Traceback" not in broken.stderr
    assert home.call("db", "restore", "copy.db", "--force").returncode == 0
    assert home.call("db", "check").returncode == 0
    assert count(home) == 2


def test_file_that_is_no_backup_is_refused(home):
    (home.path / "notes.txt").write_text("not a backup")
    for name in ("notes.txt", "missing.db"):
        result = home.call("db", "restore", name)
        assert result.returncode == 6
        assert name in result.stderr
        assert "Traceback" not in result.stderr
