"""What a store of finished files can do; names are relative, with slashes, as rows have them."""

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

Holding = Callable[[], AbstractContextManager[bool]]
"""A block in which the row is locked, and whether the caller still holds it."""


def nobody_else() -> AbstractContextManager[bool]:
    """Stand for a row that is finished without a file: no attempt can publish it any more."""
    return nullcontext(enter_result=True)


@dataclass(frozen=True, slots=True)
class FileStat:
    """A file as it is now."""

    size: int
    """Bytes."""
    etag: str
    """Another one when the file was replaced; without quotes."""
    modified: datetime
    """In UTC."""
    sha256: str | None = None
    """Of what was written, as the store was told then; None where it keeps no such thing."""


@runtime_checkable
class FileStore(Protocol):
    """Finished files, from the attempt that makes one to the person who hears it.

    An attempt writes a draft in the output folder, whatever the store is. `bring` takes it to the
    store before the row is locked, `publish` names it while the row is locked, and a row has the
    name that `final_name` gives.

    Whatever takes a name raises ValueError for one that leads out of the store, and OutputError
    when the store cannot be used. Reading raises FileNotFoundError where there is no such file.
    """

    @property
    def where(self) -> str:
        """The folder or the address, for people."""
        ...

    def shown(self, name: str) -> str:
        """A file's path on this machine, or its address, for people; the name is not looked at."""
        ...

    def check(self) -> None:
        """Raise an OutputError when the store cannot be used, with what to do about it."""
        ...

    def final_name(self, name: str, nonce: str) -> str:
        """The name of a file once an attempt has published it.

        Args:
            name: the row's own, of before.
            nonce: of the attempt; letters and digits, never used before.
        """
        ...

    def bring(self, draft: StrPath, final_name: str, sha256: str) -> None:
        """Take a finished draft to the store, whole or not at all; its row is not locked."""
        ...

    def publish(self, draft: StrPath, final_name: str) -> None:
        """Have the file under its name; done already is as good. Its row is locked meanwhile."""
        ...

    def withdraw(self, final_name: str) -> None:
        """Remove what an attempt brought that will never be published."""
        ...

    def clear(self, name: str, holding: Holding = nobody_else) -> None:
        """Remove what all earlier attempts at an unpublished job left, here and in the store.

        Nothing is removed when the caller turns out to have lost the job.
        """
        ...

    def stat(self, name: str) -> FileStat:
        """Look at one file."""
        ...

    def exists(self, name: str) -> bool:
        """Whether something has that name."""
        ...

    def read_range(self, name: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` up to, without, `end`, in pieces; what lies past the end is not.

        That there is no such file is said at once, not with the first piece.
        """
        ...

    def local_copy(self, name: str, sha256: str | None = None) -> Path:
        """A path on this machine to read the file from; not to be changed.

        Open it within a minute: a copy that was not asked for lately may go.

        Args:
            name: of the file.
            sha256: what a download must have; another is an OutputError.
        """
        ...

    def list(self) -> Iterator[StoredFile]:
        """Every file; only the names, sizes and times of them count, not `path`."""
        ...

    def delete(self, name: str) -> bool:
        """Remove a file; False if there was none."""
        ...

    def move(self, name: str, target: str) -> None:
        """Give a file another name; FileNotFoundError without it."""
        ...

    def prune(self, name: str) -> None:
        """Remove the folders that became empty when this file went."""
        ...


def sha256_of(store: FileStore, name: str) -> str:
    """The digest of a file as it is now, as hexadecimal; it is read from end to end."""
    digest = hashlib.sha256()
    for piece in store.read_range(name):
        digest.update(piece)
    return digest.hexdigest()
