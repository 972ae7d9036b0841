"""Comparing the stored files with the rows: finding orphans and repairing them.

Only files in day folders (`YYYY/MM/DD`), inputs and `lost-and-found` belong to the project. Other
files in the store are neither reported nor changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from itertools import chain, count
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from services import storage
from services.errors import OutputError
from services.library.attachments import stems_folder
from services.library.input_names import input_hashes, is_unused_input
from services.library.store.interface import sha256_of

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from services.audio.inventory import StoredFile
    from services.library.store import FileStore

FILE_MISSING = "file_missing"
"""Key in the metadata of a completed generation whose file is gone: since when, and its size."""

LOST_AND_FOUND = "lost-and-found"
"""Folder in the store for files without a generation."""

GRACE_SECONDS = 3600.0
"""A younger file may belong to a running job."""

INPUT_GRACE_SECONDS = 86_400.0
"""A younger input may belong to a request that has not arrived yet."""

_PAGE = 1000
ROWS_A_TRANSACTION = 500
MAKE_AGAIN = "The same prompt, duration, seed and model make it again."
_GONE = f"Its file is no longer in the output folder. {MAKE_AGAIN}"


class OrphanKind(StrEnum):
    """The ways in which files and generations disagree."""

    MISSING = "missing"
    """A completed generation has no file."""
    RETURNED = "returned"
    """A file that was missing is back, unchanged."""
    CHANGED = "changed"
    """The file is not the one that was written."""
    UNREACHABLE = "unreachable"
    """The file cannot be read, or its path leads out of the store."""
    UNCLAIMED = "unclaimed"
    """A file that belongs to no generation."""
    TEMPORARY = "temporary"
    """A file that was never finished."""


@dataclass(frozen=True, slots=True)
class Orphan:
    """A file without a generation, or a generation without its file."""

    kind: OrphanKind
    path: str
    """Name in the store."""
    size_bytes: int
    detail: str
    generation_id: str | None = None
    is_attachment: bool = False
    """Whether it is a stem or the MIDI file of its generation."""


@dataclass(frozen=True, slots=True)
class FileCheck:
    """The result of a comparison: the numbers of files and generations, and the orphans."""

    files: int
    generations: int
    orphans: tuple[Orphan, ...]


def has_take(row: storage.Generation, metadata: Mapping[str, Any] | None = None) -> bool:
    """Whether the generation is completed and its file is not recorded as missing.

    Args:
        row: of the generation.
        metadata: of the row, if it was parsed already.
    """
    if not row.is_complete:
        return False
    return FILE_MISSING not in (row.get_metadata() if metadata is None else metadata)


def find_orphans(store: FileStore, *, deep: bool = False) -> FileCheck:
    """Compare all files with all generations, without changing anything.

    Args:
        store: holds the files.
        deep: also read the files and compare their SHA-256.

    Raises:
        OutputError: files are missing because the store cannot be used.
        StorageError: the database cannot be read.
    """
    # The files are listed before the rows are read: a row is older than its file, so a job that is
    # accepted meanwhile cannot make its file look unclaimed.
    files = {file.relative: file for file in store.list() if not is_lost_and_found(file)}
    claims: set[str] = set()
    orphans: list[Orphan] = []
    used_inputs: set[str] = set()
    rows = 0
    for row, attached in list_rows():
        rows += 1
        used_inputs |= set(input_hashes(row.get_metadata()).values())
        if row.is_failed or row.is_cancelled:
            continue
        claims.add(without_suffix(row.file_path))
        if not row.is_complete:
            # They may be published at this moment.
            claims.add(stems_folder(row.file_path))
            continue
        claims |= {one.file_path for one in attached}
        examined = [_examine(row, files.get(row.file_path), store, deep=deep)]
        examined += [
            _examine_attachment(one, files.get(one.file_path), store, deep=deep) for one in attached
        ]
        orphans += [orphan for orphan in examined if orphan is not None]
    if orphans:
        store.check()
    latest = time.time() - GRACE_SECONDS
    orphans += [
        orphan
        for file in files.values()
        if file.changed < latest and (orphan := _orphan_of(file, claims)) is not None
    ]
    latest_input = time.time() - INPUT_GRACE_SECONDS
    orphans += [
        Orphan(OrphanKind.UNCLAIMED, file.relative, file.size, "No generation names this input.")
        for file in files.values()
        if file.changed < latest_input and is_unused_input(file.relative, used_inputs)
    ]
    return FileCheck(len(files), rows, tuple(sorted(orphans, key=lambda one: (one.kind, one.path))))


def repair_orphans(store: FileStore, findings: FileCheck) -> list[tuple[Orphan, str | None]]:
    """Repair orphans; return each with what was done, or None where nothing was done.

    A generation without its file is kept, and the loss is recorded in its row. A file without a
    generation is moved to `lost-and-found`. A stem or MIDI file that is gone loses its own row.
    Only unfinished files are deleted.

    Raises:
        OutputError: a file cannot be moved or removed.
        StorageError: the database cannot be written.
    """
    now = datetime.now(UTC)
    actions: dict[OrphanKind, Callable[[Session, Orphan], str | None]] = {
        OrphanKind.MISSING: lambda session, one: (
            _forget_attachment(session, one)
            if one.is_attachment
            else record_missing(session, one.generation_id, _GONE, now)
        ),
        OrphanKind.RETURNED: _record_returned,
    }
    done: dict[Orphan, str | None] = {}
    of_rows = [orphan for orphan in findings.orphans if orphan.kind in actions]
    for start in range(0, len(of_rows), ROWS_A_TRANSACTION):
        with storage.get_session() as session:
            for orphan in of_rows[start : start + ROWS_A_TRANSACTION]:
                done[orphan] = actions[orphan.kind](session, orphan)
    for orphan in findings.orphans:
        if orphan.kind is OrphanKind.UNCLAIMED:
            done[orphan] = _move_to_lost_and_found(store, orphan)
        elif orphan.kind is OrphanKind.TEMPORARY:
            store.delete(orphan.path)
            store.prune_folders(orphan.path)
            done[orphan] = "deleted"
    return [(orphan, done.get(orphan)) for orphan in findings.orphans]


def list_rows() -> Iterator[tuple[storage.Generation, list[storage.Attachment]]]:
    """Yield every row with its attachments, in short transactions; later rows are left out."""
    cursor = None
    while True:
        with storage.get_session(read_only=True) as session:
            page = storage.list_generations(session, limit=_PAGE, cursor=cursor)
            attached = storage.get_attachments(session, [row.id for row in page.items])
        for row in page.items:
            yield row, attached.get(row.id, [])
        cursor = page.next_cursor
        if cursor is None:
            return


def _examine(
    row: storage.Generation, file: StoredFile | None, store: FileStore, *, deep: bool
) -> Orphan | None:
    known_missing = not has_take(row)
    expected = (row.file_size_bytes, row.file_sha256)
    found = _compare(store, row.file_path, file, expected, deep=deep or known_missing)
    if found is None and known_missing:
        size = store.stat(row.file_path).size if file is None else file.size
        found = Orphan(OrphanKind.RETURNED, row.file_path, size, "The file is back.")
    elif found is not None and found.kind is OrphanKind.MISSING and known_missing:
        return None
    return None if found is None else replace(found, generation_id=row.id)


def _examine_attachment(
    attached: storage.Attachment, file: StoredFile | None, store: FileStore, *, deep: bool
) -> Orphan | None:
    expected = (attached.bytes, attached.sha256)
    found = _compare(store, attached.file_path, file, expected, deep=deep)
    if found is None:
        return None
    return replace(found, generation_id=attached.generation_id, is_attachment=True)


def _compare(
    store: FileStore,
    path: str,
    file: StoredFile | None,
    expected: tuple[int | None, str | None],
    *,
    deep: bool,
) -> Orphan | None:
    """Compare a file with its expected size and SHA-256, None for unknown; `deep` reads it."""
    expected_size, expected_sha256 = expected
    try:
        size = store.stat(path).size if file is None else file.size
        reads = expected_sha256 is not None and deep
        digest = sha256_of(store, path) if reads else ""
    except FileNotFoundError:
        return Orphan(OrphanKind.MISSING, path, 0, _GONE)
    except ValueError:
        return Orphan(OrphanKind.UNREACHABLE, path, 0, "The path leads out of the store.")
    except OSError as error:
        detail = f"It cannot be read: {error.strerror}."
        return Orphan(OrphanKind.UNREACHABLE, path, 0, detail)
    if expected_size not in {None, size}:
        detail = f"It has {size} bytes instead of {expected_size}."
        return Orphan(OrphanKind.CHANGED, path, size, detail)
    if digest not in {"", expected_sha256}:
        detail = "Its SHA-256 is not that of the file that was written."
        return Orphan(OrphanKind.CHANGED, path, size, detail)
    return None


def _orphan_of(file: StoredFile, claims: set[str]) -> Orphan | None:
    if file.is_temporary:
        return Orphan(OrphanKind.TEMPORARY, file.relative, file.size, "It was never finished.")
    if not file.is_in_day_folder or is_claimed(file.relative, claims):
        return None
    return Orphan(
        OrphanKind.UNCLAIMED, file.relative, file.size, "It belongs to no completed generation."
    )


def is_claimed(relative: str, claims: set[str]) -> bool:
    """Whether the file is a generation's, lies beside it, or is in a folder with its name."""
    if relative in claims:
        return True
    folder, _, name = relative.rpartition("/")
    while "." in name:
        name = name.rpartition(".")[0]
        if f"{folder}/{name}" in claims:
            return True
    while folder:
        if folder in claims:
            return True
        folder = folder.rpartition("/")[0]
    return False


