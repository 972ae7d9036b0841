"""A cache of files that can be downloaded or made again, with a size limit."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from services.audio.atomic import atomic_file
from services.audio.inventory import scan
from services.errors import OutputError

CACHE_FOLDER = ".dgx-cache"
"""Name of the cache in the output folder."""

IN_USE_SECONDS = 60.0
"""A file that was requested this recently may be about to be opened, and is kept."""

_UNFINISHED_SECONDS = 3600.0


class FileCache:
    """A folder of files, each with a key that identifies its content."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes

    def get(
        self, key: str, fetch: Callable[[], Iterator[bytes]], sha256: str | None = None
    ) -> Path:
        """Return the file of a key, downloaded if it is missing; may delete unused files.

        Args:
            key: a plain file name.
            fetch: returns the bytes.
            sha256: of the bytes; None accepts any.

        Raises:
            OutputError: the SHA-256 differs, or the disk refuses.
        """
        return self.get_or_make(key, lambda path: self._download(path, fetch, sha256))

    def get_or_make(self, key: str, make: Callable[[Path], None]) -> Path:
        """Return the file of a key, made if it is missing; may delete unused files.

        Args:
            key: a plain file name.
            make: writes the file to the given path, whole or not at all.
        """
        path = self._folder / key
        try:
            # The clean-up goes by the time of the last use.
            os.utime(path)
        except FileNotFoundError:
            make(path)
            self._delete_unused()
        return path

    def _download(
        self, path: Path, fetch: Callable[[], Iterator[bytes]], sha256: str | None
    ) -> None:
        digest = hashlib.sha256()
        pieces = fetch()
        try:
            with atomic_file(path, "downloaded") as staged:
                with staged.explain_errors(), staged.temporary.open("wb") as out:
                    for piece in pieces:
                        digest.update(piece)
                        out.write(piece)
                found = digest.hexdigest()
                if sha256 not in {None, found}:
                    raise OutputError(
                        f"The download has the SHA-256 {found} instead of {sha256}. The file in "
                        "the bucket is damaged or was replaced: `dgx-music files check --deep` "
                        "finds all such files."
                    )
                staged.finish(frames=0, sha256=found)
                staged.publish()
        except RuntimeError as error:
            raise OutputError(str(error)) from error

    def _delete_unused(self) -> None:
        now = time.time()
        files = sorted(scan(self._folder), key=lambda file: file.changed)
        total = sum(file.size for file in files)
        for file in files:
            age = now - file.changed
            is_abandoned = file.is_temporary and age > _UNFINISHED_SECONDS
            is_unused = total > self._max_bytes and age > IN_USE_SECONDS
            if is_abandoned or (is_unused and not file.is_temporary):
                with suppress(OSError):
                    file.path.unlink(missing_ok=True)
                    total -= file.size
