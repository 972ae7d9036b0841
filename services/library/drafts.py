"""Files of attempts: hidden beside the take to be, until the one that counts gets its name.

What every job passes through takes paths as text: a `Path` interns each part of its name, and some
versions of Python (3.12) keep every interned text for the life of the process.
"""

# ruff: noqa: PTH105, PTH110, PTH118, PTH120, PTH122

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from services.audio.inventory import scan

StrPath = str | os.PathLike[str]


def draft_path(final: StrPath, nonce: str) -> str:
    """Name the file that an attempt writes, in a folder of its own beside the take to be.

    The folder says whose it is, the file's name that it is not whole (services/audio/files.py).
    """
    folder, name = os.path.split(os.fspath(final))
    return os.path.join(folder, f"{_prefix(name)}{nonce}", f".dgx-{nonce}.part")


def remove_draft(draft: StrPath) -> None:
    """Remove the folder of an attempt with what is in it, if it is there."""
    shutil.rmtree(os.path.dirname(draft), ignore_errors=True)


def clear_files(final: Path) -> None:
    """Remove the take of a row that is not completed, and the drafts of all its attempts."""
    final.unlink(missing_ok=True)
    clear_drafts(final)


def clear_drafts(final: Path) -> None:
    """Remove the drafts of all attempts at a take."""
    for draft in final.parent.glob(f"{_prefix(final.name)}*"):
        shutil.rmtree(draft, ignore_errors=True)


def clear_old_drafts(folder: Path, older_than_seconds: float) -> int:
    """Remove drafts that were not written to for so long, wherever they lie; how many.

    For folders that no store looks after: a killed worker left them, and its jobs went elsewhere.
    """
    latest = time.time() - older_than_seconds
    old = [file.path for file in scan(folder) if file.is_temporary and file.changed < latest]
    for draft in old:
        draft.unlink(missing_ok=True)
        with suppress(OSError):
            draft.parent.rmdir()
    return len(old)


def _prefix(name: str) -> str:
    return f".dgx-{os.path.splitext(name)[0]}."


def give_name(draft: StrPath, final: StrPath) -> None:
    """Rename durably; done already is as good: the commit after it may have to be tried again.

    Raises:
        OSError: the disk says no.
    """
    if os.path.exists(draft):
        os.replace(draft, final)
    descriptor = os.open(os.path.dirname(final), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if not os.path.exists(final):
        raise FileNotFoundError(2, os.strerror(2))
