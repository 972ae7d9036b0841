"""Moves of all rows to another database."""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services import storage
from services.storage import Generation, TransferError, move_database
from services.storage.connection import Database, resolve_url
from services.storage.database import get_database
from services.storage.migrations import State, read_schema_status
from tests.conftest import name_in

if TYPE_CHECKING:
    from tests.conftest import Server

pytestmark = pytest.mark.postgres

EXAMPLES, ROWS = 2, 1_100
TINY, HUGE = 5e-324, 1.7976931348623157e308
NUMBERS = (
    st.none() | st.floats(allow_nan=False) | st.sampled_from([0.1, -0.0, TINY, HUGE, math.inf])
)
MOMENTS = st.datetimes(timezones=st.just(UTC)) | st.sampled_from(
    [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)]
)
TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0")
    | st.sampled_from(
        "\U0001f469\U0001f3fd\u200d\U0001f3a4\u05e9\u0645\u0301\u202e\\\t\n\r'\"\ufffe"
    ),
    min_size=1,
    max_size=500,
)
SHA256 = "0123456789abcdef" * 4


def fill(texts: list[str], numbers: list[float | None], moments: list[datetime]) -> None:
    """Fill every table, with generations of every status, from the given values."""

    def pick(values: list[Any], number: int) -> Any:
        return values[number * 7919 % len(values)]

    with storage.get_session() as session:
        for number, text in enumerate(dict.fromkeys(texts)):
            storage.track_prompt_usage(session, text)
            owner = None if number % 2 else "client"
            session.add(
                storage.ApiKey(
                    id=text,
                    name=text,
                    key_sha256=f"{number:064x}",
                    created_at=pick(moments, number),
                    last_used_at=None,
                )
            )
            session.add(
                storage.IdempotencyKey(
                    owner=owner or "",
                    key=text,
                    fingerprint=SHA256,
                    job_ids="[]",
                    created_at=pick(moments, number),
                )
            )
        for number in range(ROWS):
            status = storage.STATUSES[number % 5]
            row = Generation(
                id=str(uuid.UUID(int=number * 7919**8 % 2**128, version=4)),
                prompt=pick(texts, number), model_name=pick(texts, number + 1),
                duration_seconds=abs(pick(numbers, number) or 1.0), sample_rate=2**31 - 1 - number,
                channels=1 + number % 2, file_path=f"{number}.wav", status=status,
                file_size_bytes=None if number % 3 else 2**63 - 1 - number,
                created_at=pick(moments, number), error_message=pick([None, *texts], number),
                completed_at=pick([None, *moments], number), prompt_id=None,
                generation_time_seconds=pick(numbers, number), attempts=number % 4,
                file_sha256=None if number % 3 else f"{number:064x}",
                metadata_json=pick([None, "{}", '{"seed":1}', *texts], number),
            )  # fmt: skip
            session.add(row)
            if number % 5 < 2:
                session.add(storage.QueueEntry(
                    generation_id=row.id, client=pick(texts, number), priority=number % 3,
                    rank=number, place=number, duration_seconds=pick(numbers, number) or 1.0,
                    created_at=pick(moments, number),
                ))  # fmt: skip
            elif number % 5 == 2:
                session.flush()
                session.add(storage.AudioAnalysis(
                    generation_id=row.id, bpm=pick(numbers, number),
                    true_peak_dbtp=pick(numbers, number + 1), analysed_at=pick(moments, number),
                ))  # fmt: skip


def make(prompt: str = "calm piano", **changes: Any) -> str:
    with storage.get_session() as session:
        made = storage.create_generation(session, prompt, "m", 1.0, 8000, 1, "a.wav", **changes)
    return made.id


def raw(statement: str, *values: object) -> None:
    """Run a statement as another program would, without checks of the constraints."""
    with get_database().engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        for switch in ("ignore_check_constraints = ON", "foreign_keys = OFF"):
            driver.execute(f"PRAGMA {switch}")
        driver.execute(statement, values)
        driver.execute("PRAGMA foreign_keys = ON")
        driver.execute("PRAGMA ignore_check_constraints = OFF")


