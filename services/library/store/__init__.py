"""Where finished files are kept: the output folder, or a bucket that speaks S3 (docs/files.md)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from services import storage
from services.errors import OutputError
from services.library.store.folder import FolderStore
from services.library.store.interface import FileStat, FileStore, Holding, nobody_else, sha256_of

if TYPE_CHECKING:
    from services.config import Settings

__all__ = [
    "FileStat",
    "FileStore",
    "FolderStore",
    "Holding",
    "clear_quietly",
    "open_store",
    "sha256_of",
]

log = logging.getLogger(__name__)


def open_store(settings: Settings) -> FileStore:
    """Give the store of the settings; nothing is asked of a bucket yet (`check` does)."""
    if settings.file_store is None:
        return FolderStore(settings.output_dir)
    # Its library is an extra, and slow to import.
    from services.config import ENV_FILE
    from services.library.store.bucket import BucketStore

    return BucketStore(
        settings.file_store,
        scratch=settings.output_dir,
        cache_bytes=settings.file_cache_mib * 2**20,
        env_file=settings.home / ENV_FILE,
    )


def clear_quietly(store: FileStore, name: str, holding: Holding = nobody_else) -> None:
    """Remove what attempts left; what cannot be removed now is left to `files check`.

    The row says already what became of the job, and a file that nobody claims misleads nobody.
    """
    try:
        store.clear(name, holding)
    except (OutputError, ValueError, storage.StorageError) as error:
        log.warning("left where it is file=%s: %s", name, error)
