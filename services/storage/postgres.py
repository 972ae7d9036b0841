"""Engines for PostgreSQL."""

from __future__ import annotations

import select
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from sqlalchemy import create_engine, event
from sqlalchemy.exc import DisconnectionError

from services.storage.errors import MissingDriverError

if TYPE_CHECKING:
    from sqlalchemy.engine import URL, Engine

CONNECT_TIMEOUT_SECONDS = 10


def create_postgres_engine(
    url: URL,
    busy_timeout_seconds: float,
    idle_timeout_seconds: float,
    *,
    read_only: bool = False,
) -> Engine:
    """Create an engine on psycopg 3.

    A read-only engine is in autocommit mode: each statement is a read-only transaction, so a read
    takes one round trip instead of three.

    Raises:
        MissingDriverError: psycopg is not installed.
    """
    if find_spec("psycopg") is None:
        raise MissingDriverError(
            "PostgreSQL needs the package psycopg. Install it with: pip install 'psycopg[binary]'"
        )
    connect_args: dict[str, object] = {}
    if "connect_timeout" not in url.query:
        connect_args["connect_timeout"] = CONNECT_TIMEOUT_SECONDS
    if "options" not in url.query:
        timeouts = {
            "lock_timeout": busy_timeout_seconds,
            "idle_in_transaction_session_timeout": idle_timeout_seconds,
        }
        given = [f"-c {name}={max(1, round(each * 1000))}" for name, each in timeouts.items()]
        connect_args["options"] = " ".join([*given, "-c timezone=UTC"])
    level: dict[str, Any] = {"isolation_level": "AUTOCOMMIT"} if read_only else {}
    engine = create_engine(url, connect_args=connect_args, hide_parameters=True, **level)
    event.listen(engine, "checkout", _on_checkout)
    if read_only:
        event.listen(engine, "connect", _on_connect_to_read)
    return engine


def _on_connect_to_read(connection: Any, _record: object) -> None:
    driver = _driver(connection)
    driver.autocommit = True
    driver.execute("SET default_transaction_read_only = on")


def _on_checkout(connection: Any, _record: object, _proxy: object) -> None:
    """Replace a connection that the server has closed.

    A server that stops writes to its idle connections. Polling the socket for data takes no round
    trip, unlike a ping.
    """
    idle = select.poll()
    idle.register(_driver(connection).fileno(), select.POLLIN)
    if idle.poll(0):
        raise DisconnectionError


def _driver(connection: Any) -> Any:
    return getattr(connection, "driver_connection", connection)