def on_server(url: str, statement: str) -> Any:
    with closing(Database(resolve_url(url))) as database, database.engine.begin() as connection:
        result = connection.exec_driver_sql(statement)
        return result.scalar() if result.returns_rows else None


def state_of(url: str) -> State:
    with closing(Database(resolve_url(url))) as database:
        return read_schema_status(database).state


def listed(search: str | None = None) -> Iterator[str]:
    """Yield the ids of the open database in the order of its pages."""
    cursor = None
    while True:
        with storage.get_session(read_only=True) as session:
            if search is None:
                page = storage.list_generations(session, limit=500, cursor=cursor)
            else:
                page = storage.search_generations(session, search, limit=500, cursor=cursor)
        yield from (row.id for row in page.items)
        cursor = page.next_cursor
        if cursor is None:
            return


@pytest.fixture
def source(sqlite_database: Database) -> str:
    """An open SQLite database with three generations."""
    for prompt in ("calm piano", "dark techno", "calm piano"):
        make(prompt)
    return sqlite_database.url.render_as_string()


@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(
    texts=st.lists(TEXT, min_size=20, max_size=40, unique=True),
    numbers=st.lists(NUMBERS, min_size=10, max_size=20),
    moments=st.lists(MOMENTS, min_size=10, max_size=20),
)
def test_rows_survive_a_move_to_postgresql_and_back(
    postgres_server: Server,
    texts: list[str],
    numbers: list[float | None],
    moments: list[datetime],
) -> None:
    there = postgres_server.new_database()
    postgres_server.used.append(name_in(there))
    with tempfile.TemporaryDirectory() as folder:
        here, back = f"sqlite:///{folder}/here.db", f"sqlite:///{folder}/back.db"
        storage.init_db(here)
        fill(["calm piano", *texts], numbers, moments)
        order, found = list(listed()), list(listed("piano"))
        storage.close_db()
        moved = move_database(there, here)
        storage.init_db(there)
        assert (list(listed()), list(listed("piano"))) == (order, found)
        assert storage.check_database().ok
        storage.close_db()
        returned = move_database(back, there)
        storage.init_db(back)
        assert (list(listed()), list(listed("piano"))) == (order, found)
        assert storage.check_database().ok
        storage.close_db()
    assert moved.tables == returned.tables
    rows = {table.name: table.rows for table in moved.tables}
    assert rows["generations"] == ROWS
    assert rows["queue_entries"] == ROWS * 2 // 5
    assert rows["prompts"] == rows["api_keys"] == len(texts) + 1


@pytest.mark.parametrize("way", ["there", "back"])
def test_ids_and_sequences_continue_after_a_move(source: str, postgres_url: str, way: str) -> None:
    last = make("deleted later")
    with storage.get_session() as session:
        gone = storage.get_prompt_by_text(session, "deleted later")
        assert gone is not None
        session.delete(gone)
        storage.delete_generation(session, last)
    storage.close_db()
    move_database(postgres_url, source)
    url = postgres_url
    if way == "back":
        url = f"{source}.back"
        move_database(url, postgres_url)
    storage.init_db(url)
    new = make("calm and new")
    make("calm piano")
    with storage.get_session(read_only=True) as session:
        prompt = storage.get_prompt_by_text(session, "calm and new")
        again = storage.get_prompt_by_text(session, "calm piano")
    assert prompt is not None
    assert again is not None
    assert prompt.id == gone.id + 1
    assert again.used_count == 3
    assert list(listed("calm"))[1] == new
    assert len(list(listed("calm"))) == 4


def test_rows_without_a_search_id_get_one(source: str, postgres_url: str) -> None:
    raw("DROP TRIGGER generations_search_insert")
    new = make("calm but not in the index")
    storage.close_db()
    move_database(postgres_url, source)
    storage.init_db(postgres_url)
    assert next(listed("calm")) == new
    assert storage.check_database().ok


