"""The FastAPI application: routers, OpenAPI document, and handlers that answer with problems."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING

from anyio import to_thread
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from services import __version__
from services.api import docs_page, metrics
from services.api.document import build_document, list_operations
from services.api.head_requests import HeadRequests
from services.api.metrics import Metrics
from services.api.problems import (
    INTERNAL_DETAIL,
    MEDIA_TYPE,
    FieldProblem,
    ProblemError,
    convert_error,
    convert_status,
    encode_problem,
)
from services.api.root_path import PREFIX, current_root_path
from services.api.routers import (
    events,
    files,
    generate,
    health,
    history,
    inputs,
    jobs,
    models,
    problems,
    prompts,
    queue,
    stems,
)
from services.errors import DGXMusicError

if TYPE_CHECKING:
    from services.api.state import ApiState
    from services.generation.registry import Registry

log = logging.getLogger(__name__)

SUMMARY = "Turns a sentence into music a producer can drop into a DAW."
THREADS = 8
"""Routes that run at once. Each holds a database connection, and a process has fifteen."""

TAGS = [
    {"name": "generate", "description": "Request music."},
    {"name": "inputs", "description": "Audio files that requests refer to."},
    {"name": "jobs", "description": "State, events and cancellation of a job."},
    {"name": "files", "description": "Audio in every format, waveform and spectrogram."},
    {"name": "history", "description": "All jobs, newest first."},
    {"name": "prompts", "description": "Prompts, and how often they were used."},
    {"name": "models", "description": "The models, and which are available."},
    {"name": "queue", "description": "Queue length and workers."},
    {"name": "health", "description": "Health checks."},
    {"name": "problems", "description": "Explanations of the error types."},
]


def create_app(state: ApiState | None, registry: Registry) -> FastAPI:
    """Build the application without its guard: `guard.assemble` adds keys, limits and headers.

    Args:
        state: shared by the routes; None if only the OpenAPI document is needed.
        registry: the engines.
    """
    app = FastAPI(
        title="DGX Music",
        summary=SUMMARY,
        version=__version__,
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,
        redoc_url=None,
        openapi_tags=TAGS,
        generate_unique_id_function=lambda route: route.name,
        separate_input_output_schemas=False,
        lifespan=_lifespan,
        redirect_slashes=False,
    )
    app.state.api = state
    app.state.registry = registry
    app.state.metrics = Metrics()
    for module in (
        generate, inputs, jobs, events, files, stems, history, prompts, models, queue, health,
    ):  # fmt: skip
        app.include_router(module.router, prefix=PREFIX)
    for module in (problems, docs_page):
        app.include_router(module.router, prefix=PREFIX)
    app.include_router(metrics.router)
    _install_handlers(app)
    app.add_middleware(HeadRequests)
    # Assigning the method is how FastAPI lets an application replace the document.
    app.openapi = lambda: build_document(app)  # type: ignore[method-assign]
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    to_thread.current_default_thread_limiter().total_tokens = THREADS
    # For what the feed builds for many requests at once.
    current_root_path.set(app.state.api.settings.api_root_path)
    async with app.state.api.feed.lifespan():
        yield


def _install_handlers(app: FastAPI) -> None:
    @app.exception_handler(ProblemError)
    async def _handle_problem(request: Request, error: ProblemError) -> Response:
        return _respond(request, error)

    @app.exception_handler(DGXMusicError)
    async def _handle_service_error(request: Request, error: DGXMusicError) -> Response:
        problem = convert_error(error, app.state.api.settings.hide_paths)
        if problem.kind.status == HTTPStatus.INTERNAL_SERVER_ERROR:
            log.error("unexpected error", exc_info=error)
        return _respond(request, problem)

    @app.exception_handler(RequestValidationError)
    async def _handle_invalid(request: Request, error: RequestValidationError) -> Response:
        return _respond(request, _convert_invalid(error))

    @app.exception_handler(HTTPException)
    async def _handle_status(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = _list_methods(app, request.url.path)
        detail = "" if error.detail == HTTPStatus(error.status_code).phrase else str(error.detail)
        return _respond(request, convert_status(error.status_code, detail, headers))

    @app.exception_handler(Exception)
    async def _handle_unexpected(request: Request, error: Exception) -> Response:
        log.error("unexpected error", exc_info=error)
        return _respond(request, ProblemError("internal-error", INTERNAL_DETAIL))


def _respond(request: Request, error: ProblemError) -> Response:
    request_id = getattr(request.state, "request_id", None)
    return Response(
        encode_problem(error, request_id),
        status_code=error.kind.status,
        media_type=MEDIA_TYPE,
        headers=error.headers,
    )


def _list_methods(app: FastAPI, path: str) -> str:
    # Starlette's Allow header names only the methods of the first route that matches.
    methods = {
        method
        for template, method, _ in list_operations(app.openapi())
        if compile_path(template)[0].match(path)
    }
    if "GET" in methods:
        methods.add("HEAD")
    return ", ".join(sorted(methods))


def _convert_invalid(error: RequestValidationError) -> ProblemError:
    problems, details = [], []
    for found in error.errors():
        place, *inside = found["loc"]
        detail = str(found["msg"]).removeprefix("Value error, ")
        if place == "body":
            pointer = "".join(f"/{_escape_pointer(part)}" for part in inside)
            problems.append(FieldProblem(detail=detail, pointer=pointer))
            details.append(f"{pointer or 'the body'}: {detail}")
        else:
            name = ".".join(str(part) for part in inside)
            problems.append(FieldProblem(detail=detail, parameter=name))
            details.append(f"{name}: {detail}")
    return ProblemError(
        "invalid-request", f"{'; '.join(details)}.".replace("..", "."), errors=problems
    )


def _escape_pointer(part: str | int) -> str:
    """Return the part of a JSON Pointer (RFC 6901)."""
    return str(part).replace("~", "~0").replace("/", "~1")
