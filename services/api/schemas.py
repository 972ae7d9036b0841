"""The JSON of requests and answers, as in docs/api.md and the OpenAPI document."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import Path, Response
from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from services.api.root_path import PREFIX, under_root
from services.generation.engine import SEED_LIMIT
from services.generation.length import MOST_BARS
from services.jobs.models import GenerationRequest, Job, PromptText
from services.jobs.submission import LARGEST_BATCH
from services.paths import hide_paths

MAX_PAGE_SIZE = 100
JOB_ID = "0d5e5a3c-8a8c-4c9b-9a55-3f0d6a2f7a11"
JobId = Annotated[str, Path(examples=[JOB_ID], description="`job_id` of the answer to /generate.")]

Status = Literal["pending", "processing", "completed", "failed", "cancelled"]
Step = Literal[
    "queued",
    "loading_model",
    "encoding_prompt",
    "generating",
    "saving",
    "completed",
    "failed",
    "cancelled",
]
Priority = Literal["high", "normal", "low"]

_DATE_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d")
_CONTROLS = "\\u0000-\\u0008\\u000e-\\u001b\\u007f-\\u0084\\u0086-\\u009f"
_SPACES = (
    "\\t-\\r\\u001c-\\u0020\\u0085\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000"
)
"""Python's white space, spelled out: a schema has ECMA patterns, whose `\\s` is another set."""
PROMPT_PATTERN = (
    f"^[{_SPACES}]*[^{_SPACES}{_CONTROLS}]"
    f"[^{_CONTROLS}]{{1,498}}[^{_SPACES}{_CONTROLS}][{_SPACES}]*$"
)
"""3 to 500 characters after trimming, without control characters."""


def _convert_whole_float(value: object) -> object:
    # JSON has no integer type: 7.0 is the integer 7 (JSON Schema, 6.1.1).
    return int(value) if isinstance(value, float) and value.is_integer() else value


class GenerateRequest(GenerationRequest):
    """A request for one piece of music."""

    model_config = ConfigDict(
        strict=True,
        json_schema_extra={
            "examples": [
                {"prompt": "trap beat with heavy 808 bass at 140 BPM"},
                {
                    "prompt": "lo-fi piano, rainy night, 82 BPM in A minor",
                    "duration": 30,
                    "seed": 7,
                },
            ]
        },
    )

    prompt: Annotated[
        PromptText,
        Field(
            description="The music in words: 3 to 500 characters after trimming.",
            json_schema_extra={"pattern": PROMPT_PATTERN},
        ),
    ]
    bars: Annotated[int | None, BeforeValidator(_convert_whole_float)] = Field(
        None,
        ge=1,
        le=MOST_BARS,
        description="Length in whole bars, in the place of a duration.",
    )
    top_k: Annotated[int, BeforeValidator(_convert_whole_float)] = Field(250, ge=0, le=500)
    seed: Annotated[int | None, BeforeValidator(_convert_whole_float)] = Field(
        None,
        ge=0,
        lt=SEED_LIMIT,
        description="The same seed gives the same music; a random one is drawn if null.",
    )
    priority: Priority = Field(
        "normal", description="Class in the queue; `high` needs the operator's key."
    )


class BatchRequest(BaseModel):
    """Several requests, accepted all or none."""

    model_config = ConfigDict(extra="forbid")

    requests: list[GenerateRequest] = Field(min_length=1, max_length=LARGEST_BATCH)


