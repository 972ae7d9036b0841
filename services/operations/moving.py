"""Moving the rows of the current database to another one while no process uses it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services import storage
from services.database import storage_errors
from services.errors import InvalidRequestError, StorageError
from services.jobs.attempt_token import AttemptToken
from services.jobs.failpoints import reach
from services.jobs.living import is_living

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

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

    def refuse_in_use(session: Session) -> None:
        _refuse_workers(session, settings.worker_ttl_seconds)
        _refuse_running_jobs(session)

    def report(stage: str, table: str, share: float) -> None:
        progress(f"{stage} {table}".strip(), share)
        reach(f"move-{stage}")

    with storage_errors():
        return storage.move_database(
            target_url,
            settings.database_url,
            refuse_in_use=refuse_in_use,
            report=report,
            dry_run=dry_run,
            busy_timeout_seconds=settings.database_timeout_seconds,
        )


def _refuse_workers(session: Session, ttl: float) -> None:
    living = [state for state in storage.list_workers(session) if is_living(state, ttl)]
    if living:
        named = ", ".join(f"{state.host} (process {state.pid})" for state in living)
        raise StorageError(
            f"Workers use this database: {named}. Stop them and the servers with SIGTERM, wait "
            "until they have exited, then try again."
        )


def _refuse_running_jobs(session: Session) -> None:
    # Jobs of dead workers are copied; a worker of the new database takes them over. Only a process
    # outside the queue, which writes no heartbeat, is named by its token.
    for generation_id, token in storage.list_running_attempts(session).items():
        process = AttemptToken.parse(token).process
        if process is not None and not process.has_ended():
            raise StorageError(
                f"'dgx-music generate' is running the job {generation_id}, perhaps on another "
                "machine. Wait until it is finished, then try again."
            )
