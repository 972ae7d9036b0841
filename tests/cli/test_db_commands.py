"""`dgx-music db`: backup, restore, reset, check and cleanup."""

import json
import shutil
import sqlite3
from contextlib import closing

import pytest

from services import storage

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
    assert home.call("db", "check").stdout == f"ok, revision {storage.HEAD_REVISION}\n"
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


def test_init_creates_and_later_only_checks(home):
    for _ in range(2):
        result = home.call("db", "init")
        assert (result.returncode, result.stdout) == (0, "")
        assert result.stderr.endswith(", up to date.\n")
    assert home.database.is_file()


def test_stats_count_by_status(home):
    for status in ("completed", "failed", "failed", "pending"):
        home.add_job("calm piano", status=status)
    counts = json.loads(home.call("db", "stats", "--json").stdout)
    assert counts == {
        "total_generations": 4,
        "pending_generations": 1,
        "processing_generations": 0,
        "completed_generations": 1,
        "failed_generations": 2,
        "cancelled_generations": 0,
        "total_prompts": 1,
    }
    lines = dict(line.split() for line in home.call("db", "stats").stdout.splitlines())
    assert lines == {name: str(value) for name, value in counts.items()}


@pytest.mark.parametrize(("answer", "code", "left"), [("n\n", 1, 1), ("\n", 1, 1), ("y\n", 0, 0)])
def test_reset_asks_on_a_terminal(home, answer, code, left):
    home.add_job("calm piano")
    result = home.call("db", "reset", answer=answer)
    assert result.returncode == code
    assert "Empty the database (jobs: 1, prompts: 1)?" in result.stderr
    assert len(home.rows()) == left
    assert len(home.files()) == 1


def test_reset_in_a_script_needs_yes(home):
    home.add_job("calm piano")
    result = home.call("db", "reset")
    assert (result.returncode, result.stdout) == (2, "")
    assert "--yes" in result.stderr
    assert len(home.rows()) == 1


def test_reset_says_what_went_and_keeps_the_keys(home):
    home.add_job("calm piano")
    home.call("keys", "create", "laptop")
    kept = home.call("db", "reset", "--yes")
    assert "Deleted jobs: 1, prompts: 1. API keys stay" in kept.stderr
    assert home.call("keys", "list").stdout.count("laptop") == 1
    gone = home.call("db", "reset", "--yes", "--keys")
    assert "API keys: 1" in gone.stderr
    assert home.call("keys", "list").stdout == ""


def test_cleanup_takes_only_finished_jobs_of_that_age(home):
    home.add_job("calm piano", status="pending")
    home.add_job("calm drums", status="failed")
    assert json.loads(home.call("db", "cleanup", "--json").stdout)["generations"] == []
    found = home.call("db", "cleanup", "--older-than", "0")
    assert found.stderr == "With --yes, this deletes 1 jobs, 0.0 MB.\n"
    assert len(home.rows()) == 2
    home.call("db", "cleanup", "--older-than", "0", "--yes")
    assert home.rows() == [("pending",)]


def test_cleanup_json_names_job_file_and_size(home):
    job_id = home.add_job("calm piano")
    found = json.loads(home.call("db", "cleanup", "--older-than", "0", "--json").stdout)
    row = {"job_id": job_id, "file": f"2026/11/21/{job_id}.wav", "bytes": 5}
    assert found == {"deleted": False, "generations": [row]}


def test_cleanup_leaves_files_outside_the_store(home):
    job_id = home.add_job("calm piano", has_file=False)
    outside = home.path / "data" / "mine.wav"
    outside.write_bytes(b"mine")
    with closing(sqlite3.connect(home.database)) as connection, connection:
        connection.execute("UPDATE generations SET file_path = '../mine.wav'")
    result = home.call("db", "cleanup", "--older-than", "0", "--yes")
    assert result.returncode == 0, (job_id, result.stderr)
    assert home.rows() == []
    assert outside.read_bytes() == b"mine"


@pytest.mark.parametrize("days", ["-1", "40000", "nan", "soon"])
def test_impossible_age_is_refused(home, days):
    home.add_job("calm piano")
    result = home.call("db", "cleanup", f"--older-than={days}", "--yes")
    assert (result.returncode, result.stdout) == (2, "")
    assert len(home.rows()) == 1


def test_backup_into_a_missing_folder_makes_it_or_says_why(home):
    home.add_job("calm piano")
    (home.path / "file").write_text("mine")
    refused = home.call("db", "backup", "file/copy.db")
    assert refused.returncode == 6
    assert "Traceback" not in refused.stderr
    assert (home.path / "file").read_text() == "mine"


def test_restored_database_of_a_backup_elsewhere(home):
    home.add_job("calm piano")
    copy = home.path / "copy.db"
    assert home.call("db", "backup", str(copy)).stdout == f"{copy}\n"
    home.environment["DATABASE_URL"] = "sqlite:///other/new.db"
    restored = home.call("db", "restore", "copy.db")
    assert (restored.returncode, restored.stdout) == (0, ""), restored.stderr
    assert "kept as" not in restored.stderr
    assert (home.path / "other" / "new.db").is_file()
    assert len(home.call("history").stdout.splitlines()) == 1