@pytest.mark.parametrize(
    ("change", "value", "expected"),
    [
        ("prompt = ?", "a\0b", "prompt holds the character NUL"),
        ("error_message = CAST(? AS TEXT)", b"\xed\xa0\x80", "error_message holds bytes that are"),
        ("error_message = ?", b"\xff", "error_message is not text"),
        ("attempts = ?", 2**31, "attempts is 2147483648"),
        ("attempts = ?", "many", "attempts is not an integer"),
        ("duration_seconds = ?", "long", "duration_seconds is not a number"),
        ("created_at = ?", "yesterday", "created_at is not a time"),
        ("created_at = ?", "2026-01-01 00:00:00+01:00", "created_at is a time with a zone"),
        ("file_sha256 = ?", "abc", "file_sha256 is not a digest"),
        ("channels = ?", 7, 'violates check constraint "ck_generations_channels"'),
    ],
)
def test_row_that_postgresql_cannot_store_is_named_and_nothing_is_moved(
    source: str, postgres_url: str, change: str, value: object, expected: str
) -> None:
    bad = make("the bad one")
    make("another")
    raw(f"UPDATE generations SET {change} WHERE id = ?", value, bad)
    storage.close_db()
    with pytest.raises(TransferError, match="(?s)row id='" + bad) as caught:
        move_database(postgres_url, source)
    assert expected in str(caught.value)
    assert state_of(postgres_url) is State.EMPTY


def test_row_that_breaks_a_constraint_of_the_target_is_named(
    source: str, postgres_url: str
) -> None:
    long = "".join(chr(0x4E00 + number * 37 % 20000) for number in range(3000))
    make(long)
    storage.close_db()
    with pytest.raises(TransferError, match=r"refuses the row id=\d of prompts: index row"):
        move_database(postgres_url, source)
    storage.init_db(source)
    raw("DELETE FROM prompts WHERE length(text) = 3000")
    raw(
        "INSERT INTO queue_entries (generation_id, client, priority, rank, place, "
        "duration_seconds, created_at) VALUES ('nobody', '', 1, 1, 1, 1.0, '2026-01-01 00:00:00')"
    )
    storage.close_db()
    with pytest.raises(TransferError, match=r"\(prompt_id\)=\(\d\) is not present"):
        move_database(postgres_url, source)
    assert state_of(postgres_url) is State.EMPTY


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("NEW.prompt := NEW.prompt || ' '; RETURN NEW;", "differ from those of the source"),
        ("NEW.created_at := NEW.created_at + interval '1 us'; RETURN NEW;", "differ from"),
        (
            "IF NEW.prompt = 'dark techno' THEN RETURN NULL; END IF; RETURN NEW;",
            "would have 2 rows",
        ),
    ],
)
def test_target_that_alters_rows_is_detected(
    source: str, postgres_url: str, body: str, expected: str
) -> None:
    storage.init_db(postgres_url)
    storage.close_db()
    on_server(
        postgres_url,
        f"CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN {body} END$$",
    )
    trigger = "BEFORE INSERT ON generations FOR EACH ROW EXECUTE FUNCTION meddle()"
    on_server(postgres_url, f"CREATE TRIGGER meddle {trigger}")
    with pytest.raises(TransferError, match=expected):
        move_database(postgres_url, source)
    assert on_server(postgres_url, "SELECT count(*) FROM prompts") == 0
    on_server(postgres_url, "DROP FUNCTION meddle CASCADE")
    assert move_database(postgres_url, source).rows == 5
    assert on_server(postgres_url, "SELECT count(*) FROM generations") == 3


def test_target_that_holds_rows_is_refused(source: str, postgres_url: str) -> None:
    move_database(postgres_url, source)
    with pytest.raises(TransferError, match="already holds rows in prompts"):
        move_database(postgres_url, source)
    with pytest.raises(TransferError, match="already holds rows"):
        move_database(source, postgres_url)


