"""Snapshots for many subscribers: one read of the database, never older than their position."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from services.api.feed import Event, EventBatch, encode_event
from services.api.snapshots import Snapshots, View


class Position:
    """The part of a feed that snapshots use."""

    def __init__(self) -> None:
        self.number = 0

    @property
    def position(self) -> str:
        return f"epoch-{self.number}"


class Database:
    """Counts its reads."""

    def __init__(self) -> None:
        self.reads = 0
        self.failures = 0

    def read(self) -> View:
        self.reads += 1
        if self.failures:
            self.failures -= 1
            raise OSError("away")
        return View(b"%d" % self.reads, {})


def make() -> tuple[Position, Database, Snapshots]:
    feed = Position()
    return feed, Database(), Snapshots(cast("Any", feed))


def test_concurrent_subscribers_share_one_snapshot() -> None:
    async def run() -> None:
        _, database, snapshots = make()
        given = await asyncio.gather(*(snapshots.get("all", database.read) for _ in range(50)))
        assert database.reads == 1
        assert {id(one) for one in given} == {id(given[0])}
        assert given[0].encoded == encode_event("epoch-0", "snapshot", b"1")

    asyncio.run(run())


def test_views_with_other_names_have_their_own_snapshot() -> None:
    async def run() -> None:
        _, database, snapshots = make()
        mine, yours = await asyncio.gather(
            snapshots.get("mine", database.read), snapshots.get("yours", database.read)
        )
        assert database.reads == 2
        assert mine.view.data != yours.view.data

    asyncio.run(run())


def test_event_makes_the_snapshot_stale() -> None:
    async def run() -> None:
        feed, database, snapshots = make()
        before = await snapshots.get("all", database.read)
        feed.number = 1
        after = await snapshots.get("all", database.read)
        assert (before.position, after.position) == ("epoch-0", "epoch-1")
        assert database.reads == 2

    asyncio.run(run())


def test_failed_snapshot_is_not_cached() -> None:
    async def run() -> None:
        _, database, snapshots = make()
        database.failures = 1
        with pytest.raises(OSError, match="away"):
            await snapshots.get("all", database.read)
        assert (await snapshots.get("all", database.read)).view.data == b"2"

    asyncio.run(run())


def test_cancelled_subscriber_does_not_cancel_the_snapshot() -> None:
    async def run() -> None:
        _, database, snapshots = make()
        leaving, staying = (
            asyncio.create_task(snapshots.get("all", database.read)) for _ in range(2)
        )
        await asyncio.sleep(0)
        leaving.cancel()
        assert (await staying).view.data == b"1"
        assert database.reads == 1

    asyncio.run(run())


def test_batch_encodes_all_or_some_events() -> None:
    events = [Event("progress", str(n), None, (n,), b"<%d>" % n) for n in range(3)]
    batch = EventBatch(events)
    assert batch.encode(events) == b"<0><1><2>"
    assert batch.encode(events[1:]) == b"<1><2>"
    assert batch.encode([]) == b""


def test_snapshot_is_read_again_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.api.snapshots.FRESH_SECONDS", 0.0)

    async def run() -> None:
        _, database, snapshots = make()
        for reads in (1, 2):
            assert (await snapshots.get("all", database.read)).view.data == b"%d" % reads

    asyncio.run(run())


def test_stale_snapshots_are_dropped() -> None:
    async def run() -> None:
        feed, database, snapshots = make()
        for number in range(20):
            feed.number = number
            await snapshots.get(f"job {number}", database.read)
        assert list(snapshots._entries) == ["job 19"]

    asyncio.run(run())
