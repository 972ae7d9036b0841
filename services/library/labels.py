"""What is said of a take in its file and in its row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from services.audio.facts import Section, TakeFacts

if TYPE_CHECKING:
    from datetime import datetime

    from services.audio import Analysis, Mastered
    from services.generation.engine import EngineFacts, Rendered

_SAME_TEMPO_BPM = 0.1


def file_facts(
    *,
    generation_id: str,
    prompt: str,
    created_at: datetime,
    engine: EngineFacts,
    rendered: Rendered,
    mastered: Mastered,
) -> TakeFacts:
    """What the file says about itself: enough to find the take, or to make it again."""
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
        sections=tuple(
            Section(score.seconds_at(one.start_bar * score.beats_per_bar), one.name)
            for one in sections
            if score is not None
        ),
        loudness=mastered.loudness,
        is_loop=_is_loop(rendered),
    )


def row_metadata(
    engine: EngineFacts,
    rendered: Rendered,
    mastered: Mastered,
    measured: Analysis,
    target_lufs: float | None,
) -> dict[str, Any]:
    """What is kept about a finished take, JSON-ready; absent facts are left out.

    Tempo and key are those the engine worked to. Where it knows none they were measured, and a
    confidence stands beside them; where the measurement disagrees with the tempo, it is told.
    """
    tempo, key = measured.tempo, measured.key
    other_bpm = _other_tempo(rendered.tempo_bpm, tempo.bpm)
    heard_tempo = rendered.tempo_bpm is None or other_bpm is not None
    known = {
        "engine": engine.name,
        "engine_version": engine.version,
        "licence": engine.output_licence,
        "seed": rendered.seed,
        "bpm": rendered.tempo_bpm or _rounded(tempo.bpm),
        "measured_bpm": other_bpm,
        "bpm_confidence": _rounded(tempo.confidence) if heard_tempo else None,
        "key": rendered.key or (key and key.name),
        "key_confidence": _rounded(key.confidence) if key and not rendered.key else None,
        "bars": rendered.bars,
        **rendered.understood,
        "target_lufs": target_lufs,
        "integrated_lufs": _rounded(mastered.integrated_lufs),
        "true_peak_dbtp": _rounded(mastered.true_peak_dbtp),
        "gain_reduction_db": _rounded(mastered.gain_reduction_db) or None,
        "flags": list(mastered.flags),
    }
    kept: dict[str, Any] = _without_empty(known)
    return kept


def measurements(mastered: Mastered, measured: Analysis) -> dict[str, float | str | None]:
    """The measured figures of a take, JSON-ready, named as the fields of `storage.Measurements`."""
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


def _is_loop(rendered: Rendered) -> bool:
    """Whether the bars fill the audio to the sample."""
    if rendered.bars is None or rendered.tempo_bpm is None:
        return False
    beats = rendered.bars * TakeFacts().beats_per_bar
    samples = beats * 60 / rendered.tempo_bpm * rendered.sample_rate
    return bool(abs(samples - rendered.audio.shape[1]) < 1)


def _other_tempo(stated: float | None, measured: float | None) -> float | None:
    """What was measured, where it is not what the engine worked to."""
    if stated is None or measured is None or abs(stated - measured) <= _SAME_TEMPO_BPM:
        return None
    return _rounded(measured)


def _without_empty(value: Any) -> Any:
    """A row is read more often than its absent facts are missed: they take no room in it."""
    if not isinstance(value, dict):
        return value
    pruned = {name: _without_empty(inner) for name, inner in value.items()}
    return {name: inner for name, inner in pruned.items() if inner not in (None, [], {}, "")}


def _rounded(value: float | None) -> float | None:
    """JSON has no infinity: silence has no loudness."""
    return round(value, 2) if value is not None and value > float("-inf") else None
