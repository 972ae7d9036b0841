"""Rate counters that all processes of a database share.

A sliding window of two counters: the hits of the current window, and the hits of the previous one
in proportion to the part of it that lies within the last `seconds`.
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
    """The two counters at a moment on the database's clock."""

    name: str
    seconds: int
    now: float
    """Seconds since 1970."""
    earlier: int
    """Hits in the previous window."""
    hits: int
    """Hits in the current window."""

    @property
    def index(self) -> int:
        """Number of the current window since 1970."""
        return floor(self.now / self.seconds)

    @property
    def left(self) -> float:
        """Seconds until the current window ends."""
        return (self.index + 1) * self.seconds - self.now

    @property
    def carried(self) -> float:
        """The share of the previous window's hits that still counts."""
        return self.earlier * self.left / self.seconds

    def compute_threshold(self, limit: int, amount: int = 1) -> int:
        """Return the most hits the current window can hold before `amount` more exceed the limit.

        This is the largest h with floor(carried + h) + amount <= limit. It is negative when the
        previous window alone exceeds the limit.
        """
        return ceil(limit - amount + 1 - self.carried) - 1


def read_rate(session: Session, name: str, seconds: int) -> RateWindow:
    """Read the counters of a name, with windows of `seconds`."""
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
    """Count `amount` hits if they stay within `limit` hits in `seconds`.

    Concurrent calls do not exceed the limit together.

    Returns:
        False, and nothing is counted, when the limit is reached.
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
    # The statement checks the limit again: others may have counted since the row was read.
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
    """Set the counters of a name to zero."""
    now = session.execute(select(database_seconds())).scalar_one()
    names = [_row_name(name, floor(now / seconds) - back) for back in (0, 1)]
    session.execute(delete(RateCounter).where(RateCounter.name.in_(names)))


def remove_expired_rates(session: Session, now: float) -> None:
    """Delete counters of windows that are over."""
    # Sorted, and skipping locked rows, so that two processes that do this do not deadlock.
    old = (
        select(RateCounter.name)
        .where(RateCounter.expires_at < now)
        .order_by(RateCounter.name)
        .with_for_update(skip_locked=True)
    )
    session.execute(delete(RateCounter).where(RateCounter.name.in_(old)))


def _row_name(name: str, index: int) -> str:
    return f"{name}/{index}"
