"""The tables as classes. docs/database.md says what each column is for."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import (
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    event,
)
from sqlalchemy import (
    text as sql,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from services.storage.columns import Count, Digest, Identifier, Real, UtcDateTime, as_utc, utc_now
from services.storage.schema import FINISHED_STATUSES, STATUSES, GenerationStatus

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

NOT_COMPLETED = sql("status <> 'completed'")
OWNED = sql("owner IS NOT NULL")


class Base(DeclarativeBase):
    """The root of the tables."""

    metadata = MetaData(
        naming_convention={
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


def _format_time(moment: datetime | None) -> str | None:
    return None if moment is None else as_utc(moment).isoformat()


def _normalize_time(given: datetime | None, default: datetime | None = None) -> datetime:
    return default or utc_now() if given is None else as_utc(given)


def dump_metadata(metadata: Mapping[str, Any]) -> str:
    """Write metadata as JSON text.

    Raises:
        TypeError: something in it has no JSON form.
        ValueError: a number in it is not finite.
    """
    return json.dumps(metadata, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


class Generation(Base):
    """One piece of music, from the request to the file.

    Usable without a database: `id`, `status` and `created_at` are there from the start.
    """

    __tablename__ = "generations"

    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    prompt: Mapped[str] = mapped_column(Text)
    model_name: Mapped[str] = mapped_column(Text)
    model_version: Mapped[str | None] = mapped_column(Text)
    duration_seconds: Mapped[float] = mapped_column(Real)
    sample_rate: Mapped[int] = mapped_column(Integer)
    channels: Mapped[int] = mapped_column(Integer)
    file_path: Mapped[str] = mapped_column(Text)
    file_size_bytes: Mapped[int | None] = mapped_column(Count)
    status: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    completed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    generation_time_seconds: Mapped[float | None] = mapped_column(Real)
    error_message: Mapped[str | None] = mapped_column(Text)
    metadata_json: Mapped[str | None] = mapped_column("metadata", Text)
    prompt_id: Mapped[int | None] = mapped_column(ForeignKey("prompts.id", ondelete="SET NULL"))
    attempts: Mapped[int] = mapped_column(Integer, server_default=sql("0"))
    attempt_token: Mapped[str | None] = mapped_column(Text)
    file_sha256: Mapped[str | None] = mapped_column(Digest)
    owner: Mapped[str | None] = mapped_column(Text)

    __table_args__ = (
        # The database numbers the rows for the full-text index; objects have no use for it.
        Column("search_id", Count, nullable=True),
        CheckConstraint(f"status IN {STATUSES}", name="status"),
        CheckConstraint("channels BETWEEN 1 AND 2", name="channels"),
        CheckConstraint("duration_seconds > 0", name="duration_seconds"),
        CheckConstraint("sample_rate > 0", name="sample_rate"),
        Index("idx_generations_status", "status"),
        Index("idx_generations_created_at", sql("created_at DESC")),
        Index("idx_generations_model_name", "model_name"),
        Index("idx_generations_completed_at", sql("completed_at DESC")),
        Index("idx_generations_search_id", "search_id", unique=True),
        # Filtered lists, newest first. Completed rows are most rows: for those the index over
        # all rows serves, and this one stays small.
        Index("idx_generations_model_created", "model_name", "created_at").ddl_if("sqlite"),
        Index(
            "idx_generations_not_completed",
            "status",
            "created_at",
            sqlite_where=NOT_COMPLETED,
        ),
        Index("idx_generations_owner", "owner", "created_at", sqlite_where=OWNED),
    )
    __mapper_args__ = {"exclude_properties": ("search_id",)}  # noqa: RUF012 - the name is SQLAlchemy's

    def __init__(self, **values: Any) -> None:
        metadata = values.pop("metadata", None)
        super().__init__(**values)
        if self.id is None:
            self.id = str(uuid.uuid4())
        self.status = str(self.status or GenerationStatus.PENDING)
        self.created_at = _normalize_time(values.get("created_at"))
        if self.attempts is None:
            self.attempts = 0
        if metadata is not None:
            self.set_metadata(metadata)

    def __repr__(self) -> str:
        return f"<Generation {self.id} {self.status}>"

    @property
    def is_pending(self) -> bool:
        """It waits for a worker."""
        return self.status == GenerationStatus.PENDING

    @property
    def is_processing(self) -> bool:
        """A worker is making it."""
        return self.status == GenerationStatus.PROCESSING

    @property
    def is_complete(self) -> bool:
        """Its file is there."""
        return self.status == GenerationStatus.COMPLETED

    @property
    def is_failed(self) -> bool:
        """It could not be made; `error_message` says why."""
        return self.status == GenerationStatus.FAILED

    @property
    def is_cancelled(self) -> bool:
        """Somebody stopped it."""
        return self.status == GenerationStatus.CANCELLED

    @property
    def is_finished(self) -> bool:
        """Nothing more will happen to it."""
        return self.status in FINISHED_STATUSES

    def get_metadata(self) -> dict[str, Any]:
        """Read the metadata; empty when there is none, or it is no JSON object."""
        try:
            metadata = json.loads(self.metadata_json or "{}")
        except ValueError:
            return {}
        return metadata if isinstance(metadata, dict) else {}

    def set_metadata(self, metadata: Mapping[str, Any]) -> None:
        """Replace the metadata; raises as `dump_metadata` does."""
        self.metadata_json = dump_metadata(metadata)

    def merge_metadata(self, metadata: Mapping[str, Any] | None) -> None:
        """Add to the metadata; of two values with one name the new one stays."""
        if metadata:
            self.set_metadata({**self.get_metadata(), **metadata})

    def mark_pending(self) -> None:
        """Put it back among those that wait."""
        self.set_status(GenerationStatus.PENDING, self.error_message)

    def mark_processing(self) -> None:
        """Say that a worker is making it."""
        self.set_status(GenerationStatus.PROCESSING, self.error_message)

    def mark_completed(self, seconds: float) -> None:
        """Say that its file is there and took `seconds` to make."""
        self.set_status(GenerationStatus.COMPLETED, None)
        self.generation_time_seconds = seconds

    def mark_failed(self, message: str) -> None:
        """Say that it could not be made, and why."""
        self.set_status(GenerationStatus.FAILED, message)

    def mark_cancelled(self) -> None:
        """Say that somebody stopped it."""
        self.set_status(GenerationStatus.CANCELLED, self.error_message)

    def set_status(self, status: str, error_message: str | None) -> None:
        """Set the status; a finished one sets `completed_at`, any other clears it."""
        self.status = str(status)
        self.completed_at = utc_now() if self.is_finished else None
        self.error_message = error_message

    def to_dict(self) -> dict[str, Any]:
        """Give everything a reader may see, ready for JSON, times as ISO 8601."""
        return {
            "id": self.id,
            "prompt": self.prompt,
            "model_name": self.model_name,
            "model_version": self.model_version,
            "duration_seconds": self.duration_seconds,
            "sample_rate": self.sample_rate,
            "channels": self.channels,
            "file_path": self.file_path,
            "file_size_bytes": self.file_size_bytes,
            "file_sha256": self.file_sha256,
            "status": str(self.status),
            "attempts": self.attempts,
            "created_at": _format_time(self.created_at),
            "completed_at": _format_time(self.completed_at),
            "generation_time_seconds": self.generation_time_seconds,
            "error_message": self.error_message,
            "metadata": self.get_metadata(),
        }


class Prompt(Base):
    """A prompt and how often it was used."""

    __tablename__ = "prompts"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    text: Mapped[str] = mapped_column(Text)
    used_count: Mapped[int] = mapped_column(Integer, server_default=sql("1"))
    first_used_at: Mapped[datetime] = mapped_column(UtcDateTime)
    last_used_at: Mapped[datetime] = mapped_column(UtcDateTime)

    __table_args__ = (
        Index("idx_prompts_text", "text", unique=True),
        {"sqlite_autoincrement": True},
    )

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        if self.used_count is None:
            self.used_count = 1
        self.first_used_at = _normalize_time(values.get("first_used_at"))
        self.last_used_at = _normalize_time(values.get("last_used_at"), self.first_used_at)

    def __repr__(self) -> str:
        return f"<Prompt {self.id} used {self.used_count} times>"

    def increment_usage(self) -> None:
        """Count one more use, now."""
        self.used_count += 1
        self.last_used_at = utc_now()

    def to_dict(self) -> dict[str, Any]:
        """Give every column, ready for JSON, times as ISO 8601."""
        return {
            "id": self.id,
            "text": self.text,
            "used_count": self.used_count,
            "first_used_at": _format_time(self.first_used_at),
            "last_used_at": _format_time(self.last_used_at),
        }


class AudioAnalysis(Base):
    """What was measured on the finished file; it goes with its generation."""

    __tablename__ = "audio_analysis"

    generation_id: Mapped[str] = mapped_column(
        Identifier, ForeignKey("generations.id", ondelete="CASCADE"), primary_key=True
    )
    bpm: Mapped[float | None] = mapped_column(Real)
    bpm_confidence: Mapped[float | None] = mapped_column(Real)
    key: Mapped[str | None] = mapped_column(Text)
    key_confidence: Mapped[float | None] = mapped_column(Real)
    integrated_lufs: Mapped[float | None] = mapped_column(Real)
    true_peak_dbtp: Mapped[float | None] = mapped_column(Real)
    loudness_range_lu: Mapped[float | None] = mapped_column(Real)
    peak_amplitude: Mapped[float | None] = mapped_column(Real)
    rms_energy: Mapped[float | None] = mapped_column(Real)
    dynamic_range_db: Mapped[float | None] = mapped_column(Real)
    analysed_at: Mapped[datetime] = mapped_column(UtcDateTime)


class InstalledModel(Base):
    """A model whose files are on this machine."""

    __tablename__ = "models"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    revision: Mapped[str] = mapped_column(Text)
    licence: Mapped[str] = mapped_column(Text)
    sample_rate: Mapped[int] = mapped_column(Integer)
    channels: Mapped[int] = mapped_column(Integer)
    longest_seconds: Mapped[float] = mapped_column(Real)
    size_bytes: Mapped[int] = mapped_column(Count)
    path: Mapped[str] = mapped_column(Text)
    installed_at: Mapped[datetime] = mapped_column(UtcDateTime)

    __table_args__ = (
        CheckConstraint("channels BETWEEN 1 AND 2", name="channels"),
        CheckConstraint("longest_seconds > 0", name="longest_seconds"),
        CheckConstraint("sample_rate > 0", name="sample_rate"),
    )


GENERATIONS = cast("Table", Generation.__table__)
"""The table behind `Generation`, with the columns that objects do not have."""

# PostgreSQL leaves the pages of an index that grows in several places half empty unless its
# entries are as short as two numbers; with the names themselves it would take twice the space.
_POSTGRES_MODEL_INDEX = (
    "CREATE INDEX idx_generations_model_created ON generations "
    "(hashtext(model_name), created_at) WITH (fillfactor = 100)"
)


def _before_create(metadata: MetaData, connection: Connection, **_options: object) -> None:
    # Said in the models, it would import the whole PostgreSQL dialect into every process.
    if connection.dialect.name == "postgresql":
        for index in (index for table in metadata.tables.values() for index in table.indexes):
            condition = index.kwargs.get("sqlite_where")
            if condition is not None:
                index.kwargs["postgresql_where"] = condition


def _after_create(_table: Table, connection: Connection, **_options: object) -> None:
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(_POSTGRES_MODEL_INDEX)


event.listen(Base.metadata, "before_create", _before_create)
event.listen(GENERATIONS, "after_create", _after_create)
