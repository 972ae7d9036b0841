"""Requests and jobs as every interface sees them: CLI, REST API and Python."""

from __future__ import annotations

import re
import unicodedata
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from services.errors import InvalidRequestError
from services.generation.engine import SEED_LIMIT
from services.generation.length import MOST_BARS

PROMPT_MIN = 3
PROMPT_MAX = 500
SHORTEST_SECONDS = 1.0
DEFAULT_SECONDS = 16.0
LONGEST_SECONDS = 600.0
"""Longest duration of any engine; each has its own limit too."""
REFERENCE_PATTERN = "^([0-9a-f]{64}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})$"
"""The id of an input, which is a SHA-256, or of a job."""


def _clean_prompt(text: str) -> str:
    trimmed = text.strip()
    if not PROMPT_MIN <= len(trimmed) <= PROMPT_MAX:
        raise ValueError(
            f"Describe the music in {PROMPT_MIN} to {PROMPT_MAX} characters; "
            f"this prompt has {len(trimmed)}."
        )
    prompt = re.sub(r"\s+", " ", trimmed)
    # No database stores lone surrogates and control characters unchanged.
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in prompt):
        raise ValueError("The prompt has characters that are not text. Type it again without them.")
    return prompt


PromptText = Annotated[str, AfterValidator(_clean_prompt)]


class GenerationRequest(BaseModel):
    """A request for a piece of music, checked."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=()
    )

    prompt: PromptText
    duration: float = Field(
        DEFAULT_SECONDS, ge=SHORTEST_SECONDS, le=LONGEST_SECONDS, description="Seconds."
    )
    bars: int | None = Field(
        None,
        ge=1,
        le=MOST_BARS,
        description="Length in whole bars, in the place of a duration.",
    )
    loop: bool | None = Field(
        None,
        description="True: a seamless loop. False: with an intro and an ending. None: the model's "
        "habit; the composer makes loops of 4, 8 or 16 bars of beats of up to 30 s.",
    )
    temperature: float = Field(1.0, ge=0.1, le=2.0)
    top_k: int = Field(250, ge=0, le=500)
    top_p: float = Field(0.0, ge=0.0, le=1.0)
    cfg_coef: float = Field(3.0, ge=1.0, le=10.0)
    model: str | None = Field(None, description="Engine; none: the one of the settings.")
    seed: int | None = Field(None, ge=0, lt=SEED_LIMIT, description="None: one is drawn.")
    melody: str | None = Field(
        None,
        pattern=REFERENCE_PATTERN,
        description="Audio with the melody to follow: the id of an input, or of a completed job.",
    )
    continue_from: str | None = Field(
        None,
        pattern=REFERENCE_PATTERN,
        description="Audio to continue: the id of an input, or of a completed job.",
    )
    stems: bool = Field(False, description="Also keep each instrument as a WAV file.")
    midi: bool = Field(False, description="Also keep the notes as a MIDI file.")


def parse_request(**fields: Any) -> GenerationRequest:
    """Build a request from the values of its fields.

    Raises:
        InvalidRequestError: with one sentence for each invalid field.
    """
    try:
        return GenerationRequest.model_validate(fields)
    except ValidationError as error:
        sentences = []
        for problem in error.errors(include_url=False):
            if problem["type"] == "value_error":
                sentences.append(problem["msg"].removeprefix("Value error, "))
            else:
                field = ".".join(str(part) for part in problem["loc"])
                reason = problem["msg"].removeprefix("Input ")
                sentences.append(f"The {field} {reason}, not {problem['input']!r}.")
        raise InvalidRequestError(" ".join(sentences)) from None


class Job(BaseModel):
    """A job as every interface shows it, with the field names of the REST API."""

    model_config = ConfigDict(frozen=True)

    job_id: str
    status: str
    prompt: str
    model: str
    duration_seconds: float
    file: str | None
    """Path of the finished audio file on this machine, or its s3:// URL; None without one."""
    metadata: dict[str, Any]
    generation_time_seconds: float | None
    error_message: str | None
    retry_count: int
    owner: str | None = None
    """The id of the API key that requested it."""
    file_sha256: str | None = None
    """SHA-256 of the finished file, hexadecimal."""
    current_step: str = "queued"
    """queued, loading_model, encoding_prompt, generating, saving, or the status when finished."""
    progress: float = 0.0
    """0 to 1."""
    queue_position: int | None = None
    """1 for the next job to start; None when it does not wait in the queue."""
    estimated_time_seconds: float | None = None
    """Time until it is finished, from the engine's last jobs; None when there are none."""
    created_at: datetime
    completed_at: datetime | None

    @property
    def is_finished(self) -> bool:
        """Whether it is completed, failed or cancelled."""
        return self.completed_at is not None

    @property
    def seed(self) -> int | None:
        return self.metadata.get("seed")
