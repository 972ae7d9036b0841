"""The feed of job events, on a real database and without a server."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import pytest

from services import storage
from services.api import feed as feed_module
from services.api.feed import EventBatch, Feed
from services.api.problems import ProblemError
from tests.api.conftest import add_job, set_status
from tests.conftest import LIMIT_SECONDS

if TYPE_CHECKING:
    from services.api.state import ApiState
    from services.jobs.models import Job


@pytest.fixture(autouse=True)
def _poll_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "POLL_SECONDS", 0.01)


def run(state: ApiState, test: Callable[[Feed], Coroutine[Any, Any, None]]) -> None:
    """Run a test in an event loop with a feed that is subscribed to and ready."""

    async def main() -> None:
        feed = Feed(state.service)
        async with feed.lifespan():
            with feed.subscribe():
                assert await feed.wait_until_ready(LIMIT_SECONDS)
                await test(feed)

    asyncio.run(main())


async def wait_for_events(feed: Feed, position: str, count: int) -> EventBatch:
    async def wait() -> EventBatch:
        while True:
            batch = feed.get_events_after(position)
            assert batch is not None
            if len(batch.events) >= count:
                return batch
            await feed.wait_for_change()

    return await asyncio.wait_for(wait(), LIMIT_SECONDS)


async def is_connected() -> bool:
    return False


def test_changes_of_a_job_become_numbered_events(state: ApiState) -> None:
    async def test(feed: Feed) -> None:
        start = feed.position
        job_id = add_job("alice")
        await wait_for_events(feed, start, 1)
        set_status(job_id, "processing")
        await wait_for_events(feed, start, 2)
        set_status(job_id, "failed")
        events = (await wait_for_events(feed, start, 3)).events
        assert [event.name for event in events] == ["progress", "progress", "done"]
        assert {(event.job_id, event.owner) for event in events} == {(job_id, "alice")}
        assert sorted(event.rank for event in events) == [event.rank for event in events]
        epoch = start.partition("-")[0]
        for number, event in enumerate(events, 1):
            position, name, data = event.encoded.decode().removesuffix("\n\n").split("\n")
            assert (position, name) == (f"id: {epoch}-{number}", f"event: {event.name}")
            assert json.loads(data.removeprefix("data: "))["job_id"] == job_id

    run(state, test)


def test_jobs_from_before_the_first_subscriber_cause_no_event(state: ApiState) -> None:
    add_job()

    async def test(feed: Feed) -> None:
        start = feed.position
        job_id = add_job()
        batch = await wait_for_events(feed, start, 1)
        assert [event.job_id for event in batch.events] == [job_id]

    run(state, test)


def test_subscribers_at_one_position_share_a_batch(state: ApiState) -> None:
    async def test(feed: Feed) -> None:
        start = feed.position
        first = feed.get_events_after(start)
        assert feed.get_events_after(start) is first
        add_job()
        assert await wait_for_events(feed, start, 1) is not first

    run(state, test)


def test_expired_and_unknown_positions_have_no_events(
    state: ApiState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "KEPT_EVENTS", 3)

    async def test(feed: Feed) -> None:
        epoch = feed.position.partition("-")[0]
        for number in range(5):
            add_job()
            while feed.position != f"{epoch}-{number + 1}":
                await asyncio.wait_for(feed.wait_for_change(), LIMIT_SECONDS)
        counts = [
            None if (batch := feed.get_events_after(f"{epoch}-{number}")) is None
            else len(batch.events)
            for number in range(7)
        ]  # fmt: skip
        assert counts == [None, None, 3, 2, 1, 0, None]
        for position in ("", "5", "0000-5", f"{epoch}--1", f"{epoch}-5x", f"{epoch}-\u0665",
                         f"{epoch}-{'9' * 5000}"):  # fmt: skip
            assert feed.get_events_after(position) is None

    run(state, test)


def test_wait_for_job_returns_once_it_is_finished(state: ApiState) -> None:
    async def test(feed: Feed) -> None:
        job_id = add_job()
        waiting = asyncio.create_task(feed.wait_for_job(job_id, LIMIT_SECONDS, is_connected))
        while feed.subscriber_count < 2:
            await asyncio.sleep(0)
        set_status(job_id, "cancelled")
        assert (await asyncio.wait_for(waiting, LIMIT_SECONDS)).status == "cancelled"
        assert feed.subscriber_count == 1

    run(state, test)


def test_wait_for_job_returns_the_unfinished_job_when_time_is_up(state: ApiState) -> None:
    async def test(feed: Feed) -> None:
        view = await feed.wait_for_job(add_job(), 0.02, is_connected)
        assert view.status == "pending"

    run(state, test)


def test_wait_for_job_ends_when_the_client_disconnects_or_the_feed_closes(state: ApiState) -> None:
    async def is_disconnected() -> bool:
        return True

    async def test(feed: Feed) -> None:
        start, job_id = feed.position, add_job()
        await wait_for_events(feed, start, 1)
        left = asyncio.create_task(feed.wait_for_job(job_id, 1000.0, is_disconnected))
        while feed.subscriber_count < 2:
            await asyncio.sleep(0)
        add_job()
        assert (await asyncio.wait_for(left, LIMIT_SECONDS)).status == "pending"
        closed = asyncio.create_task(feed.wait_for_job(job_id, 1000.0, is_connected))
        while feed.subscriber_count < 2:
            await asyncio.sleep(0)
        feed.close()
        assert (await asyncio.wait_for(closed, LIMIT_SECONDS)).status == "pending"

    run(state, test)


def test_feed_resumes_after_the_database_did_not_answer(
    state: ApiState, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(feed: Feed) -> None:
        start = feed.position

        def fail(*_: object, **__: object) -> None:
            raise storage.DatabaseLockedError("the database is locked")

        with monkeypatch.context() as patch:
            patch.setattr(storage, "list_changed_states", fail)
            while "does not answer: the database is locked" not in caplog.text:
                await asyncio.sleep(0.005)
        job_id = add_job()
        batch = await wait_for_events(feed, start, 1)
        assert [event.job_id for event in batch.events] == [job_id]

    with caplog.at_level(logging.WARNING):
        run(state, test)


def test_idle_feed_stops_and_restarts_with_new_positions(
    state: ApiState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "IDLE_SECONDS", 0.0)

    async def main() -> None:
        feed = Feed(state.service)
        async with feed.lifespan():
            with feed.subscribe():
                assert await feed.wait_until_ready(LIMIT_SECONDS)
                first = feed.position
            while feed._watcher is None or not feed._watcher.done():
                await asyncio.sleep(0.005)
            with feed.subscribe():
                assert await feed.wait_until_ready(LIMIT_SECONDS)
                assert feed.get_events_after(first) is None
                assert feed.get_events_after(feed.position) is not None

    asyncio.run(main())


def test_silent_feed_wakes_its_subscribers_for_a_heartbeat(
    state: ApiState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "HEARTBEAT_SECONDS", 0.0)

    async def test(feed: Feed) -> None:
        before = feed.position
        await asyncio.wait_for(feed.wait_for_change(), LIMIT_SECONDS)
        assert feed.position == before

    run(state, test)


def test_capacity_is_that_of_the_open_subscriptions(
    state: ApiState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "MAX_SUBSCRIBERS", 2)

    async def test(feed: Feed) -> None:
        feed.require_capacity()
        with feed.subscribe():
            assert not feed.has_capacity
            with pytest.raises(ProblemError, match="Too many event streams") as refused:
                feed.require_capacity()
        assert refused.value.headers == {"Retry-After": "10"}
        assert feed.has_capacity

    run(state, test)


def test_wait_for_job_sees_a_change_that_comes_while_it_reads_the_job(
    state: ApiState, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited_for: list[asyncio.Event] = []
    wait_until_set = feed_module._wait_until_set

    async def note(event: asyncio.Event, seconds: float) -> bool:
        waited_for.append(event)
        return await wait_until_set(event, seconds)

    async def test(feed: Feed) -> None:
        start, job_id, find = feed.position, add_job(), state.service.find
        await wait_for_events(feed, start, 1)

        def find_and_cancel(wanted: str) -> Job:
            job, before = find(wanted), feed.position
            if not job.is_finished:
                set_status(wanted, "cancelled")
                while feed.position == before:
                    time.sleep(0.001)
            return job

        monkeypatch.setattr(state.service, "find", find_and_cancel)
        monkeypatch.setattr(feed_module, "_wait_until_set", note)
        view = await feed.wait_for_job(job_id, LIMIT_SECONDS, is_connected)
        assert view.status == "cancelled"
        assert {id(event) for event in waited_for} <= {id(feed._ready), id(feed._closed)}

    run(state, test)
