"""In which order waiting jobs start: fair between clients, first in first out within one.

Start-time fair queueing (Goyal, Vin and Cheng, "Start-time Fair Queueing", SIGCOMM 1996), every job
weighing the same: each job gets a rank one above the later of "now" and the client's own last job,
where "now" is the rank that is being served. A client with sixty jobs waiting delays a newcomer by
one of them. Within a rank, who came first is first; classes of priority never mix.
"""

from __future__ import annotations

from enum import StrEnum

CLASS_SPAN = 700_000_000
"""Numbers a class has; three of them fit into DBOS's 1 to 2**31 - 1."""

TIES = 1_000
"""Numbers a rank has, for jobs of different clients that share it."""

HIGHEST_RANK = CLASS_SPAN // TIES - 2


class Priority(StrEnum):
    """The classes, the first to be served first."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"

    @property
    def order(self) -> int:
        """0 for the first."""
        return list(Priority).index(self)


def compute_rank(own_last: int | None, started: int | None, waiting: int | None) -> int:
    """Rank a new job among those of its class.

    "Now" is the highest rank at work, not the lowest that waits: with the latter, three clients
    that each send a job when their last is done would hold the rank down for ever, and a fourth's
    second job would never start.

    Args:
        own_last: the highest rank of this client's unfinished jobs.
        started: the highest rank of the jobs at work.
        waiting: the lowest rank of the jobs that wait.
    """
    now = 0
    if started is not None:
        now = started
    elif waiting is not None:
        now = waiting - 1
    return min(max(now, own_last or 0) + 1, HIGHEST_RANK)


def compute_place(priority: Priority, rank: int, last_of_rank: int | None) -> int:
    """Number a job for the queue: lower starts earlier.

    Args:
        priority: its class.
        rank: from `compute_rank`.
        last_of_rank: the highest number given out in that class and rank.
    """
    first = priority.order * CLASS_SPAN + rank * TIES
    if last_of_rank is None:
        return first
    # The highest rank is where a queue ends up that has not been empty for 700,000 turns.
    end = (priority.order + 1) * CLASS_SPAN if rank == HIGHEST_RANK else first + TIES
    return min(last_of_rank + 1, end - 1)
