"""The metadata of a take in one flat dictionary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from services.audio.arrays import as_audio, check_sample_rate
from services.audio.features import dynamic_range_db
from services.audio.hearing import hear
from services.audio.key import key_of
from services.audio.loudness import finite_or_none, measure_source
from services.audio.onsets import find_onsets
from services.audio.reading import UnreadableAudioError, open_audio
from services.audio.sources import ArraySource
from services.audio.spectrum import sketch
from services.audio.tempo import tempo_of

if TYPE_CHECKING:
    import os

    from services.audio.hearing import Heard
    from services.audio.sources import Source


class AudioMetadataExtractor:
    """Reads length, tempo, key, level and loudness of files and of signals in memory."""

    def __init__(self, extract_bpm: bool = True, extract_key: bool = True) -> None:
        self.extract_bpm = extract_bpm
        self.extract_key = extract_key

    def extract_metadata(
        self, audio_path: str | os.PathLike[str], compute_stats: bool = True
    ) -> dict[str, Any]:
        """Measure a file of any length.

        Returns:
            duration_seconds, sample_rate, channels, file_size_bytes, bit_depth (None where the
            encoding has none), bpm and key (None where there is none, or it was not asked for),
            bpm_confidence and key_confidence (0..1, None when not asked for); with `compute_stats`
            also peak_amplitude and rms_energy (linear), dynamic_range_db, integrated_lufs and
            true_peak_dbtp (None for silence).

        Raises:
            FileNotFoundError: there is no such file.
            RuntimeError: it is not audio that can be read.
        """
        try:
            file = open_audio(audio_path)
            facts = {"file_size_bytes": file.bytes, "bit_depth": file.bit_depth}
            return self._extract(file, facts, compute_stats)
        except UnreadableAudioError as error:
            raise RuntimeError(f"Metadata extraction failed for {audio_path}: {error}") from error

    def extract_metadata_from_tensor(
        self, audio_tensor: Any, sample_rate: int, compute_stats: bool = True
    ) -> dict[str, Any]:
        """Measure a tensor or array, as `extract_metadata`; size and bit depth are None.

        Raises:
            TypeError: not audio, or a rate that is no whole number.
            ValueError: what `as_audio` and `check_sample_rate` refuse.
        """
        audio = as_audio(audio_tensor)
        source = ArraySource(audio, check_sample_rate(sample_rate))
        return self._extract(source, {"file_size_bytes": None, "bit_depth": None}, compute_stats)

    def get_info(self) -> dict[str, Any]:
        """What is extracted."""
        return {"extract_bpm": self.extract_bpm, "extract_key": self.extract_key}

    def _extract(
        self, source: Source, facts: dict[str, Any], compute_stats: bool
    ) -> dict[str, Any]:
        heard = hear(source)
        found = {
            "duration_seconds": heard.duration_seconds,
            "sample_rate": heard.sample_rate,
            "channels": heard.channels,
            **facts,
            **self._tempo(heard),
            **self._key(heard),
        }
        return found | (_stats(source, heard) if compute_stats else {})

    def _tempo(self, heard: Heard) -> dict[str, Any]:
        if not self.extract_bpm:
            return {"bpm": None, "bpm_confidence": None}
        tempo = tempo_of(find_onsets(sketch(heard)))
        return {"bpm": tempo.bpm, "bpm_confidence": tempo.confidence}

    def _key(self, heard: Heard) -> dict[str, Any]:
        if not self.extract_key:
            return {"key": None, "key_confidence": None}
        key = key_of(heard.mono)
        return {
            "key": None if key is None else key.name,
            "key_confidence": 0.0 if key is None else key.confidence,
        }


def _stats(source: Source, heard: Heard) -> dict[str, float | None]:
    loudness = measure_source(source)
    return finite_or_none(
        {
            "peak_amplitude": heard.peak,
            "rms_energy": heard.rms,
            "dynamic_range_db": dynamic_range_db(heard),
            "integrated_lufs": loudness.integrated_lufs,
            "true_peak_dbtp": loudness.true_peak_dbtp,
        }
    )
