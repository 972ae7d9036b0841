"""The decision whether a job is tried again, and when."""

from __future__ import annotations

ENDINGS_ALLOWED = 2
"""Attempts after the first for a job that ends the process of its engine, alone in it."""

LONGEST_CRASH_PAUSE_SECONDS = 300.0

OUTAGES_ALLOWED = 10
"""Times a worker blames the machine for a job's failure although it finds nothing wrong with the
machine; after that the failures count as the job's."""

LONGEST_OUTAGE_PAUSE_SECONDS = 30.0


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


def crash_pause(crashes: int) -> float:
    """Return the pause in seconds before the next attempt, after workers died during a job.

    A power cut or a full memory ends workers too, so this never fails the job.

    Args:
        crashes: workers that died, at least 1.
    """
    # The exponent is bounded, because a float is.
    return 0.0 if crashes == 1 else min(2.0 ** min(crashes - 1, 60), LONGEST_CRASH_PAUSE_SECONDS)


def outage_pause(outages: int) -> float | None:
    """Return the pause in seconds after a fault of the machine that is over, or None to count it.

    Args:
        outages: that ended an attempt at the job, at least 1.
    """
    if outages > OUTAGES_ALLOWED:
        return None
    return min(2.0 ** (outages - 1), LONGEST_OUTAGE_PAUSE_SECONDS)
