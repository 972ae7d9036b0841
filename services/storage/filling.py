"""What an empty database needs around a large copy: the text index, and numbers that go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.storage.models import Base
from services.storage.search_index import (
    POSTGRES_INDEX,
    POSTGRES_INSTALL,
    install_search_index,
    remove_search_index,
)

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

_PROMPTS = "pg_get_serial_sequence('prompts', 'id')"


def prepare_filling(target: Connection) -> None:
    """Take the text index away, which is quicker made once than kept up to date.

    On SQLite its triggers would also number the rows anew.
    """
    if target.dialect.name == "sqlite":
        remove_search_index(target)
    else:
        target.exec_driver_sql(f"DROP INDEX {POSTGRES_INDEX}")


def finish_filling(target: Connection, source: Connection) -> None:
    """Make the text index, and let the next rows have the numbers they would have had."""
    last = _find_last_prompt_id(source)
    if target.dialect.name == "sqlite":
        install_search_index(target)
        target.exec_driver_sql("DELETE FROM sqlite_sequence WHERE name = 'prompts'")
        target.exec_driver_sql("INSERT INTO sqlite_sequence VALUES ('prompts', ?)", (last,))
        return
    target.exec_driver_sql(POSTGRES_INSTALL[-1])
    found = target.exec_driver_sql("SELECT coalesce(max(search_id), 0) FROM generations")
    prompts = target.exec_driver_sql(f"SELECT {_PROMPTS}").scalar_one()
    # Not setval, which stays when the transaction is undone.
    for sequence, number in (("generations_search_id_seq", found.scalar_one()), (prompts, last)):
        target.exec_driver_sql(f"ALTER SEQUENCE {sequence} RESTART WITH {number + 1}")
    # Until its statistics are there PostgreSQL plans as for a handful of rows.
    for table in Base.metadata.tables:
        target.exec_driver_sql(f"ANALYZE {table}")


def _find_last_prompt_id(source: Connection) -> int:
    """The highest number that a prompt ever had."""
    if source.dialect.name == "sqlite":
        statement = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'prompts'"
    else:
        sequence = source.exec_driver_sql(f"SELECT {_PROMPTS}").scalar_one()
        statement = f"SELECT last_value - (NOT is_called)::integer FROM {sequence}"  # noqa: S608 - its name
    return int(source.exec_driver_sql(statement).scalar_one())
