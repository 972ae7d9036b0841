"""Adapts requests to what no schema describes.

Keys in use, existing inputs, available models, and lengths that depend on the tempo of the prompt.
"""

from __future__ import annotations

import re
import uuid
from typing import Any

import schemathesis

_REFERENCE = re.compile(r"[0-9a-f]{64}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


@schemathesis.hook
def before_call(_context: Any, case: Any, _options: Any) -> None:
    for name in case.headers or {}:
        if name.lower() == "idempotency-key" and _KEY.fullmatch(str(case.headers[name])):
            case.headers[name] = str(uuid.uuid4())
    requests = case.body.get("requests", [case.body]) if isinstance(case.body, dict) else []
    for request in requests if isinstance(requests, list) else []:
        _drop_references(request)
        _make_length_possible(request)
        if isinstance(request, dict) and str(request.get("model")).startswith("musicgen"):
            request["model"] = "composer"


def _drop_references(request: Any) -> None:
    for name in ("melody", "continue_from"):
        if isinstance(request, dict) and _REFERENCE.fullmatch(str(request.get(name))):
            del request[name]


def _make_length_possible(request: Any) -> None:
    """Leave out what contradicts the bars; 100 of them fit into the longest take at any tempo."""
    if not isinstance(request, dict):
        return
    bars, duration = request.get("bars"), request.get("duration")
    if isinstance(bars, int | float) and 1 <= bars <= 512:
        request["bars"] = min(bars, 100)
        request.pop("duration", None)
    elif request.get("loop") is True and isinstance(duration, int | float) and 1 <= duration < 6:
        # A bar may last that long.
        del request["loop"]
