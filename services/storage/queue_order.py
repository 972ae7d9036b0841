"""The order in which waiting jobs start: fair between clients, first in first out for each client.

Start-time fair queueing (Goyal, Vin and Cheng, "Start-time Fair Queueing", SIGCOMM 1996) with equal
weights: a job's rank is one above the higher of "now" and the rank of the client's last job, where
"now" is the rank being served. A client with sixty waiting jobs delays a new client by one job.
Jobs of one rank start in the order of submission, and priority classes never mix.
"""

from __future__ import annotations

from enum import StrEnum

CLASS_SPAN = 700_000_000
"""Places of a class. Three classes fit into the range of DBOS, 1 to 2**31 - 1."""

TIES = 1_000
"""Places of a rank, for jobs of different clients that share it."""

HIGHEST_RANK = CLASS_SPAN // TIES - 2


class Priority(StrEnum):
    """Priority classes; all jobs of a class start before those of the next."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"

    @property
    def order(self) -> int:
        """0 for the class that starts first."""
        return list(Priority).index(self)


def compute_rank(own_last: int | None, started: int | None, waiting: int | None) -> int:
    """Return the rank of a new job in its class.

    "Now" is the highest running rank, not the lowest waiting one. Otherwise three clients that
    each send a job when their last one ends would keep "now" from rising, and the second job of a
    fourth client would never start.

    Args:
        own_last: highest rank of this client's unfinished jobs.
        started: highest rank of the running jobs.
        waiting: lowest rank of the waiting jobs.
    """
    now = 0
    if started is not None:
        now = started
    elif waiting is not None:
        now = waiting - 1
    return min(max(now, own_last or 0) + 1, HIGHEST_RANK)


def compute_place(priority: Priority, rank: int, last_of_rank: int | None) -> int:
    """Return the place of a new job in the queue; lower places start earlier.

    Args:
        priority: class of the job.
        rank: rank from `compute_rank`.
        last_of_rank: highest place in use in this class and rank.
    """
    first = priority.order * CLASS_SPAN + rank * TIES
    if last_of_rank is None:
        return first
    # A queue that is never empty for 700,000 turns reaches the highest rank, and stays there.
    end = (priority.order + 1) * CLASS_SPAN if rank == HIGHEST_RANK else first + TIES
    return min(last_of_rank + 1, end - 1)
