"""The metadata of a take, for its file and for its row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from services.audio.facts import Section, TakeFacts

if TYPE_CHECKING:
    from datetime import datetime

    from services.audio import Analysis, Mastered
    from services.generation.engine import EngineFacts, Rendered

_SAME_TEMPO_BPM = 0.1
_BEATS_PER_BAR, _BEAT_UNIT = 4, 4
"""The metre of all engines."""


def build_file_facts(
    *,
    generation_id: str,
    prompt: str,
    created_at: datetime,
    engine: EngineFacts,
    rendered: Rendered,
    mastered: Mastered,
) -> TakeFacts:
    """Return the facts to write into the file: enough to find the take and to repeat it."""
    score = rendered.score
    sections = () if score is None else score.sections
    return TakeFacts(
        prompt=prompt,
        generation_id=generation_id,
        engine=engine.name,
        engine_version=engine.version,
        seed=rendered.seed,
        licence=engine.output_licence,
        created_at=created_at,
        genre=rendered.understood.get("genre"),
        bpm=rendered.tempo_bpm,
        key=rendered.key,
        bars=rendered.bars,
        beats_per_bar=None if rendered.bars is None else _BEATS_PER_BAR,
        beat_unit=None if rendered.bars is None else _BEAT_UNIT,
        sections=tuple(
            Section(score.seconds_at(one.start_bar * score.beats_per_bar), one.name)
            for one in sections
            if score is not None
        ),
        loudness=mastered.loudness,
        is_loop=rendered.loop,
    )


def build_row_metadata(
    engine: EngineFacts,
    rendered: Rendered,
    mastered: Mastered,
    measured: Analysis,
    target_lufs: float | None,
) -> dict[str, Any]:
    """Return the metadata of a finished take's row, JSON-ready, without empty values.

    Tempo and key are the engine's. Where it states none, they are measured and come with a
    confidence. A measured tempo that differs from the engine's is added as `measured_bpm`.
    """
    tempo, key = measured.tempo, measured.key
    other_bpm = _other_tempo(rendered.tempo_bpm, tempo.bpm)
    has_measured_tempo = rendered.tempo_bpm is None or other_bpm is not None
    known = {
        "engine": engine.name,
        "engine_version": engine.version,
        "licence": engine.output_licence,
        "seed": rendered.seed,
        "bpm": rendered.tempo_bpm or _rounded(tempo.bpm),
        "measured_bpm": other_bpm,
        "bpm_confidence": _rounded(tempo.confidence) if has_measured_tempo else None,
        "key": rendered.key or (key and key.name),
        "key_confidence": _rounded(key.confidence) if key and not rendered.key else None,
        "bars": rendered.bars,
        "loop": rendered.loop if rendered.bars is not None else None,
        **rendered.understood,
        "target_lufs": target_lufs,
        "integrated_lufs": _rounded(mastered.integrated_lufs),
        "true_peak_dbtp": _rounded(mastered.true_peak_dbtp),
        "gain_reduction_db": _rounded(mastered.gain_reduction_db) or None,
        "flags": list(mastered.flags),
    }
    metadata: dict[str, Any] = _without_empty(known)
    return metadata


def build_measurements(mastered: Mastered, measured: Analysis) -> dict[str, float | str | None]:
    """Return the measured values of a take, JSON-ready: the fields of `storage.Measurements`."""
    tempo, key, features = measured.tempo, measured.key, measured.features
    return {
        "bpm": _rounded(tempo.bpm),
        "bpm_confidence": _rounded(tempo.confidence),
        "key": key.name if key else None,
        "key_confidence": _rounded(key.confidence) if key else None,
        "integrated_lufs": _rounded(mastered.integrated_lufs),
        "true_peak_dbtp": _rounded(mastered.true_peak_dbtp),
        "loudness_range_lu": _rounded(measured.loudness.loudness_range_lu),
        "peak_amplitude": features.peak_amplitude,
        "rms_energy": features.rms,
        "dynamic_range_db": _rounded(features.dynamic_range_db),
    }


def _other_tempo(stated: float | None, measured: float | None) -> float | None:
    """Return the measured tempo if it differs from the engine's, in BPM."""
    if stated is None or measured is None or abs(stated - measured) <= _SAME_TEMPO_BPM:
        return None
    return _rounded(measured)


def _without_empty(value: Any) -> Any:
    # Rows are read often; empty values would only make them larger.
    if not isinstance(value, dict):
        return value
    pruned = {name: _without_empty(inner) for name, inner in value.items()}
    return {name: inner for name, inner in pruned.items() if inner not in (None, [], {}, "")}


def _rounded(value: float | None) -> float | None:
    # Silence has a loudness of minus infinity, which JSON cannot hold.
    return round(value, 2) if value is not None and value > float("-inf") else None
