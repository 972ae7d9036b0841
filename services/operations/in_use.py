"""Refusing what must not happen to a database while workers or commands use it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services import storage
from services.errors import StorageError
from services.jobs.attempt_token import AttemptToken
from services.jobs.living import is_living

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


def refuse_in_use(session: Session, ttl: float) -> None:
    """Check that no worker uses the database of the session, and no command runs a job.

    Args:
        session: may be read-only.
        ttl: seconds without a heartbeat after which a worker counts as dead.

    Raises:
        StorageError: one does; the message names it.
    """
    _refuse_workers(session, ttl)
    _refuse_running_jobs(session)


def _refuse_workers(session: Session, ttl: float) -> None:
    living = [state for state in storage.list_workers(session) if is_living(state, ttl)]
    if living:
        named = ", ".join(f"{state.host} (process {state.pid})" for state in living)
        raise StorageError(
            f"Workers use this database: {named}. Stop them and the servers with SIGTERM, wait "
            "until they have exited, then try again."
        )


def _refuse_running_jobs(session: Session) -> None:
    # The jobs of dead workers refuse nothing. Only a process outside the queue, which writes no
    # heartbeat, is named by its token.
    for generation_id, token in storage.list_running_attempts(session).items():
        process = AttemptToken.parse(token).process
        if process is not None and not process.has_ended():
            raise StorageError(
                f"'dgx-music generate' is running the job {generation_id}, perhaps on another "
                "machine. Wait until it is finished, then try again."
            )
