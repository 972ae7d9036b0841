"""How PostgreSQL is opened."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, event

from services.storage.errors import MissingDriverError
from services.storage.sqlite import READ_ONLY_OPTION

if TYPE_CHECKING:
    from sqlalchemy.engine import URL, Connection, Engine
    from sqlalchemy.pool import ConnectionPoolEntry

CONNECT_TIMEOUT_SECONDS = 10


def create_postgres_engine(url: URL, busy_timeout_seconds: float) -> Engine:
    """Open a PostgreSQL database through psycopg 3.

    Raises:
        MissingDriverError: psycopg is not installed.
    """
    if find_spec("psycopg") is None:
        raise MissingDriverError(
            "PostgreSQL needs the package psycopg; install it with pip install 'psycopg[binary]'."
        )
    connect_args: dict[str, object] = {
        "options": f"-c lock_timeout={round(busy_timeout_seconds * 1000)} -c timezone=UTC"
    }
    if "connect_timeout" not in url.query:
        connect_args["connect_timeout"] = CONNECT_TIMEOUT_SECONDS
    if "options" in url.query:
        del connect_args["options"]
    engine = create_engine(url, pool_pre_ping=True, connect_args=connect_args)
    event.listen(engine, "begin", _on_begin)
    event.listen(engine, "checkin", _on_checkin)
    return engine


def _on_begin(connection: Connection) -> None:
    if connection.get_execution_options().get(READ_ONLY_OPTION):
        # psycopg then starts with BEGIN READ ONLY, which saves a round trip.
        connection.info[READ_ONLY_OPTION] = True
        _driver(connection.connection.driver_connection).read_only = True


def _on_checkin(connection: Any, record: ConnectionPoolEntry) -> None:
    if record.info.pop(READ_ONLY_OPTION, False) and connection is not None:
        _driver(connection).read_only = None


def _driver(connection: Any) -> Any:
    return getattr(connection, "driver_connection", connection)
