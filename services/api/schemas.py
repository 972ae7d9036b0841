"""What goes over the wire: the requests and answers of docs/api.md and the OpenAPI document."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import Response
from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from services.api.problems import PREFIX
from services.generation.engine import SEED_LIMIT
from services.jobs.models import GenerationRequest, Job, PromptText
from services.jobs.submission import LARGEST_BATCH

LONGEST_PAGE = 100
JOB_ID = "0d5e5a3c-8a8c-4c9b-9a55-3f0d6a2f7a11"

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
"""Python's white space in full: ECMA's, which a schema is read with, is another."""
PROMPT_PATTERN = (
    f"^[{_SPACES}]*[^{_SPACES}{_CONTROLS}]"
    f"[^{_CONTROLS}]{{1,498}}[^{_SPACES}{_CONTROLS}][{_SPACES}]*$"
)
"""3 to 500 characters without the white space around them, none of them a control character."""


def _whole(value: object) -> object:
    """Take 7.0 for 7: JSON knows no difference (JSON Schema, 6.1.1)."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class GenerateRequest(GenerationRequest):
    """What to make."""

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
            description="The music in words, 3 to 500 characters; white space around is left out.",
            json_schema_extra={"pattern": PROMPT_PATTERN},
        ),
    ]
    top_k: Annotated[int, BeforeValidator(_whole)] = Field(250, ge=0, le=500)
    seed: Annotated[int | None, BeforeValidator(_whole)] = Field(
        None, ge=0, lt=SEED_LIMIT, description="The same seed makes the same music; null draws one."
    )
    priority: Priority = Field(
        "normal", description="Class in the queue; `high` is for the operator's key."
    )


class BatchRequest(BaseModel):
    """Several requests, taken all or none."""

    model_config = ConfigDict(extra="forbid")

    requests: list[GenerateRequest] = Field(min_length=1, max_length=LARGEST_BATCH)


class JobView(BaseModel):
    """A job, the same from every route: while it waits, while it is made, and ever after."""

    job_id: str = Field(
        examples=[JOB_ID], description="Also the id in CLI, database and file name."
    )
    status: Status
    current_step: Step
    progress: float = Field(ge=0, le=1, description="0 to 1.")
    queue_position: int | None = Field(
        description="1 for the next to start; null when it does not wait."
    )
    estimated_time_seconds: float | None = Field(
        description="Until it is finished, from what the model's last jobs took; null when no job "
        "of it is finished yet."
    )
    prompt: str
    model: str
    duration_seconds: float
    seed: int | None = Field(description="Asked for or drawn; the same seed makes the same music.")
    file_url: str | None = Field(
        examples=[f"{PREFIX}/files/{JOB_ID}.wav"],
        description="The audio, once there is any; with .flac, .mp3, .ogg or .opus at its end, in "
        "that format.",
    )
    metadata: dict[str, Any] = Field(
        description="What was asked for, understood and measured: tempo, key, genre, LUFS, dBTP."
    )
    generation_time_seconds: float | None
    error_message: str | None
    retry_count: int = Field(ge=0, description="Attempts after the first.")
    created_at: datetime
    completed_at: datetime | None = Field(description="When it finished, however.")

    @classmethod
    def of(cls, job: Job) -> JobView:
        """Show a job."""
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
            file_url=f"{PREFIX}/files/{job.job_id}.wav" if job.file else None,
            metadata=job.metadata,
            generation_time_seconds=job.generation_time_seconds,
            error_message=job.error_message,
            retry_count=job.retry_count,
            created_at=job.created_at,
            completed_at=job.completed_at,
        )


def as_json(view: BaseModel) -> Response:
    """Answer with a view that needs no check, in the thread that made it.

    FastAPI would check it again, and take another thread for that.
    """
    return Response(view.model_dump_json(), media_type="application/json")


class BatchAccepted(BaseModel):
    """The jobs of a batch, in the order of its requests."""

    job_ids: list[str]
    total_jobs: int
    estimated_total_time_seconds: float | None = Field(
        description="Until the last is finished; null when no job of the model is finished yet."
    )


class History(BaseModel):
    """One page of jobs, newest first."""

    generations: list[JobView]
    total: int = Field(description="On all pages.")
    page: int | None = Field(description="From 1; null when the page was found by its cursor.")
    page_size: int
    next_cursor: str | None = Field(
        description="Send it as `cursor` for the next page; null on the last."
    )


def _rfc_3339(value: object) -> object:
    if isinstance(value, str) and not _DATE_TIME.match(value):
        raise ValueError("Write a moment as 2026-01-31T12:00:00Z.")
    return value


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("This moment is before the year 1, or after 9999, in UTC.") from None


Moment = Annotated[AwareDatetime, BeforeValidator(_rfc_3339), AfterValidator(_in_utc)]


class PeaksData(BaseModel):
    """The outline of a waveform, as audiowaveform writes it (version 2)."""

    version: Literal[2]
    channels: int
    sample_rate: int
    samples_per_pixel: int
    bits: Literal[8]
    length: int = Field(description="Pairs for each channel.")
    data: list[int] = Field(description="Lowest and highest sample, channel after channel.")


class HistoryQuery(BaseModel):
    """Which jobs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    search: str | None = Field(
        None,
        max_length=500,
        description="Words that the prompt must have; the last may be a start.",
    )
    status: Status | None = None
    model: str | None = Field(None, max_length=100)
    created_after: Moment | None = Field(None, description="This moment or later.")
    created_before: Moment | None = Field(None, description="Earlier than this moment.")
    page: int = Field(1, ge=1, le=100_000, description="Not looked at beside a cursor.")
    page_size: int = Field(20, ge=1, le=LONGEST_PAGE)
    cursor: str | None = Field(
        None, max_length=500, description="`next_cursor` of the page before; better than `page`."
    )
