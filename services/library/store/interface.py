"""The interface of a store of finished files. Names are relative, with slashes, as in the rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from services.audio.inventory import StoredFile
    from services.library.drafts import StrPath

JobLock = Callable[[], AbstractContextManager[bool]]
"""Locks the job's row during a `with` block, which gets whether the caller still holds the job."""


def no_lock_needed() -> AbstractContextManager[bool]:
    """The lock of a job that is finished without a file: no attempt can publish it any more."""
    return nullcontext(enter_result=True)


@dataclass(frozen=True, slots=True)
class FileStat:
    """The state of a stored file."""

    size: int
    """Bytes."""
    etag: str
    """Changes when the file is replaced; without quotes."""
    modified: datetime
    """In UTC."""
    sha256: str | None = None
    """Recorded when the file was written; None if the store does not record it."""


@runtime_checkable
class FileStore(Protocol):
    """A place for finished files.

    An attempt writes a draft in the output folder, whatever the store is. `upload` copies the draft
    to the store before the row is locked, `publish` gives it its name while the row is locked, and
    the row records the name from `final_name`.

    Every method that takes a name raises ValueError for a name that leads out of the store, and
    OutputError when the store cannot be used. Reading a missing file raises FileNotFoundError.
    """

    @property
    def location(self) -> str:
        """The folder or the URL, for display."""
        ...

    def display_path(self, name: str) -> str:
        """Return a file's path on this machine or its URL, for display; the name is not checked."""
        ...

    def check(self) -> None:
        """Raise an OutputError with advice when the store cannot be used."""
        ...

    def final_name(self, name: str, nonce: str) -> str:
        """Return the name that a file gets when an attempt publishes it.

        Args:
            name: the row's, before the job is completed.
            nonce: of the attempt; letters and digits, unique.
        """
        ...

    def upload(self, draft: StrPath, final_name: str, sha256: str) -> None:
        """Copy a finished draft to the store, whole or not at all; the row is not locked."""
        ...

    def publish(self, draft: StrPath, final_name: str) -> None:
        """Give the uploaded file its name; may be repeated. Called while the row is locked."""
        ...

    def delete_upload(self, final_name: str) -> None:
        """Remove an upload that will never be published."""
        ...

    def remove_leftovers(self, name: str, lock: JobLock = no_lock_needed) -> None:
        """Remove the files of all earlier attempts at an unpublished job, here and in the store.

        Nothing is removed if the lock finds that the caller has lost the job.
        """
        ...

    def stat(self, name: str) -> FileStat: ...

    def exists(self, name: str) -> bool: ...

    def read_range(self, name: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Return the bytes from `start` to before `end`, or the end of the file, in pieces.

        A missing file raises FileNotFoundError at once, not with the first piece.
        """
        ...

    def local_copy(self, name: str, sha256: str | None = None) -> Path:
        """Return a path on this machine to read the file from; the file must not be changed.

        Open it within a minute: the cache deletes downloads that were not used recently.

        Args:
            name: of the file.
            sha256: of the file; one with another raises an OutputError, from a folder
                FileDamagedError.
        """
        ...

    def list(self) -> Iterator[StoredFile]:
        """Yield every file; their `path` has no meaning outside the store."""
        ...

    def delete(self, name: str) -> bool:
        """Remove a file; return False if there was none."""
        ...

    def move(self, name: str, target: str) -> None:
        """Rename a file; raises FileNotFoundError if it is missing."""
        ...

    def prune_folders(self, name: str) -> None:
        """Remove the folders that became empty when this file was removed."""
        ...


def sha256_of(store: FileStore, name: str) -> str:
    """Read a whole file and return its digest, hexadecimal."""
    digest = hashlib.sha256()
    for piece in store.read_range(name):
        digest.update(piece)
    return digest.hexdigest()
