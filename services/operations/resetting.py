"""Emptying the database: the music goes, what belongs to the installation stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from services import storage
from services.database import storage_errors
from services.operations.in_use import refuse_in_use

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from services.config import Settings

MODELS, KEYS = storage.InstalledModel.__tablename__, storage.ApiKey.__tablename__


@dataclass(frozen=True, slots=True)
class Contents:
    """Numbers of rows that a reset deletes."""

    jobs: int
    prompts: int
    keys: int
    """0 where the keys stay."""


def count_contents(*, with_keys: bool) -> Contents:
    """Count the rows that a reset would delete; the database must be open."""
    with storage_errors(), storage.get_session(read_only=True) as session:
        counted = storage.get_database_stats(session)
        keys = len(storage.list_api_keys(session)) if with_keys else 0
    return Contents(counted["total_generations"], counted["total_prompts"], keys)


def reset_database(settings: Settings, *, with_keys: bool, even_in_use: bool) -> None:
    """Delete every job and prompt, the queue, and on request the API keys.

    The records of installed models stay, since the models do.

    Args:
        settings: of the process, whose database is open.
        with_keys: delete the API keys too, which opens a server for this machine alone.
        even_in_use: do it under workers and commands, which then lose the jobs that they run.

    Raises:
        StorageError: workers or commands use the database, or it does not answer.
    """

    def check(session: Session) -> None:
        if not even_in_use:
            refuse_in_use(session, settings.worker_ttl_seconds)

    with storage_errors():
        storage.reset_database(keep=[MODELS] if with_keys else [MODELS, KEYS], check=check)
