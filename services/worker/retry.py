"""When a job that failed is tried again: a decision, not an action."""

from __future__ import annotations

CRASHES_ALLOWED = 2
"""How often a job may be found in the hands of a worker that died; the next one fails it."""


def retry_delay(begun: int, *, max_retries: int, first_delay: float) -> float | None:
    """Give the seconds to wait before the next attempt; None when there is none.

    Args:
        begun: attempts begun so far, at least 1.
        max_retries: attempts after the first.
        first_delay: seconds before the second attempt; doubles with each.
    """
    if begun > max_retries:
        return None
    return float(first_delay * 2 ** (begun - 1))


def is_worker_lost(crashes: int) -> bool:
    """Whether the job is the likely cause of its workers' deaths."""
    return crashes > CRASHES_ALLOWED