def test_same_database_under_another_address_is_refused(
    source: str, postgres_url: str, tmp_path: Path
) -> None:
    (tmp_path / "link.db").symlink_to(source.removeprefix("sqlite:///"))
    with pytest.raises(TransferError, match="is the source itself"):
        move_database(f"sqlite:///{tmp_path}/link.db", source)
    storage.init_db(postgres_url)
    with pytest.raises(TransferError, match="is the source itself"):
        move_database(postgres_url + "&application_name=other", postgres_url)


@pytest.mark.parametrize("end", ["source", "target"])
@pytest.mark.parametrize(("revision", "expected"), [("999", "knows up to"), ("002", "db migrate")])
def test_another_revision_is_refused(
    source: str, postgres_url: str, end: str, revision: str, expected: str
) -> None:
    storage.init_db(postgres_url)
    storage.init_db(source if end == "source" else postgres_url)
    with storage.get_engine().begin() as connection:
        connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{revision}'")
    storage.close_db()
    with pytest.raises(TransferError, match=f"revision {revision}.*{expected}"):
        move_database(postgres_url, source)


def test_unusable_databases_have_different_errors(
    source: str, postgres_url: str, sqlite_url: str, tmp_path: Path
) -> None:
    with pytest.raises(storage.DatabaseUnreachableError, match="does not exist"):
        move_database(postgres_url.replace("music_", "nothing_"), source)
    with pytest.raises(TransferError, match=r"no database .*missing\.db"):
        move_database(postgres_url, f"sqlite:///{tmp_path}/missing.db")
    assert not (tmp_path / "missing.db").exists()
    with pytest.raises(TransferError, match="has no tables of DGX Music"):
        move_database(source, postgres_url)
    name = resolve_url(postgres_url).database
    on_server(postgres_url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with pytest.raises(storage.DatabaseReadOnlyError, match="is read-only"):
        move_database(postgres_url, source)


def test_database_open_in_another_process_is_refused(source: str, postgres_url: str) -> None:
    file = source.removeprefix("sqlite:///")
    program = f"file = open({file!r}); print(flush=True); input()"
    command = [sys.executable, "-c", program]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(TransferError, match=rf"open in other processes.*\({other.pid}\)"):
            move_database(postgres_url, source)
        other.communicate("\n")
    assert move_database(postgres_url, source).moved


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_source_is_locked_against_writes_during_a_move(
    source: str, postgres_url: str, tmp_path: Path, kind: str
) -> None:
    target = postgres_url
    if kind == "postgresql":
        move_database(postgres_url, source)
        source, target = postgres_url, f"sqlite:///{tmp_path}/target.db"
    storage.init_db(source, busy_timeout_seconds=0.05)
    tried = []

    def write(stage: str, _table: str, _share: float) -> None:
        tried.append(stage)
        with pytest.raises(storage.DatabaseLockedError):
            make("too late")

    moved = move_database(target, source, report=write)
    assert {"check", "copy", "verify", "commit"} == set(tried)
    assert {table.name: table.rows for table in moved.tables}["generations"] == 3
    make("afterwards")
    assert len(list(listed())) == 4


def test_dry_run_reports_the_rows_and_changes_nothing(
    standard_library: None, source: str, postgres_url: str
) -> None:
    tried = move_database(postgres_url, source, dry_run=True)
    assert not tried.moved
    assert state_of(postgres_url) is State.EMPTY
    assert move_database(postgres_url, source).tables == tried.tables


def test_reported_url_has_no_password(source: str, postgres_url: str) -> None:
    with_password = postgres_url.replace("music@", "music:s%40cret@") + "&password=s%40cret"
    move = move_database(with_password, source, dry_run=True)
    assert "cret" not in repr(move)
    assert resolve_url(move.database_url) == resolve_url(postgres_url)


def refuse(_session: object) -> None:
    raise storage.StorageError("somebody works on it")


def test_callback_can_refuse_the_move(source: str, postgres_url: str) -> None:
    with pytest.raises(storage.StorageError, match="somebody works"):
        move_database(postgres_url, source, refuse_in_use=refuse)
    assert state_of(postgres_url) is State.EMPTY
