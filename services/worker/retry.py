"""The decision whether a failed job is retried, and when."""

from __future__ import annotations

CRASHES_ALLOWED = 2
"""Workers that may die while they run a job; the next death fails it."""


def retry_delay(attempts: int, *, max_retries: int, first_delay: float) -> float | None:
    """Return the delay in seconds before the next attempt, or None to give up.

    Args:
        attempts: started so far, at least 1.
        max_retries: attempts after the first.
        first_delay: seconds before the second attempt; doubles with each further one.
    """
    if attempts > max_retries:
        return None
    return float(first_delay * 2 ** (attempts - 1))


def has_crashed_too_often(crashes: int) -> bool:
    """Whether so many workers died while they ran the job that it is the likely cause."""
    return crashes > CRASHES_ALLOWED
