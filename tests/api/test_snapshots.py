"""Snapshots for many listeners: one look at the database, never older than what follows it."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from services.api.feed import Event, News, wire_form
from services.api.snapshots import Snapshots, View


class Position:
    """All that a snapshot asks of a feed."""

    def __init__(self) -> None:
        self.number = 0

    def position(self) -> str:
        return f"epoch-{self.number}"


class Database:
    """Counts the looks at it."""

    def __init__(self) -> None:
        self.looks = 0
        self.failures = 0

    def look(self) -> View:
        self.looks += 1
        if self.failures:
            self.failures -= 1
            raise OSError("away")
        return View(b"%d" % self.looks, {})


def make() -> tuple[Position, Database, Snapshots]:
    feed = Position()
    return feed, Database(), Snapshots(cast("Any", feed))


def test_all_who_begin_at_once_get_one_snapshot() -> None:
    async def run() -> None:
        _, database, snapshots = make()
        given = await asyncio.gather(*(snapshots.get("all", database.look) for _ in range(50)))
        assert database.looks == 1
        assert {id(one) for one in given} == {id(given[0])}
        assert given[0].wire == wire_form("epoch-0", "snapshot", b"1")

    asyncio.run(run())


def test_those_who_may_see_something_else_get_their_own() -> None:
    async def run() -> None:
        _, database, snapshots = make()
        mine, yours = await asyncio.gather(
            snapshots.get("mine", database.look), snapshots.get("yours", database.look)
        )
        assert database.looks == 2
        assert mine.view.data != yours.view.data

    asyncio.run(run())


def test_after_an_event_the_database_is_asked_again() -> None:
    async def run() -> None:
        feed, database, snapshots = make()
        before = await snapshots.get("all", database.look)
        feed.number = 1
        after = await snapshots.get("all", database.look)
        assert (before.position, after.position) == ("epoch-0", "epoch-1")
        assert database.looks == 2

    asyncio.run(run())


def test_a_look_that_failed_is_not_kept() -> None:
    async def run() -> None:
        _, database, snapshots = make()
        database.failures = 1
        with pytest.raises(OSError, match="away"):
            await snapshots.get("all", database.look)
        assert (await snapshots.get("all", database.look)).view.data == b"2"

    asyncio.run(run())


def test_a_listener_who_leaves_takes_the_snapshot_from_nobody() -> None:
    async def run() -> None:
        _, database, snapshots = make()
        leaving, staying = (
            asyncio.create_task(snapshots.get("all", database.look)) for _ in range(2)
        )
        await asyncio.sleep(0)
        leaving.cancel()
        assert (await staying).view.data == b"1"
        assert database.looks == 1

    asyncio.run(run())


def test_news_are_written_whole_or_in_part() -> None:
    events = [Event("progress", str(n), None, (n,), b"<%d>" % n) for n in range(3)]
    news = News(events)
    assert news.wire_of(events) == b"<0><1><2>"
    assert news.wire_of(events[1:]) == b"<1><2>"
    assert news.wire_of([]) == b""
