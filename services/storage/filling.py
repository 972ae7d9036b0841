"""Text index and sequences around a copy of many rows into an empty database."""

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
    """Remove the text index; `finish_filling` builds it, which is faster than updating it by row.

    On SQLite its triggers would also renumber the rows.
    """
    if target.dialect.name == "sqlite":
        remove_search_index(target)
    else:
        target.exec_driver_sql(f"DROP INDEX {POSTGRES_INDEX}")


def finish_filling(target: Connection, source: Connection) -> None:
    """Build the text index, and continue the sequences where those of the source ended."""
    last = _find_last_prompt_id(source)
    if target.dialect.name == "sqlite":
        install_search_index(target)
        target.exec_driver_sql("DELETE FROM sqlite_sequence WHERE name = 'prompts'")
        target.exec_driver_sql("INSERT INTO sqlite_sequence VALUES ('prompts', ?)", (last,))
        return
    target.exec_driver_sql(POSTGRES_INSTALL[-1])
    found = target.exec_driver_sql("SELECT coalesce(max(search_id), 0) FROM generations")
    prompts = target.exec_driver_sql(f"SELECT {_PROMPTS}").scalar_one()
    # setval would not be rolled back with the transaction.
    for sequence, number in (("generations_search_id_seq", found.scalar_one()), (prompts, last)):
        target.exec_driver_sql(f"ALTER SEQUENCE {sequence} RESTART WITH {number + 1}")
    # Without statistics PostgreSQL plans queries for a handful of rows.
    for table in Base.metadata.tables:
        target.exec_driver_sql(f"ANALYZE {table}")


def _find_last_prompt_id(source: Connection) -> int:
    """Return the highest id that any prompt has had; 0 for none."""
    if source.dialect.name == "sqlite":
        statement = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'prompts'"
    else:
        sequence = source.exec_driver_sql(f"SELECT {_PROMPTS}").scalar_one()
        statement = f"SELECT last_value - (NOT is_called)::integer FROM {sequence}"  # noqa: S608 - its name
    return int(source.exec_driver_sql(statement).scalar_one())
