"""Uploads of audio files for requests: a melody to follow, or music to continue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect

from services.api.problems import ProblemError, describe_problems
from services.api.state import Api, CurrentCaller

if TYPE_CHECKING:
    from services.library.inputs import Upload

router = APIRouter(tags=["inputs"])

EXAMINERS = CapacityLimiter(2)
"""Uploads decoded at once: the others wait without a thread, which other routes need."""

WRITE_BYTES = 1 << 20
"""Bytes that are buffered before they are written."""

_SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_AUDIO = {"schema": {"type": "string", "format": "binary"}}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "A file in any format that libsndfile reads, such as WAV, FLAC, MP3 or Ogg, "
        "or FFmpeg where the server has it, such as M4A.",
        "content": {"audio/*": _AUDIO, "application/octet-stream": _AUDIO},
    }
}


class InputView(BaseModel):
    """An audio file that requests can refer to."""

    id: str = Field(
        examples=[_SHA256],
        description="SHA-256 of the bytes, for `melody` and `continue_from` of a request.",
    )
    bytes: int
    seconds: float
    sample_rate: int = Field(description="Hz.", examples=[48_000])
    channels: int
    container: str = Field(description="The detected format.", examples=["WAV"])
    remarks: list[str] = Field(
        description="What was done to read it: a mix to stereo, damaged parts left out.",
        examples=[["mixed down from 5.1 to stereo by ITU-R BS.775"]],
    )


@router.post(
    "/inputs",
    status_code=201,
    response_model=InputView,
    responses={
        200: {"model": InputView, "description": "The same file was uploaded before"},
        **describe_problems(
            "bad-request",
            "key-required",
            "cross-site",
            "too-large",
            "unsupported-media-type",
            "host-not-allowed",
            "invalid-request",
            "rate-limited",
            "unavailable",
            "insufficient-storage",
        ),
    },
    openapi_extra=_BODY,
    summary="Upload an audio file for requests",
)
async def add_input(
    request: Request, response: Response, api: Api, _caller: CurrentCaller
) -> InputView:
    """Store a file under the SHA-256 of its bytes; equal files are stored once."""
    uploading = api.service.inputs.receive()
    upload = await to_thread.run_sync(uploading.__enter__)
    try:
        await _receive(request, upload)
        kept = await to_thread.run_sync(
            lambda: api.service.inputs.accept(upload, label="The body"), limiter=EXAMINERS
        )
    finally:
        uploading.__exit__(None, None, None)
    if not kept.is_new:
        response.status_code = 200
    return InputView.model_construct(
        id=kept.id,
        bytes=kept.bytes,
        seconds=kept.seconds,
        sample_rate=kept.sample_rate,
        channels=kept.channels,
        container=kept.container,
        remarks=list(kept.remarks),
    )


async def _receive(request: Request, upload: Upload) -> None:
    buffered: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            buffered.append(chunk)
            size += len(chunk)
            if size >= WRITE_BYTES:
                await to_thread.run_sync(upload.write, buffered)
                buffered, size = [], 0
    except ClientDisconnect as error:
        detail = "The client disconnected before the end of the body."
        raise ProblemError("bad-request", detail) from error
    await to_thread.run_sync(upload.write, buffered)
