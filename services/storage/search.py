"""Full-text search over prompts, with the same results on both databases.

Every word of the query must be in the prompt, in any order. Case, accents and English endings do
not matter ("beat" finds "Beats"). All characters except letters and digits separate words.
"""

from __future__ import annotations

from contextlib import closing
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Unpack
from unicodedata import ucd_3_2_0

from sqlalchemy import and_, bindparam, column, func, literal_column, select, table
from sqlalchemy import text as sql

from services.storage.errors import InvalidSearchError
from services.storage.generations import GenerationFilters, match_creation_time
from services.storage.models import GENERATIONS, Generation
from services.storage.paging import Page, clamp_limit, decode_number, encode_number, make_page
from services.storage.schema import require_status
from services.storage.search_index import POSTGRES_COLUMN, SEARCH_TABLE
from services.storage.sqlite_driver import load_library
from services.storage.words import split_marked_words, split_words, strip_plural

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session

LONGEST_SEARCH = 10_000
"""Characters; a longer text is refused."""

MOST_WORDS = 100
"""Further words of a query are ignored."""

_SEARCH_ID: ColumnElement[int] = GENERATIONS.c.search_id
_FTS = table(SEARCH_TABLE, column("rowid"))


def search_generations(
    session: Session,
    text: str,
    *,
    status: str | None = None,
    limit: int = 100,
    offset: int = 0,
    cursor: str | None = None,
    **filters: Unpack[GenerationFilters],
) -> Page[Generation]:
    """Return one page of generations whose prompt has every word of `text`, newest first.

    A text without a letter or digit finds nothing.

    Args:
        session: an open session.
        text: the user's text; it has no operators or wildcards.
        status: return only generations of this status.
        limit: rows of a page, clamped to 1..1000.
        offset: rows to skip; slow when large, unlike a cursor.
        cursor: `next_cursor` of the previous page; None for the first.
        filters: further conditions.

    Raises:
        ValueError: the status is unknown.
        InvalidCursorError: the cursor does not come from this list.
        InvalidSearchError: the text is longer than 10,000 characters.
    """
    _refuse_long(text)
    conditions = _build_conditions(status, filters)
    place = None if cursor is None else decode_number(cursor)
    if not split_words(text):
        return Page([], None)
    limit = clamp_limit(limit)
    number, found = _select_matches(session, text)
    if place is not None:
        found = found.where(number < place)
    found = found.where(*conditions).order_by(number.desc()).limit(limit + 1)
    found = found.offset(offset) if offset else found
    rows = session.execute(found.add_columns(number)).all()
    page = make_page(rows, limit, lambda row: encode_number(row[1]))
    return Page([row[0] for row in page.items], page.next_cursor)


def count_matches(
    session: Session,
    text: str,
    *,
    status: str | None = None,
    **filters: Unpack[GenerationFilters],
) -> int:
    """Count the generations that `search_generations` would return; raises as that."""
    _refuse_long(text)
    conditions = _build_conditions(status, filters)
    if not split_words(text):
        return 0
    _, found = _select_matches(session, text)
    numbers = found.where(*conditions).with_only_columns(Generation.id).subquery()
    return session.execute(select(func.count()).select_from(numbers)).scalar_one()


def select_matching_prompts(session: Session, text: str) -> Any:
    """Build a subquery of the ids of the prompts of all generations that match.

    Returns None for a text without words; raises as `search_generations`.
    """
    _refuse_long(text)
    if not split_words(text):
        return None
    _, found = _select_matches(session, text)
    return found.with_only_columns(Generation.prompt_id).where(Generation.prompt_id.is_not(None))


def _refuse_long(text: str) -> None:
    if len(text) > LONGEST_SEARCH:
        raise InvalidSearchError(f"A search can have at most {LONGEST_SEARCH} characters.")


def search_backend(session: Session) -> str:
    """Return how this database searches: "tsvector", "fts5", or "like" without a text index."""
    if session.get_bind().dialect.name == "postgresql":
        return "tsvector"
    present = sql("SELECT count(*) FROM sqlite_master WHERE name = :name")
    indexed = session.execute(present, {"name": SEARCH_TABLE}).scalar_one()
    return "fts5" if indexed else "like"


def _select_matches(session: Session, text: str) -> tuple[ColumnElement[int], Any]:
    """Build the column with the row's number, and the query for rows that have every word."""
    backend = search_backend(session)
    # FTS5 folds accents by its own tables (it keeps й apart from и), so it gets unfolded words.
    split = _split_fts5_words if backend == "fts5" else split_words
    words = list(dict.fromkeys(split(text)))[:MOST_WORDS]
    if backend == "tsvector":
        wanted = func.plainto_tsquery(literal_column("'dgx_music'::regconfig"), " ".join(words))
        matches = literal_column(f"generations.{POSTGRES_COLUMN}").bool_op("@@")(wanted)
        return _SEARCH_ID, select(Generation).where(matches)
    if backend == "fts5":
        quoted = " ".join(f'"{word}"' for word in words)
        number: ColumnElement[int] = _FTS.c.rowid
        matches = literal_column(SEARCH_TABLE).bool_op("MATCH")(bindparam("words", quoted))
        return number, select(Generation).where(matches, number == _SEARCH_ID)
    folded = func.dgx_music_fold(Generation.prompt)
    return literal_column("generations.rowid"), select(Generation).where(
        and_(*(folded.contains(f" {strip_plural(word)}", autoescape=True) for word in words))
    )


def _split_fts5_words(text: str) -> list[str]:
    """Cut text into words of one token each: the index keeps no places, so it knows no phrases."""
    return [
        part
        for word in split_marked_words(text)
        for part in "".join(" " if _separates_words(c) else c for c in word).split()
    ]


@lru_cache(maxsize=4096)
def _separates_words(character: str) -> bool:
    """Return whether FTS5, which has its own tables, splits a word at this character."""
    if character.isascii() or ucd_3_2_0.category(character)[0] in "LN":
        return False
    with closing(load_library().connect(":memory:")) as connection:
        connection.execute("CREATE VIRTUAL TABLE cut USING fts5(word, tokenize = 'unicode61')")
        connection.execute("INSERT INTO cut VALUES (?)", (f"a{character}b",))
        connection.execute("CREATE VIRTUAL TABLE tokens USING fts5vocab(cut, 'instance')")
        return bool(connection.execute("SELECT count(*) > 1 FROM tokens").fetchone()[0])


def _build_conditions(status: str | None, filters: GenerationFilters) -> list[ColumnElement[bool]]:
    # The empty text keeps SQLite from using the index of the filter instead of the text index.
    conditions = match_creation_time(filters)
    if status is not None:
        conditions.append(literal_column("generations.status || ''") == require_status(status))
    if (model_name := filters.get("model_name")) is not None:
        conditions.append(literal_column("generations.model_name || ''") == model_name)
    if (owner := filters.get("owner")) is not None:
        conditions.append(literal_column("generations.owner || ''") == owner)
    return conditions
