"""Which workers are alive, from their heartbeats in the database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services import storage
from services.machine.process_identity import has_ended

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


def living_workers(ttl: float) -> list[storage.WorkerState]:
    """Return the workers that are alive.

    Args:
        ttl: seconds after which a worker without a heartbeat counts as dead.

    Raises:
        StorageError: the database cannot be read.
    """
    with storage.get_session(read_only=True) as session:
        return living_in(session, ttl)


def living_in(session: Session, ttl: float) -> list[storage.WorkerState]:
    """As `living_workers`, in an open session: opening a second one could deadlock."""
    return [state for state in storage.list_workers(session) if is_living(state, ttl)]


def is_living(state: storage.WorkerState, ttl: float) -> bool:
    """Whether a worker has a fresh heartbeat and its process has not certainly ended."""
    return state.age <= ttl and not has_ended(state.process)
