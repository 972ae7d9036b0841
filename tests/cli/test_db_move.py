"""`dgx-music db move`: from an SQLite file to a PostgreSQL server."""

import json
import os
import signal
import subprocess
from contextlib import closing

import pytest
from sqlalchemy import insert

from services import storage
from services.jobs.failpoints import EXIT_CODE
from services.storage.connection import Database, resolve_url
from services.storage.migrations import State, read_schema_status

pytestmark = pytest.mark.postgres
ROWS = 3000


@pytest.fixture
def empty(home):
    """The home with an empty database."""
    storage.init_db(f"sqlite:///{home.database}")
    storage.close_db()
    return home


@pytest.fixture
def filled(empty):
    """The home with a database of some thousand rows."""
    storage.init_db(f"sqlite:///{empty.database}")
    rows = [
        {"id": f"{number:032}", "prompt": f"calm piano {number % 7}", "model_name": "composer",
         "duration_seconds": 1.0, "sample_rate": 48000, "channels": 2, "attempts": 1,
         "file_path": f"{number}.wav", "status": "failed", "created_at": storage.utc_now()}
        for number in range(ROWS)
    ]  # fmt: skip
    with storage.get_session() as session:
        session.execute(insert(storage.Generation), rows)
        storage.track_prompt_usage(session, "calm piano 1")
    storage.close_db()
    return empty


def state_of(url: str) -> State:
    with closing(Database(resolve_url(url))) as database:
        return read_schema_status(database).state


def test_move_copies_everything_and_the_next_command_finds_it(filled, postgres_url):
    url = postgres_url.replace("music@", "music:s3cret@")
    tried = filled.call("db", "move", "--to", url, "--dry-run", "--json")
    assert (tried.returncode, tried.stderr) == (0, "")
    plan = json.loads(tried.stdout)
    assert plan["moved"] is False
    assert plan["database_url"].startswith("postgresql://music@/")
    sums = {table["table"]: (table["rows"], table["sha256"]) for table in plan["tables"]}
    assert sums["generations"][0] == ROWS
    assert state_of(postgres_url) is State.EMPTY
    before = filled.database.read_bytes()
    moved = filled.call("db", "move", "--to", url)
    assert moved.returncode == 0, moved.stderr
    rows, digest = sums["generations"]
    assert f"generations\t{rows}\t{digest[:16]}\n" in moved.stdout
    assert "\nDATABASE_URL=postgresql://music@/" in moved.stderr
    assert "s3cret" not in tried.stdout + moved.stdout + moved.stderr
    assert filled.database.read_bytes() == before
    filled.environment["DATABASE_URL"] = postgres_url
    assert filled.call("history", "--search", "piano 6", "--limit", "9").stdout.count("\n") == 9


@pytest.mark.parametrize(
    ("to", "code", "said"),
    [
        ("", 2, "--to: Name a database"),
        ("mysql://music@host/music", 2, "--to: Databases of the kind 'mysql'"),
        ("postgresql://nobody:s3cret@127.0.0.1:1/music", 6, "does not answer"),
        ("sqlite:///data/generations.db", 6, "is the source itself"),
    ],
)
def test_impossible_target_is_refused(empty, to, code, said):
    refused = empty.call("db", "move", "--to", to)
    assert refused.returncode == code
    assert said in refused.stderr
    assert "s3cret" not in refused.stderr
    assert "Traceback" not in refused.stderr


def test_move_without_a_database_creates_none(home, postgres_url):
    refused = home.call("db", "move", "--to", postgres_url)
    assert refused.returncode == 6
    assert "There is no database" in refused.stderr
    assert not home.database.exists()


@pytest.mark.parametrize(
    ("point", "initialised"),
    [
        ("move-copy:4", False),
        pytest.param("move-copy:freeze", True, marks=pytest.mark.nightly),
        pytest.param("move-verify:4", False, marks=pytest.mark.nightly),
        ("move-commit:freeze", True),
    ],
)
def test_killed_move_leaves_the_target_empty(filled, postgres_url, point, initialised):
    if initialised:
        storage.init_db(postgres_url)
        storage.close_db()
    environment = filled.full_environment() | {"DGX_MUSIC_TEST_FAILPOINT": point}
    command = filled.command("db", "move", "--to", postgres_url)
    with subprocess.Popen(command, cwd=filled.path, env=environment) as process:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            process.send_signal(signal.SIGKILL)
        else:
            assert os.waitstatus_to_exitcode(status) == EXIT_CODE
            process.returncode = EXIT_CODE
    assert state_of(postgres_url) is (State.CURRENT if initialised else State.EMPTY)
    again = filled.call("db", "move", "--to", postgres_url)
    assert again.returncode == 0, again.stderr
    assert "generations\t3000\t" in again.stdout
