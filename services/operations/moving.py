"""Moving the rows of the current database to another one while no process uses it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services import storage
from services.database import storage_errors
from services.errors import InvalidRequestError
from services.jobs.failpoints import reach
from services.operations.in_use import refuse_in_use

if TYPE_CHECKING:
    from services.config import Settings
    from services.generation.engine import Progress


def move_database(
    settings: Settings, target_url: str, *, progress: Progress, dry_run: bool = False
) -> storage.Move:
    """Copy every row of the current database to an empty one.

    Args:
        settings: of the process; they name the current database.
        target_url: sqlite:/// or postgresql://.
        progress: called with the stage and the share that is done, 0 to 1.
        dry_run: check everything, but copy nothing.

    Raises:
        InvalidRequestError: the target's URL is invalid.
        StorageError: a process uses the current database, or the target cannot be used.
    """
    if not target_url.strip():
        raise InvalidRequestError("--to: Name a database, such as postgresql://user@host/music.")
    try:
        file = storage.database_file(target_url)
    except storage.InvalidDatabaseURLError as error:
        raise InvalidRequestError(f"--to: {error}") from error
    if file is None and target_url.strip().startswith("sqlite"):
        raise InvalidRequestError(
            "--to: A database in memory ends with this command; name a file, such as "
            "sqlite:///path/to/file.db."
        )

    def report(stage: str, table: str, share: float) -> None:
        progress(f"{stage} {table}".strip(), share)
        reach(f"move-{stage}")

    with storage_errors():
        return storage.move_database(
            target_url,
            settings.database_url,
            refuse_in_use=lambda session: refuse_in_use(session, settings.worker_ttl_seconds),
            report=report,
            dry_run=dry_run,
            busy_timeout_seconds=settings.database_timeout_seconds,
        )
