"""GET /docs: the routes to look at and try, from files of this machine alone."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi import APIRouter, Response

from services.api.problems import ProblemError

router = APIRouter(include_in_schema=False)

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Swagger UI has its pictures in its style sheet."""

_MEDIA_TYPES = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "start.js": "text/javascript; charset=utf-8",
}
_FOREVER = "public, max-age=31536000, immutable"
"""The address of a file changes with what is in it."""


@router.api_route("/docs", methods=["GET", "HEAD"])
def get_docs() -> Response:
    """Give the page."""
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
    return Response(_page(), media_type="text/html", headers=headers)


@router.api_route("/docs/assets/{name}", methods=["GET", "HEAD"])
def get_docs_asset(name: str) -> Response:
    """Give a file of the page."""
    if name not in _MEDIA_TYPES:
        raise ProblemError("not-found", f"The page has no file {name!r}.")
    headers = {"Cache-Control": _FOREVER}
    return Response(_asset(name), media_type=_MEDIA_TYPES[name], headers=headers)


@cache
def _page() -> bytes:
    digest = hashlib.sha256(b"".join(_asset(name) for name in _MEDIA_TYPES)).hexdigest()
    text = _ours("page.html").read_text(encoding="utf-8")
    return text.replace("{version}", digest[:16]).encode()


@cache
def _asset(name: str) -> bytes:
    file = _ours(name)
    if not file.is_file():
        file = files("fastapi_offline").joinpath("static", name)
    return file.read_bytes()


def _ours(name: str) -> Traversable:
    return files("services.api").joinpath("docs_assets", name)
