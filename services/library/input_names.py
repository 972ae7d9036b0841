"""The names of inputs: in the store, and in the rows that use them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

FIELDS = ("melody", "continue_from")
"""Fields of a request, and of an engine's parameters, that name an audio file."""

INPUTS = "inputs"
"""Folder of the inputs in the store."""

SHA256 = re.compile(r"[0-9a-f]{64}")


def input_name(sha256: str) -> str:
    return f"{INPUTS}/{sha256[:2]}/{sha256}"


def is_unused_input(name: str, used: Collection[str]) -> bool:
    """Whether a file of the store is an input whose SHA-256 is not in `used`."""
    sha256 = name.rpartition("/")[2]
    return (
        SHA256.fullmatch(sha256) is not None and name == input_name(sha256) and sha256 not in used
    )


def metadata_key(field: str) -> str:
    """Return the key of a row's metadata that holds the SHA-256 of an input."""
    return f"{field}_sha256"


def input_hashes(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return field -> SHA-256 of the inputs that a row's metadata names."""
    return {
        field: metadata[metadata_key(field)] for field in FIELDS if metadata_key(field) in metadata
    }
