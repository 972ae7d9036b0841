"""Checks of the database and the output folder before a worker starts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from services.errors import SettingsError
from services.machine.process_identity import boot_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services import storage

_MOUNTS = Path("/proc/self/mounts")
_NETWORK_FILE_SYSTEMS = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "ceph", "lustre", "beegfs"),
        *("gpfs", "ocfs2", "glusterfs", "fuse.glusterfs", "fuse.sshfs", "fuse.s3fs"),
    }
)


def find_file_system(path: Path, mounts: str) -> str:
    """Return the type of the file system that holds a path; "" if unknown.

    Args:
        path: absolute, without links.
        mounts: the text of /proc/self/mounts, see proc_mounts(5).
    """
    kind = ""
    longest = -1
    for line in mounts.splitlines():
        _, point, name, *_ = line.split(" ")
        folder = Path(point.encode().decode("unicode_escape"))
        if path.is_relative_to(folder) and len(folder.parts) >= longest:
            kind, longest = name, len(folder.parts)
    return kind


def require_local_disk(file: Path | None) -> None:
    """Check that an SQLite file is not on a network share, where its locks do not hold.

    Raises:
        SettingsError: it is on one.
    """
    if file is None or not _MOUNTS.exists():
        return
    kind = find_file_system(file.resolve(), _MOUNTS.read_text(encoding="utf-8"))
    if kind in _NETWORK_FILE_SYSTEMS:
        raise SettingsError(
            f"The database {file} is on a network share ({kind}), where SQLite can be damaged. "
            "Move it to a local disk, or use PostgreSQL: DATABASE_URL=postgresql://..."
        )


def explain_unshared_folder(folder: Path, living: Sequence[storage.WorkerState]) -> str | None:
    """Return a warning if workers of other machines cannot read the output folder, else None.

    Args:
        folder: the output folder, which is the store.
        living: the workers that are alive.
    """
    here = boot_id()
    others = [state.host for state in living if state.slot.partition(":")[0] != here]
    if not others or not _MOUNTS.exists():
        return None
    kind = find_file_system(folder.resolve(), _MOUNTS.read_text(encoding="utf-8"))
    if kind in _NETWORK_FILE_SYSTEMS:
        return None
    return (
        f"a worker on {others[0]} uses this database, and {folder} does not look like a folder "
        "that all machines share: set DGX_MUSIC_FILE_STORE to a bucket, or DGX_MUSIC_OUTPUT_DIR "
        "to a shared folder"
    )


def require_one_machine(living: Sequence[storage.WorkerState]) -> None:
    """Check that no worker on another machine uses this SQLite database.

    Raises:
        SettingsError: one does.
    """
    here = boot_id()
    others = [state.host for state in living if state.slot.partition(":")[0] != here]
    if others:
        raise SettingsError(
            f"A worker on {others[0]} uses this SQLite database, which only one machine may use. "
            "For several machines use PostgreSQL: DATABASE_URL=postgresql://..."
        )
