"""The record of installed models in the database: commit, licence, size, time."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from services import storage

if TYPE_CHECKING:
    from pathlib import Path

    from services.generation.engine import EngineFacts


def record_installed_model(
    facts: EngineFacts, folder: Path, models_dir: Path, *, revision: str | None
) -> None:
    """Record a model in the open database; replaces an earlier record of it.

    Args:
        facts: of the model as an engine.
        folder: holds its files.
        models_dir: the recorded path is relative to this folder.
        revision: the commit its files are from; None when unknown.

    Raises:
        StorageError: the database cannot be written.
    """
    sizes = [file.stat().st_size for file in folder.rglob("*") if file.is_file()]
    with storage.get_session() as session:
        storage.record_model(
            session,
            facts.name,
            revision=revision or "unknown",
            licence=facts.output_licence,
            sample_rate=facts.sample_rate,
            channels=facts.channels,
            longest_seconds=facts.longest_seconds,
            size_bytes=sum(sizes),
            path=os.path.relpath(folder, models_dir),
        )
