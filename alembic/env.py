"""Alembic's environment: it uses the transactions of services/storage/migrations.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alembic import context
from services.storage.connection import Database, resolve_url
from services.storage.errors import MigrationError
from services.storage.migrations import get_alembic_options, migration_transaction

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection


def run(connection: Connection) -> None:
    context.configure(connection=connection, **get_alembic_options())
    context.run_migrations()


def main() -> None:
    if context.is_offline_mode():
        raise MigrationError("--sql is not supported: the migrations need a database.")
    given = context.config.attributes.get("connection")
    if given is not None:
        run(given)
        return
    # By hand it works on the database of the commands, which only the settings know.
    from services.config import load_settings

    database = Database(resolve_url(load_settings().database_url))
    try:
        with migration_transaction(database) as connection:
            run(connection)
    finally:
        database.close()


main()
