"""The OpenAPI document: FastAPI's, completed with problems, model names and API keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi.openapi.utils import get_openapi

from services.api.problems import MEDIA_TYPE, Problem, describe_problems
from services.api.root_path import under_root
from services.generation.registry import AUTO

if TYPE_CHECKING:
    from fastapi import FastAPI

_METHODS = ("get", "post", "delete")


def build_document(app: FastAPI) -> dict[str, Any]:
    """Return the document; it is built once per application."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            routes=app.routes,
            tags=app.openapi_tags,
            separate_input_output_schemas=False,
        )
        _replace_error_schema(document)
        # Also those that cannot run here: GET /models says which.
        _add_model_names(document, [entry.facts.name for entry in app.state.registry])
        document["components"]["securitySchemes"] = {
            "key": {
                "type": "http",
                "scheme": "bearer",
                "description": "A key from `dgx-music keys create`.",
            }
        }
        document["security"] = [{"key": []}, {}]
        document["servers"] = [{"url": under_root("/")}]
        app.openapi_schema = document
    return app.openapi_schema


def list_operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Return the path, method (in capitals) and description of every operation."""
    return [
        (path, method.upper(), item[method])
        for path, item in document["paths"].items()
        for method in _METHODS
        if method in item
    ]


def _replace_error_schema(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= problem.pop("$defs", {}) | {"Problem": problem}
    invalid = describe_problems("invalid-request")[422]
    for _, _, operation in list_operations(document):
        answer = operation["responses"].get("422", {})
        if MEDIA_TYPE not in answer.get("content", {MEDIA_TYPE: None}):
            operation["responses"]["422"] = invalid


def _add_model_names(document: dict[str, Any], names: list[str]) -> None:
    model = document["components"]["schemas"]["GenerateRequest"]["properties"]["model"]
    for variant in model["anyOf"]:
        if variant.get("type") == "string":
            variant["enum"] = [AUTO, *names]
