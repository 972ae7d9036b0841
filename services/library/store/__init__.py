"""Stores of finished files: the output folder, or an S3 bucket (docs/files.md)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from services import storage
from services.errors import OutputError
from services.library.store.folder import FolderStore
from services.library.store.interface import FileStat, FileStore, JobLock, no_lock_needed, sha256_of

if TYPE_CHECKING:
    from services.config import Settings

__all__ = [
    "FileStat",
    "FileStore",
    "FolderStore",
    "JobLock",
    "open_store",
    "sha256_of",
    "try_remove_leftovers",
]

log = logging.getLogger(__name__)


def open_store(settings: Settings) -> FileStore:
    """Return the store of the settings; a bucket is not contacted yet."""
    if settings.file_store is None:
        return FolderStore(settings.output_dir)
    # obstore is an optional dependency, and slow to import.
    from services.config import ENV_FILE
    from services.library.store.bucket import BucketStore

    return BucketStore(
        settings.file_store,
        scratch=settings.output_dir,
        cache_bytes=settings.file_cache_mib * 2**20,
        env_file=settings.home / ENV_FILE,
    )


def try_remove_leftovers(store: FileStore, name: str, lock: JobLock = no_lock_needed) -> None:
    """Remove the files of earlier attempts; if that fails, leave them to `files check`."""
    try:
        store.remove_leftovers(name, lock)
    except (OutputError, ValueError, storage.StorageError) as error:
        log.warning("file not removed file=%s: %s", name, error)
