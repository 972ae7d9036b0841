"""The audio of a job in every format, and pictures of it, for players, DAWs and pages."""

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

from services.api.problems import ProblemError, documented
from services.api.routers.jobs import PROBLEMS, JobId
from services.api.schemas import JOB_ID, PeaksData
from services.api.state import Api, ApiState, Calling
from services.api.visible import visible_job
from services.errors import UnknownGenerationError
from services.jobs.outfile import SUFFIXES, suggested_name
from services.jobs.renditions import NotMadeError, PeaksForm, Rendition
from services.library.reconcile import FILE_MISSING

if TYPE_CHECKING:
    from services.api.caller import Caller
    from services.jobs.models import Job

router = APIRouter(tags=["files"])

CACHE_CONTROL = "private, max-age=31536000, immutable"
"""The bytes behind a name never change."""

CONVERSIONS = CapacityLimiter(2)
"""At once: each keeps a core busy, and the routes of others are not to wait for them."""

PICTURES = CapacityLimiter(2)
"""Outlines and spectrograms: a matter of seconds, which are not to wait for conversions."""

READS = CapacityLimiter(8)
"""What is there already, or only has to come from a bucket."""

MOST_PAIRS = 100_000
_TAG = re.compile(r'"([^"]*)"')

_turns: WeakValueDictionary[str, Lock] = WeakValueDictionary()

Filename = Annotated[
    str,
    Path(
        examples=[f"{JOB_ID}.wav"],
        description=f"The job's id, and one of {', '.join(SUFFIXES)}.",
        max_length=100,
    ),
]
Download = Annotated[
    bool, Query(description="Have browsers save it, under a name that says what it is.")
]

_AUDIO = ("audio/wav", "audio/flac", "audio/mpeg", "audio/ogg")
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_PEAKS = {"schema": PeaksData.model_json_schema()}


def _described(description: str, *media_types: str) -> dict[int | str, dict[str, Any]]:
    content: dict[str, Any] = {
        media_type: _PEAKS if media_type == "application/json" else _BINARY
        for media_type in media_types
    }
    return {
        200: {"description": description, "content": content},
        206: {"description": "The range that was asked for", "content": content},
        304: {"description": "The client has it: its ETag stands in If-None-Match"},
        **documented(*PROBLEMS, "gone", "not-ready", "range-not-satisfiable"),
    }


class AudioResponse(FileResponse):
    """A file, or a range of it."""

    media_type = "application/octet-stream"

    @classmethod
    def _parse_range_header(cls, http_range: str, file_size: int) -> list[tuple[int, int]]:
        """Read the header; nothing, for the whole file, where it is none (RFC 9110, 14.2)."""
        try:
            return super()._parse_range_header(http_range, file_size)
        except MalformedRangeHeader:
            return []
        except RangeNotSatisfiable as error:
            raise ProblemError(
                "range-not-satisfiable",
                f"The file has {file_size} bytes, and none of them are in this range.",
                headers={"Content-Range": f"bytes */{file_size}"},
            ) from error


@router.get(
    "/files/{filename}",
    response_class=AudioResponse,
    responses=_described("The audio", *_AUDIO) | documented("insufficient-storage"),
    summary="Get the audio in any format",
)
async def get_file(
    filename: Filename, request: Request, api: Api, caller: Calling, download: Download = False
) -> Response:
    """WAV as it was made; FLAC, MP3, Ogg Vorbis and Opus made from it when first asked for.

    Ranges, HEAD, If-None-Match and If-Range work; the ETag of the WAV is its SHA-256.
    """
    name = PurePath(filename)
    if name.suffix not in SUFFIXES or name.name != filename:
        raise ProblemError(
            "not-found", f"There is no file {filename!r}; names end in {', '.join(SUFFIXES)}."
        )
    job = await _finished(api, caller, name.stem)
    shown = str(PurePath(suggested_name(job)).with_suffix(name.suffix))
    return await _answer(
        request,
        lambda may_make: api.renditions.audio(job, name.suffix, may_make=may_make),
        CONVERSIONS,
        disposition=f'{"attachment" if download else "inline"}; filename="{shown}"',
    )


