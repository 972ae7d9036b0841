"""A store in a folder: on a disk of this machine, or on a share that all machines mount."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path, PurePath

from services.audio.files import AudioFileManager
from services.audio.inventory import StoredFile, scan
from services.errors import FileDamagedError, OutputError
from services.library.drafts import StrPath, remove_take_and_drafts, rename_draft
from services.library.store.interface import FileStat, JobLock, no_lock_needed

_PIECE = 256 * 1024
_MOST_REMEMBERED = 10_000


class FolderStore:
    """The output folder. Publishing renames the draft, so there is nothing to upload."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._root = str(folder)
        # Created, the folder would hide that its disk is not mounted (see `check`).
        self._files = AudioFileManager(folder, create=False)
        self._unchanged: dict[str, tuple[str, int, int, int]] = {}
        """Name -> digest, inode, size and time of files that were found unchanged."""

    @property
    def location(self) -> str:
        return str(self._folder)

    def display_path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def check(self) -> None:
        if not self._folder.is_dir():
            raise OutputError(
                f"The output folder {self._folder} is not there. Mount its disk, or set "
                "DGX_MUSIC_OUTPUT_DIR to the folder that holds the files."
            )

    def final_name(self, name: str, nonce: str) -> str:  # noqa: ARG002  (all attempts use one name)
        """Return the row's own name: a rename replaces the file of an earlier attempt."""
        return name

    def upload(self, draft: StrPath, final_name: str, sha256: str) -> None:
        """Do nothing: the draft is in the store's folder already."""

    def publish(self, draft: StrPath, final_name: str) -> None:
        final = f"{self._root}/{final_name}"
        try:
            rename_draft(draft, final)
        except OSError as error:
            raise OutputError(f"Could not write {final}: {error.strerror}.") from error

    def delete_upload(self, final_name: str) -> None:
        """Do nothing: another attempt may have published a file of this name."""

    def remove_leftovers(self, name: str, lock: JobLock = no_lock_needed) -> None:
        final = self._files.resolve(self._folder / name)
        # Locked during the removal: a take that another attempt publishes has the same name.
        with lock() as holds_job:
            if not holds_job:
                return
            try:
                remove_take_and_drafts(final)
            except OSError as error:
                raise OutputError(f"{final} cannot be removed: {error.strerror}.") from error

    def stat(self, name: str) -> FileStat:
        found = self._existing(name).stat()
        return _stat_of(found)

    def exists(self, name: str) -> bool:
        return self._files.resolve(self._folder / name).exists()

    def read_range(self, name: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        return _pieces(self._existing(name), start, end)

    def local_copy(self, name: str, sha256: str | None = None) -> Path:
        path = self._existing(name)
        if sha256 is not None:
            self._require_unchanged(name, path, sha256)
        return path

    def _require_unchanged(self, name: str, path: Path, sha256: str) -> None:
        """Check that a file is the one that was written; it is read at first, and when it changed.

        Raises:
            FileDamagedError: it is another.
        """
        found = path.stat()
        seen = (sha256, found.st_ino, found.st_size, found.st_mtime_ns)
        if self._unchanged.get(name) == seen:
            return
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != sha256:
            raise FileDamagedError(
                f"The file {PurePath(name).name} is damaged: it is not the one that was written. "
                "The same prompt, duration, seed and model make it again."
            )
        if len(self._unchanged) >= _MOST_REMEMBERED:
            self._unchanged.clear()
        self._unchanged[name] = seen

    def list(self) -> Iterator[StoredFile]:
        return scan(self._folder)

    def delete(self, name: str) -> bool:
        path = self._folder / name
        try:
            return self._files.delete_file(path)
        except OSError as error:
            raise OutputError(f"{path} cannot be removed: {error.strerror}.") from error

    def move(self, name: str, target: str) -> None:
        source, wanted = self._folder / name, self._folder / target
        try:
            self._files.move_file(source, wanted)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise OutputError(f"{source} cannot be moved to {wanted}: {error.strerror}.") from error

    def prune_folders(self, name: str) -> None:
        # Today's folder stays: a job may be about to write to it.
        folder = (self._folder / name).parent
        today = self._folder / f"{datetime.now(UTC):%Y/%m/%d}"
        with suppress(OSError):
            while folder not in {self._folder, today}:
                folder.rmdir()
                folder = folder.parent

    def _existing(self, name: str) -> Path:
        path = self._files.resolve(self._folder / name)
        if not path.is_file():
            raise FileNotFoundError(f"No such file: {path}")
        return path


def _stat_of(found: os.stat_result) -> FileStat:
    return FileStat(
        size=found.st_size,
        etag=f"{found.st_size:x}-{found.st_mtime_ns:x}",
        modified=datetime.fromtimestamp(found.st_mtime, UTC),
    )


def _pieces(path: Path, start: int, end: int | None) -> Iterator[bytes]:
    # Opened with the first piece, so that an iterator which is never read leaves no file open.
    with path.open("rb") as file:
        file.seek(start)
        while end is None or file.tell() < end:
            piece = file.read(_PIECE if end is None else min(_PIECE, end - file.tell()))
            if not piece:
                return
            yield piece
