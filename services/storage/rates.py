"""How often something was done of late, counted together by all processes of a database.

A sliding window of two counters: the hits of the present window of time, and of the one before it
in proportion to how much of it still lies within the last `seconds`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor
from typing import TYPE_CHECKING

from sqlalchemy import case, delete, func, select

from services.storage.client_models import RateCounter
from services.storage.prompts import build_upsert
from services.storage.queue_models import database_seconds

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class RateWindow:
    """The two counters at one moment of the database's clock."""

    name: str
    seconds: int
    now: float
    """Seconds since 1970."""
    earlier: int
    """Hits in the window before the present one."""
    hits: int
    """Hits in the present window."""

    @property
    def index(self) -> int:
        """Which window of time it is."""
        return floor(self.now / self.seconds)

    @property
    def left(self) -> float:
        """Seconds to the end of the present window."""
        return (self.index + 1) * self.seconds - self.now

    @property
    def carried(self) -> float:
        """What the hits of the window before still count for."""
        return self.earlier * self.left / self.seconds

    def compute_threshold(self, limit: int, amount: int = 1) -> int:
        """The most hits that the present window may have for so many more to be within the limit.

        That is, the largest h with floor(carried + h) + amount <= limit; below 0 for none.
        """
        return ceil(limit - amount + 1 - self.carried) - 1


def read_rate(session: Session, name: str, seconds: int) -> RateWindow:
    """Read the counters of a name.

    Args:
        session: an open session.
        name: what is counted, and of whom.
        seconds: length of the window.
    """
    now = session.execute(select(database_seconds())).scalar_one()
    present = _row_name(name, floor(now / seconds))
    before = _row_name(name, floor(now / seconds) - 1)
    sums = (
        func.coalesce(func.sum(case((RateCounter.name == each, RateCounter.hits))), 0)
        for each in (before, present)
    )
    found = select(*sums).where(RateCounter.name.in_((before, present)))
    earlier, hits = session.execute(found).one()
    return RateWindow(name=name, seconds=seconds, now=now, earlier=earlier, hits=hits)


def count_hit(session: Session, name: str, seconds: int, limit: int, amount: int = 1) -> bool:
    """Count hits if they are within the limit; of several processes at once none goes past it.

    Args:
        session: an open session that may write.
        name: what is counted, and of whom.
        seconds: length of the window.
        limit: hits within it.
        amount: hits to count.

    Returns:
        False where the limit is reached; then nothing is counted.
    """
    window = read_rate(session, name, seconds)
    room = window.compute_threshold(limit, amount)
    if window.hits > room:
        return False
    counters = RateCounter.__table__
    new = build_upsert(session.get_bind().dialect.name, counters).values(
        name=_row_name(name, window.index),
        hits=amount,
        expires_at=(window.index + 2) * float(seconds),
    )
    # The limit is part of the statement: what others counted since the row was read is seen here.
    counted = new.on_conflict_do_update(
        index_elements=[counters.c.name],
        set_={"hits": counters.c.hits + amount},
        where=counters.c.hits <= room,
    ).returning(counters.c.hits)
    hits = session.execute(counted).scalar_one_or_none()
    if hits == amount:
        remove_expired_rates(session, window.now)
    return hits is not None


def reset_rate(session: Session, name: str, seconds: int) -> None:
    """Begin to count anew."""
    now = session.execute(select(database_seconds())).scalar_one()
    names = [_row_name(name, floor(now / seconds) - back) for back in (0, 1)]
    session.execute(delete(RateCounter).where(RateCounter.name.in_(names)))


def remove_expired_rates(session: Session, now: float) -> None:
    """Remove the counters that no longer count; those that another process removes are left out."""
    # In one order, and past what is locked: two that tidy up at once do not wait for each other.
    old = (
        select(RateCounter.name)
        .where(RateCounter.expires_at < now)
        .order_by(RateCounter.name)
        .with_for_update(skip_locked=True)
    )
    session.execute(delete(RateCounter).where(RateCounter.name.in_(old)))


def _row_name(name: str, index: int) -> str:
    return f"{name}/{index}"
