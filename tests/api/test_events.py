"""Event streams: snapshot, missed events, visibility, and the end of a stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import TYPE_CHECKING, Any

import pytest
from fastapi import Request
from hypothesis import given
from hypothesis import strategies as st

from services import storage
from services.api import feed as feed_module
from services.api.caller import Caller
from services.api.feed import Event
from services.api.routers import events as router
from services.api.routers.events import Permit, _select_unsent, all_events, job_events
from services.errors import StorageError
from tests.api.conftest import EVERYBODY, add_job, set_status
from tests.conftest import LIMIT_SECONDS

if TYPE_CHECKING:
    from fastapi import Response

    from services.api.state import ApiState

GET = Request({"type": "http", "method": "GET"})


@pytest.fixture(autouse=True)
def _poll_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "POLL_SECONDS", 0.01)


def run(state: ApiState, test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with state.feed.lifespan():
            await test()

    asyncio.run(main())


class Stream:
    """The events of a response; heartbeats are skipped."""

    def __init__(self, response: Response) -> None:
        assert response.status_code == 200
        self._pieces: AsyncIterator[bytes] = response.body_iterator  # type: ignore[attr-defined]
        self._events: list[dict[str, Any]] = []

    async def next(self) -> dict[str, Any]:
        """Return the next event; raises StopAsyncIteration at the end."""
        while not self._events:
            piece = await asyncio.wait_for(anext(self._pieces), LIMIT_SECONDS)
            for block in piece.decode().split("\n\n"):
                fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line)
                if "event" in fields:
                    self._events.append(fields | {"data": json.loads(fields["data"])})
        return self._events.pop(0)

    async def close(self) -> None:
        await self._pieces.aclose()  # type: ignore[attr-defined]


def test_stream_of_all_jobs_shows_the_caller_its_own_jobs_only(state: ApiState) -> None:
    mine, _ = add_job("alice"), add_job("bob")

    async def test() -> None:
        stream = Stream(await all_events(GET, state, Caller("alice", sees_all=False, name="alice")))
        first = await stream.next()
        assert first["event"] == "snapshot"
        assert [job["job_id"] for job in first["data"]["jobs"]] == [mine]
        set_status(add_job("bob"), "failed")
        later = add_job("alice")
        assert (await stream.next())["data"]["job_id"] == later
        await stream.close()
        assert state.feed.subscriber_count == 0

    run(state, test)


def test_resumed_stream_sends_the_missed_events_and_no_snapshot(state: ApiState) -> None:
    async def test() -> None:
        stream = Stream(await all_events(GET, state, EVERYBODY))
        position = (await stream.next())["id"]
        job_id = add_job()
        await stream.next()
        set_status(job_id, "cancelled")
        await stream.next()
        await stream.close()
        resumed = Stream(await all_events(GET, state, EVERYBODY, position))
        missed = [await resumed.next(), await resumed.next()]
        assert [event["event"] for event in missed] == ["progress", "done"]
        await resumed.close()

    run(state, test)


def test_stream_of_a_job_ends_after_done(state: ApiState) -> None:
    job_id = add_job()

    async def test() -> None:
        stream = Stream(await job_events(GET, job_id, state, EVERYBODY))
        assert (await stream.next())["event"] == "snapshot"
        add_job()
        set_status(job_id, "failed")
        last = await stream.next()
        assert (last["event"], last["data"]["status"]) == ("done", "failed")
        with pytest.raises(StopAsyncIteration):
            await stream.next()

    run(state, test)


def test_stream_of_a_finished_job_is_its_snapshot_and_done_then_204(state: ApiState) -> None:
    job_id = add_job()
    set_status(job_id, "failed")

    async def test() -> None:
        stream = Stream(await job_events(GET, job_id, state, EVERYBODY))
        both = [await stream.next(), await stream.next()]
        assert [event["event"] for event in both] == ["snapshot", "done"]
        assert both[0]["data"] == both[1]["data"]
        with pytest.raises(StopAsyncIteration):
            await stream.next()
        again = await job_events(GET, job_id, state, EVERYBODY, both[1]["id"])
        assert again.status_code == 204
        unknown = Stream(await job_events(GET, job_id, state, EVERYBODY, "0000-1"))
        assert (await unknown.next())["event"] == "snapshot"
        await unknown.close()

    run(state, test)


def test_stream_sends_heartbeats_while_nothing_happens(
    state: ApiState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "HEARTBEAT_SECONDS", 0.0)

    async def test() -> None:
        response: Any = await all_events(GET, state, EVERYBODY)
        pieces = response.body_iterator
        found = [await asyncio.wait_for(anext(pieces), LIMIT_SECONDS) for _ in range(4)]
        assert found[0] == b"retry: 2000\n\n"
        assert found[1].startswith(b"id: ")
        assert found[2:] == [b": heartbeat\n\n"] * 2
        await pieces.aclose()

    run(state, test)


def test_permit_ends_when_its_key_is_revoked(
    state: ApiState, monkeypatch: pytest.MonkeyPatch
) -> None:
    with storage.get_session() as session:
        row, _ = storage.create_api_key(session, "laptop")
    caller = Caller(row.id, sees_all=False, name=row.id)

    async def test() -> None:
        permit, unchecked = Permit(state, caller), Permit(state, caller)
        monkeypatch.setattr(router, "KEY_SECONDS", 0.0)
        assert await permit.is_valid()
        with storage.get_session() as session:
            storage.revoke_api_key(session, row.id)
        assert not await permit.is_valid()
        assert await Permit(state, EVERYBODY).is_valid()
        monkeypatch.setattr(router, "KEY_SECONDS", 1000.0)
        assert await unchecked.is_valid()

    run(state, test)


def test_permit_outlasts_a_database_that_does_not_answer(
    state: ApiState, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_key: str) -> None:
        raise StorageError("away")

    monkeypatch.setattr(router, "KEY_SECONDS", 0.0)
    monkeypatch.setattr(state.keys, "get", fail)
    permit = Permit(state, Caller("alice", sees_all=False, name="alice"))
    run(state, lambda: assert_valid(permit))


async def assert_valid(permit: Permit) -> None:
    assert await permit.is_valid()


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 5)), max_size=12),
    st.dictionaries(st.sampled_from("ab"), st.integers(0, 5).map(lambda rank: (rank,))),
)
def test_sent_ranks_only_rise_and_no_higher_rank_is_dropped(
    steps: list[tuple[str, int]], sent: dict[str, tuple[float, ...]]
) -> None:
    events = [Event("progress", job_id, None, (rank,), b"") for job_id, rank in steps]
    before = dict(sent)
    unsent = _select_unsent(events, sent)
    for job_id in "ab":
        ranks = [event.rank for event in unsent if event.job_id == job_id]
        assert ranks == sorted(set(ranks))
        every = [event.rank for event in events if event.job_id == job_id]
        best = max([*every, before.get(job_id, ())])
        assert max([*ranks, before.get(job_id, ())]) == best
        assert sent.get(job_id, ()) == best
