"""Server-sent events: one job's, or those of all jobs that the caller may see."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Header, Response
from fastapi.responses import StreamingResponse

from services.api.feed import HEARTBEAT_SECONDS, wire_form
from services.api.problems import documented
from services.api.routers.jobs import PROBLEMS, JobId
from services.api.schemas import JobView
from services.api.snapshots import Snapshot, View
from services.api.state import Api, ApiState, Calling
from services.api.visible import visible_job
from services.errors import StorageError
from services.jobs.view import rank_of

if TYPE_CHECKING:
    from services.api.caller import Caller
    from services.api.feed import Event
    from services.jobs.view import Rank

router = APIRouter(tags=["jobs"])

RECONNECT_MILLISECONDS = 2_000
MEDIA_TYPE = "text/event-stream"

LastEventId = Annotated[
    str | None,
    Header(alias="Last-Event-ID", description="The id of the last event seen; a browser sends it."),
]

_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "`snapshot` first, unless Last-Event-ID tells where to go on; then "
        "`progress` and `done`, each with the job as GET gives it. A comment every 15 s.",
        "content": {MEDIA_TYPE: {"schema": {"type": "string"}}},
    }
}
_FINISHED: dict[int | str, dict[str, Any]] = {
    204: {"description": "The job is finished, and Last-Event-ID is its last event"}
}


KEY_SECONDS = 5.0
"""How long a stream goes on without another look whether its key was revoked."""

STILL_HERE = b": still here\n\n"


class Permit:
    """Whether a stream may go on: its key opened it, and may have been revoked since."""

    def __init__(self, api: ApiState, caller: Caller) -> None:
        """Take it that the key is good now."""
        self._keys = api.keys
        self._owner = caller.owner
        self._looked_at = monotonic()

    async def holds(self) -> bool:
        """Look again if that is due; a database that is away ends no stream."""
        if self._owner is None or monotonic() - self._looked_at < KEY_SECONDS:
            return True
        self._looked_at = monotonic()
        try:
            return await self._keys.get(self._owner) is not None
        except StorageError:
            return True


class EventStream(StreamingResponse):
    """A response that is known as one before its first byte."""

    media_type = MEDIA_TYPE


@router.get(
    "/jobs/{job_id}/events",
    response_class=EventStream,
    responses=_STREAM | _FINISHED | documented(*PROBLEMS),
    summary="Follow a job",
)
async def job_events(
    job_id: JobId, api: Api, caller: Calling, last_event_id: LastEventId = None
) -> Response:
    """The stream ends after `done`; a browser that then comes back gets 204, and stays away."""
    job = await to_thread.run_sync(visible_job, api, caller, job_id)
    api.feed.require_room()
    if job.is_finished and last_event_id is not None:
        news = api.feed.after(last_event_id)
        if news is not None and not any(event.job_id == job_id for event in news.events):
            return Response(status_code=204)

    def look() -> View:
        job = api.service.find(job_id)
        data = JobView.of(job).model_dump_json().encode()
        return View(data, {job_id: rank_of(job)}, is_over=job.is_finished)

    def concerns(event: Event) -> bool:
        return event.job_id == job_id

    snapshot = partial(api.snapshots.get, f"job {job_id}", look)
    permit = Permit(api, caller)
    return _respond(_stream(api, permit, last_event_id, snapshot, concerns, one_job=True))


@router.get(
    "/events",
    response_class=EventStream,
    responses=_STREAM | documented("key-required", "host-not-allowed", "unavailable"),
    summary="Follow all jobs",
)
async def all_events(api: Api, caller: Calling, last_event_id: LastEventId = None) -> Response:
    """One stream for a page with many jobs; its `snapshot` lists the jobs that are not finished."""
    api.feed.require_room()

    def look() -> View:
        jobs = api.service.unfinished(caller.only_owner)
        shown = [JobView.of(job).model_dump(mode="json") for job in jobs]
        data = json.dumps({"jobs": shown}, ensure_ascii=False).encode()
        return View(data, {job.job_id: rank_of(job) for job in jobs})

    def concerns(event: Event) -> bool:
        return caller.may_see(event.owner)

    name = "everybody's" if caller.sees_all else f"jobs of {caller.owner}"
    snapshot = partial(api.snapshots.get, name, look)
    return _respond(_stream(api, Permit(api, caller), last_event_id, snapshot, concerns))


def _respond(stream: AsyncIterator[bytes]) -> Response:
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return EventStream(stream, headers=headers)


async def _stream(
    api: ApiState,
    permit: Permit,
    last_event_id: str | None,
    snapshot: Callable[[], Awaitable[Snapshot]],
    concerns: Callable[[Event], bool],
    *,
    one_job: bool = False,
) -> AsyncIterator[bytes]:
    feed = api.feed
    with feed.listening():
        yield f"retry: {RECONNECT_MILLISECONDS}\n\n".encode()
        position = last_event_id or ""
        sent: dict[str, Rank] = {}
        while not feed.is_closed and not await feed.ready(HEARTBEAT_SECONDS):
            yield STILL_HERE
        while not feed.is_closed and await permit.holds():
            news = feed.after(position)
            position = feed.position()
            if news is None:
                now = await snapshot()
                position, sent = now.position, dict(now.view.ranks)
                yield now.wire
                if now.view.is_over:
                    yield wire_form(position, "done", now.view.data)
                    return
                continue
            ahead = _forward([event for event in news.events if concerns(event)], sent)
            if ahead:
                # In one piece: sending costs by the piece, and a thousand may listen.
                yield news.wire_of(ahead)
            if one_job and any(event.name == "done" for event in ahead):
                return
            if feed.position() == position:
                await feed.next_change()
                if feed.position() == position:
                    yield STILL_HERE


def _forward(events: Iterable[Event], sent: dict[str, Rank]) -> list[Event]:
    """Leave out what was seen already: a snapshot may be newer than the events that follow it."""
    ahead = []
    for event in events:
        if event.rank > sent.get(event.job_id, ()):
            ahead.append(event)
            if event.name == "done":
                sent.pop(event.job_id, None)
            else:
                sent[event.job_id] = event.rank
    return ahead
