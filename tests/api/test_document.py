"""The OpenAPI document is complete, and docs/openapi.json is current."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from services import __version__
from services.api.application import create_app
from services.api.document import list_operations
from services.api.problems import MEDIA_TYPE
from services.config import Settings
from services.generation.registry import default_registry
from services.jobs.models import LONGEST_SECONDS

DOCS = Path(__file__).parents[2] / "docs"
DOCUMENT: dict[str, Any] = create_app(
    None, default_registry(Settings(models_dir=Path("/nonexistent")))
).openapi()
OPERATIONS = list_operations(DOCUMENT)


def test_openapi_json_in_docs_is_current() -> None:
    kept = json.loads((DOCS / "openapi.json").read_text(encoding="utf-8"))
    assert kept == DOCUMENT, "run `just docs`"
    assert DOCUMENT["info"]["version"] == __version__


def test_every_operation_has_id_summary_description_and_tag() -> None:
    names = [operation["operationId"] for _, _, operation in OPERATIONS]
    assert len(set(names)) == len(names)
    for _, _, operation in OPERATIONS:
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", operation["operationId"])
        assert operation["summary"]
        assert operation["description"]
        assert operation["tags"][0] in {tag["name"] for tag in DOCUMENT["tags"]}


def test_every_error_is_a_problem() -> None:
    for path, _, operation in OPERATIONS:
        for status, answer in operation["responses"].items():
            if int(status) >= 400 and "/health" not in path:
                assert list(answer["content"]) == [MEDIA_TYPE], (path, status)


def test_every_schema_reference_resolves() -> None:
    names = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(DOCUMENT)))
    assert names <= set(DOCUMENT["components"]["schemas"])


def test_longest_duration_in_the_schema_is_that_of_the_engines() -> None:
    entries = default_registry(Settings())
    assert max(entry.facts.longest_seconds for entry in entries) == LONGEST_SECONDS
