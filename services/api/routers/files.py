"""The audio of a job in every format, its waveform and its spectrogram."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any
from weakref import WeakValueDictionary

from anyio import CapacityLimiter, Lock, to_thread
from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import FileResponse
from starlette.responses import MalformedRangeHeader, RangeNotSatisfiable

from services.api.problems import ProblemError, describe_problems
from services.api.routers.jobs import PROBLEMS
from services.api.schemas import JOB_ID, JobId, PeaksData
from services.api.state import Api, ApiState, CurrentCaller
from services.api.visible import find_visible_job
from services.errors import UnknownGenerationError
from services.jobs.attachments import find_midi
from services.jobs.outfile import SUFFIXES, suggest_name
from services.jobs.renditions import PeaksForm, Rendition, RenditionMissingError
from services.library.reconcile import FILE_MISSING

if TYPE_CHECKING:
    from services.api.caller import Caller
    from services.jobs.attachments import AttachedFile
    from services.jobs.models import Job

router = APIRouter(tags=["files"])

CACHE_CONTROL = "private, max-age=31536000, immutable"
"""The bytes under a name never change."""

CONVERSIONS = CapacityLimiter(2)
"""Conversions at once. Each uses a core, and must not hold up the threads of other routes."""

PICTURES = CapacityLimiter(2)
"""Waveforms and spectrograms at once. They take seconds and must not wait for conversions."""

READS = CapacityLimiter(8)
"""Reads of files that exist, some of which come from a bucket."""

MAX_PAIRS = 100_000
_TAG = re.compile(r'"([^"]*)"')

_locks: WeakValueDictionary[str, Lock] = WeakValueDictionary()
"""URL -> lock held while its rendition is produced."""

MIDI_SUFFIX = ".mid"

Filename = Annotated[
    str,
    Path(
        examples=[f"{JOB_ID}.wav"],
        description=f"The id of the job followed by one of {', '.join((*SUFFIXES, MIDI_SUFFIX))}.",
        max_length=100,
    ),
]
Download = Annotated[
    bool, Query(description="Make browsers save the file, under a name with prompt and tempo.")
]

_MEDIA_TYPES = ("audio/wav", "audio/flac", "audio/mpeg", "audio/ogg", "audio/midi")
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_PEAKS = {"schema": PeaksData.model_json_schema()}


def describe_file_responses(description: str, *media_types: str) -> dict[int | str, dict[str, Any]]:
    content: dict[str, Any] = {
        media_type: _PEAKS if media_type == "application/json" else _BINARY
        for media_type in media_types
    }
    return {
        200: {"description": description, "content": content},
        206: {"description": "The requested range", "content": content},
        304: {"description": "Not modified: If-None-Match has the current ETag"},
        **describe_problems(*PROBLEMS, "gone", "not-ready", "range-not-satisfiable"),
    }


class AudioResponse(FileResponse):
    """A file, or a range of it."""

    media_type = "application/octet-stream"

    @classmethod
    def _parse_range_header(cls, http_range: str, file_size: int) -> list[tuple[int, int]]:
        # An invalid Range header is ignored, and the whole file is sent (RFC 9110, 14.2).
        try:
            return super()._parse_range_header(http_range, file_size)
        except MalformedRangeHeader:
            return []
        except RangeNotSatisfiable as error:
            raise ProblemError(
                "range-not-satisfiable",
                f"The range is outside the file, which has {file_size} bytes.",
                headers={"Content-Range": f"bytes */{file_size}"},
            ) from error


@router.get(
    "/files/{filename}",
    response_class=AudioResponse,
    responses=describe_file_responses("The audio or the notes", *_MEDIA_TYPES)
    | describe_problems("insufficient-storage"),
    summary="Get the audio in any format, or the notes",
)
async def get_file(
    filename: Filename,
    request: Request,
    api: Api,
    caller: CurrentCaller,
    download: Download = False,
) -> Response:
    """The WAV, or FLAC, MP3, Ogg Vorbis or Opus, which is converted from it on first request.

    With the suffix .mid, the notes of a job that was made with `midi`. Supports ranges, HEAD,
    If-None-Match and If-Range; the ETag of WAV and MIDI is their SHA-256.
    """
    name = PurePath(filename)
    suffixes = (*SUFFIXES, MIDI_SUFFIX)
    if name.suffix not in suffixes or name.name != filename:
        raise ProblemError(
            "not-found", f"There is no file {filename!r}; names end in {', '.join(suffixes)}."
        )
    job = await get_finished_job(api, caller, name.stem)
    saved_as = str(PurePath(suggest_name(job)).with_suffix(name.suffix))
    if name.suffix == MIDI_SUFFIX:
        return await respond_with_attached(
            request, api, lambda: find_midi(api.service, job.job_id), saved_as, download=download
        )
    return await respond(
        request,
        lambda may_make: api.renditions.audio(job, name.suffix, may_make=may_make),
        CONVERSIONS,
        disposition=_build_disposition(saved_as, download=download),
    )


@router.get(
    "/jobs/{job_id}/peaks",
    response_class=AudioResponse,
    responses=describe_file_responses(
        "The outline", "application/json", "application/octet-stream"
    ),
    summary="Get the outline of the waveform",
)
async def get_peaks(
    job_id: JobId,
    request: Request,
    api: Api,
    caller: CurrentCaller,
    form: Annotated[
        PeaksForm, Query(alias="format", description="JSON, or audiowaveform's binary format.")
    ] = "json",
    pairs: Annotated[
        int, Query(ge=1, le=MAX_PAIRS, description="Minimum number of pairs per channel.")
    ] = 1000,
) -> Response:
    """Minima and maxima in audiowaveform's format, to draw the waveform without the audio."""
    job = await get_finished_job(api, caller, job_id)
    return await respond(
        request, lambda may_make: api.renditions.peaks(job, form, pairs, may_make=may_make)
    )