def without_suffix(path: str) -> str:
    folder, _, name = path.rpartition("/")
    return f"{folder}/{name.rpartition('.')[0] or name}"


def is_lost_and_found(file: StoredFile) -> bool:
    return file.relative.startswith(f"{LOST_AND_FOUND}/")


def record_missing(
    session: Session, generation_id: str | None, message: str, now: datetime
) -> str | None:
    row = _completed(session, generation_id)
    if row is None or not has_take(row):
        return None
    row.error_message = message
    since = now.isoformat(timespec="seconds")
    row.merge_metadata({FILE_MISSING: {"since": since, "size_bytes": row.file_size_bytes}})
    row.file_size_bytes = None
    return "recorded in the database"


def _forget_attachment(session: Session, orphan: Orphan) -> str | None:
    deleted = storage.delete_attachments(session, orphan.generation_id or "", orphan.path)
    return "removed from the database" if deleted else None


def _record_returned(session: Session, orphan: Orphan) -> str | None:
    row = _completed(session, orphan.generation_id)
    if row is None or has_take(row):
        return None
    metadata = row.get_metadata()
    del metadata[FILE_MISSING]
    row.set_metadata(metadata)
    row.error_message = None
    row.file_size_bytes = orphan.size_bytes
    return "recorded in the database"


def _completed(session: Session, generation_id: str | None) -> storage.Generation | None:
    row = session.get(
        storage.Generation, generation_id, with_for_update=True, populate_existing=True
    )
    return row if row is not None and row.is_complete else None


def _move_to_lost_and_found(store: FileStore, orphan: Orphan) -> str:
    wanted = PurePosixPath(LOST_AND_FOUND) / orphan.path
    try:
        others = (wanted.with_stem(f"{wanted.stem}-{number}") for number in count(2))
        target = next(one for one in chain([wanted], others) if not store.exists(str(one)))
        store.move(orphan.path, str(target))
    except FileNotFoundError:
        return "gone meanwhile"
    except ValueError as error:
        raise OutputError(f"{store.display_path(orphan.path)} cannot be moved: {error}") from error
    store.prune_folders(orphan.path)
    return f"moved to {target}"
