"""Files in a folder: on a disk of this machine, or one that all machines have mounted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from services.audio.files import AudioFileManager
from services.audio.inventory import StoredFile, scan
from services.errors import OutputError
from services.library.drafts import StrPath, clear_files, give_name
from services.library.store.interface import FileStat, Holding, nobody_else

_PIECE = 256 * 1024


class FolderStore:
    """The output folder: a draft is renamed, which needs no bringing and no withdrawing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._root = str(folder)
        self._files = AudioFileManager(folder)

    @property
    def where(self) -> str:
        """The folder, for people."""
        return str(self._folder)

    def shown(self, name: str) -> str:
        """The path of a file."""
        return f"{self._root}/{name}"

    def check(self) -> None:
        """Raise an OutputError when the folder is not there."""
        if not self._folder.is_dir():
            raise OutputError(
                f"The output folder {self._folder} is not there. Mount its disk, or say in "
                "DGX_MUSIC_OUTPUT_DIR where the files are."
            )

    def final_name(self, name: str, nonce: str) -> str:  # noqa: ARG002  (all attempts have one)
        """The row's own name: a rename replaces what an attempt before left."""
        return name

    def bring(self, draft: StrPath, final_name: str, sha256: str) -> None:
        """Do nothing: the draft lies beside the take to be."""

    def publish(self, draft: StrPath, final_name: str) -> None:
        """Rename the draft durably."""
        final = f"{self._root}/{final_name}"
        try:
            give_name(draft, final)
        except OSError as error:
            raise OutputError(f"Could not write {final}: {error.strerror}.") from error

    def withdraw(self, final_name: str) -> None:
        """Do nothing: the name is that of all attempts, and `clear` knows whose turn it is."""

    def clear(self, name: str, holding: Holding = nobody_else) -> None:
        """Remove the take and all drafts while the row is locked.

        The take of another attempt has the same name, so that it may not appear meanwhile.
        """
        final = self._files.resolve(self._folder / name)
        with holding() as is_ours:
            if not is_ours:
                return
            try:
                clear_files(final)
            except OSError as error:
                raise OutputError(f"{final} cannot be removed: {error.strerror}.") from error

    def stat(self, name: str) -> FileStat:
        """Look at one file."""
        found = self._existing(name).stat()
        return _stat_of(found)

    def exists(self, name: str) -> bool:
        """Whether something has that name."""
        return self._files.resolve(self._folder / name).exists()

    def read_range(self, name: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` up to, without, `end`."""
        return _pieces(self._existing(name), start, end)

    def local_copy(self, name: str, sha256: str | None = None) -> Path:  # noqa: ARG002
        """The file itself."""
        return self._existing(name)

    def list(self) -> Iterator[StoredFile]:
        """Every file under the folder, temporary ones too."""
        return scan(self._folder)

    def delete(self, name: str) -> bool:
        """Remove a file; False if there was none."""
        path = self._folder / name
        try:
            return self._files.delete_file(path)
        except OSError as error:
            raise OutputError(f"{path} cannot be removed: {error.strerror}.") from error

    def move(self, name: str, target: str) -> None:
        """Rename a file."""
        source, wanted = self._folder / name, self._folder / target
        try:
            self._files.move_file(source, wanted)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise OutputError(f"{source} cannot be moved to {wanted}: {error.strerror}.") from error

    def prune(self, name: str) -> None:
        """Remove the folders that became empty; today's may be in use this very moment."""
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
    # Opened with the first piece, so that what is never read leaves nothing open.
    with path.open("rb") as file:
        file.seek(start)
        while end is None or file.tell() < end:
            piece = file.read(_PIECE if end is None else min(_PIECE, end - file.tell()))
            if not piece:
                return
            yield piece
