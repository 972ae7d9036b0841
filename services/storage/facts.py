"""Measurements of finished takes, and the models installed on this machine."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from sqlalchemy import select

from services.storage.columns import utc_now
from services.storage.models import AudioAnalysis, InstalledModel
from services.storage.prompts import build_upsert

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """Measurements of a take; None means "not measured"."""

    bpm: float | None = None
    bpm_confidence: float | None = None
    """0..1."""
    key: str | None = None
    key_confidence: float | None = None
    """0..1."""
    integrated_lufs: float | None = None
    true_peak_dbtp: float | None = None
    loudness_range_lu: float | None = None
    peak_amplitude: float | None = None
    """1.0 is full scale."""
    rms_energy: float | None = None
    dynamic_range_db: float | None = None


def record_analysis(
    session: Session, generation_id: str, measurements: Measurements
) -> AudioAnalysis:
    """Store the measurements of a take; they replace earlier ones.

    Raises:
        sqlalchemy.exc.IntegrityError: the generation does not exist.
    """
    values = {**asdict(measurements), "analysed_at": utc_now()}
    statement = (
        build_upsert(session.get_bind().dialect.name, AudioAnalysis)
        .values(generation_id=generation_id, **values)
        .on_conflict_do_update(index_elements=[AudioAnalysis.generation_id], set_=values)
        .returning(AudioAnalysis)
    )
    analysis: AudioAnalysis = session.execute(
        statement, execution_options={"populate_existing": True}
    ).scalar_one()
    return analysis


def get_analysis(session: Session, generation_id: str) -> AudioAnalysis | None:
    return session.get(AudioAnalysis, generation_id)


def record_model(
    session: Session,
    name: str,
    *,
    revision: str,
    licence: str,
    sample_rate: int,
    channels: int,
    longest_seconds: float,
    size_bytes: int,
    path: str,
) -> InstalledModel:
    """Store an installed model; the new facts replace earlier ones of this name.

    Args:
        session: a session that can write.
        name: name of the model.
        revision: exact version of its files.
        licence: SPDX identifier of the weights' licence.
        sample_rate: Hz.
        channels: 1 or 2.
        longest_seconds: longest duration it renders.
        size_bytes: size on disk.
        path: folder of its files, relative to the models folder.
    """
    values = {
        "revision": revision,
        "licence": licence,
        "sample_rate": sample_rate,
        "channels": channels,
        "longest_seconds": longest_seconds,
        "size_bytes": size_bytes,
        "path": path,
        "installed_at": utc_now(),
    }
    statement = (
        build_upsert(session.get_bind().dialect.name, InstalledModel)
        .values(name=name, **values)
        .on_conflict_do_update(index_elements=[InstalledModel.name], set_=values)
        .returning(InstalledModel)
    )
    model: InstalledModel = session.execute(
        statement, execution_options={"populate_existing": True}
    ).scalar_one()
    return model


def get_models(session: Session) -> list[InstalledModel]:
    """Return the installed models, sorted by name."""
    return list(session.scalars(select(InstalledModel).order_by(InstalledModel.name)))
