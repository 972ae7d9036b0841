"""Migrate a database to the current revision, completely or not at all.

Alembic is imported only when a migration runs: importing it takes a fifth of a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from services.storage import snapshot
from services.storage.errors import DatabaseTooNewError, MigrationError, translate
from services.storage.models import Base
from services.storage.schema import HEAD_REVISION, KNOWN_REVISIONS
from services.storage.search_index import (
    POSTGRES_COLUMN,
    POSTGRES_INDEX,
    repair_search_index,
)
from services.storage.sqlite import MIGRATING_OPTION
from services.storage.sqlite_driver import load_library

if TYPE_CHECKING:
    from sqlite3 import Connection as DriverConnection

    from alembic.config import Config
    from sqlalchemy.engine import Connection

    from services.storage.connection import Database

# The advisory lock that a process of this project holds on PostgreSQL while it migrates.
_ADVISORY_LOCK = 0x0D68_4D75_7369_63

# Alembic cannot compare these: SQLite does not report that two of them descend, and the third has
# different columns on each database. A test compares their text instead.
_INDEXES_BY_TEXT = frozenset(
    {
        "idx_generations_created_at",
        "idx_generations_completed_at",
        "idx_generations_model_created",
    }
)

_VERSION_TABLE = """CREATE TABLE IF NOT EXISTS alembic_version (
    version_num VARCHAR(32) NOT NULL,
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
)"""

_TABLES = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'table' "
    "AND name IN ('alembic_version', 'generations', 'prompts')",
    "postgresql": "SELECT tablename FROM pg_tables WHERE schemaname = current_schema() "
    "AND tablename IN ('alembic_version', 'generations', 'prompts')",
}

_HAS_CURRENT_COLUMNS = {
    "sqlite": "SELECT count(*) FROM pragma_table_info('generations') WHERE name = 'search_id'",
    "postgresql": "SELECT count(*) FROM information_schema.columns WHERE table_schema = "
    "current_schema() AND table_name = 'generations' AND column_name = 'search_id'",
}


class State(Enum):
    """The schema of a database, compared with that of this release."""

    EMPTY = auto()
    """Without tables of DGX Music."""
    UNVERSIONED = auto()
    """With the two tables from before there were revisions, which have fewer columns."""
    OLDER = auto()
    CURRENT = auto()
    NEWER = auto()


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    state: State
    revision: str | None


def examine(connection: Connection) -> SchemaStatus:
    """Read revision and state of a database in three small queries."""
    dialect = connection.dialect.name
    tables = set(connection.exec_driver_sql(_TABLES[dialect]).scalars())
    revision = None
    if "alembic_version" in tables:
        revision = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    if revision is not None and revision not in KNOWN_REVISIONS:
        return SchemaStatus(State.NEWER, revision)
    if not tables & {"generations", "prompts"}:
        return SchemaStatus(State.EMPTY, revision)
    if not connection.exec_driver_sql(_HAS_CURRENT_COLUMNS[dialect]).scalar_one():
        return SchemaStatus(State.UNVERSIONED, revision)
    state = State.CURRENT if revision == HEAD_REVISION else State.OLDER
    return SchemaStatus(state, revision)


def read_schema_status(database: Database) -> SchemaStatus:
    """Read revision and state of a database in a read-only session."""
    with database.session(read_only=True) as session:
        return examine(session.connection())


def prepare_database(database: Database) -> None:
    """Create the tables of an empty database, and upgrade an older one.

    An older SQLite database that holds rows is copied beside itself first.

    Raises:
        DatabaseTooNewError: a later release wrote the database.
        MigrationError: the migration failed; the database is unchanged.
    """
    status = read_schema_status(database)
    if status.state is State.CURRENT:
        return
    if status.state is State.NEWER:
        raise DatabaseTooNewError(
            f"The database {database.name} has revision {status.revision}, this release knows "
            f"up to {HEAD_REVISION}. Use the release that wrote it, or a later one."
        )
    if status.state is State.EMPTY:
        with migration_transaction(database) as connection:
            if examine(connection).state is State.EMPTY:
                create_schema(connection)
        return
    if status.state is State.UNVERSIONED and not database.is_sqlite:
        raise MigrationError(
            f"{database.name} has other tables named generations or prompts. "
            "Use a separate database or search_path."
        )
    save_before_upgrade(database)
    upgrade(database)


def create_schema(connection: Connection) -> None:
    """Create every table, index and trigger, and record the revision."""
    Base.metadata.create_all(connection)
    set_revision(connection, HEAD_REVISION)


def set_revision(connection: Connection, revision: str | None) -> None:
    """Record a revision; None records that there is none."""
    connection.exec_driver_sql(_VERSION_TABLE)
    connection.exec_driver_sql("DELETE FROM alembic_version")
    if revision is not None:
        placeholder = "?" if connection.dialect.name == "sqlite" else "%s"
        connection.exec_driver_sql(
            f"INSERT INTO alembic_version (version_num) VALUES ({placeholder})",  # noqa: S608 - the dialect's sign
            (revision,),
        )


def save_before_upgrade(database: Database) -> Path | None:
    """Copy an SQLite file beside itself; return the copy's path, or None if it holds no rows."""
    if database.file is None:
        return None
    try:
        with closing(snapshot.connect_to_file(database.file)) as source:
            if not _holds_rows(source):
                return None
            copy = snapshot.name_dated_copy(database.file, f"before-{HEAD_REVISION}")
            snapshot.write_snapshot(source, copy)
    except load_library().Error as error:
        raise MigrationError(
            f"{database.name} could not be copied before its upgrade, and is unchanged: {error}"
        ) from error
    return copy


