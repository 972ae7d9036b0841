"""Tables for API clients: keys, idempotent requests and rate counters."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Index, Integer, Text
from sqlalchemy.orm import Mapped, mapped_column

from services.storage.columns import Digest, Identifier, Real, UtcDateTime
from services.storage.models import Base


class ApiKey(Base):
    """An API key, of which only the digest is stored."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    """The owner of the jobs created with the key; not secret."""
    name: Mapped[str] = mapped_column(Text)
    key_sha256: Mapped[str] = mapped_column(Digest)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    last_used_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    __table_args__ = (Index("idx_api_keys_key_sha256", "key_sha256", unique=True),)


class IdempotencyKey(Base):
    """The jobs that a request with an Idempotency-Key created, to answer its repetitions."""

    __tablename__ = "idempotency_keys"

    owner: Mapped[str] = mapped_column(Text, primary_key=True)
    """Id of the API key; empty for requests without one."""
    key: Mapped[str] = mapped_column(Text, primary_key=True)
    fingerprint: Mapped[str] = mapped_column(Digest)
    """SHA-256 of route and request: a different request with the same key is an error."""
    job_ids: Mapped[str] = mapped_column(Text)
    """A JSON list."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)

    __table_args__ = (Index("idx_idempotency_keys_created_at", "created_at"),)


class RateCounter(Base):
    """Hits within one window of time, counted by all processes that share the database."""

    __tablename__ = "rate_counters"

    name: Mapped[str] = mapped_column(Identifier, primary_key=True)
    hits: Mapped[int] = mapped_column(Integer)
    expires_at: Mapped[float] = mapped_column(Real)
    """Seconds since 1970."""

    __table_args__ = (Index("idx_rate_counters_expires_at", "expires_at"),)
