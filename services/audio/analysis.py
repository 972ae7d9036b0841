"""Everything that can be measured of a signal, in one call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from services.audio.arrays import as_audio, check_sample_rate
from services.audio.features import Features, features_of
from services.audio.hearing import hear
from services.audio.key import Key, key_of
from services.audio.loudness import Loudness, measure_source
from services.audio.onsets import find_onsets
from services.audio.reading import open_audio
from services.audio.sources import ArraySource
from services.audio.spectrum import sketch
from services.audio.tempo import Tempo, tempo_of

if TYPE_CHECKING:
    import os

    from services.audio.sources import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """What was measured of a signal."""

    features: Features
    loudness: Loudness
    tempo: Tempo
    key: Key | None
    """None where the notes make no key, or there are none."""

    def to_dict(self) -> dict[str, Any]:
        """All figures, JSON-ready, under `features`, `loudness`, `tempo` and `key`."""
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
        signal: what `as_audio` takes.
        sample_rate: 8000 to 192000 Hz.
        hint_bpm: the tempo that was asked for, see `estimate_tempo`.
        loudness: of this signal if it is known; otherwise it is measured.

    Raises:
        TypeError: not audio, or a rate that is no whole number.
        ValueError: what `as_audio`, `check_sample_rate` and `estimate_tempo` refuse.
    """
    audio = as_audio(signal)
    source = ArraySource(audio, check_sample_rate(sample_rate))
    return analyse_source(source, hint_bpm, loudness)


def analyse_file(path: str | os.PathLike[str], hint_bpm: float | None = None) -> Analysis:
    """Measure a file of any length, in memory that does not grow with it beyond ten minutes.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableAudioError: what `open_audio` and `AudioFile.blocks` refuse.
        ValueError: a hint that is no positive number.
    """
    return analyse_source(open_audio(path), hint_bpm)


def analyse_source(
    source: Source, hint_bpm: float | None = None, loudness: Loudness | None = None
) -> Analysis:
    """As `analyse`, for audio that comes in blocks; they are gone through twice."""
    heard = hear(source)
    spectrum = sketch(heard)
    onsets = find_onsets(spectrum)
    tempo = tempo_of(onsets, hint_bpm)
    return Analysis(
        features=features_of(heard, spectrum, onsets, tempo),
        loudness=loudness or measure_source(source),
        tempo=tempo,
        key=key_of(heard.mono),
    )
