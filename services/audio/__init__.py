"""Signals and files: loudness, mastering, analysis, formats, tags, pictures, where files lie.

Names are loaded when they are first used: who only lists files does not wait for NumPy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from services.audio.analysis import Analysis, analyse, analyse_file
    from services.audio.arrays import as_audio
    from services.audio.delivery import Exported, convert_file, normalise_file
    from services.audio.encoding import FORMATS, AudioFormat
    from services.audio.export import AudioExporter
    from services.audio.facts import Section, TakeFacts
    from services.audio.files import AudioFileManager
    from services.audio.key import Key, estimate_key
    from services.audio.limiter import limit
    from services.audio.loudness import Loudness, measure_loudness, measure_source
    from services.audio.mastering import Mastered, MasterReport, master
    from services.audio.metadata import AudioMetadataExtractor
    from services.audio.peaks import Peaks, compute_peaks, peaks_of_source, waveform_text
    from services.audio.reading import AudioFile, UnreadableAudioError, open_audio
    from services.audio.spectrogram import spectrogram_of_source, spectrogram_png
    from services.audio.staging import WrittenFile
    from services.audio.tags import read_facts
    from services.audio.tempo import Tempo, estimate_tempo
    from services.audio.wav import SUPPORTED_BIT_DEPTHS, write_wav

__all__ = [
    "FORMATS",
    "SUPPORTED_BIT_DEPTHS",
    "Analysis",
    "AudioExporter",
    "AudioFile",
    "AudioFileManager",
    "AudioFormat",
    "AudioMetadataExtractor",
    "Exported",
    "Key",
    "Loudness",
    "MasterReport",
    "Mastered",
    "Peaks",
    "Section",
    "TakeFacts",
    "Tempo",
    "UnreadableAudioError",
    "WrittenFile",
    "analyse",
    "analyse_file",
    "as_audio",
    "compute_peaks",
    "convert_file",
    "estimate_key",
    "estimate_tempo",
    "limit",
    "master",
    "measure_loudness",
    "measure_source",
    "normalise_file",
    "open_audio",
    "peaks_of_source",
    "read_facts",
    "spectrogram_of_source",
    "spectrogram_png",
    "waveform_text",
    "write_wav",
]

_HOME = {
    "Analysis": "analysis",
    "AudioExporter": "export",
    "AudioFile": "reading",
    "AudioFileManager": "files",
    "AudioFormat": "encoding",
    "AudioMetadataExtractor": "metadata",
    "Exported": "delivery",
    "FORMATS": "encoding",
    "Key": "key",
    "Loudness": "loudness",
    "MasterReport": "mastering",
    "Mastered": "mastering",
    "Peaks": "peaks",
    "SUPPORTED_BIT_DEPTHS": "wav",
    "Section": "facts",
    "TakeFacts": "facts",
    "Tempo": "tempo",
    "UnreadableAudioError": "reading",
    "WrittenFile": "staging",
    "analyse": "analysis",
    "analyse_file": "analysis",
    "as_audio": "arrays",
    "compute_peaks": "peaks",
    "convert_file": "delivery",
    "estimate_key": "key",
    "estimate_tempo": "tempo",
    "limit": "limiter",
    "master": "mastering",
    "measure_loudness": "loudness",
    "measure_source": "loudness",
    "normalise_file": "delivery",
    "open_audio": "reading",
    "peaks_of_source": "peaks",
    "read_facts": "tags",
    "spectrogram_of_source": "spectrogram",
    "spectrogram_png": "spectrogram",
    "waveform_text": "peaks",
    "write_wav": "wav",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
