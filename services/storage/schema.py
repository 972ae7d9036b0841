"""The vocabulary of the database: statuses and versions, free of any library."""

from __future__ import annotations

from enum import StrEnum

SCHEMA_VERSION = "1.3.0"
"""The version of the tables that revision `HEAD_REVISION` makes."""

KNOWN_REVISIONS = ("001", "002", "003", "004")
"""Alembic revisions this release can open, oldest first."""

HEAD_REVISION = KNOWN_REVISIONS[-1]


class GenerationStatus(StrEnum):
    """Where a generation stands; each equals its string."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


STATUSES: tuple[str, ...] = tuple(status.value for status in GenerationStatus)

FINISHED_STATUSES: tuple[str, ...] = (
    GenerationStatus.COMPLETED.value,
    GenerationStatus.FAILED.value,
    GenerationStatus.CANCELLED.value,
)
"""Statuses that nothing leaves."""

UNFINISHED_STATUSES: tuple[str, ...] = (
    GenerationStatus.PENDING.value,
    GenerationStatus.PROCESSING.value,
)


def validate_status(status: str) -> bool:
    """Say whether `status` is one of the five."""
    return status in STATUSES


def require_status(status: str) -> str:
    """Give `status` back as a plain string.

    Raises:
        ValueError: it is not one of the five.
    """
    if not validate_status(status):
        raise ValueError(f"Unknown status {status!r}; it is one of {', '.join(STATUSES)}.")
    return str(status)


def get_schema_version() -> str:
    """Give the version of the tables, as in docs/database.md."""
    return SCHEMA_VERSION
