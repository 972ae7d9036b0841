"""Files of attempts: hidden beside the take to be, until the one that counts gets its name."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from services.audio.inventory import scan


def draft_path(final: Path, nonce: str) -> Path:
    """Name the file that an attempt writes, in a folder of its own beside the take to be.

    The folder says whose it is, the file's name that it is not whole (services/audio/files.py).
    """
    return final.parent / f"{_prefix(final)}{nonce}" / f".dgx-{nonce}.part"


def clear_files(final: Path) -> None:
    """Remove the take of a row that is not completed, and the drafts of all its attempts."""
    final.unlink(missing_ok=True)
    clear_drafts(final)


def clear_drafts(final: Path) -> None:
    """Remove the drafts of all attempts at a take."""
    for draft in final.parent.glob(f"{_prefix(final)}*"):
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


def _prefix(final: Path) -> str:
    return f".dgx-{final.stem}."


def give_name(draft: Path, final: Path) -> None:
    """Rename durably; done already is as good: the commit after it may have to be tried again.

    Raises:
        OSError: the disk says no.
    """
    if draft.exists():
        draft.replace(final)
    descriptor = os.open(final.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if not final.exists():
        raise FileNotFoundError(2, os.strerror(2))
