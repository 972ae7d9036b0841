"""Every error as a problem, RFC 9457: what is wrong, and what to do, in one form for all routes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from services.errors import (
    DGXMusicError,
    EngineUnavailableError,
    FileGoneError,
    InvalidRequestError,
    JobFinishedError,
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

if TYPE_CHECKING:
    from starlette.types import Send

PREFIX = "/api/v1"
MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 5
"""When to ask again where nothing better is known."""


@dataclass(frozen=True, slots=True)
class ProblemType:
    """One kind of problem; its page is `/api/v1/problems/<name>`."""

    name: str
    status: int
    title: str
    advice: str

    @property
    def uri(self) -> str:
        """What stands in `type`."""
        return f"{PREFIX}/problems/{self.name}"


TYPES = {
    kind.name: kind
    for kind in (
        ProblemType(
            "bad-request", 400, "Bad request", "The request is not HTTP as this server reads it."
        ),
        ProblemType(
            "key-required",
            401,
            "A key is required",
            "Send `Authorization: Bearer <key>`. The operator makes keys with "
            "`dgx-music keys create NAME`.",
        ),
        ProblemType(
            "cross-site",
            403,
            "Refused to another site",
            "A page of another site sent this request through a browser. Call the API from its own "
            "page, or from a program.",
        ),
        ProblemType(
            "operator-only",
            403,
            "For the operator only",
            "Send the operator's key, or ask without this.",
        ),
        ProblemType(
            "not-found",
            404,
            "Not found",
            "There is nothing under this path or id, or it belongs to another key.",
        ),
        ProblemType(
            "method-not-allowed",
            405,
            "Method not allowed",
            "The header Allow says which methods this path has.",
        ),
        ProblemType(
            "job-finished", 409, "The job is finished", "A finished job can no longer be cancelled."
        ),
        ProblemType(
            "not-ready",
            409,
            "There is no audio yet",
            "Ask for the file when the job's status is `completed`.",
        ),
        ProblemType("gone", 410, "The file is gone", "The job's audio was removed or lost."),
        ProblemType(
            "too-large",
            413,
            "The body is too large",
            "Send a smaller body; the detail has the limit.",
        ),
        ProblemType(
            "unsupported-media-type",
            415,
            "Unsupported media type",
            "Send JSON, with `Content-Type: application/json`; an input as `audio/wav` or another.",
        ),
        ProblemType(
            "range-not-satisfiable",
            416,
            "Range not satisfiable",
            "The header Content-Range says how many bytes there are.",
        ),
        ProblemType(
            "host-not-allowed",
            421,
            "Host not allowed",
            "The server does not answer to this name. The operator adds it to "
            "DGX_MUSIC_API_ALLOWED_HOSTS.",
        ),
        ProblemType(
            "invalid-request",
            422,
            "The request is not valid",
            "`errors` says for each field what is wrong; `pointer` is a JSON Pointer.",
        ),
        ProblemType(
            "idempotency-key-reused",
            422,
            "The Idempotency-Key was used for another request",
            "Use a new key for each different request.",
        ),
        ProblemType(
            "rate-limited",
            429,
            "Too many requests",
            "Wait as many seconds as Retry-After says. The operator sets the limit with "
            "DGX_MUSIC_RATE_LIMIT_PER_MINUTE.",
        ),
        ProblemType(
            "internal-error",
            500,
            "Internal error",
            "This is a fault of the server. Report the request_id; the log has the reason.",
        ),
        ProblemType(
            "unavailable",
            503,
            "Not available now",
            "Wait as many seconds as Retry-After says, and send the same again.",
        ),
        ProblemType(
            "queue-full",
            503,
            "The queue is full",
            "Wait as many seconds as Retry-After says, and send the same again.",
        ),
        ProblemType(
            "insufficient-storage",
            507,
            "Not enough storage",
            "The operator frees space, for instance with `dgx-music files cleanup`.",
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
    pointer: str = Field(description="JSON Pointer into the body, or the name of a parameter.")


class Problem(BaseModel):
    """An error, as RFC 9457 has it."""

    model_config = ConfigDict(json_schema_extra={"description": "An error (RFC 9457)."})

    type: str = Field(examples=[TYPES["not-found"].uri])
    title: str = Field(examples=["Not found"])
    status: int = Field(examples=[404])
    detail: str
    request_id: str | None = Field(None, description="Also in the header X-Request-ID.")
    errors: list[FieldProblem] | None = None


class ProblemError(Exception):
    """Raised by a route to answer with a problem."""

    def __init__(
        self,
        name: str,
        detail: str,
        *,
        errors: Sequence[FieldProblem] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Name the kind.

        Args:
            name: of `TYPES`.
            detail: what is wrong this time, and what to do.
            errors: for each field.
            headers: to be sent with it.
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
    (RequestMismatchError, "idempotency-key-reused"),
    (InvalidRequestError, "invalid-request"),
    (EngineUnavailableError, "invalid-request"),
    (QueueFullError, "queue-full"),
    (StorageError, "unavailable"),
    (FileGoneError, "gone"),
    (StoreAwayError, "unavailable"),
    (OutputError, "insufficient-storage"),
)
"""The first that fits; the special before the general."""


def problem_of(error: DGXMusicError) -> ProblemError:
    """Give the problem that says what `error` says."""
    name = next((name for kind, name in _NAMES if isinstance(error, kind)), None)
    if name is None:
        return ProblemError("internal-error", INTERNAL_DETAIL)
    text = str(error)
    waits = name in {"queue-full", "unavailable"}
    field = error.field if isinstance(error, UnknownInputError) else None
    if isinstance(error, EngineUnavailableError):
        field = "model"
    return ProblemError(
        name,
        text,
        errors=[FieldProblem(detail=text, pointer=f"/{field}")] if field else None,
        headers={"Retry-After": str(RETRY_SECONDS)} if waits else None,
    )


INTERNAL_DETAIL = "Something unexpected happened; the server's log has it under the request_id."


def problem_of_status(status: int, detail: str, headers: Mapping[str, str] | None) -> ProblemError:
    """Give the problem for an error that a library answers with a bare status."""
    kind = _BY_STATUS.get(status) or _BY_STATUS[500 if status >= 500 else 400]
    return ProblemError(kind.name, detail or kind.advice, headers=headers)


def body_of(error: ProblemError, request_id: str | None) -> bytes:
    """Write the problem as JSON."""
    problem = Problem(
        type=error.kind.uri,
        title=error.kind.title,
        status=error.kind.status,
        detail=error.detail,
        request_id=request_id,
        errors=error.errors,
    )
    return json.dumps(problem.model_dump(exclude_none=True), ensure_ascii=False).encode()


async def send_problem(send: Send, error: ProblemError, request_id: str | None) -> None:
    """Answer an ASGI request with a problem, from outside of the application."""
    body = body_of(error, request_id)
    headers = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        *((name.lower().encode(), value.encode()) for name, value in error.headers.items()),
    ]
    await send({"type": "http.response.start", "status": error.kind.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def documented(*names: str) -> dict[int | str, dict[str, Any]]:
    """Describe the problems of a route for the OpenAPI document, by status."""
    responses: dict[int | str, dict[str, Any]] = {}
    for kind in (TYPES[name] for name in names):
        titles = [responses[kind.status]["description"]] if kind.status in responses else []
        responses[kind.status] = {
            "description": "; ".join([*titles, kind.title]),
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    return responses
