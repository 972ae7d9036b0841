"""Errors as problem details (RFC 9457), in one form for all routes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from services.api.root_path import PREFIX, under_root
from services.errors import (
    DGXMusicError,
    EngineUnavailableError,
    FileGoneError,
    InvalidRequestError,
    JobFinishedError,
    JobNotFailedError,
    OutputError,
    QueueFullError,
    RequestMismatchError,
    StorageError,
    StoreAwayError,
    UnknownGenerationError,
    UnknownInputError,
    UnknownKeyError,
    UnknownPageError,
)
from services.paths import hide_paths

if TYPE_CHECKING:
    from starlette.types import Send

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 5
"""Retry-After where no better estimate exists."""


@dataclass(frozen=True, slots=True)
class ProblemType:
    """One type of problem, explained at `/api/v1/problems/<name>`."""

    name: str
    status: int
    title: str
    advice: str

    @property
    def uri(self) -> str:
        """The value of `type`."""
        return f"{PREFIX}/problems/{self.name}"


TYPES = {
    kind.name: kind
    for kind in (
        ProblemType(
            "bad-request",
            400,
            "Bad request",
            "The request is not valid HTTP, or its body did not arrive.",
        ),
        ProblemType(
            "key-required",
            401,
            "API key required",
            "Send `Authorization: Bearer <key>`. The operator creates keys with "
            "`dgx-music keys create NAME`.",
        ),
        ProblemType(
            "cross-site",
            403,
            "Cross-site request refused",
            "A page of another site sent this request through a browser. Call the API from its own "
            "page or from a program.",
        ),
        ProblemType(
            "operator-only",
            403,
            "Operator only",
            "Send the operator's key, or leave out what needs it.",
        ),
        ProblemType(
            "not-found",
            404,
            "Not found",
            "Nothing exists under this path or id, or it belongs to another key.",
        ),
        ProblemType(
            "method-not-allowed",
            405,
            "Method not allowed",
            "The Allow header lists the methods of this path.",
        ),
        ProblemType(
            "job-finished", 409, "Job already finished", "A finished job cannot be cancelled."
        ),
        ProblemType(
            "job-not-failed",
            409,
            "Job has not failed",
            "Only a job that failed or was cancelled can be sent again.",
        ),
        ProblemType(
            "not-ready",
            409,
            "No audio yet",
            "Request the file again when the job's status is `completed`.",
        ),
        ProblemType(
            "gone",
            410,
            "File gone",
            "The job's audio was deleted or lost, or the file is damaged: no longer the one that "
            "was written. Send the same request with its seed again.",
        ),
        ProblemType(
            "too-large",
            413,
            "Body too large",
            "Send a smaller body; the detail states the limit.",
        ),
        ProblemType(
            "unsupported-media-type",
            415,
            "Unsupported media type",
            "Send JSON as `application/json`, and an input as `audio/wav` or another audio type.",
        ),
        ProblemType(
            "range-not-satisfiable",
            416,
            "Range not satisfiable",
            "The Content-Range header states the size of the file.",
        ),
        ProblemType(
            "host-not-allowed",
            421,
            "Host not allowed",
            "The server does not answer to this host name. The operator can add it to "
            "DGX_MUSIC_API_ALLOWED_HOSTS.",
        ),
        ProblemType(
            "invalid-request",
            422,
            "Invalid request",
            "`errors` says what is wrong with each part: in the body at `pointer`, a JSON Pointer, "
            "or with the `parameter` of that name.",
        ),
        ProblemType(
            "idempotency-key-reused",
            422,
            "Idempotency-Key reused",
            "Use a new key for each different request.",
        ),
        ProblemType(
            "rate-limited",
            429,
            "Too many requests",
            "Wait for the number of seconds in Retry-After. The operator sets the limit with "
            "DGX_MUSIC_RATE_LIMIT_PER_MINUTE.",
        ),
        ProblemType(
            "internal-error",
            500,
            "Internal error",
            "This is a fault of the server. Report the request_id; the server's log has the cause.",
        ),
        ProblemType(
            "unavailable",
            503,
            "Temporarily unavailable",
            "Wait for the number of seconds in Retry-After, then send the request again.",
        ),
        ProblemType(
            "queue-full",
            503,
            "Queue full",
            "Wait for the number of seconds in Retry-After, then send the request again.",
        ),
        ProblemType(
            "insufficient-storage",
            507,
            "Not enough storage",
            "The operator must free space, for instance with `dgx-music files cleanup`.",
        ),
    )
}

_BY_STATUS = {
    kind.status: kind
    for kind in reversed(list(TYPES.values()))
    if kind.name not in {"idempotency-key-reused", "queue-full", "not-ready", "operator-only"}
}


class FieldProblem(BaseModel):
    """What is wrong with one part of a request."""

    detail: str
    pointer: str | None = Field(
        default=None,
        description="JSON Pointer into the body; empty for all of it.",
        examples=["/prompt"],
    )
    parameter: str | None = Field(
        default=None, description="Name of a parameter of the path, the query or the header."
    )


class Problem(BaseModel):
    model_config = ConfigDict(json_schema_extra={"description": "An error (RFC 9457)."})

    type: str = Field(examples=[TYPES["not-found"].uri])
    title: str = Field(examples=["Not found"])
    status: int = Field(examples=[404])
    detail: str
    request_id: str | None = Field(None, description="Also in the header X-Request-ID.")
    errors: list[FieldProblem] | None = None


class ProblemError(Exception):
    """Raised to answer a request with a problem."""

    def __init__(
        self,
        name: str,
        detail: str,
        *,
        errors: Sequence[FieldProblem] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Create a problem.

        Args:
            name: key of `TYPES`.
            detail: what is wrong with this request, and what to do.
            errors: one entry per wrong field.
            headers: sent with the answer.
        """
        super().__init__(detail)
        self.kind = TYPES[name]
        self.detail = detail
        self.errors = list(errors) if errors else None
        self.headers = dict(headers or {})


