"""Permissions of new files: private in the library, the umask's for files the caller names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_PRIVATE = 0o077

_callers_umask: ContextVar[int | None] = ContextVar("callers_umask", default=None)


def keep_files_private() -> None:
    """From now on let this process make files of mode 0600 and folders of mode 0700."""
    before = os.umask(_PRIVATE)
    if _callers_umask.get() is None:
        _callers_umask.set(before)


@contextmanager
def callers_umask() -> Iterator[None]:
    """Let new files have the permissions that the caller of this process has chosen for its own.

    It is for files that the caller names. The umask belongs to the whole process, so that no other
    thread may make files meanwhile.
    """
    umask = _callers_umask.get()
    if umask is None:
        yield
        return
    before = os.umask(umask)
    try:
        yield
    finally:
        os.umask(before)
