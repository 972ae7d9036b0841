"""Removing old files of the store; the rows of their generations stay."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from services import storage
from services.audio.inventory import FileCleanup, StoredFile, plan_cleanup
from services.library.attachments import stems_folder
from services.library.reconcile import (
    MAKE_AGAIN,
    ROWS_A_TRANSACTION,
    is_claimed,
    is_lost_and_found,
    list_rows,
    record_missing,
    without_suffix,
)

if TYPE_CHECKING:
    from services.library.store import FileStore

_DAY_SECONDS = 86_400
_REMOVED = f"Its file was removed to free space. {MAKE_AGAIN}"


def clean_up_files(
    store: FileStore,
    *,
    older_than_days: float | None = None,
    max_bytes: int | None = None,
    dry_run: bool = True,
) -> FileCleanup:
    """Remove old files; their generations stay, and record that the file is gone.

    Stems and MIDI go with their take, and as a set.

    Args:
        store: holds the files.
        older_than_days: older files are removed.
        max_bytes: the oldest files are removed until the rest takes no more than this.
        dry_run: only return the plan.

    Raises:
        OutputError: a file cannot be removed.
        StorageError: the database cannot be used.
    """
    before = None if older_than_days is None else time.time() - older_than_days * _DAY_SECONDS
    own = [
        file
        for file in store.list()
        if not file.is_temporary and (file.is_in_day_folder or is_lost_and_found(file))
    ]
    owners = _find_owners({file.relative for file in own})
    free = [file for file in own if not owners.is_unfinished(file.relative)]
    plan = _with_whole_sets(
        plan_cleanup(free, written_before=before, max_bytes=max_bytes), free, owners
    )
    if dry_run:
        return plan
    # Rows first: a crash in between leaves unclaimed files, which `find_orphans` finds, and no row
    # that names a file which is gone.
    names = [file.relative for file in plan.files if owners.find(file.relative) is not None]
    now = datetime.now(UTC)
    for start in range(0, len(names), ROWS_A_TRANSACTION):
        with storage.get_session() as session:
            for name in names[start : start + ROWS_A_TRANSACTION]:
                if name in owners.takes:
                    record_missing(session, owners.takes[name], _REMOVED, now)
                else:
                    storage.delete_attachments(session, owners.attached[name], name)
    for file in plan.files:
        store.delete(file.relative)
        store.prune_folders(file.relative)
    return replace(plan, deleted=True)


@dataclass(slots=True)
class _Owners:
    """The generations that files belong to."""

    takes: dict[str, str]
    """Name of a finished take -> id of its generation."""
    attached: dict[str, str]
    """Name of a stem or MIDI file -> id of its generation."""
    unfinished: set[str]
    """Names of takes in the making, without suffix, and of the folders of their stems."""

    def find(self, name: str) -> str | None:
        return self.takes.get(name) or self.attached.get(name)

    def is_unfinished(self, name: str) -> bool:
        return is_claimed(name, self.unfinished)


def _find_owners(names: set[str]) -> _Owners:
    owners = _Owners({}, {}, set())
    for row, attached in list_rows():
        if row.is_complete and row.file_path in names:
            owners.takes[row.file_path] = row.id
        if row.is_complete:
            files = (one.file_path for one in attached)
            owners.attached |= dict.fromkeys((file for file in files if file in names), row.id)
        elif not row.is_finished:
            owners.unfinished |= {without_suffix(row.file_path), stems_folder(row.file_path)}
    return owners


def _with_whole_sets(plan: FileCleanup, files: list[StoredFile], owners: _Owners) -> FileCleanup:
    """Add the stems and MIDI of the takes of the plan, and the rest of a set that it begins."""
    chosen = {file.relative for file in plan.files}
    sets = {owners.find(name) for name in chosen} - {None}
    more = tuple(
        file
        for file in files
        if file.relative not in chosen and owners.attached.get(file.relative) in sets
    )
    return replace(
        plan,
        files=plan.files + more,
        kept_files=plan.kept_files - len(more),
        kept_bytes=plan.kept_bytes - sum(file.size for file in more),
    )
