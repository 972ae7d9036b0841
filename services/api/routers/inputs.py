"""Audio files that requests name: a melody to follow, music to go on from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anyio import to_thread
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect

from services.api.problems import ProblemError, documented
from services.api.state import Api, Calling

if TYPE_CHECKING:
    from services.library.inputs import Upload

router = APIRouter(tags=["inputs"])

PIECE = 1 << 20
"""Bytes that are gathered before they are written."""

_SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_AUDIO = {"schema": {"type": "string", "format": "binary"}}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "A file of any format that libsndfile reads: WAV, FLAC, MP3, Ogg, ...",
        "content": {"audio/*": _AUDIO, "application/octet-stream": _AUDIO},
    }
}


class InputView(BaseModel):
    """An audio file that requests may name."""

    id: str = Field(
        examples=[_SHA256],
        description="For `melody` and `continue_from` of a request: the SHA-256 of the bytes.",
    )
    bytes: int
    seconds: float
    sample_rate: int = Field(description="Hz.", examples=[48_000])
    channels: int
    container: str = Field(description="The format as it was recognised.", examples=["WAV"])


@router.post(
    "/inputs",
    status_code=201,
    response_model=InputView,
    responses={
        200: {"model": InputView, "description": "The same file was there already"},
        **documented(
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
    summary="Send an audio file for requests to name",
)
async def add_input(request: Request, response: Response, api: Api, _caller: Calling) -> InputView:
    """Keep a file, mono or stereo, under the SHA-256 of its bytes; the same file is kept once."""
    uploading = api.service.inputs.upload()
    upload = await to_thread.run_sync(uploading.__enter__)
    try:
        await _receive(request, upload)
        kept = await to_thread.run_sync(lambda: api.service.inputs.keep(upload, shown="The body"))
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
    )


async def _receive(request: Request, upload: Upload) -> None:
    gathered: list[bytes] = []
    size = 0
    try:
        async for piece in request.stream():
            gathered.append(piece)
            size += len(piece)
            if size >= PIECE:
                await to_thread.run_sync(upload.write, gathered)
                gathered, size = [], 0
    except ClientDisconnect as error:
        raise ProblemError("bad-request", "The client left before the end of the body.") from error
    await to_thread.run_sync(upload.write, gathered)
