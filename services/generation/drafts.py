"""Files of attempts: hidden beside the take to be, until the one that counts gets its name."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def draft_path(final: Path, nonce: str) -> Path:
    """Name the file that an attempt writes, in a folder of its own beside the take to be.

    The folder says whose it is, the file's name that it is not whole (services/audio/files.py).
    """
    return final.parent / f"{_prefix(final)}{nonce}" / f".dgx-{nonce}.part"


def clear_files(final: Path) -> None:
    """Remove the take of a row that is not completed, and the drafts of all its attempts."""
    final.unlink(missing_ok=True)
    for draft in final.parent.glob(f"{_prefix(final)}*"):
        shutil.rmtree(draft, ignore_errors=True)


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
