"""Files and folders of sessions that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from services.audio.atomic import explain_disk_errors
from services.audio.inventory import temporary_name
from services.errors import InvalidRequestError, OutputError


@contextmanager
def new_output(target: Path, *, force: bool) -> Iterator[Path]:
    """Yield a path to write a file or a folder to, and rename it to `target` when the block ends.

    The path does not exist yet and is on the same disk. If the block fails, what it wrote is
    deleted and `target` stays as it was.

    Args:
        target: the file or folder; its parents are created.
        force: replace an existing one, with everything in it.

    Raises:
        InvalidRequestError: `target` exists, and `force` is not set.
        OutputError: it cannot be written.
    """
    draft = target.parent / temporary_name()
    with _explain(target):
        if not force and os.path.lexists(target):
            raise InvalidRequestError(
                f"{target} already exists. Name another folder, or pass --force to replace it."
            )
        target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _explain(target):
            yield draft
            _sync(draft)
            _replace(draft, target)
    finally:
        _delete(draft)


@contextmanager
def _explain(target: Path) -> Iterator[None]:
    try:
        with explain_disk_errors(target, "session"):
            yield
    except RuntimeError as error:
        if isinstance(error.__cause__, OSError):
            raise OutputError(str(error)) from error
        raise


def _replace(draft: Path, target: Path) -> None:
    if not os.path.lexists(target):
        draft.rename(target)
        return
    earlier = target.parent / temporary_name()
    target.rename(earlier)
    try:
        draft.rename(target)
    except OSError:
        earlier.rename(target)
        raise
    _delete(earlier)


def _delete(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _sync(path: Path) -> None:
    """Sync a file, or a folder with everything in it, to the disk."""
    if not path.is_dir():
        _sync_one(path)
        return
    for folder, _, files in os.walk(path):
        for file in files:
            _sync_one(Path(folder, file))
        _sync_one(Path(folder))


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
