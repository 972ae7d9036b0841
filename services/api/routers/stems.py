"""The stems of a job: their list, and each as a file."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated
from urllib.parse import quote

from anyio import to_thread
from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, Field

from services.api.problems import ProblemError, describe_problems
from services.api.root_path import PREFIX, under_root
from services.api.routers.files import (
    AudioResponse,
    Download,
    describe_file_responses,
    get_finished_job,
    respond_with_attached,
)
from services.api.routers.jobs import PROBLEMS
from services.api.schemas import JOB_ID, JobId
from services.api.state import Api, CurrentCaller
from services.jobs.attachments import explain_lack, find_stem, list_attached
from services.jobs.outfile import suggest_name
from services.library.attachments import STEM

router = APIRouter(tags=["files"])

_SUFFIX = ".wav"

StemFile = Annotated[
    str,
    Path(
        examples=["drums.wav"],
        description="The name of the stem followed by .wav.",
        max_length=100,
    ),
]


class StemView(BaseModel):
    """One instrument of a take, at the level that it has in the master."""

    name: str = Field(description="The instrument.", examples=["drums"])
    file_url: str = Field(examples=[f"{PREFIX}/files/{JOB_ID}/stems/drums.wav"])
    bytes: int = Field(description="Size of the WAV file.", examples=[3_072_844])
    sha256: str = Field(description="Of the WAV file, hexadecimal.", examples=["9f" * 32])


class StemList(BaseModel):
    """The stems of a take, by name. Together they sum to the take."""

    stems: list[StemView]
    midi_url: str | None = Field(
        description="The notes as a MIDI file; null if the job was made without `midi`.",
        examples=[f"{PREFIX}/files/{JOB_ID}.mid"],
    )


@router.get(
    "/jobs/{job_id}/stems",
    responses=describe_problems(*PROBLEMS, "gone", "not-ready"),
    summary="List the stems",
)
async def list_stems(job_id: JobId, api: Api, caller: CurrentCaller) -> StemList:
    """The stems of a job that was made with `stems`, with links, and the link of its MIDI file.

    A job that was made without either is `not-found`.
    """
    job = await get_finished_job(api, caller, job_id)
    files = await to_thread.run_sync(list_attached, api.service, job.job_id)
    if not files:
        raise ProblemError("not-found", explain_lack(job.job_id, STEM))
    base = under_root(f"{PREFIX}/files/{job.job_id}")
    stems = [one for one in files if one.kind == STEM]
    return StemList(
        stems=[
            StemView(
                name=one.name,
                file_url=f"{base}/stems/{quote(one.name)}{_SUFFIX}",
                bytes=one.bytes,
                sha256=one.sha256,
            )
            for one in stems
        ],
        midi_url=f"{base}.mid" if len(stems) < len(files) else None,
    )


@router.get(
    "/files/{job_id}/stems/{filename}",
    response_class=AudioResponse,
    responses=describe_file_responses("The stem", "audio/wav"),
    summary="Get a stem",
)
async def get_stem(
    job_id: JobId,
    filename: StemFile,
    request: Request,
    api: Api,
    caller: CurrentCaller,
    download: Download = False,
) -> Response:
    """A stem as WAV. Supports ranges, HEAD, If-None-Match and If-Range; the ETag is its SHA-256."""
    name = filename.removesuffix(_SUFFIX)
    if name == filename:
        raise ProblemError("not-found", f"There is no stem file {filename!r}; names end in .wav.")
    job = await get_finished_job(api, caller, job_id)
    return await respond_with_attached(
        request,
        api,
        lambda: find_stem(api.service, job.job_id, name),
        f"{PurePath(suggest_name(job)).stem}_{_plain(name)}{_SUFFIX}",
        download=download,
    )


router.add_api_route(
    "/files/{job_id}/stems/{filename}", get_stem, methods=["HEAD"], include_in_schema=False
)


def _plain(name: str) -> str:
    """Return the name as it can stand in a header: a client may have sent any text."""
    return "".join(char if char.isascii() and char.isalnum() else "-" for char in name)
