"""Signals and files: loudness, true peak, mastering, WAV, and where files lie.

Names are loaded when they are first used: who only lists files does not wait for NumPy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from services.audio.arrays import as_audio
    from services.audio.export import AudioExporter
    from services.audio.files import AudioFileManager
    from services.audio.limiter import limit
    from services.audio.loudness import Loudness, measure_loudness
    from services.audio.mastering import Mastered, MasterReport, master, normalise
    from services.audio.staging import WrittenFile
    from services.audio.wav import SUPPORTED_BIT_DEPTHS, write_wav

__all__ = [
    "SUPPORTED_BIT_DEPTHS",
    "AudioExporter",
    "AudioFileManager",
    "Loudness",
    "MasterReport",
    "Mastered",
    "WrittenFile",
    "as_audio",
    "limit",
    "master",
    "measure_loudness",
    "normalise",
    "write_wav",
]

_HOME = {
    "SUPPORTED_BIT_DEPTHS": "wav",
    "AudioExporter": "export",
    "AudioFileManager": "files",
    "Loudness": "loudness",
    "MasterReport": "mastering",
    "Mastered": "mastering",
    "WrittenFile": "staging",
    "as_audio": "arrays",
    "limit": "limiter",
    "master": "mastering",
    "measure_loudness": "loudness",
    "normalise": "mastering",
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