class JobView(BaseModel):
    """A job; every route returns these fields, in every state of the job."""

    job_id: str = Field(
        examples=[JOB_ID], description="Also its id in the CLI, the database and the file name."
    )
    status: Status
    current_step: Step
    progress: float = Field(ge=0, le=1, description="0 to 1.")
    queue_position: int | None = Field(
        description="1 for the next job to start; null unless it waits."
    )
    estimated_time_seconds: float | None = Field(
        description="Estimated time until it is finished, from the model's last jobs; null until "
        "the model has finished a job."
    )
    prompt: str
    model: str
    duration_seconds: float
    seed: int | None = Field(
        description="The requested or drawn seed; the same seed gives the same music."
    )
    file_url: str | None = Field(
        examples=[f"{PREFIX}/files/{JOB_ID}.wav"],
        description="The audio as WAV, null until it exists; the suffix .flac, .mp3, .ogg or .opus "
        "gives another format.",
    )
    metadata: dict[str, Any] = Field(
        description="What was requested, interpreted and measured: tempo, key, genre, LUFS, dBTP."
    )
    generation_time_seconds: float | None
    error_message: str | None
    retry_count: int = Field(ge=0, description="Attempts after the first.")
    created_at: datetime
    completed_at: datetime | None = Field(description="When it completed, failed or was cancelled.")

    @classmethod
    def from_job(cls, job: Job) -> JobView:
        # `model_construct` because a `Job` needs no second validation.
        return cls.model_construct(
            job_id=job.job_id,
            status=job.status,
            current_step=job.current_step,
            progress=round(job.progress, 4),
            queue_position=job.queue_position,
            estimated_time_seconds=job.estimated_time_seconds,
            prompt=job.prompt,
            model=job.model,
            duration_seconds=job.duration_seconds,
            seed=job.seed,
            file_url=under_root(f"{PREFIX}/files/{job.job_id}.wav") if job.file else None,
            metadata=job.metadata,
            generation_time_seconds=job.generation_time_seconds,
            error_message=job.error_message and hide_paths(job.error_message),
            retry_count=job.retry_count,
            created_at=job.created_at,
            completed_at=job.completed_at,
        )


def build_response(view: BaseModel) -> Response:
    """Encode a view in the current thread; FastAPI would validate it again, in another thread."""
    return Response(view.model_dump_json(), media_type="application/json")


class BatchAccepted(BaseModel):
    """The jobs of a batch, in the order of its requests."""

    job_ids: list[str]
    total_jobs: int
    estimated_total_time_seconds: float | None = Field(
        description="Estimated time until the last is finished; null until the model has finished "
        "a job."
    )


class History(BaseModel):
    """One page of jobs, newest first."""

    generations: list[JobView]
    total: int = Field(description="Number of jobs on all pages.")
    page: int | None = Field(description="Number of the page, from 1; null with a cursor.")
    page_size: int
    next_cursor: str | None = Field(description="`cursor` of the next page; null on the last page.")


def _require_rfc_3339(value: object) -> object:
    if isinstance(value, str) and not _DATE_TIME.match(value):
        raise ValueError("Write the time as 2026-01-31T12:00:00Z.")
    return value


def _convert_to_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("In UTC this time is outside the years 1 to 9999.") from None


Moment = Annotated[
    AwareDatetime, BeforeValidator(_require_rfc_3339), AfterValidator(_convert_to_utc)
]


class PeaksData(BaseModel):
    """The outline of a waveform in audiowaveform's format, version 2."""

    version: Literal[2]
    channels: int
    sample_rate: int
    samples_per_pixel: int
    bits: Literal[8]
    length: int = Field(description="Pairs per channel.")
    data: list[int] = Field(
        description="Minimum and maximum of each pair, the channels interleaved."
    )


class HistoryQuery(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    search: str | None = Field(
        None,
        max_length=500,
        description="Words the prompt must contain; the last may be the beginning of a word.",
    )
    status: Status | None = None
    model: str | None = Field(None, max_length=100)
    created_after: Moment | None = Field(None, description="Created at this time or later.")
    created_before: Moment | None = Field(None, description="Created before this time.")
    page: int = Field(1, ge=1, le=100_000, description="Ignored if a cursor is sent.")
    page_size: int = Field(20, ge=1, le=MAX_PAGE_SIZE)
    cursor: str | None = Field(
        None,
        max_length=500,
        description="`next_cursor` of the previous page; unlike `page`, it neither skips nor "
        "repeats jobs while new ones arrive.",
    )
