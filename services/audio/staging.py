"""Files that appear whole or not at all.

What is written goes to a temporary name in the folder of the file; it is brought to the disk and
renamed, and the folder is brought to the disk too.
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
    errno.EACCES: "Choose a folder you may write to.",
    errno.EPERM: "Choose a folder you may write to.",
    errno.EROFS: "Choose a folder you may write to.",
    errno.ENOTDIR: "Choose a folder: part of the path is a file.",
    errno.EEXIST: "Choose a folder: part of the path is a file.",
    errno.EISDIR: "Choose a file name: the path is a folder.",
    errno.ENAMETOOLONG: "Choose a shorter file name.",
    errno.EIO: "The disk reports a fault: check it before you try again.",
}


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A file that is on the disk."""

    path: Path
    bytes: int
    sha256: str
    """Hexadecimal digest of the whole file."""
    frames: int


class Staged:
    """A file under a temporary name, from its first byte to its own name."""

    def __init__(self, path: Path, temporary: Path, made: list[Path], kind: str) -> None:
        self.path = path
        self.temporary = temporary
        """Where to write it, within `writing()`."""
        self._made = made
        self._kind = kind
        self._written: WrittenFile | None = None
        self._named = False

    def writing(self) -> AbstractContextManager[None]:
        """A block in which an OSError becomes "Could not write ...", a RuntimeError."""
        return disk_errors(self.path, self._kind)

    def finish(self, frames: int, sha256: str | None = None) -> None:
        """Bring what was written to the disk; nothing may be added afterwards.

        Args:
            frames: samples per channel in the file.
            sha256: the digest if it is known; otherwise it is read from the file.

        Raises:
            RuntimeError: the disk says no.
        """
        with self.writing(), self.temporary.open("rb") as file:
            os.fsync(file.fileno())
            digest = sha256 or hashlib.file_digest(file, "sha256").hexdigest()
            size = os.fstat(file.fileno()).st_size
        self._written = WrittenFile(self.path, size, digest, frames)

    @property
    def written(self) -> WrittenFile:
        """The finished file, as it is once it is published."""
        if self._written is None:
            raise RuntimeError(f"{self.path} is not finished.")
        return self._written

    def publish(self) -> None:
        """Give the finished file its name.

        Raises:
            RuntimeError: the disk says no.
        """
        path = self.written.path
        with self.writing():
            self.temporary.replace(path)
            self._named = True
            # A new folder is an entry in the one above, which has to reach the disk as well.
            for folder in [path.parent, *(made.parent for made in self._made)]:
                _sync_folder(folder)

    def withdraw(self) -> None:
        """Remove the file again if `publish` got as far as giving it its name."""
        if self._named:
            with suppress(OSError):
                self.path.unlink()


def publish_all(staged: Sequence[Staged]) -> None:
    """Give several finished files their names, all or none.

    Raises:
        RuntimeError: the disk says no; those that had their names lose them again.
    """
    with ExitStack() as undo:
        for one in staged:
            undo.callback(one.withdraw)
            one.publish()
        undo.pop_all()


@contextmanager
def staged_file(path: str | os.PathLike[str], kind: str) -> Iterator[Staged]:
    """Make the folder and a temporary name; what is not published by the end is removed.

    Args:
        path: the file to be; a link of that name is replaced, not followed.
        kind: for messages: "Could not write {kind} file ...".

    Raises:
        RuntimeError: the folder cannot be made.
    """
    target = Path(path)
    temporary = target.parent / temporary_name()
    with disk_errors(target, kind):
        made = _make_folder(target.parent)
    try:
        yield Staged(target, temporary, made, kind)
    finally:
        with suppress(OSError):
            temporary.unlink()


def _make_folder(folder: Path) -> list[Path]:
    """Make a folder with those above it; return the new ones."""
    missing = [part for part in (folder, *folder.parents) if not part.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _sync_folder(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        # A folder one may write to but not read; the file in it is whole all the same.
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # what file systems say that do not sync folders
            raise
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors(path: Path, kind: str) -> Iterator[None]:
    """Turn an OSError into a RuntimeError with the reason and what to do about it."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        advice = _ADVICE.get(error.errno or 0, "Choose another place and try again.")
        raise RuntimeError(f"Could not write {kind} file {path}: {reason}. {advice}") from error
