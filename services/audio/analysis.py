"""Loudness, tempo, key and features of a signal or file, in one call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from services.audio.arrays import LOWEST_MEASURED_RATE_HZ, as_audio, check_measured_rate
from services.audio.features import Features, compute_features
from services.audio.key import Key, find_key
from services.audio.loudness import Loudness, measure_source
from services.audio.onsets import find_onsets
from services.audio.reading import open_audio
from services.audio.sources import ArraySource
from services.audio.spectrum import compute_spectrum
from services.audio.summary import summarise_signal
from services.audio.tempo import Tempo, find_tempo

if TYPE_CHECKING:
    import os

    from services.audio.sources import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    features: Features
    loudness: Loudness
    tempo: Tempo
    key: Key | None
    """None where no key is found."""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary with the keys features, loudness, tempo and key."""
        return {
            "features": self.features.to_dict(),
            "loudness": self.loudness.to_dict(),
            "tempo": self.tempo.to_dict(),
            "key": None if self.key is None else self.key.to_dict(),
        }


def analyse(
    signal: Any,
    sample_rate: int,
    hint_bpm: float | None = None,
    loudness: Loudness | None = None,
) -> Analysis:
    """Measure a signal.

    Args:
        signal: see `as_audio`.
        sample_rate: 1000 to 192000 Hz.
        hint_bpm: the requested tempo, see `estimate_tempo`.
        loudness: the loudness of this signal, if already measured.

    Raises:
        TypeError: not a tensor or array, or a sample rate that is not an integer.
        ValueError: see `as_audio`, `check_measured_rate` and `estimate_tempo`.
    """
    audio = as_audio(signal)
    source = ArraySource(audio, check_measured_rate(sample_rate))
    return analyse_source(source, hint_bpm, loudness)


def analyse_file(path: str | os.PathLike[str], hint_bpm: float | None = None) -> Analysis:
    """Measure a file of any length; memory stops growing at ten minutes of audio.

    Raises:
        FileNotFoundError: the file does not exist.
        UnreadableAudioError: see `open_audio` and `AudioFile.blocks`.
        ValueError: the hint is not a positive number.
    """
    return analyse_source(open_audio(path, LOWEST_MEASURED_RATE_HZ), hint_bpm)


def analyse_source(
    source: Source, hint_bpm: float | None = None, loudness: Loudness | None = None
) -> Analysis:
    """Measure audio in blocks like `analyse`; the source is read up to twice."""
    summary = summarise_signal(source)
    spectrum = compute_spectrum(summary)
    onsets = find_onsets(spectrum)
    tempo = find_tempo(onsets, hint_bpm)
    return Analysis(
        features=compute_features(summary, spectrum, onsets, tempo),
        loudness=loudness or measure_source(source),
        tempo=tempo,
        key=find_key(summary.mono),
    )
