"""Errors of the system that say what the machine lacks, and nothing about the job that met them."""

from __future__ import annotations

import errno

from services.errors import ShortageError

SHORTAGES = {
    errno.EMFILE: "This process has too many files open.",
    errno.ENFILE: "The machine has too many files open.",
    errno.EAGAIN: "The machine starts no more processes and threads.",
    errno.ENOMEM: "The machine is out of memory.",
    errno.ENOSPC: "A disk is full.",
    errno.EDQUOT: "The disk quota is used up.",
    errno.EROFS: "A disk cannot be written.",
    errno.EIO: "A disk reports an error.",
}
"""Number of the error -> what it says about the machine, without a path."""


_NO_THREAD = "can't start new thread"
_LONGEST_CHAIN = 20


def find_shortage(error: BaseException) -> ShortageError | None:
    """Return what the machine lacks, if this error or one that it comes from says so."""
    cause: BaseException | None = error
    for _ in range(_LONGEST_CHAIN):
        if cause is None:
            return None
        if isinstance(cause, OSError) and cause.errno in SHORTAGES:
            return ShortageError(SHORTAGES[cause.errno])
        if isinstance(cause, RuntimeError) and str(cause) == _NO_THREAD:
            return ShortageError(SHORTAGES[errno.EAGAIN])
        context = None if cause.__suppress_context__ else cause.__context__
        cause = cause.__cause__ or context
    return None
