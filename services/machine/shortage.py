"""Errors of the system that say what the machine lacks, and nothing about the job that met them."""

from __future__ import annotations

import errno

from services.errors import ShortageError

SHORTAGES = {
    errno.EMFILE: "This process has too many files open.",
    errno.ENFILE: "The machine has too many files open.",
    errno.EAGAIN: "The machine starts no more processes.",
    errno.ENOMEM: "The machine is out of memory.",
    errno.ENOSPC: "A disk is full.",
    errno.EDQUOT: "The disk quota is used up.",
    errno.EROFS: "A disk cannot be written.",
    errno.EIO: "A disk reports an error.",
}
"""Number of the error -> what it says about the machine, without a path."""


def find_shortage(error: BaseException) -> ShortageError | None:
    """Return what the machine lacks, if this error or one that it comes from says so."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in SHORTAGES:
            return ShortageError(SHORTAGES[cause.errno])
        cause = cause.__cause__ or cause.__context__
    return None
