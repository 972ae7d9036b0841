"""What must be true of the database before a worker may run on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from services.errors import SettingsError
from services.machine.process_identity import boot_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services import storage

_MOUNTS = Path("/proc/self/mounts")
_NETWORK = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "ceph", "lustre", "beegfs"),
        *("gpfs", "ocfs2", "glusterfs", "fuse.glusterfs", "fuse.sshfs", "fuse.s3fs"),
    }
)


def file_system_of(path: Path, mounts: str) -> str:
    """Name the file system that holds a path, from the text of proc_mounts(5); "" if unknown."""
    kind = ""
    longest = -1
    for line in mounts.splitlines():
        _, point, name, *_ = line.split(" ")
        folder = Path(point.encode().decode("unicode_escape"))
        if path.is_relative_to(folder) and len(folder.parts) >= longest:
            kind, longest = name, len(folder.parts)
    return kind


def require_local_disk(file: Path | None) -> None:
    """Refuse an SQLite file on a network share, where its locks do not hold.

    Raises:
        SettingsError: it lies on one.
    """
    if file is None or not _MOUNTS.exists():
        return
    kind = file_system_of(file.resolve(), _MOUNTS.read_text(encoding="utf-8"))
    if kind in _NETWORK:
        raise SettingsError(
            f"The database {file} is on a network share ({kind}), where SQLite can be damaged. "
            "Move it to a local disk, or use PostgreSQL: DATABASE_URL=postgresql://..."
        )


def why_files_stay_here(folder: Path, living: Sequence[storage.WorkerState]) -> str | None:
    """Say why workers of other machines, and who asks there, cannot have files of a folder.

    Args:
        folder: the output folder, where it is the store.
        living: the workers of the database.
    """
    here = boot_id()
    others = [state.host for state in living if state.slot.partition(":")[0] != here]
    if not others or not _MOUNTS.exists():
        return None
    kind = file_system_of(folder.resolve(), _MOUNTS.read_text(encoding="utf-8"))
    if kind in _NETWORK:
        return None
    return (
        f"a worker on {others[0]} uses this database, and {folder} does not look like a folder "
        "that all machines share: set DGX_MUSIC_FILE_STORE to a bucket, or DGX_MUSIC_OUTPUT_DIR "
        "to a shared folder"
    )


def require_one_machine(living: Sequence[storage.WorkerState]) -> None:
    """Refuse to share an SQLite database with a worker on another machine.

    Raises:
        SettingsError: there is one.
    """
    here = boot_id()
    others = [state.host for state in living if state.slot.partition(":")[0] != here]
    if others:
        raise SettingsError(
            f"A worker on {others[0]} uses this SQLite database, which only one machine may. "
            "For several machines use PostgreSQL: DATABASE_URL=postgresql://..."
        )
