"""GET /docs: Swagger UI, served from files of this machine only."""

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
"""`data:` because Swagger UI embeds images in its style sheet."""

_MEDIA_TYPES = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "start.js": "text/javascript; charset=utf-8",
}
_FOREVER = "public, max-age=31536000, immutable"
"""The URL of an asset changes with its content."""


@router.api_route("/docs", methods=["GET", "HEAD"])
def get_docs() -> Response:
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
    return Response(_build_page(), media_type="text/html", headers=headers)


@router.api_route("/docs/assets/{name}", methods=["GET", "HEAD"])
def get_docs_asset(name: str) -> Response:
    if name not in _MEDIA_TYPES:
        raise ProblemError("not-found", f"The documentation page has no file {name!r}.")
    headers = {"Cache-Control": _FOREVER}
    return Response(_read_asset(name), media_type=_MEDIA_TYPES[name], headers=headers)


@cache
def _build_page() -> bytes:
    digest = hashlib.sha256(b"".join(_read_asset(name) for name in _MEDIA_TYPES)).hexdigest()
    text = _find_asset("page.html").read_text(encoding="utf-8")
    return text.replace("{version}", digest[:16]).encode()


@cache
def _read_asset(name: str) -> bytes:
    file = _find_asset(name)
    if not file.is_file():
        file = files("fastapi_offline").joinpath("static", name)
    return file.read_bytes()


def _find_asset(name: str) -> Traversable:
    return files("services.api").joinpath("docs_assets", name)
