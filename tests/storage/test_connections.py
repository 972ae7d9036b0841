"""Connections to an SQLite file are reused."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import event, text

from services import storage
from services.storage.sqlite import MAX_CONNECTIONS

if TYPE_CHECKING:
    from services.storage.connection import Database

pytestmark = pytest.mark.integration


def read_at_once(sessions: int) -> None:
    with ExitStack() as open_ones:
        for _ in range(sessions):
            session = open_ones.enter_context(storage.get_session(read_only=True))
            session.execute(text("SELECT 1"))


def test_connections_of_one_peak_serve_the_next(sqlite_database: Database) -> None:
    opened: list[object] = []
    event.listen(sqlite_database.engine, "connect", lambda one, _record: opened.append(one))
    read_at_once(MAX_CONNECTIONS)
    before = len(opened)
    read_at_once(MAX_CONNECTIONS)
    assert len(opened) == before
    assert 0 < before <= MAX_CONNECTIONS


def test_sessions_in_sequence_use_one_connection(sqlite_database: Database) -> None:
    read_at_once(3)
    used: set[object] = set()
    event.listen(sqlite_database.engine, "checkout", lambda one, *_: used.add(one))
    for _ in range(5):
        read_at_once(1)
    assert len(used) == 1
