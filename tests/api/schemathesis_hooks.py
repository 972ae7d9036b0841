"""A key of its own for each request: one that was used is refused for another, as it should be."""

from __future__ import annotations

import re
import uuid
from typing import Any

import schemathesis

_KEY = re.compile(r"[\x21-\x7e]{1,255}")


@schemathesis.hook
def before_call(_context: Any, case: Any, _options: Any) -> None:
    for name in case.headers or {}:
        if name.lower() == "idempotency-key" and _KEY.fullmatch(str(case.headers[name])):
            case.headers[name] = str(uuid.uuid4())