def _holds_rows(connection: DriverConnection) -> bool:
    tables = connection.execute(_TABLES["sqlite"]).fetchall()
    counted = (
        connection.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone()  # noqa: S608 - our own names
        for (name,) in tables
        if name != "alembic_version"
    )
    return any(row is not None for row in counted)


def upgrade(database: Database, revision: str = "head", *, scripts: Path | None = None) -> None:
    """Run the migration scripts up to `revision`.

    A second process that upgrades at the same time waits, and then has nothing to do.

    Args:
        database: the database to upgrade.
        revision: an Alembic revision.
        scripts: folder of the scripts; None means this project's.

    Raises:
        MigrationError: a script failed; the database is unchanged.
    """

    def run(config: Config, connection: Connection) -> None:
        from alembic import command

        if examine(connection).state is State.UNVERSIONED:
            set_revision(connection, None)
        command.upgrade(config, revision)

    _migrate(database, run, scripts)


def downgrade(database: Database, revision: str, *, scripts: Path | None = None) -> None:
    """Run the scripts down to `revision`; "base" drops all our tables. Raises as `upgrade`."""

    def run(config: Config, _connection: Connection) -> None:
        from alembic import command

        command.downgrade(config, revision)

    _migrate(database, run, scripts)


def _migrate(
    database: Database, run: Callable[[Config, Connection], None], scripts: Path | None
) -> None:
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option(
        "script_location", str(scripts or find_scripts_folder()).replace("%", "%%")
    )
    config.set_main_option("path_separator", "os")
    try:
        with migration_transaction(database) as connection:
            config.attributes["connection"] = connection
            run(config, connection)
    except CommandError as error:
        raise MigrationError(f"{database.name} could not be migrated: {error}") from error


@contextmanager
def migration_transaction(database: Database) -> Iterator[Connection]:
    """Open a transaction for which every other migrating process waits.

    On SQLite foreign keys are off in it and checked before it commits.
    """
    engine = database.engine.execution_options(**{MIGRATING_OPTION: True})
    try:
        with engine.begin() as connection:
            if not database.is_sqlite:
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})")
            yield connection
            if database.is_sqlite:
                _finish_sqlite(connection)
    except SQLAlchemyError as error:
        translated = translate(error, database.name) if isinstance(error, DBAPIError) else None
        reason = getattr(error, "orig", error)
        raise translated or MigrationError(
            f"{database.name} could not be migrated and is unchanged: {reason}. If its tables are "
            "not those of DGX Music, set DATABASE_URL to another database."
        ) from error


def _finish_sqlite(connection: Connection) -> None:
    if connection.exec_driver_sql(_HAS_CURRENT_COLUMNS["sqlite"]).scalar_one():
        repair_search_index(connection)
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
    if broken:
        table, row, parent = broken[0][:3]
        raise MigrationError(
            f"The migration would leave row {row} of {table} without its row of {parent}. "
            "Nothing was changed."
        )


def find_scripts_folder() -> Path:
    """Return the folder of the scripts: in the package when installed, else in the checkout."""
    package = Path(__file__).parent
    for folder in (package / "alembic", package.parents[1] / "alembic"):
        if (folder / "env.py").is_file():
            return folder
    raise MigrationError("The migration scripts are missing. Install dgx-music again.")


def get_alembic_options() -> dict[str, Any]:
    """Return the arguments of `alembic.context.configure` for our tables."""
    return {
        "target_metadata": Base.metadata,
        "render_as_batch": True,
        "compare_type": True,
        "include_object": _is_ours,
    }


def _is_ours(_item: Any, name: str | None, kind: str, reflected: bool, _other: object) -> bool:
    if kind == "index" and name in _INDEXES_BY_TEXT:
        return False
    if not reflected:
        return True
    if kind == "table":
        return name in Base.metadata.tables
    return name not in {POSTGRES_COLUMN, POSTGRES_INDEX}
