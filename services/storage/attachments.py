"""Rows of the files that belong to takes: stems and MIDI."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import delete, select

from services.storage.columns import pad_values
from services.storage.models import Attachment

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAttachment:
    """A file of a take that is being published."""

    kind: str
    """`stem` or `midi`."""
    name: str
    """Unique among the files of its kind of the take."""
    file_path: str
    """Relative to the store."""
    bytes: int
    sha256: str
    """Hexadecimal."""


def replace_attachments(
    session: Session, generation_id: str, files: Sequence[NewAttachment]
) -> None:
    """Set the files of a generation; those that it had are forgotten.

    Raises:
        sqlalchemy.exc.IntegrityError: the generation does not exist, or a kind is unknown.
    """
    delete_attachments(session, generation_id)
    session.add_all(
        Attachment(
            generation_id=generation_id,
            kind=one.kind,
            name=one.name,
            file_path=one.file_path,
            bytes=one.bytes,
            sha256=one.sha256,
        )
        for one in files
    )
    session.flush()


def get_attachments(
    session: Session, generation_ids: Collection[str]
) -> dict[str, list[Attachment]]:
    """Return id -> files of these generations, stems first, by name; ids without any are absent."""
    if not generation_ids:
        return {}
    found = session.scalars(
        select(Attachment)
        .where(Attachment.generation_id.in_(pad_values(generation_ids)))
        .order_by(Attachment.generation_id, Attachment.kind.desc(), Attachment.name)
    )
    files: dict[str, list[Attachment]] = {}
    for one in found:
        files.setdefault(one.generation_id, []).append(one)
    return files


def delete_attachments(session: Session, generation_id: str, file_path: str | None = None) -> int:
    """Delete the rows of all files of a generation, or of one; return their number."""
    chosen = delete(Attachment).where(Attachment.generation_id == generation_id)
    if file_path is not None:
        chosen = chosen.where(Attachment.file_path == file_path)
    return len(session.execute(chosen.returning(Attachment.name)).all())