@router.get(
    "/jobs/{job_id}/spectrogram",
    response_class=AudioResponse,
    responses=describe_file_responses("The spectrogram", "image/png"),
    summary="Get a spectrogram",
)
async def get_spectrogram(
    job_id: JobId, request: Request, api: Api, caller: CurrentCaller
) -> Response:
    """Time runs to the right, frequency upwards, and louder is brighter."""
    job = await get_finished_job(api, caller, job_id)
    return await respond(
        request, lambda may_make: api.renditions.spectrogram(job, may_make=may_make)
    )


for _path, _endpoint in (
    ("/files/{filename}", get_file),
    ("/jobs/{job_id}/peaks", get_peaks),
    ("/jobs/{job_id}/spectrogram", get_spectrogram),
):
    router.add_api_route(_path, _endpoint, methods=["HEAD"], include_in_schema=False)


async def get_finished_job(api: ApiState, caller: Caller, job_id: str) -> Job:
    """Find a job that has audio.

    Raises:
        UnknownGenerationError: the caller has no such job, or it finished without audio.
        ProblemError: `not-ready`; the job is not finished. `gone`; its file is missing.
    """
    job = await to_thread.run_sync(find_visible_job, api, caller, job_id)
    if not job.is_finished:
        raise ProblemError("not-ready", f"The job is {job.status}.", headers={"Retry-After": "1"})
    if FILE_MISSING in job.metadata:
        raise ProblemError("gone", f"The audio of the job {job_id} no longer exists.")
    if job.file is None:
        raise UnknownGenerationError(f"The job {job_id} has no audio: it is {job.status}.")
    return job


async def respond(
    request: Request,
    make: Callable[[bool], Rendition],
    limiter: CapacityLimiter = PICTURES,
    disposition: str | None = None,
) -> Response:
    try:
        rendition = await to_thread.run_sync(make, False, limiter=READS)
    except RenditionMissingError:
        # A request that waits for a rendition another request is producing does not hold a slot.
        async with _locks.setdefault(f"{request.url.path}?{request.url.query}", Lock()):
            rendition = await to_thread.run_sync(make, True, limiter=limiter)
    headers = {"ETag": f'"{rendition.etag}"', "Cache-Control": CACHE_CONTROL}
    if rendition.sha256 is not None:
        digest = base64.b64encode(bytes.fromhex(rendition.sha256)).decode()
        headers["Repr-Digest"] = f"sha-256=:{digest}:"
    if _matches(request.headers.get("if-none-match"), rendition.etag):
        return Response(status_code=304, headers=headers)
    if disposition is not None:
        headers["Content-Disposition"] = disposition
    return AudioResponse(rendition.path, headers=headers, media_type=rendition.media_type)


async def respond_with_attached(
    request: Request,
    api: ApiState,
    find: Callable[[], AttachedFile],
    saved_as: str,
    *,
    download: bool,
) -> Response:
    """Answer with a stem or a MIDI file, which is stored as it is sent.

    Args:
        request: of the client.
        api: of the server.
        find: returns the file, or raises; called in another thread.
        saved_as: the name that browsers save it under.
        download: whether browsers save it.
    """
    return await respond(
        request,
        lambda _may_make: api.renditions.attached(find()),
        disposition=_build_disposition(saved_as, download=download),
    )


def _build_disposition(saved_as: str, *, download: bool) -> str:
    return f'{"attachment" if download else "inline"}; filename="{saved_as}"'


def _matches(if_none_match: str | None, etag: str) -> bool:
    # The weak comparison that RFC 9110, 13.1.2, demands: a prefix W/ does not count.
    if if_none_match is None:
        return False
    return if_none_match.strip() == "*" or etag in _TAG.findall(if_none_match)
