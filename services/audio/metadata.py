"""Measure length, tempo, key, levels and loudness, as one flat dictionary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from services.audio.arrays import LOWEST_MEASURED_RATE_HZ, as_audio, check_measured_rate
from services.audio.features import measure_dynamic_range
from services.audio.key import find_key
from services.audio.loudness import finite_or_none, measure_source
from services.audio.onsets import find_onsets
from services.audio.reading import UnreadableAudioError, open_audio
from services.audio.sources import ArraySource
from services.audio.spectrum import compute_spectrum
from services.audio.summary import summarise_signal
from services.audio.tempo import find_tempo

if TYPE_CHECKING:
    import os

    from services.audio.sources import Source
    from services.audio.summary import SignalSummary


class AudioMetadataExtractor:
    def __init__(self, extract_bpm: bool = True, extract_key: bool = True) -> None:
        self.extract_bpm = extract_bpm
        self.extract_key = extract_key

    def extract_metadata(
        self, audio_path: str | os.PathLike[str], compute_stats: bool = True
    ) -> dict[str, Any]:
        """Measure a file of any length.

        Returns:
            duration_seconds, sample_rate, channels, file_size_bytes, bit_depth (None if the
            encoding has none), bpm and key (None if not found or not requested), bpm_confidence
            and key_confidence (0..1, None if not requested). With `compute_stats` also
            peak_amplitude and rms_energy (linear), dynamic_range_db, integrated_lufs and
            true_peak_dbtp (both None for silence).

        Raises:
            FileNotFoundError: the file does not exist.
            RuntimeError: the file has no usable audio.
        """
        try:
            file = open_audio(audio_path, LOWEST_MEASURED_RATE_HZ)
            facts = {"file_size_bytes": file.bytes, "bit_depth": file.bit_depth}
            return self._extract(file, facts, compute_stats)
        except UnreadableAudioError as error:
            raise RuntimeError(f"Metadata extraction failed for {audio_path}: {error}") from error

    def extract_metadata_from_tensor(
        self, audio_tensor: Any, sample_rate: int, compute_stats: bool = True
    ) -> dict[str, Any]:
        """Measure a tensor or array like `extract_metadata`; file size and bit depth are None.

        Raises:
            TypeError: not a tensor or array, or a sample rate that is not an integer.
            ValueError: see `as_audio` and `check_measured_rate`.
        """
        audio = as_audio(audio_tensor)
        source = ArraySource(audio, check_measured_rate(sample_rate))
        return self._extract(source, {"file_size_bytes": None, "bit_depth": None}, compute_stats)

    def get_info(self) -> dict[str, Any]:
        return {"extract_bpm": self.extract_bpm, "extract_key": self.extract_key}

    def _extract(
        self, source: Source, facts: dict[str, Any], compute_stats: bool
    ) -> dict[str, Any]:
        summary = summarise_signal(source)
        found = {
            "duration_seconds": summary.duration_seconds,
            "sample_rate": summary.sample_rate,
            "channels": summary.channels,
            **facts,
            **self._extract_tempo(summary),
            **self._extract_key(summary),
        }
        return found | (_measure_stats(source, summary) if compute_stats else {})

    def _extract_tempo(self, summary: SignalSummary) -> dict[str, Any]:
        if not self.extract_bpm:
            return {"bpm": None, "bpm_confidence": None}
        tempo = find_tempo(find_onsets(compute_spectrum(summary)))
        return {"bpm": tempo.bpm, "bpm_confidence": tempo.confidence}

    def _extract_key(self, summary: SignalSummary) -> dict[str, Any]:
        if not self.extract_key:
            return {"key": None, "key_confidence": None}
        key = find_key(summary.mono)
        return {
            "key": None if key is None else key.name,
            "key_confidence": 0.0 if key is None else key.confidence,
        }


def _measure_stats(source: Source, summary: SignalSummary) -> dict[str, float | None]:
    loudness = measure_source(source)
    return finite_or_none(
        {
            "peak_amplitude": summary.peak,
            "rms_energy": summary.rms,
            "dynamic_range_db": measure_dynamic_range(summary),
            "integrated_lufs": loudness.integrated_lufs,
            "true_peak_dbtp": loudness.true_peak_dbtp,
        }
    )
