"""The OpenAPI document: what FastAPI says of the routes, and what only we know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi.openapi.utils import get_openapi

from services.api.problems import MEDIA_TYPE, Problem, documented
from services.generation.registry import AUTO

if TYPE_CHECKING:
    from fastapi import FastAPI

_METHODS = ("get", "post", "delete")


def document_of(app: FastAPI) -> dict[str, Any]:
    """Give the document; made once for each application."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            routes=app.routes,
            tags=app.openapi_tags,
            separate_input_output_schemas=False,
        )
        _describe_problems(document)
        # A server names what can be asked of it; without one, all that this release knows.
        entries = [
            entry
            for entry in app.state.registry
            if app.state.api is None or entry.why_unavailable() is None
        ]
        _name_models(document, [entry.facts.name for entry in entries])
        document["components"]["securitySchemes"] = {
            "key": {"type": "http", "scheme": "bearer", "description": "`dgx-music keys create`"}
        }
        document["security"] = [{"key": []}, {}]
        document["servers"] = [{"url": "/"}]
        app.openapi_schema = document
    return app.openapi_schema


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Every operation of a document: path, method in capitals, description."""
    return [
        (path, method.upper(), item[method])
        for path, item in document["paths"].items()
        for method in _METHODS
        if method in item
    ]


def _describe_problems(document: dict[str, Any]) -> None:
    """Put our form of an error in the place of FastAPI's."""
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= problem.pop("$defs", {}) | {"Problem": problem}
    invalid = documented("invalid-request")[422]
    for _, _, operation in operations(document):
        answer = operation["responses"].get("422", {})
        if MEDIA_TYPE not in answer.get("content", {MEDIA_TYPE: None}):
            operation["responses"]["422"] = invalid


def _name_models(document: dict[str, Any], names: list[str]) -> None:
    """Say which models there are, which depends on the registry."""
    model = document["components"]["schemas"]["GenerateRequest"]["properties"]["model"]
    for variant in model["anyOf"]:
        if variant.get("type") == "string":
            variant["enum"] = [AUTO, *names]
