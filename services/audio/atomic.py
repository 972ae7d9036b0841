"""Files that appear whole or not at all.

The bytes go to a temporary file in the same folder, which is synced to disk and renamed; then the
folder is synced.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from services.audio.inventory import temporary_name

_ADVICE = {
    errno.ENOSPC: "Free some space on the disk and try again.",
    errno.EDQUOT: "Free some of your disk quota and try again.",
    errno.EFBIG: "Raise the file-size limit (ulimit -f) and try again.",
    errno.EACCES: "Choose a folder you can write to.",
    errno.EPERM: "Choose a folder you can write to.",
    errno.EROFS: "Choose a folder you can write to.",
    errno.ENOTDIR: "Choose a folder: part of the path is a file.",
    errno.EEXIST: "Choose a folder: part of the path is a file.",
    errno.EISDIR: "Choose a file name: the path is a folder.",
    errno.ENAMETOOLONG: "Choose a shorter file name.",
    errno.EIO: "The disk reports an error: check the disk before you try again.",
}


@dataclass(frozen=True, slots=True)
class WrittenFile:
    path: Path
    bytes: int
    sha256: str
    """Hexadecimal digest of the whole file."""
    frames: int
    """Samples per channel; 0 for a file that is not audio."""


class AtomicFile:
    """A file that is written under a temporary name and then published under its own."""

    def __init__(self, path: Path, temporary: Path, new_folders: list[Path], kind: str) -> None:
        self.path = path
        self.temporary = temporary
        """The path to write to, inside `explain_errors()`."""
        self._new_folders = new_folders
        self._kind = kind
        self._written_file: WrittenFile | None = None
        self._is_named = False

    def explain_errors(self) -> AbstractContextManager[None]:
        """Turn an OSError of the `with` block into a RuntimeError "Could not write ..."."""
        return explain_disk_errors(self.path, self._kind)

    def finish(self, frames: int, sha256: str | None = None) -> None:
        """Sync the temporary file to disk; nothing may be written to it afterwards.

        Args:
            frames: samples per channel in the file.
            sha256: hexadecimal digest of the file, if known.

        Raises:
            RuntimeError: the file cannot be written.
        """
        with self.explain_errors(), self.temporary.open("rb") as file:
            os.fsync(file.fileno())
            digest = sha256 or hashlib.file_digest(file, "sha256").hexdigest()
            size = os.fstat(file.fileno()).st_size
        self._written_file = WrittenFile(self.path, size, digest, frames)

    @property
    def written_file(self) -> WrittenFile:
        """The file after `finish`, described as it is once published."""
        if self._written_file is None:
            raise RuntimeError(f"{self.path} is not finished.")
        return self._written_file

    def publish(self) -> None:
        """Rename the finished file to its own name.

        Raises:
            RuntimeError: the file cannot be written.
        """
        path = self.written_file.path
        with self.explain_errors():
            self.temporary.replace(path)
            self._is_named = True
            # A new folder is an entry in its parent, which has to be synced as well.
            for folder in [path.parent, *(new.parent for new in self._new_folders)]:
                _sync_folder(folder)

    def withdraw(self) -> None:
        """Delete the file again if `publish` has renamed it."""
        if self._is_named:
            with suppress(OSError):
                self.path.unlink()


def publish_all(files: Sequence[AtomicFile]) -> None:
    """Publish several finished files, all or none.

    Raises:
        RuntimeError: one could not be published; the others have been deleted again.
    """
    with ExitStack() as undo:
        for one in files:
            undo.callback(one.withdraw)
            one.publish()
        undo.pop_all()


@contextmanager
def atomic_file(path: str | os.PathLike[str], kind: str) -> Iterator[AtomicFile]:
    """Create the folder and yield an `AtomicFile`; its temporary file is deleted at the end.

    Args:
        path: the file to write; a link of that name is replaced, not followed.
        kind: goes into messages: "Could not write {kind} file ...".

    Raises:
        RuntimeError: the folder cannot be created.
    """
    target = Path(path)
    temporary = target.parent / temporary_name()
    with explain_disk_errors(target, kind):
        new_folders = _make_folders(target.parent)
    try:
        yield AtomicFile(target, temporary, new_folders, kind)
    finally:
        with suppress(OSError):
            temporary.unlink()


def _make_folders(folder: Path) -> list[Path]:
    """Create a folder and its parents; return those that did not exist."""
    missing = [part for part in (folder, *folder.parents) if not part.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _sync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        # The folder may be written to but not read. The file is whole, only not synced.
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # the file system cannot sync folders
            raise
    finally:
        os.close(descriptor)


@contextmanager
def explain_disk_errors(path: Path, kind: str) -> Iterator[None]:
    """Turn an OSError into a RuntimeError that gives the reason and what to do about it."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        advice = _ADVICE.get(error.errno or 0, "Choose another folder and try again.")
        raise RuntimeError(f"Could not write {kind} file {path}: {reason}. {advice}") from error
