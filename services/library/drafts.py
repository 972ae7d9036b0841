"""Drafts: the unfinished files of attempts, hidden beside the place of the take.

Code that every job runs takes paths as text: `Path` interns each part of its name, and Python 3.12
keeps every interned string until the process ends.
"""

# ruff: noqa: PTH103, PTH105, PTH110, PTH118, PTH120, PTH122

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from services.audio.inventory import scan
from services.library.attachments import MIDI, attachment_name, stems_folder

StrPath = str | os.PathLike[str]


def draft_path(final: StrPath, nonce: str) -> str:
    """Return the path that an attempt writes to, in a folder of its own beside the take.

    The folder's name identifies the job and the attempt; the file's name marks it as unfinished.
    """
    folder, name = os.path.split(os.fspath(final))
    return os.path.join(folder, f"{_prefix(name)}{nonce}", f".dgx-{nonce}.part")


def remove_draft(draft: StrPath) -> None:
    """Remove the folder of an attempt, if there is one."""
    shutil.rmtree(os.path.dirname(draft), ignore_errors=True)


def remove_take_and_drafts(final: Path) -> None:
    """Remove a take, its stems and MIDI, and the drafts of all attempts at it."""
    final.unlink(missing_ok=True)
    Path(attachment_name(str(final), MIDI, "")).unlink(missing_ok=True)
    shutil.rmtree(stems_folder(str(final)), ignore_errors=True)
    remove_drafts(final)


def remove_drafts(final: Path) -> None:
    for draft in final.parent.glob(f"{_prefix(final.name)}*"):
        shutil.rmtree(draft, ignore_errors=True)


def remove_old_drafts(folder: Path, older_than_seconds: float) -> int:
    """Remove drafts below a folder that were not written to for so long; return their number."""
    latest = time.time() - older_than_seconds
    old = [file.path for file in scan(folder) if file.is_temporary and file.changed < latest]
    for draft in old:
        draft.unlink(missing_ok=True)
        with suppress(OSError):
            draft.parent.rmdir()
    return len(old)


def _prefix(name: str) -> str:
    return f".dgx-{os.path.splitext(name)[0]}."


def rename_draft(draft: StrPath, final: StrPath) -> None:
    """Rename a draft durably; does nothing when it was renamed before.

    The folder is made if it is missing; that it survives a power cut is up to a later rename of a
    file beside it.

    Raises:
        FileNotFoundError: neither file exists.
        OSError: the disk refuses.
    """
    # Repeatable, because the commit that follows may have to be tried again.
    if os.path.exists(draft):
        os.makedirs(os.path.dirname(final), exist_ok=True)
        os.replace(draft, final)
    descriptor = os.open(os.path.dirname(final), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if not os.path.exists(final):
        raise FileNotFoundError(2, os.strerror(2))
