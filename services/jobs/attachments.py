"""The stems and the MIDI file of a job, for the CLI and the REST API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from services import storage
from services.database import storage_errors
from services.errors import FileGoneError, UnknownGenerationError
from services.library.attachments import MIDI, STEM

if TYPE_CHECKING:
    from pathlib import Path

    from services.jobs.service import MusicService


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachedFile:
    """A stem or the MIDI file of a completed job."""

    kind: str
    """`stem` or `midi`."""
    name: str
    """The part's name; of a MIDI file `score`."""
    file: str
    """Path on this machine, or s3:// URL."""
    file_path: str
    """Name in the store."""
    bytes: int
    sha256: str
    """Hexadecimal."""


def list_attached(service: MusicService, job_id: str) -> list[AttachedFile]:
    """Return the stems of a job by name, then its MIDI file; empty for a job without any."""
    with storage_errors(), storage.get_session(read_only=True) as session:
        rows = storage.get_attachments(session, [job_id]).get(job_id, [])
    return [
        AttachedFile(
            kind=row.kind,
            name=row.name,
            file=service.store.display_path(row.file_path),
            file_path=row.file_path,
            bytes=row.bytes,
            sha256=row.sha256,
        )
        for row in rows
    ]


def find_stem(service: MusicService, job_id: str, name: str) -> AttachedFile:
    """Return a stem of a job.

    Raises:
        UnknownGenerationError: there is none of this name; the message says how to get one.
    """
    stems = [one for one in list_attached(service, job_id) if one.kind == STEM]
    for one in stems:
        if one.name == name:
            return one
    if stems:
        names = ", ".join(one.name for one in stems)
        raise UnknownGenerationError(f"The job {job_id} has no stem {name!r}; it has {names}.")
    raise UnknownGenerationError(explain_lack(job_id, STEM))


def find_midi(service: MusicService, job_id: str) -> AttachedFile:
    """Return the MIDI file of a job.

    Raises:
        UnknownGenerationError: it has none; the message says how to get one.
    """
    for one in list_attached(service, job_id):
        if one.kind == MIDI:
            return one
    raise UnknownGenerationError(explain_lack(job_id, MIDI))


def explain_lack(job_id: str, kind: str) -> str:
    """Return a sentence that says what a job was made without, and how to get it."""
    things, field = ("stems", "stems") if kind == STEM else ("MIDI", "midi")
    return (
        f"The job {job_id} was made without {things}. Send its prompt, duration, seed and model "
        f'again with "{field}": true; the music is the same.'
    )


def local_attachment(service: MusicService, attached: AttachedFile) -> Path:
    """Return a path on this machine to read a stem or MIDI file from.

    Raises:
        FileGoneError: the file is gone.
        FileDamagedError: it is not the one that was written.
        OutputError: the store cannot be used now.
    """
    try:
        return service.store.local_copy(attached.file_path, attached.sha256)
    except (FileNotFoundError, ValueError) as error:
        raise FileGoneError(
            f"The {attached.kind} file {attached.name} is gone. `dgx-music files check` compares "
            "all of them."
        ) from error
