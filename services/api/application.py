"""The FastAPI application: its routers, its document, and how errors become problems."""

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
from services.api.document import document_of, operations
from services.api.metrics import Metrics
from services.api.problems import (
    INTERNAL_DETAIL,
    MEDIA_TYPE,
    PREFIX,
    FieldProblem,
    ProblemError,
    body_of,
    problem_of,
    problem_of_status,
)
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
)
from services.errors import DGXMusicError

if TYPE_CHECKING:
    from services.api.state import ApiState
    from services.generation.registry import Registry

log = logging.getLogger(__name__)

SUMMARY = "Turns a sentence into music a producer can drop into a DAW."
THREADS = 8
"""Routes at work at once: each has a connection to the database, of which a process has fifteen."""

TAGS = [
    {"name": "generate", "description": "Ask for music."},
    {"name": "inputs", "description": "Audio files that requests name."},
    {"name": "jobs", "description": "What becomes of it: state, events, cancellation."},
    {"name": "files", "description": "The audio in every format, and its waveform."},
    {"name": "history", "description": "Everything that was ever asked for."},
    {"name": "prompts", "description": "The words it was asked for with."},
    {"name": "models", "description": "What can make it."},
    {"name": "queue", "description": "How much there is to do, and who does it."},
    {"name": "health", "description": "Whether the service works."},
    {"name": "problems", "description": "What errors mean."},
]


def create_app(state: ApiState | None, registry: Registry) -> FastAPI:
    """Make the application.

    Args:
        state: what the routes share; None for an application that is only to be described.
        registry: the engines.

    Returns:
        The bare application; `guard.assemble` puts keys, limits and headers around it.
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
        generate, inputs, jobs, events, files, history, prompts, models, queue, health,
    ):  # fmt: skip
        app.include_router(module.router, prefix=PREFIX)
    for module in (problems, docs_page):
        app.include_router(module.router, prefix=PREFIX)
    app.include_router(metrics.router)
    _install_handlers(app)
    # FastAPI has this as its way to change the document.
    app.openapi = lambda: document_of(app)  # type: ignore[method-assign]
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    to_thread.current_default_thread_limiter().total_tokens = THREADS
    feed = app.state.api.feed
    async with feed.running():
        yield


def _install_handlers(app: FastAPI) -> None:
    @app.exception_handler(ProblemError)
    async def _problem(request: Request, error: ProblemError) -> Response:
        return _answer(request, error)

    @app.exception_handler(DGXMusicError)
    async def _ours(request: Request, error: DGXMusicError) -> Response:
        problem = problem_of(error)
        if problem.kind.status == HTTPStatus.INTERNAL_SERVER_ERROR:
            log.error("unexpected", exc_info=error)
        return _answer(request, problem)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> Response:
        return _answer(request, _explain(error))

    @app.exception_handler(HTTPException)
    async def _status(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = _allowed(app, request.url.path)
        detail = "" if error.detail == HTTPStatus(error.status_code).phrase else str(error.detail)
        return _answer(request, problem_of_status(error.status_code, detail, headers))

    @app.exception_handler(Exception)
    async def _unexpected(request: Request, error: Exception) -> Response:
        log.error("unexpected", exc_info=error)
        return _answer(request, ProblemError("internal-error", INTERNAL_DETAIL))


def _answer(request: Request, error: ProblemError) -> Response:
    request_id = getattr(request.state, "request_id", None)
    return Response(
        body_of(error, request_id),
        status_code=error.kind.status,
        media_type=MEDIA_TYPE,
        headers=error.headers,
    )


def _allowed(app: FastAPI, path: str) -> str:
    """Every method of a path; the framework gives those of the first route that fits."""
    methods = {
        method
        for template, method, _ in operations(app.openapi())
        if compile_path(template)[0].match(path)
    }
    if "GET" in methods and path.startswith(f"{PREFIX}/files/"):
        methods.add("HEAD")
    return ", ".join(sorted(methods))


def _explain(error: RequestValidationError) -> ProblemError:
    problems = []
    for found in error.errors():
        place = found["loc"]
        if place[0] == "body":
            pointer = "".join(f"/{part}" for part in place[1:])
        else:
            pointer = ".".join(str(part) for part in place[1:])
        detail = str(found["msg"]).removeprefix("Value error, ")
        problems.append(FieldProblem(detail=detail, pointer=pointer))
    said = "; ".join(f"{one.pointer or 'the body'}: {one.detail}" for one in problems)
    return ProblemError("invalid-request", f"{said}.".replace("..", "."), errors=problems)
