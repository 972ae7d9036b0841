"""Tables as classes. docs/database.md describes each column."""

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
    """Encode metadata as JSON text.

    Raises:
        TypeError: a value has no JSON form.
        ValueError: a number is not finite.
    """
    return json.dumps(metadata, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


class Generation(Base):
    """A job, from its request to its take.

    It can be used without a database: the constructor sets `id`, `status` and `created_at`.
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
        # The database numbers the rows for the text index; objects do not have the number.
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
        # Filtered lists, newest first. Most rows are completed and are read along the index of
        # times; the index of the other statuses stays small.
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
        return self.status == GenerationStatus.PENDING

    @property
    def is_processing(self) -> bool:
        return self.status == GenerationStatus.PROCESSING

    @property
    def is_complete(self) -> bool:
        return self.status == GenerationStatus.COMPLETED

    @property
    def is_failed(self) -> bool:
        return self.status == GenerationStatus.FAILED

    @property
    def is_cancelled(self) -> bool:
        return self.status == GenerationStatus.CANCELLED

    @property
    def is_finished(self) -> bool:
        """Completed, failed or cancelled."""
        return self.status in FINISHED_STATUSES

    def get_metadata(self) -> dict[str, Any]:
        """Return the metadata; empty when there is none or it is not a JSON object."""
        try:
            metadata = json.loads(self.metadata_json or "{}")
        except ValueError:
            return {}
        return metadata if isinstance(metadata, dict) else {}

    def set_metadata(self, metadata: Mapping[str, Any]) -> None:
        """Replace the metadata; raises as `dump_metadata`."""
        self.metadata_json = dump_metadata(metadata)

    def merge_metadata(self, metadata: Mapping[str, Any] | None) -> None:
        """Add values to the metadata; a new value replaces one of the same name."""
        if metadata:
            self.set_metadata({**self.get_metadata(), **metadata})

    def mark_pending(self) -> None:
        self.set_status(GenerationStatus.PENDING, self.error_message)

    def mark_processing(self) -> None:
        self.set_status(GenerationStatus.PROCESSING, self.error_message)

    def mark_completed(self, generation_time: float) -> None:
        """Set the status to completed, and the seconds that it took."""
        self.set_status(GenerationStatus.COMPLETED, None)
        self.generation_time_seconds = generation_time

    def mark_failed(self, error_message: str) -> None:
        self.set_status(GenerationStatus.FAILED, error_message)

    def mark_cancelled(self) -> None:
        self.set_status(GenerationStatus.CANCELLED, self.error_message)

    def set_status(self, status: str, error_message: str | None) -> None:
        """Set status and message; a finished status sets `completed_at`, any other clears it."""
        self.status = str(status)
        self.completed_at = utc_now() if self.is_finished else None
        self.error_message = error_message

    def to_dict(self) -> dict[str, Any]:
        """Return the public columns with values for JSON; times are in ISO 8601."""
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
    """A prompt and its number of uses."""

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
        self.used_count += 1
        self.last_used_at = utc_now()

    def to_dict(self) -> dict[str, Any]:
        """Return every column with values for JSON; times are in ISO 8601."""
        return {
            "id": self.id,
            "text": self.text,
            "used_count": self.used_count,
            "first_used_at": _format_time(self.first_used_at),
            "last_used_at": _format_time(self.last_used_at),
        }


class AudioAnalysis(Base):
    """Measurements of a finished take; deleted with its generation."""

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


class Attachment(Base):
    """A file that belongs to a take, a stem or its MIDI; deleted with its generation."""

    __tablename__ = "attachments"

    generation_id: Mapped[str] = mapped_column(
        Identifier, ForeignKey("generations.id", ondelete="CASCADE"), primary_key=True
    )
    kind: Mapped[str] = mapped_column(Text, primary_key=True)
    name: Mapped[str] = mapped_column(Identifier, primary_key=True)
    file_path: Mapped[str] = mapped_column(Text)
    bytes: Mapped[int] = mapped_column(Count)
    sha256: Mapped[str] = mapped_column(Digest)

    __table_args__ = (CheckConstraint("kind IN ('stem', 'midi')", name="kind"),)


class InstalledModel(Base):
    """A model that is installed on this machine."""

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
"""The table of `Generation`, with the column that objects do not have."""

# An index that grows in several places at once leaves its pages half empty on PostgreSQL, unless
# its entries are as short as two numbers. With the names themselves it would be twice as large.
_POSTGRES_MODEL_INDEX = (
    "CREATE INDEX idx_generations_model_created ON generations "
    "(hashtext(model_name), created_at) WITH (fillfactor = 100)"
)


def _before_create(metadata: MetaData, connection: Connection, **_options: object) -> None:
    # `postgresql_where` in the models would import the PostgreSQL dialect into every process.
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
