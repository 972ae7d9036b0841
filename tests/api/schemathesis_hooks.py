"""Adapts requests to state no schema describes: keys in use, existing inputs, available models."""

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
        if isinstance(request, dict) and str(request.get("model")).startswith("musicgen"):
            request["model"] = "composer"


def _drop_references(request: Any) -> None:
    for name in ("melody", "continue_from"):
        if isinstance(request, dict) and _REFERENCE.fullmatch(str(request.get(name))):
            del request[name]
