"""Server-sent events of one job, or of all jobs the caller can see."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import StreamingResponse

from services.api.feed import HEARTBEAT_SECONDS, encode_event
from services.api.head_requests import is_head
from services.api.problems import describe_problems
from services.api.routers.jobs import PROBLEMS
from services.api.schemas import JobId, JobView
from services.api.snapshots import Snapshot, View
from services.api.state import Api, ApiState, CurrentCaller
from services.api.visible import find_visible_job
from services.errors import StorageError
from services.jobs.view import rank_job

if TYPE_CHECKING:
    from services.api.caller import Caller
    from services.api.feed import Event
    from services.jobs.view import Rank

router = APIRouter(tags=["jobs"])

RECONNECT_MILLISECONDS = 2_000
MEDIA_TYPE = "text/event-stream"

LastEventId = Annotated[
    str | None,
    Header(
        alias="Last-Event-ID",
        description="Id of the last event received; a browser sends it when it reconnects.",
    ),
]

_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "`snapshot` first, unless Last-Event-ID says where to resume; then "
        "`progress` and `done`, each with the job as GET returns it. A comment every 15 s.",
        "content": {MEDIA_TYPE: {"schema": {"type": "string"}}},
    }
}
_FINISHED: dict[int | str, dict[str, Any]] = {
    204: {"description": "The job is finished, and the client has received its last event"}
}

_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

KEY_SECONDS = 5.0
"""Time between two checks of whether the key of a stream was revoked."""

HEARTBEAT = b": heartbeat\n\n"


class Permit:
    """The permission of an open stream, which ends when its key is revoked."""

    def __init__(self, api: ApiState, caller: Caller) -> None:
        self._keys = api.keys
        self._owner = caller.owner
        self._checked_at = monotonic()

    async def is_valid(self) -> bool:
        """Check the key again if it is due; a database that does not answer ends no stream."""
        if self._owner is None or monotonic() - self._checked_at < KEY_SECONDS:
            return True
        self._checked_at = monotonic()
        try:
            return await self._keys.get(self._owner) is not None
        except StorageError:
            return True


class EventStream(StreamingResponse):
    """A stream whose media type appears in the OpenAPI document."""

    media_type = MEDIA_TYPE


@router.get(
    "/jobs/{job_id}/events",
    response_class=EventStream,
    responses=_STREAM | _FINISHED | describe_problems(*PROBLEMS),
    summary="Follow a job",
)
async def job_events(
    request: Request,
    job_id: JobId,
    api: Api,
    caller: CurrentCaller,
    last_event_id: LastEventId = None,
) -> Response:
    """The stream ends after `done`; a browser that reconnects gets 204 and stops."""
    job = await to_thread.run_sync(find_visible_job, api, caller, job_id)
    api.feed.require_capacity()
    if job.is_finished and last_event_id is not None:
        batch = api.feed.get_events_after(last_event_id)
        if batch is not None and not any(event.job_id == job_id for event in batch.events):
            return Response(status_code=204)
    if is_head(request):
        return EventStream(iter(()), headers=_HEADERS)

    def read() -> View:
        job = api.service.find(job_id)
        data = JobView.from_job(job).model_dump_json().encode()
        return View(data, {job_id: rank_job(job)}, is_final=job.is_finished)

    def is_wanted(event: Event) -> bool:
        return event.job_id == job_id

    snapshot = partial(api.snapshots.get, f"job {job_id}", read)
    permit = Permit(api, caller)
    return _respond(_stream(api, permit, last_event_id, snapshot, is_wanted, is_one_job=True))


@router.get(
    "/events",
    response_class=EventStream,
    responses=_STREAM | describe_problems("key-required", "host-not-allowed", "unavailable"),
    summary="Follow all jobs",
)
async def all_events(
    request: Request, api: Api, caller: CurrentCaller, last_event_id: LastEventId = None
) -> Response:
    """One stream for all jobs the caller can see; its `snapshot` lists the unfinished ones."""
    api.feed.require_capacity()
    if is_head(request):
        return EventStream(iter(()), headers=_HEADERS)

    def read() -> View:
        jobs = api.service.list_unfinished(caller.owner_filter)
        views = [JobView.from_job(job).model_dump(mode="json") for job in jobs]
        data = json.dumps({"jobs": views}, ensure_ascii=False).encode()
        return View(data, {job.job_id: rank_job(job) for job in jobs})

    def is_wanted(event: Event) -> bool:
        return caller.can_see(event.owner)

    name = "all jobs" if caller.sees_all else f"jobs of {caller.owner}"
    snapshot = partial(api.snapshots.get, name, read)
    return _respond(_stream(api, Permit(api, caller), last_event_id, snapshot, is_wanted))


def _respond(stream: AsyncIterator[bytes]) -> Response:
    return EventStream(stream, headers=_HEADERS)


async def _stream(
    api: ApiState,
    permit: Permit,
    last_event_id: str | None,
    snapshot: Callable[[], Awaitable[Snapshot]],
    is_wanted: Callable[[Event], bool],
    *,
    is_one_job: bool = False,
) -> AsyncIterator[bytes]:
    feed = api.feed
    with feed.subscribe():
        yield f"retry: {RECONNECT_MILLISECONDS}\n\n".encode()
        position = last_event_id or ""
        sent: dict[str, Rank] = {}
        while not feed.is_closed and not await feed.wait_until_ready(HEARTBEAT_SECONDS):
            yield HEARTBEAT
        while not feed.is_closed and await permit.is_valid():
            batch = feed.get_events_after(position)
            position = feed.position
            if batch is None:
                now = await snapshot()
                position, sent = now.position, dict(now.view.ranks)
                yield now.encoded
                if now.view.is_final:
                    yield encode_event(position, "done", now.view.data)
                    return
                continue
            unsent = _select_unsent([event for event in batch.events if is_wanted(event)], sent)
            if unsent:
                # One piece for all events: the cost of a write is per piece and subscriber.
                yield batch.encode(unsent)
            if is_one_job and any(event.name == "done" for event in unsent):
                return
            if feed.position == position:
                await feed.wait_for_change()
                if feed.position == position:
                    yield HEARTBEAT


def _select_unsent(events: Iterable[Event], sent: dict[str, Rank]) -> list[Event]:
    """Return the events with a higher rank than the one sent for their job; updates `sent`."""
    # A snapshot may be newer than events that follow it.
    unsent = []
    for event in events:
        if event.rank > sent.get(event.job_id, ()):
            unsent.append(event)
            if event.name == "done":
                sent.pop(event.job_id, None)
            else:
                sent[event.job_id] = event.rank
    return unsent
