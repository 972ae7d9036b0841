"""What the inputs of requests are called: in the store, and in the rows that name them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

FIELDS = ("melody", "continue_from")
"""Of a request, and of the parameters of an engine."""

INPUTS = "inputs"
"""Their folder in the store."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


def name_of(sha256: str) -> str:
    """Give the name of an input in the store."""
    return f"{INPUTS}/{sha256[:2]}/{sha256}"


def is_unnamed_input(name: str, named: Collection[str]) -> bool:
    """Whether a file of the store is an input whose SHA-256 is none of those."""
    sha256 = name.rpartition("/")[2]
    return _SHA256.fullmatch(sha256) is not None and name == name_of(sha256) and sha256 not in named


def key_of(field: str) -> str:
    """Give the name in a row's metadata under which the SHA-256 of a file stands."""
    return f"{field}_sha256"


def inputs_of(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Give field -> SHA-256 of the files that a row names."""
    return {field: metadata[key_of(field)] for field in FIELDS if key_of(field) in metadata}