@router.get(
    "/jobs/{job_id}/peaks",
    response_class=AudioResponse,
    responses=_described("The outline", "application/json", "application/octet-stream"),
    summary="Get the outline of the waveform",
)
async def get_peaks(
    job_id: JobId,
    request: Request,
    api: Api,
    caller: Calling,
    form: Annotated[
        PeaksForm, Query(alias="format", description="JSON, or audiowaveform's binary form.")
    ] = "json",
    pairs: Annotated[
        int, Query(ge=1, le=MOST_PAIRS, description="So many pairs a channel, or a few more.")
    ] = 1000,
) -> Response:
    """Lowest and highest samples, in the format of audiowaveform: no page need decode the audio."""
    job = await _finished(api, caller, job_id)
    return await _answer(
        request, lambda may_make: api.renditions.peaks(job, form, pairs, may_make=may_make)
    )


@router.get(
    "/jobs/{job_id}/spectrogram",
    response_class=AudioResponse,
    responses=_described("A picture", "image/png"),
    summary="Get a spectrogram",
)
async def get_spectrogram(job_id: JobId, request: Request, api: Api, caller: Calling) -> Response:
    """Time to the right, pitch upwards, louder is brighter."""
    job = await _finished(api, caller, job_id)
    return await _answer(
        request, lambda may_make: api.renditions.spectrogram(job, may_make=may_make)
    )


for _path, _endpoint in (
    ("/files/{filename}", get_file),
    ("/jobs/{job_id}/peaks", get_peaks),
    ("/jobs/{job_id}/spectrogram", get_spectrogram),
):
    router.add_api_route(_path, _endpoint, methods=["HEAD"], include_in_schema=False)


async def _finished(api: ApiState, caller: Caller, job_id: str) -> Job:
    """Give a job that has audio.

    Raises:
        UnknownGenerationError: there is no such job for this caller.
        ProblemError: it is not finished, or its file is gone.
    """
    job = await to_thread.run_sync(visible_job, api, caller, job_id)
    if not job.is_finished:
        raise ProblemError("not-ready", f"The job is {job.status}.", headers={"Retry-After": "1"})
    if FILE_MISSING in job.metadata:
        raise ProblemError("gone", f"The audio of the job {job_id} is no longer there.")
    if job.file is None:
        raise UnknownGenerationError(f"The job {job_id} is {job.status}: there is no audio.")
    return job


async def _answer(
    request: Request,
    make: Callable[[bool], Rendition],
    limiter: CapacityLimiter = PICTURES,
    disposition: str | None = None,
) -> Response:
    try:
        rendition = await to_thread.run_sync(make, False, limiter=READS)
    except NotMadeError:
        # Who waits for what another request makes takes no place of those that make something.
        async with _turns.setdefault(f"{request.url.path}?{request.url.query}", Lock()):
            rendition = await to_thread.run_sync(make, True, limiter=limiter)
    headers = {"ETag": f'"{rendition.etag}"', "Cache-Control": CACHE_CONTROL}
    if rendition.sha256 is not None:
        digest = base64.b64encode(bytes.fromhex(rendition.sha256)).decode()
        headers["Repr-Digest"] = f"sha-256=:{digest}:"
    if _is_known(request.headers.get("if-none-match"), rendition.etag):
        return Response(status_code=304, headers=headers)
    if disposition is not None:
        headers["Content-Disposition"] = disposition
    return AudioResponse(rendition.path, headers=headers, media_type=rendition.media_type)


def _is_known(if_none_match: str | None, etag: str) -> bool:
    """Compare weakly, as RFC 9110, 13.1.2 has it for If-None-Match."""
    if if_none_match is None:
        return False
    return if_none_match.strip() == "*" or etag in _TAG.findall(if_none_match)
