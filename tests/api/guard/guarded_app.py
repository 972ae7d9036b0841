"""An application to guard: it records the bodies it gets, and returns the caller."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response

CALLS = APIRouter()


@CALLS.get("/jobs/{job_id}")
async def job(job_id: str, request: Request) -> dict[str, Any]:
    caller = request.state.caller
    return {"owner": caller.owner, "sees_all": caller.sees_all, "name": caller.name}


@CALLS.get("/health")
async def health() -> dict[str, str]:
    return {"status": "healthy"}


@CALLS.get("/docs")
async def page() -> Response:
    return Response("<p>", headers={"Content-Security-Policy": "mine", "Cache-Control": "public"})


@CALLS.get("/fault")
async def fault() -> None:
    raise RuntimeError("a fault\n2026-01-01 INFO forged")


def make() -> tuple[FastAPI, list[bytes]]:
    """Return the application, and the list to which it adds the bodies it gets."""
    app = FastAPI(openapi_url=None)
    app.include_router(CALLS, prefix="/api/v1")
    bodies: list[bytes] = []

    @app.post("/api/v1/generate", status_code=202)
    @app.post("/api/v1/generate/batch", status_code=202)
    async def generate(request: Request) -> None:
        bodies.append(await request.body())

    return app, bodies
