"""The stored files and the database brought to agree: orphans, missing files, making room.

Only files in the folders of days (`YYYY/MM/DD`), inputs and what was set aside are taken as the
project's own; whatever else a person keeps in the store is neither reported nor touched.
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
from services.audio.inventory import FileCleanup, StoredFile, plan_cleanup
from services.errors import OutputError
from services.library.input_names import inputs_of, is_unnamed_input
from services.library.store.interface import sha256_of

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from services.library.store import FileStore

FILE_MISSING = "file_missing"
"""In the metadata of a completed generation whose file is gone: since when, and its size."""

ASIDE = "lost-and-found"
"""Where files without a generation go, within the store."""

GRACE_SECONDS = 3600.0
"""A younger file may be part of a job that runs."""

INPUT_GRACE_SECONDS = 86_400.0
"""A younger input may be there for a request that is still to come."""

_PAGE = 1000
_ROWS_A_TRANSACTION = 500
_DAY_SECONDS = 86_400
_AGAIN = "The same prompt, duration, seed and model make it again."
_REMOVED = f"Its file was removed to make room. {_AGAIN}"
_GONE = f"Its file is no longer in the output folder. {_AGAIN}"


class Kind(StrEnum):
    """In what way a file and its generation disagree."""

    MISSING = "missing"
    """A completed generation has no file."""
    RETURNED = "returned"
    """A file that was missing is there again, the same as before."""
    CHANGED = "changed"
    """The file is not the one that was written."""
    UNREACHABLE = "unreachable"
    """The path cannot be looked at, or leads out of the store."""
    UNCLAIMED = "unclaimed"
    """A file that belongs to no generation."""
    TEMPORARY = "temporary"
    """A file that was never finished."""


@dataclass(frozen=True, slots=True)
class Orphan:
    """One disagreement."""

    kind: Kind
    path: str
    """The name in the store."""
    size_bytes: int
    detail: str
    generation_id: str | None = None


@dataclass(frozen=True, slots=True)
class Findings:
    """What a check looked at and what it found."""

    files: int
    generations: int
    orphans: tuple[Orphan, ...]


def has_file(row: storage.Generation, metadata: Mapping[str, Any] | None = None) -> bool:
    """Whether the generation is completed and its file is not known to be gone.

    Args:
        row: of the generation.
        metadata: of the row, where it was read already.
    """
    if not row.is_complete:
        return False
    return FILE_MISSING not in (row.get_metadata() if metadata is None else metadata)


def find_orphans(store: FileStore, *, deep: bool = False) -> Findings:
    """Compare every file with every generation; nothing is changed.

    Args:
        store: where the files are.
        deep: also read the files and compare their SHA-256.

    Raises:
        OutputError: the store cannot be used, although it should hold files.
        StorageError: the database cannot be read.
    """
    # Files first: a file is there only after its row is, so none is taken for unclaimed.
    files = {file.relative: file for file in store.list() if not _is_aside(file)}
    claims: set[str] = set()
    orphans: list[Orphan] = []
    named: set[str] = set()
    rows = 0
    for row in _generations():
        rows += 1
        named |= set(inputs_of(row.get_metadata()).values())
        if row.is_failed or row.is_cancelled:
            continue
        claims.add(_without_suffix(row.file_path))
        found = (
            _examine(row, files.get(row.file_path), store, deep=deep) if row.is_complete else None
        )
        if found is not None:
            orphans.append(found)
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
        Orphan(Kind.UNCLAIMED, file.relative, file.size, "No generation names this input.")
        for file in files.values()
        if file.changed < latest_input and is_unnamed_input(file.relative, named)
    ]
    return Findings(len(files), rows, tuple(sorted(orphans, key=lambda one: (one.kind, one.path))))


def repair_orphans(store: FileStore, findings: Findings) -> list[tuple[Orphan, str | None]]:
    """Mend what can be mended; each with what was done, None where nothing can be.

    A generation without its file stays, and says so. A file without a generation is moved to
    `lost-and-found`; only files that were never finished are deleted.

    Raises:
        OutputError: a file cannot be moved or removed.
        StorageError: the database cannot be written.
    """
    now = datetime.now(UTC)
    actions: dict[Kind, Callable[[Session, Orphan], str | None]] = {
        Kind.MISSING: lambda session, one: _mark(session, one.generation_id, _GONE, now),
        Kind.RETURNED: _unmark,
    }
    done: dict[Orphan, str | None] = {}
    of_rows = [orphan for orphan in findings.orphans if orphan.kind in actions]
    for start in range(0, len(of_rows), _ROWS_A_TRANSACTION):
        with storage.get_session() as session:
            for orphan in of_rows[start : start + _ROWS_A_TRANSACTION]:
                done[orphan] = actions[orphan.kind](session, orphan)
    for orphan in findings.orphans:
        if orphan.kind is Kind.UNCLAIMED:
            done[orphan] = _set_aside(store, orphan)
        elif orphan.kind is Kind.TEMPORARY:
            store.delete(orphan.path)
            store.prune(orphan.path)
            done[orphan] = "deleted"
    return [(orphan, done.get(orphan)) for orphan in findings.orphans]


def clean_up_files(
    store: FileStore,
    *,
    older_than_days: float | None = None,
    max_bytes: int | None = None,
    dry_run: bool = True,
) -> FileCleanup:
    """Remove old files and keep their generations, which then say that the file is gone.

    Args:
        store: where the files are.
        older_than_days: everything older goes.
        max_bytes: the oldest go until the rest takes no more.
        dry_run: only say what would go.

    Raises:
        OutputError: a file cannot be removed.
        StorageError: the database cannot be used.
    """
    before = None if older_than_days is None else time.time() - older_than_days * _DAY_SECONDS
    own = [
        file
        for file in store.list()
        if not file.is_temporary and (file.is_in_day_folder or _is_aside(file))
    ]
    owners, in_work = _owners({file.relative for file in own})
    free = [file for file in own if file.relative not in in_work]
    plan = plan_cleanup(free, written_before=before, max_bytes=max_bytes)
    if dry_run:
        return plan
    # Rows first, as everywhere: a file that nobody claims is found again, a wrong row misleads.
    ids = [owners[file.relative] for file in plan.files if file.relative in owners]
    now = datetime.now(UTC)
    for start in range(0, len(ids), _ROWS_A_TRANSACTION):
        with storage.get_session() as session:
            for generation_id in ids[start : start + _ROWS_A_TRANSACTION]:
                _mark(session, generation_id, _REMOVED, now)
    for file in plan.files:
        store.delete(file.relative)
        store.prune(file.relative)
    return replace(plan, deleted=True)


def _generations() -> Iterator[storage.Generation]:
    """Every row, in short transactions; rows added meanwhile are left out."""
    cursor = None
    while True:
        with storage.get_session(read_only=True) as session:
            page = storage.list_generations(session, limit=_PAGE, cursor=cursor)
        yield from page.items
        cursor = page.next_cursor
        if cursor is None:
            return


def _owners(paths: set[str]) -> tuple[dict[str, str], set[str]]:
    """Path -> id of the completed generations of some files, and the paths of jobs in work."""
    owners: dict[str, str] = {}
    in_work: set[str] = set()
    for row in _generations():
        if row.file_path in paths and row.is_complete:
            owners[row.file_path] = row.id
        elif row.file_path in paths and not row.is_finished:
            in_work.add(row.file_path)
    return owners, in_work


def _examine(
    row: storage.Generation, file: StoredFile | None, store: FileStore, *, deep: bool
) -> Orphan | None:
    """What is wrong with the file of a completed generation."""

    def orphan(kind: Kind, size: int, detail: str) -> Orphan:
        return Orphan(kind, row.file_path, size, detail, row.id)

    known_missing = not has_file(row)
    try:
        size = store.stat(row.file_path).size if file is None else file.size
        digest = ""
        if row.file_sha256 is not None and (deep or known_missing):
            digest = sha256_of(store, row.file_path)
    except FileNotFoundError:
        return None if known_missing else orphan(Kind.MISSING, 0, _GONE)
    except ValueError:
        return orphan(Kind.UNREACHABLE, 0, "The path leads out of the store.")
    except OSError as error:
        return orphan(Kind.UNREACHABLE, 0, f"It cannot be read: {error.strerror}.")
    if row.file_size_bytes not in {None, size}:
        return orphan(Kind.CHANGED, size, f"It has {size} bytes instead of {row.file_size_bytes}.")
    if digest not in {"", row.file_sha256}:
        return orphan(Kind.CHANGED, size, "Its SHA-256 is not that of the file that was written.")
    return orphan(Kind.RETURNED, size, "It is there again.") if known_missing else None


def _orphan_of(file: StoredFile, claims: set[str]) -> Orphan | None:
    if file.is_temporary:
        return Orphan(Kind.TEMPORARY, file.relative, file.size, "It was never finished.")
    if not file.is_in_day_folder or _is_claimed(file.relative, claims):
        return None
    return Orphan(
        Kind.UNCLAIMED, file.relative, file.size, "It belongs to no completed generation."
    )


def _is_claimed(relative: str, claims: set[str]) -> bool:
    """Whether the file is a generation's, or lies beside it or in a folder under its name."""
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


