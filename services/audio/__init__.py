"""Loudness, mastering, analysis, file formats, metadata, waveforms and the output folder.

Names are imported on first use. Listing files does not import NumPy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from services.audio.analysis import Analysis, analyse, analyse_file
    from services.audio.arrays import as_audio
    from services.audio.atomic import WrittenFile
    from services.audio.conversion import Exported, convert_file, normalise_file
    from services.audio.encoding import FORMATS, AudioFormat
    from services.audio.export import AudioExporter
    from services.audio.facts import Section, TakeFacts
    from services.audio.files import AudioFileManager
    from services.audio.key import Key, estimate_key
    from services.audio.limiter import limit
    from services.audio.loudness import Loudness, measure_loudness, measure_source
    from services.audio.mastering import Mastered, MasterReport, master
    from services.audio.metadata import AudioMetadataExtractor
    from services.audio.peaks import Peaks, compute_peaks, compute_source_peaks, draw_waveform
    from services.audio.reading import AudioFile, UnreadableAudioError, open_audio
    from services.audio.spectrogram import draw_source_spectrogram, draw_spectrogram
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
    "compute_source_peaks",
    "convert_file",
    "draw_source_spectrogram",
    "draw_spectrogram",
    "draw_waveform",
    "estimate_key",
    "estimate_tempo",
    "limit",
    "master",
    "measure_loudness",
    "measure_source",
    "normalise_file",
    "open_audio",
    "read_facts",
    "write_wav",
]

_MODULE_OF = {
    "Analysis": "analysis",
    "AudioExporter": "export",
    "AudioFile": "reading",
    "AudioFileManager": "files",
    "AudioFormat": "encoding",
    "AudioMetadataExtractor": "metadata",
    "Exported": "conversion",
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
    "WrittenFile": "atomic",
    "analyse": "analysis",
    "analyse_file": "analysis",
    "as_audio": "arrays",
    "compute_peaks": "peaks",
    "convert_file": "conversion",
    "estimate_key": "key",
    "estimate_tempo": "tempo",
    "limit": "limiter",
    "master": "mastering",
    "measure_loudness": "loudness",
    "measure_source": "loudness",
    "normalise_file": "conversion",
    "open_audio": "reading",
    "compute_source_peaks": "peaks",
    "read_facts": "tags",
    "draw_source_spectrogram": "spectrogram",
    "draw_spectrogram": "spectrogram",
    "draw_waveform": "peaks",
    "write_wav": "wav",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
