"""Full-text search and lists by cursor, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from services import storage
from services.storage import Generation
from services.storage.connection import Database, resolve_url
from services.storage.migrations import prepare_database
from services.storage.search import LONGEST_SEARCH, MOST_WORDS
from services.storage.search_index import remove_search_index
from services.storage.sqlite_driver import load_library

pytestmark = pytest.mark.integration

SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)

PROMPTS = [
    "Chill lo-fi Beats with piano",
    "trap beat, heavy 808 bass at 140 BPM",
    "Café del mar: ambient pads",
    "drum and bass at 174bpm",
    "Грустный вальс для фортепиано",
    "한국 노래, bright synths",
    "running jazz trio",
    "naïve façade — “quoted” 🎵 tune",
]


def row(prompt: str, **changes: Any) -> Generation:
    values: dict[str, Any] = {
        "model_name": "composer", "duration_seconds": 1.0, "sample_rate": 8000, "channels": 1,
        "file_path": "p.wav",
    }  # fmt: skip
    return Generation(prompt=prompt, **(values | changes))


def add(*prompts: str, **changes: Any) -> None:
    with storage.get_session() as session:
        for prompt in prompts:
            session.add(row(prompt, **changes))
            session.flush()


def found(query: str, **options: Any) -> list[str]:
    with storage.get_session(read_only=True) as session:
        return [item.prompt for item in storage.search_generations(session, query, **options).items]


@pytest.fixture
def filled(database: Database) -> Database:
    add(*PROMPTS)
    return database


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ("beat", [1, 0]),
        ("BEATS", [1, 0]),
        ("beats piano", [0]),
        ("piano   beat", [0]),
        ("lo-fi", [0]),
        ("fi lo", [0]),
        ("cafe", [2]),
        ("CAFÉ", [2]),
        ("cafe\u0301 pad", [2]),
        ("140", [1]),
        ("174bpm", [3]),
        ("bass", [3, 1]),
        ("вальс", [4]),
        ("ГРУСТНЫЙ", [4]),
        ("노래", [5]),
        ("run", [6]),
        ("synth", [5]),
        ("naive facade", [7]),
        ("quoted tune", [7]),
        ("beat zither", []),
        ("bea", []),
        ("and", [3]),
    ],
)
def test_every_word_must_match(filled: Database, query: str, numbers: list[int]) -> None:
    assert found(query) == [PROMPTS[number] for number in numbers]


@pytest.mark.parametrize("query", ["", "   ", "🎵", "!?*", '"', "''", "\x00", "\ud800", "—“”"])
def test_query_without_words_finds_nothing(filled: Database, query: str) -> None:
    assert found(query) == []


@pytest.mark.parametrize(
    "query",
    ['"beat"', "beat*", "(beat", "beat OR", "NOT beat", "prompt:beat", "beat'; --", "^beat",
     "-beat", "beat & !", "beat:*", "beat\\", "b%at", "{beat}"],
)  # fmt: skip
def test_queries_have_no_operators_or_wildcards(filled: Database, query: str) -> None:
    words = {"OR", "NOT", "prompt"} & set(query.replace(":", " ").split())
    expected = [] if words or "%" in query else [PROMPTS[1], PROMPTS[0]]
    assert found(query) == expected


@SHARED
@given(st.text(max_size=80))
def test_any_text_is_a_safe_query(filled: Database, query: str) -> None:
    assert set(found(query)) <= set(PROMPTS)


WORDS = st.lists(
    st.sampled_from(["beat", "Beats", "café", "808s", "x²", "ﬁne", "İstanbul", "straße", "ñandú",
                     "don't", "lo-fi", "1e5", "a/b.c", "me@x.org", "3.14", "Ünïcode", "ø", "字母"]),
    min_size=1, max_size=4,
)  # fmt: skip


@SHARED
@given(WORDS)
def test_prompt_is_found_by_its_own_words(database: Database, words: list[str]) -> None:
    prompt = " ".join(words)
    add(prompt)
    assert prompt in found(prompt, limit=1000)


def test_long_queries_are_shortened_or_refused(filled: Database) -> None:
    assert found("beat " * MOST_WORDS) == [PROMPTS[1], PROMPTS[0]]
    many = " ".join(f"w{number}" for number in range(MOST_WORDS + 50))
    assert found(many) == []
    with pytest.raises(storage.InvalidSearchError, match="10000"):
        found("b" * (LONGEST_SEARCH + 1))


def test_filters_narrow_a_search(database: Database) -> None:
    add("beat one", status="failed")
    add("beat two", model_name="musicgen-small")
    add("beat three")
    assert found("beat", status="failed") == ["beat one"]
    assert found("beat", model_name="musicgen-small") == ["beat two"]
    assert found("beat", status="pending", model_name="composer") == ["beat three"]
    with pytest.raises(ValueError, match="'lost'"):
        found("beat", status="lost")


def test_search_pages_hold_each_row_once_while_rows_are_inserted(database: Database) -> None:
    add(*(f"beat {number}" for number in range(7)))
    seen: list[str] = []
    cursor = None
    with storage.get_session() as session:
        while True:
            page = storage.search_generations(session, "beat", limit=3, cursor=cursor)
            seen += [item.prompt for item in page.items]
            session.add(row("beat inserted meanwhile"))
            session.flush()
            if page.next_cursor is None:
                break
            cursor = page.next_cursor
    assert seen == [f"beat {number}" for number in reversed(range(7))]


def test_cursor_of_another_list_is_refused(filled: Database) -> None:
    with storage.get_session(read_only=True) as session:
        listed = storage.list_generations(session, limit=1).next_cursor
        searched = storage.search_generations(session, "beat", limit=1).next_cursor
        with pytest.raises(storage.InvalidCursorError):
            storage.search_generations(session, "beat", cursor=listed)
        with pytest.raises(storage.InvalidCursorError):
            storage.list_generations(session, cursor=searched)


def test_index_follows_changes_by_sql(database: Database) -> None:
    add("first prompt", "second prompt")
    with database.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO generations (id, prompt, model_name, duration_seconds, sample_rate, "
            "channels, file_path, status, created_at) VALUES "
            "('raw', 'third words', 'm', 1, 1, 1, 'p', 'pending', '2026-01-01 00:00:00')"
        )
        connection.exec_driver_sql(
            "UPDATE generations SET prompt = 'changed words' WHERE prompt = 'first prompt'"
        )
        connection.exec_driver_sql("DELETE FROM generations WHERE prompt = 'second prompt'")
    assert found("words") == ["third words", "changed words"]
    assert found("prompt") == []
    assert storage.check_database().ok


def test_new_rows_are_found_after_the_newest_was_deleted(database: Database) -> None:
    add("old beat", "doomed beat")
    with storage.get_session() as session:
        (doomed,) = storage.search_generations(session, "doomed").items
        storage.delete_generation(session, doomed.id)
    add("new beat")
    assert found("beat") == ["new beat", "old beat"]
    assert found("doomed") == []


def test_index_survives_vacuum(sqlite_database: Database) -> None:
    add(*(f"beat number{number}" for number in range(50)))
    assert sqlite_database.file is not None
    with closing(load_library().connect(sqlite_database.file)) as connection:
        connection.execute("DELETE FROM generations WHERE prompt LIKE '%7'")
        connection.commit()
        connection.execute("VACUUM")
    assert found("number48") == ["beat number48"]
    assert len(found("beat")) == 45
    assert storage.check_database().ok


def test_check_reports_a_wrong_text_index(sqlite_database: Database) -> None:
    add("a beat")
    with sqlite_database.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO generations_search (generations_search) VALUES ('delete-all')"
        )
    result = storage.check_database()
    assert not result.ok
    assert "text index" in result.problems[0]


@pytest.fixture
def without_index(sqlite_database: Database) -> Iterator[None]:
    with sqlite_database.engine.begin() as connection:
        remove_search_index(connection)
    add("Chill BEATS in a café", "50% off_beat")
    return


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("beat", ["50% off_beat", "Chill BEATS in a café"]),
        ("beats CAFE", ["Chill BEATS in a café"]),
        ("eat", []),
        ("50", ["50% off_beat"]),
        ("%", []),
    ],
)
def test_search_without_fts5_compares_text(
    without_index: None, query: str, expected: list[str]
) -> None:
    assert storage.describe_database()["search"] == "like"
    assert found(query) == expected
    assert storage.check_database().ok


def test_search_without_fts5_has_pages(without_index: None) -> None:
    with storage.get_session(read_only=True) as session:
        first = storage.search_generations(session, "beat", limit=1)
        second = storage.search_generations(session, "beat", limit=1, cursor=first.next_cursor)
    assert [page.items[0].prompt[:2] for page in (first, second)] == ["50", "Ch"]
    assert second.next_cursor is None


def test_sqlite_without_fts5_can_create_a_database(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.storage.search_index.fts5_available", lambda _connection: False)
    storage.init_db(sqlite_url)
    add("a beat")
    assert found("beat") == ["a beat"]
    assert storage.describe_database()["search"] == "like"


def test_description_names_the_search_backend(database: Database) -> None:
    expected = "fts5" if database.is_sqlite else "tsvector"
    assert storage.describe_database()["search"] == expected


START = datetime(2026, 1, 1, tzinfo=UTC)


@SHARED
@given(
    st.lists(st.integers(0, 3), max_size=12),
    st.integers(1, 5),
    st.sampled_from(["before", "after"]),
)
def test_pages_hold_each_row_once_while_rows_are_inserted(
    database: Database, offsets: list[int], limit: int, where: str
) -> None:
    with storage.get_session() as session:
        session.query(Generation).delete()
        rows = [row("p", created_at=START + timedelta(seconds=offset)) for offset in offsets]
        session.add_all(rows)
        session.flush()
        seen: list[str] = []
        cursor = None
        while True:
            page = storage.list_generations(session, limit=limit, cursor=cursor)
            seen += [item.id for item in page.items if item.created_at >= START]
            shift = timedelta(days=1 if where == "after" else -1)
            newcomer = row("new", created_at=START + shift)
            if len(seen) < len(rows):
                session.add(newcomer)
                session.flush()
            if page.next_cursor is None:
                break
            cursor = page.next_cursor
    expected = sorted(rows, key=lambda item: (item.created_at, item.id), reverse=True)
    newcomers = set(seen) - {item.id for item in rows}
    assert [item for item in seen if item not in newcomers] == [item.id for item in expected]
    assert len(newcomers) == 0 or where == "after"


def test_lists_can_be_filtered_by_every_condition(database: Database) -> None:
    add("a", created_at=START, status="completed")
    add("b", created_at=START + timedelta(days=1), status="completed", model_name="musicgen-small")
    add("c", created_at=START + timedelta(days=2), status="failed", model_name="musicgen-small")

    def listed(**filters: Any) -> str:
        with storage.get_session(read_only=True) as session:
            page = storage.list_generations(session, **filters)
        return "".join(item.prompt for item in page.items)

    assert listed() == "cba"
    assert listed(status="completed") == "ba"
    assert listed(status="failed") == "c"
    assert listed(model_name="musicgen-small") == "cb"
    assert listed(status="completed", model_name="musicgen-small") == "b"
    assert listed(created_after=START + timedelta(days=1)) == "cb"
    assert listed(created_before=START + timedelta(days=1)) == "a"
    assert listed(limit=0) == "c"
    with pytest.raises(ValueError, match="'lost'"):
        listed(status="lost")


def test_prefix_finds_ids(database: Database) -> None:
    for name in ("abc-1", "abc-2", "abd-3", "a%c-4"):
        add("p", id=name)

    def starting(prefix: str, limit: int = 2) -> list[str]:
        with storage.get_session(read_only=True) as session:
            rows = storage.find_generations_by_prefix(session, prefix, limit)
        return [item.id for item in rows]

    assert starting("abc") == ["abc-1", "abc-2"]
    assert starting("ab", 5) == ["abc-1", "abc-2", "abd-3"]
    assert starting("abd-3") == ["abd-3"]
    assert starting("a%") == ["a%c-4"]
    assert starting("%") == starting("") == starting("z") == starting("abc_") == []


def test_prefix_uses_the_index(database: Database) -> None:
    add("p")
    explain = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
    statement = "SELECT * FROM generations WHERE id >= 'ab' AND id < 'ab~' ORDER BY id LIMIT 2"
    with database.engine.begin() as connection:
        if not database.is_sqlite:
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        plan = str(connection.exec_driver_sql(explain + statement).fetchall())
    assert ("autoindex_generations_1" in plan) or ("pk_generations" in plan)


def test_list_of_one_model_uses_its_index(database: Database) -> None:
    statements: list[tuple[str, Any]] = []

    @event.listens_for(database.engine, "before_cursor_execute")
    def note(_connection: Any, _cursor: Any, statement: str, values: Any, *_more: Any) -> None:
        statements.append((statement, values))

    explain = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
    with database.session() as session:
        storage.list_generations(session, model_name="composer")
        statement, values = statements[-1]
        connection = session.connection()
        for other in ("created_at", "model_name"):
            connection.exec_driver_sql(f"DROP INDEX idx_generations_{other}")
        if not database.is_sqlite:
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        plan = str(connection.exec_driver_sql(explain + statement, values).fetchall())
        session.rollback()
    assert "idx_generations_model_created" in plan


def test_database_file_is_readable_by_its_owner_only(sqlite_database: Database) -> None:
    assert sqlite_database.file is not None
    assert Path(sqlite_database.file).stat().st_mode & 0o777 == 0o600


ALPHABET = "aábcdeéènñoöstxyzAEÉSZ0159 -_'.,:/+&“”…🎵"
SENTENCES = st.lists(
    st.sampled_from(["running", "beats", "happily", "caresses", "flies", "140", "808s", "lo-fi"])
    | st.text(ALPHABET, min_size=1, max_size=8),
    min_size=1,
    max_size=5,
).map(" ".join)


@pytest.fixture
def embedded() -> Iterator[Database]:
    database = Database(resolve_url("sqlite://"))
    prepare_database(database)
    yield database
    database.close()


@SHARED
@given(st.lists(SENTENCES, min_size=1, max_size=4), st.data())
def test_both_databases_find_the_same(
    embedded: Database,
    postgres_database: Database,
    prompts: list[str],
    data: st.DataObject,
) -> None:
    words = [word for prompt in prompts for word in prompt.split()] or ["x"]
    query = " ".join(data.draw(st.lists(st.sampled_from(words) | SENTENCES, max_size=3)))
    answers = []
    for database in (embedded, postgres_database):
        with database.session() as session:
            session.query(Generation).delete()
            session.add_all(row(prompt, id=str(n)) for n, prompt in enumerate(prompts))
            session.flush()
            page = storage.search_generations(session, query)
            answers.append({item.id for item in page.items})
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    "prompt", ["हिन्दी गाना", "b\u0306eat", "ab\u19b0cd", "a\u0332b", "مُوسيقى", "ไทย เพลง", "நமஸ்தே"]
)
def test_word_that_fts5_splits_is_found(sqlite_database: Database, prompt: str) -> None:
    add(prompt)
    add("something else")
    with storage.get_session(read_only=True) as session:
        found = storage.search_generations(session, prompt).items
    assert [row.prompt for row in found] == [prompt]


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["calm beat", "loud beats", "calm piano", "beat beat"]),
        st.sampled_from(storage.STATUSES),
        st.sampled_from(["composer", "musicgen-small"]),
        st.sampled_from([None, "a", "b"]),
        st.integers(0, 5),
    ),
    max_size=12,
)
FILTERS = st.fixed_dictionaries(
    {},
    optional={
        "status": st.none() | st.sampled_from(storage.STATUSES),
        "model_name": st.sampled_from([None, "composer", "other"]),
        "owner": st.sampled_from([None, "a", "nobody"]),
        "created_after": st.none() | st.integers(0, 5).map(lambda day: START + timedelta(day)),
        "created_before": st.none() | st.integers(0, 5).map(lambda day: START + timedelta(day)),
    },
)


def matches(item: Generation, filters: dict[str, Any]) -> bool:
    return (
        filters.get("status") in {None, item.status}
        and filters.get("model_name") in {None, item.model_name}
        and filters.get("owner") in {None, item.owner}
        and item.created_at >= (filters.get("created_after") or START)
        and item.created_at < (filters.get("created_before") or START + timedelta(99))
    )


@SHARED
@given(ROWS, FILTERS, st.integers(1, 5))
def test_lists_searches_and_counts_agree_under_every_filter(
    sqlite_database: Database, rows: list[Any], filters: dict[str, Any], limit: int
) -> None:
    with storage.get_session() as session:
        session.query(Generation).delete()
        session.add_all(
            row(prompt, status=status, model_name=model, owner=owner, id=f"{number:03}",
                created_at=START + timedelta(days=day))
            for number, (prompt, status, model, owner, day) in enumerate(rows)
        )  # fmt: skip
        session.flush()
        everything = storage.get_all_generations(session)
        expected = {item.id for item in everything if matches(item, filters)}
        listed = collect(storage.list_generations, session, limit=limit, **filters)
        found = collect(storage.search_generations, session, "beat", limit=limit, **filters)
        assert sorted(listed) == sorted(expected)
        assert storage.count_generations(session, **filters) == len(expected)
        beats = {item.id for item in everything if "beat" in item.prompt}
        assert sorted(found) == sorted(expected & beats)
        assert storage.count_matches(session, "beat", **filters) == len(found)


def collect(function: Any, *arguments: Any, **options: Any) -> list[str]:
    """The ids of all pages."""
    ids: list[str] = []
    cursor = None
    while True:
        page = function(*arguments, cursor=cursor, **options)
        ids += [item.id for item in page.items]
        cursor = page.next_cursor
        if cursor is None:
            return ids


def test_filters_and_counts_agree_on_every_database(database: Database) -> None:
    add("calm beat", owner="a", status="failed")
    add("calm beat", owner="b")
    add("calm piano", owner="a", model_name="musicgen-small")

    def count(text: str, **filters: Any) -> int:
        with storage.get_session(read_only=True) as session:
            return storage.count_matches(session, text, **filters)

    assert [count("calm"), count("calm", owner="a"), count("beat", owner="a")] == [3, 2, 1]
    assert count("calm", model_name="composer", status="pending") == 1
    assert count("?!") == 0
    with storage.get_session(read_only=True) as session:
        assert storage.count_generations(session, owner="a", status="failed") == 1
        page = storage.list_generations(session, owner="a")
        assert [item.prompt for item in page.items] == ["calm piano", "calm beat"]
    with pytest.raises(ValueError, match="'lost'"):
        count("calm", status="lost")
    with pytest.raises(storage.InvalidSearchError):
        count("x" * (LONGEST_SEARCH + 1))


def test_offset_skips_rows_of_lists_and_searches(database: Database) -> None:
    add("beat 1", "beat 2", "beat 3")
    assert found("beat", offset=1) == ["beat 2", "beat 1"]
    assert found("beat", offset=9) == []
    with storage.get_session(read_only=True) as session:
        assert len(storage.list_generations(session, offset=2).items) == 1