def _without_suffix(path: str) -> str:
    folder, _, name = path.rpartition("/")
    return f"{folder}/{name.rpartition('.')[0] or name}"


def _is_aside(file: StoredFile) -> bool:
    return file.relative.startswith(f"{ASIDE}/")


def _mark(session: Session, generation_id: str | None, message: str, now: datetime) -> str | None:
    row = _completed(session, generation_id)
    if row is None or not has_file(row):
        return None
    row.error_message = message
    since = now.isoformat(timespec="seconds")
    row.merge_metadata({FILE_MISSING: {"since": since, "size_bytes": row.file_size_bytes}})
    row.file_size_bytes = None
    return "said so in its row"


def _unmark(session: Session, orphan: Orphan) -> str | None:
    row = _completed(session, orphan.generation_id)
    if row is None or has_file(row):
        return None
    metadata = row.get_metadata()
    del metadata[FILE_MISSING]
    row.set_metadata(metadata)
    row.error_message = None
    row.file_size_bytes = orphan.size_bytes
    return "said so in its row"


def _completed(session: Session, generation_id: str | None) -> storage.Generation | None:
    row = session.get(
        storage.Generation, generation_id, with_for_update=True, populate_existing=True
    )
    return row if row is not None and row.is_complete else None


def _set_aside(store: FileStore, orphan: Orphan) -> str:
    wanted = PurePosixPath(ASIDE) / orphan.path
    try:
        others = (wanted.with_stem(f"{wanted.stem}-{number}") for number in count(2))
        target = next(one for one in chain([wanted], others) if not store.exists(str(one)))
        store.move(orphan.path, str(target))
    except FileNotFoundError:
        return "gone meanwhile"
    except ValueError as error:
        raise OutputError(f"{store.shown(orphan.path)} cannot be moved: {error}") from error
    store.prune(orphan.path)
    return f"moved to {target}"
