"""Statuses and schema versions. This module imports nothing, so everything can import it."""

from __future__ import annotations

from enum import StrEnum

SCHEMA_VERSION = "1.5.0"
"""Version of the tables at `HEAD_REVISION`."""

KNOWN_REVISIONS = ("001", "002", "003", "004", "005", "006")
"""Alembic revisions that this release can open, oldest first."""

HEAD_REVISION = KNOWN_REVISIONS[-1]


class GenerationStatus(StrEnum):
    """The statuses of a job; each compares equal to its string."""

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
"""A job in one of these statuses never changes its status again."""

UNFINISHED_STATUSES: tuple[str, ...] = (
    GenerationStatus.PENDING.value,
    GenerationStatus.PROCESSING.value,
)


def validate_status(status: str) -> bool:
    """Return whether `status` is one of the five."""
    return status in STATUSES


def require_status(status: str) -> str:
    """Return `status` as a plain string.

    Raises:
        ValueError: it is not one of the five.
    """
    if not validate_status(status):
        raise ValueError(f"Unknown status {status!r}. Use one of: {', '.join(STATUSES)}.")
    return str(status)


def get_schema_version() -> str:
    """Return the version of the tables, as docs/database.md gives it."""
    return SCHEMA_VERSION
