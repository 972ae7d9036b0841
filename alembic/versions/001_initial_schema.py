"""Initial schema: generations, prompts, audio_analysis, models, and the text index.

An SQLite database from before there were revisions (two tables with fewer columns) keeps its rows.
"""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op

revision = "001"
down_revision = None
branch_labels = None
depends_on = None

STATUSES = "('pending', 'processing', 'completed', 'failed', 'cancelled')"

REAL = sa.REAL().with_variant(sa.DOUBLE_PRECISION(), "postgresql")
COUNT = sa.Integer().with_variant(sa.BigInteger(), "postgresql")
IDENTIFIER = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

SQLITE_SEARCH = (
    """CREATE VIRTUAL TABLE generations_search USING fts5(
    prompt, content = 'generations', content_rowid = 'search_id', columnsize = 0,
    detail = none, tokenize = 'porter unicode61 remove_diacritics 2'
)""",
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

POSTGRES_SEARCH = (
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

POSTGRES_MODEL_INDEX = (
    "CREATE INDEX idx_generations_model_created ON generations "
    "(hashtext(model_name), created_at) WITH (fillfactor = 100)"
)

COLUMNS_BEFORE_001 = {
    "prompts": "id, text, used_count, first_used_at, last_used_at",
    "generations": "id, prompt, model_name, model_version, duration_seconds, sample_rate, "
    "channels, file_path, file_size_bytes, status, created_at, completed_at, "
    "generation_time_seconds, error_message, metadata",
}


def upgrade() -> None:
    existing = rename_old_tables()
    create_prompts()
    create_generations()
    create_audio_analysis()
    create_models()
    for table in existing:
        columns = COLUMNS_BEFORE_001[table]
        old_rows = f"SELECT {columns} FROM {table}_before_001"  # noqa: S608 - names from above
        op.execute(f"INSERT INTO {table} ({columns}) {old_rows}")
        op.execute(f"DROP TABLE {table}_before_001")
    if existing:
        op.execute(
            "UPDATE generations SET prompt_id = "
            "(SELECT prompts.id FROM prompts WHERE prompts.text = generations.prompt)"
        )
    create_search()


def rename_old_tables() -> list[str]:
    inspector = sa.inspect(op.get_bind())
    existing = [table for table in COLUMNS_BEFORE_001 if inspector.has_table(table)]
    for table in existing:
        for index in inspector.get_indexes(table):
            op.execute(f'DROP INDEX IF EXISTS "{index["name"]}"')
        op.rename_table(table, f"{table}_before_001")
    return existing


def create_prompts() -> None:
    op.create_table(
        "prompts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("used_count", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("first_used_at", sa.TIMESTAMP(), nullable=False),
        sa.Column("last_used_at", sa.TIMESTAMP(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_prompts"),
        sqlite_autoincrement=True,
    )
    op.create_index("idx_prompts_text", "prompts", ["text"], unique=True)


def create_generations() -> None:
    op.create_table(
        "generations",
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("model_name", sa.Text(), nullable=False),
        sa.Column("model_version", sa.Text()),
        sa.Column("duration_seconds", REAL, nullable=False),
        sa.Column("sample_rate", sa.Integer(), nullable=False),
        sa.Column("channels", sa.Integer(), nullable=False),
        sa.Column("file_path", sa.Text(), nullable=False),
        sa.Column("file_size_bytes", COUNT),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(), nullable=False),
        sa.Column("completed_at", sa.TIMESTAMP()),
        sa.Column("generation_time_seconds", REAL),
        sa.Column("error_message", sa.Text()),
        sa.Column("metadata", sa.Text()),
        sa.Column("prompt_id", sa.Integer()),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("attempt_token", sa.Text()),
        sa.Column("file_sha256", sa.LargeBinary()),
        sa.Column("search_id", COUNT),
        sa.PrimaryKeyConstraint("id", name="pk_generations"),
        sa.CheckConstraint(f"status IN {STATUSES}", name=op.f("ck_generations_status")),
        sa.CheckConstraint("channels BETWEEN 1 AND 2", name=op.f("ck_generations_channels")),
        sa.CheckConstraint("duration_seconds > 0", name=op.f("ck_generations_duration_seconds")),
        sa.CheckConstraint("sample_rate > 0", name=op.f("ck_generations_sample_rate")),
        sa.ForeignKeyConstraint(
            ["prompt_id"], ["prompts.id"], name="fk_generations_prompt_id", ondelete="SET NULL"
        ),
    )
    for column in ("status", "model_name"):
        op.create_index(f"idx_generations_{column}", "generations", [column])
    for column in ("created_at", "completed_at"):
        op.create_index(f"idx_generations_{column}", "generations", [sa.text(f"{column} DESC")])
    op.create_index("idx_generations_search_id", "generations", ["search_id"], unique=True)
    if op.get_bind().dialect.name == "postgresql":
        op.execute(POSTGRES_MODEL_INDEX)
    else:
        op.create_index(
            "idx_generations_model_created", "generations", ["model_name", "created_at"]
        )
    op.create_index(
        "idx_generations_not_completed",
        "generations",
        ["status", "created_at"],
        sqlite_where=sa.text("status <> 'completed'"),
        postgresql_where=sa.text("status <> 'completed'"),
    )


def create_audio_analysis() -> None:
    figures = (
        "integrated_lufs",
        "true_peak_dbtp",
        "loudness_range_lu",
        "peak_amplitude",
        "rms_energy",
        "dynamic_range_db",
    )
    op.create_table(
        "audio_analysis",
        sa.Column("generation_id", IDENTIFIER, nullable=False),
        sa.Column("bpm", REAL),
        sa.Column("bpm_confidence", REAL),
        sa.Column("key", sa.Text()),
        sa.Column("key_confidence", REAL),
        *(sa.Column(name, REAL) for name in figures),
        sa.Column("analysed_at", sa.TIMESTAMP(), nullable=False),
        sa.PrimaryKeyConstraint("generation_id", name="pk_audio_analysis"),
        sa.ForeignKeyConstraint(
            ["generation_id"],
            ["generations.id"],
            name="fk_audio_analysis_generation_id",
            ondelete="CASCADE",
        ),
    )


def create_models() -> None:
    op.create_table(
        "models",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("revision", sa.Text(), nullable=False),
        sa.Column("licence", sa.Text(), nullable=False),
        sa.Column("sample_rate", sa.Integer(), nullable=False),
        sa.Column("channels", sa.Integer(), nullable=False),
        sa.Column("longest_seconds", REAL, nullable=False),
        sa.Column("size_bytes", COUNT, nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("installed_at", sa.TIMESTAMP(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_models"),
        sa.CheckConstraint("channels BETWEEN 1 AND 2", name=op.f("ck_models_channels")),
        sa.CheckConstraint("longest_seconds > 0", name=op.f("ck_models_longest_seconds")),
        sa.CheckConstraint("sample_rate > 0", name=op.f("ck_models_sample_rate")),
    )


def create_search() -> None:
    bind = op.get_bind()
    if bind.dialect.name == "postgresql":
        for statement in POSTGRES_SEARCH:
            bind.exec_driver_sql(statement)
        return
    op.execute(
        "UPDATE generations SET search_id = numbered.place FROM "
        "(SELECT id, row_number() OVER (ORDER BY created_at, id) AS place FROM generations) "
        "AS numbered WHERE generations.id = numbered.id"
    )
    modules = "SELECT count(*) FROM pragma_module_list WHERE name = 'fts5'"
    if not bind.exec_driver_sql(modules).scalar_one():
        return
    for statement in SQLITE_SEARCH:
        bind.exec_driver_sql(statement)
    op.execute("INSERT INTO generations_search (generations_search) VALUES ('rebuild')")


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TABLE IF EXISTS generations_search")
    op.drop_table("audio_analysis")
    op.drop_table("generations")
    op.drop_table("prompts")
    op.drop_table("models")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION dgx_music_search_vector(text)")
        op.execute("DROP TEXT SEARCH CONFIGURATION dgx_music")
        op.execute("DROP TEXT SEARCH DICTIONARY dgx_music_stem")