_NAMES: tuple[tuple[type[DGXMusicError], str], ...] = (
    (UnknownGenerationError, "not-found"),
    (UnknownPageError, "not-found"),
    (UnknownKeyError, "not-found"),
    (JobFinishedError, "job-finished"),
    (JobNotFailedError, "job-not-failed"),
    (RequestMismatchError, "idempotency-key-reused"),
    (InvalidRequestError, "invalid-request"),
    (EngineUnavailableError, "invalid-request"),
    (QueueFullError, "queue-full"),
    (StorageError, "unavailable"),
    (FileGoneError, "gone"),
    (StoreAwayError, "unavailable"),
    (OutputError, "insufficient-storage"),
)
"""The first match counts, so subclasses stand before their base."""


def convert_error(error: DGXMusicError, hide: Callable[[str], str] = hide_paths) -> ProblemError:
    """Convert an error; the message of an error outside `_NAMES` is not passed on.

    Args:
        error: of a service.
        hide: takes paths out of its message.
    """
    name = next((name for kind, name in _NAMES if isinstance(error, kind)), None)
    if name is None:
        return ProblemError("internal-error", INTERNAL_DETAIL)
    text = hide(str(error))
    is_temporary = name in {"queue-full", "unavailable"}
    field = error.field if isinstance(error, UnknownInputError) else None
    if isinstance(error, EngineUnavailableError):
        field = "model"
    return ProblemError(
        name,
        text,
        errors=[FieldProblem(detail=text, pointer=f"/{field}")] if field else None,
        headers={"Retry-After": str(RETRY_SECONDS)} if is_temporary else None,
    )


INTERNAL_DETAIL = "An unexpected error occurred; the server's log has it under the request_id."


def convert_status(status: int, detail: str, headers: Mapping[str, str] | None) -> ProblemError:
    """Convert an HTTP status that a library raised; `detail` may be empty."""
    kind = _BY_STATUS.get(status) or _BY_STATUS[500 if status >= 500 else 400]
    return ProblemError(kind.name, detail or kind.advice, headers=headers)


def encode_problem(error: ProblemError, request_id: str | None) -> bytes:
    problem = Problem(
        type=under_root(error.kind.uri),
        title=error.kind.title,
        status=error.kind.status,
        detail=error.detail,
        request_id=request_id,
        errors=error.errors,
    )
    return json.dumps(problem.model_dump(exclude_none=True), ensure_ascii=False).encode()


async def send_problem(send: Send, error: ProblemError, request_id: str | None) -> None:
    """Answer an ASGI request with a problem from a middleware."""
    body = encode_problem(error, request_id)
    headers = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        *((name.lower().encode(), value.encode()) for name, value in error.headers.items()),
    ]
    await send({"type": "http.response.start", "status": error.kind.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def describe_problems(*names: str) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of a route with these problems, for the OpenAPI document."""
    responses: dict[int | str, dict[str, Any]] = {}
    for kind in (TYPES[name] for name in names):
        titles = [responses[kind.status]["description"]] if kind.status in responses else []
        responses[kind.status] = {
            "description": "; ".join([*titles, kind.title]),
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    return responses
