"""The limit on open files of a process, and how many connections a server may hold under it."""

from __future__ import annotations

import resource
from contextlib import suppress

RESERVED = 256
"""Open files kept aside for the database, the worker and its engine processes."""

FILES_OF_A_CONNECTION = 2
"""Its socket, and the file that is sent or received."""

MOST_CONNECTIONS = 4_096
LOW_LIMIT = 4_096
"""Under this many open files a server may have to refuse clients."""


def raise_open_files_limit() -> None:
    """Allow this process as many open files as its hard limit; the processes it starts, too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # macOS and some containers refuse the value that they report.
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def read_open_files_limits() -> tuple[int, int]:
    """Return the soft and the hard limit; one that is infinite is a very large number."""
    found = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = (1 << 30 if limit == resource.RLIM_INFINITY else limit for limit in found)
    return soft, hard


def count_allowed_connections() -> int:
    """Return how many connections of clients a server may hold at once."""
    soft, _ = read_open_files_limits()
    left = max(soft - RESERVED, soft // 2)
    return min(MOST_CONNECTIONS, max(left // FILES_OF_A_CONNECTION, 1))
