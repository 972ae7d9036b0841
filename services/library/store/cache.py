"""Files on this machine that can be had again: made once, used again, and no more than fit."""

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
"""In the output folder."""

IN_USE_SECONDS = 60.0
"""What was asked for so lately is about to be opened, and does not go."""

_UNFINISHED_SECONDS = 3600.0


class FileCache:
    """A folder of files, each under a key that another content would not have."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes

    def get(
        self, key: str, fetch: Callable[[], Iterator[bytes]], sha256: str | None = None
    ) -> Path:
        """Give the copy of a key, fetched if it is not here; those not used for long may go.

        Args:
            key: a plain file name.
            fetch: gives the bytes.
            sha256: what they must have; None takes what comes.

        Raises:
            OutputError: the content is another, or the disk says no.
        """
        return self.get_made(key, lambda path: self._download(path, fetch, sha256))

    def get_made(self, key: str, make: Callable[[Path], None]) -> Path:
        """As `get`, of a file that is made here.

        Args:
            key: a plain file name.
            make: writes the file, whole or not at all, under the name it is given.
        """
        path = self._folder / key
        try:
            # The time of the last use is what the clean-up goes by.
            os.utime(path)
        except FileNotFoundError:
            make(path)
            self._make_room()
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
                        f"What was downloaded has the SHA-256 {found}, and {sha256} was written. "
                        "The file in the bucket is damaged or another: `dgx-music files check "
                        "--deep` finds all that are."
                    )
                staged.finish(frames=0, sha256=found)
                staged.publish()
        except RuntimeError as error:
            raise OutputError(str(error)) from error

    def _make_room(self) -> None:
        now = time.time()
        files = sorted(scan(self._folder), key=lambda file: file.changed)
        total = sum(file.size for file in files)
        for file in files:
            age = now - file.changed
            is_left_over = file.is_temporary and age > _UNFINISHED_SECONDS
            is_too_much = total > self._max_bytes and age > IN_USE_SECONDS
            if is_left_over or (is_too_much and not file.is_temporary):
                with suppress(OSError):
                    file.path.unlink(missing_ok=True)
                    total -= file.size
