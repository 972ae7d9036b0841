"""The full-text index over prompts on each database.

SQLite: an FTS5 table over `generations`. Triggers update it, so rows that other programs write are
found too. Its row numbers are `generations.search_id`, in the order of insertion; FTS5 reads them
backwards lazily, which keeps "newest first" fast for words in half of all rows. They need a column,
because VACUUM can change the implicit rowid of a table.

PostgreSQL: a generated `tsvector` column with a GIN index, and `search_id` from a sequence. New
rows wait in a pending list that each search reads; its limit is 64 kB, about a hundred rows.

Both split text at every character that is not a letter or digit, ignore case and accents, and
stem words by the Porter algorithm of 1980 (FTS5's `porter`, Snowball's `porter`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import event

from services.storage.models import GENERATIONS

if TYPE_CHECKING:
    from sqlalchemy import Table
    from sqlalchemy.engine import Connection

SEARCH_TABLE = "generations_search"
POSTGRES_COLUMN = "search_vector"
POSTGRES_INDEX = "idx_generations_search_vector"

SQLITE_TRIGGERS = (
    """CREATE TRIGGER generations_search_insert AFTER INSERT ON generations BEGIN
    UPDATE generations SET search_id = (SELECT coalesce(max(search_id), 0) + 1 FROM generations)
    WHERE id = new.id;
    INSERT INTO generations_search (rowid, prompt)
    SELECT search_id, prompt FROM generations WHERE id = new.id;
END""",
    """CREATE TRIGGER generations_search_update AFTER UPDATE OF prompt ON generations
WHEN old.prompt IS NOT new.prompt BEGIN
    INSERT INTO generations_search (generations_search, rowid, prompt)
    VALUES ('delete', old.search_id, old.prompt);
    INSERT INTO generations_search (rowid, prompt) VALUES (new.search_id, new.prompt);
END""",
    """CREATE TRIGGER generations_search_delete AFTER DELETE ON generations BEGIN
    INSERT INTO generations_search (generations_search, rowid, prompt)
    VALUES ('delete', old.search_id, old.prompt);
END""",
)

SQLITE_TABLE = """CREATE VIRTUAL TABLE generations_search USING fts5(
    prompt, content = 'generations', content_rowid = 'search_id', columnsize = 0,
    detail = none, tokenize = 'porter unicode61 remove_diacritics 2'
)"""

SQLITE_REBUILD = "INSERT INTO generations_search (generations_search) VALUES ('rebuild')"

SQLITE_TRIGGER_NAMES = (
    "generations_search_insert",
    "generations_search_update",
    "generations_search_delete",
)

# The expression folds case and accents and replaces every character that is not a letter or digit
# by a space. PostgreSQL's parser would otherwise find addresses, paths, signs and fractions.
POSTGRES_INSTALL = (
    "CREATE TEXT SEARCH DICTIONARY dgx_music_stem (TEMPLATE = snowball, LANGUAGE = porter)",
    'CREATE TEXT SEARCH CONFIGURATION dgx_music (PARSER = pg_catalog."default")',
    "ALTER TEXT SEARCH CONFIGURATION dgx_music ADD MAPPING FOR "
    "asciiword, word, numword, int, uint, float, sfloat WITH dgx_music_stem",
    r"""CREATE FUNCTION dgx_music_search_vector(prompt text) RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN strip(to_tsvector('dgx_music'::regconfig, regexp_replace(
    lower(normalize(regexp_replace(normalize(prompt, NFD), '[\u0300-\u036f]', '', 'g'), NFC)),
    '[\u0001-\u002f\u003a-\u0040\u005b-\u0060\u007b-\u00a9\u00ab-\u00b1\u00b4\u00b6-\u00b8\u00bb'
    '\u00bf\u00d7\u00f7\u2000-\u206f\u20a0-\u20cf\u2190-\u245f\u249c-\u24e9\u2500-\u2775'
    '\u2794-\u2bff\u3000-\u3004\u3008-\u3020\ufe00-\ufe0f\uff01-\uff0f\U0001f000-\U0001faff]+',
    ' ', 'g')))""",
    "CREATE SEQUENCE generations_search_id_seq AS bigint OWNED BY generations.search_id",
    "ALTER TABLE generations ALTER COLUMN search_id "
    "SET DEFAULT nextval('generations_search_id_seq')",
    "ALTER TABLE generations ADD COLUMN search_vector tsvector "
    "GENERATED ALWAYS AS (dgx_music_search_vector(prompt)) STORED",
    "CREATE INDEX idx_generations_search_vector ON generations USING gin (search_vector) "
    "WITH (gin_pending_list_limit = 64)",
)

POSTGRES_REMOVE = (
    "ALTER TABLE generations DROP COLUMN IF EXISTS search_vector",
    "DROP FUNCTION IF EXISTS dgx_music_search_vector(text)",
    "DROP TEXT SEARCH CONFIGURATION IF EXISTS dgx_music",
    "DROP TEXT SEARCH DICTIONARY IF EXISTS dgx_music_stem",
)


def fts5_available(connection: Connection) -> bool:
    """Return whether this SQLite was built with FTS5."""
    return bool(
        connection.exec_driver_sql(
            "SELECT count(*) FROM pragma_module_list WHERE name = 'fts5'"
        ).scalar_one()
    )


def install_search_index(connection: Connection) -> None:
    """Create the index over present and future rows.

    On an SQLite without FTS5 there is no index, and search compares text instead.
    """
    if connection.dialect.name == "postgresql":
        for statement in POSTGRES_INSTALL:
            connection.exec_driver_sql(statement)
    elif fts5_available(connection):
        _install_fts5(connection)


def repair_search_index(connection: Connection) -> None:
    """Restore the triggers that rebuilding the table `generations` removes on SQLite."""
    if connection.dialect.name != "sqlite" or not fts5_available(connection):
        return
    present = connection.exec_driver_sql(
        "SELECT count(*) FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'generations' "
        "AND name LIKE 'generations\\_search\\_%' ESCAPE '\\'"
    ).scalar_one()
    if present != len(SQLITE_TRIGGERS):
        remove_search_index(connection)
        _install_fts5(connection)


def remove_search_index(connection: Connection) -> None:
    """Remove the index; the rows stay."""
    if connection.dialect.name == "postgresql":
        for statement in POSTGRES_REMOVE:
            connection.exec_driver_sql(statement)
        return
    for name in SQLITE_TRIGGER_NAMES:
        connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {name}")
    connection.exec_driver_sql(f"DROP TABLE IF EXISTS {SEARCH_TABLE}")


def _install_fts5(connection: Connection) -> None:
    connection.exec_driver_sql(
        "UPDATE generations SET search_id = numbered.place FROM (SELECT id, coalesce("
        "(SELECT max(search_id) FROM generations), 0) + row_number() OVER (ORDER BY created_at, id)"
        " AS place FROM generations WHERE search_id IS NULL) AS numbered "
        "WHERE generations.id = numbered.id"
    )
    connection.exec_driver_sql(SQLITE_TABLE)
    for trigger in SQLITE_TRIGGERS:
        connection.exec_driver_sql(trigger)
    connection.exec_driver_sql(SQLITE_REBUILD)


def _after_create(_table: Table, connection: Connection, **_options: object) -> None:
    install_search_index(connection)


def _before_drop(_table: Table, connection: Connection, **_options: object) -> None:
    remove_search_index(connection)


event.listen(GENERATIONS, "after_create", _after_create)
event.listen(GENERATIONS, "before_drop", _before_drop)
