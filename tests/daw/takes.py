"""Short takes of noise to build sessions from, and names that programs dislike."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from services.audio.facts import TakeFacts
from services.audio.wav import write_wav
from services.daw.building import TakeInput
from services.daw.sources import SourceFile
from services.generation.score import Chord, Key, Note, Part, Score, Section

RATE = 48000

BAD_NAMES = (
    "",
    " ",
    "..",
    'a/b\\c:d*e?f"g<h>i|j',
    "\x00\x01\x1f\x7f\x85",
    "line\nbreak\r\ttab\u2028",
    "trailing dots and spaces. . ",
    ".hidden",
    "CON",
    "nul.wav",
    "COM¹",
    "\ud800 lone",
    "\ufffe\uffff",
    "🎵 emoji 👩‍🎤",
    "x" * 300,
    "é" * 300,
    "ключ 音楽 e\u0301",
    "]]> & <!-- -- --> &amp; '`\"",
    "Master",
    "drums",
    "DRUMS",
)


def make_score(bpm: float = 124.0, bars: int = 1, **changes: Any) -> Score:
    """A score with a kick on each quarter, and a bass whose first note slides up."""
    drums = tuple(Note(float(beat), 0.5, 36, 0.8) for beat in range(3))
    bass = (Note(0.0, 1.0, 40, 0.7, glide_to=45), Note(1.5, 1.0, 43, 0.6))
    return Score(
        tempo_bpm=bpm,
        bars=bars,
        key=Key(6, "minor"),
        genre="house",
        sections=(Section("intro", 0, 1, 0.5), *changes.pop("sections", ())),
        chords=(Chord(0.0, 2.0, 6, (6, 9, 1), "F#m"), Chord(2.0, 2.0, 2, (2, 6, 9), "D")),
        parts=(
            Part("drums", "drums", "kit", drums),
            Part("bass", "bass", "bass-808", bass),
            Part("silent", "lead", "lead-saw", ()),
        ),
    )


def make_take(
    folder: Path,
    name: str = "take",
    *,
    bpm: float = 124.0,
    metre: tuple[int, int] = (4, 4),
    bars: int = 1,
    stems: tuple[str, ...] = ("drums", "bass"),
    tail: int = 0,
    rate: int = RATE,
    **changes: Any,
) -> TakeInput:
    """Write a mix and its stems, of which "bass" is mono, and return them as a take.

    Args:
        folder: for the files, created.
        bpm: quarter notes a minute.
        tail: samples after the last bar.
        changes: fields of the take.
    """
    folder.mkdir(parents=True, exist_ok=True)
    frames = round(bars * metre[0] * 4 / metre[1] * 60 / bpm * rate) + tail
    noise = np.random.default_rng(len(list(folder.iterdir())))
    mix = np.zeros((2, frames), np.float32)
    files = {}
    for number, stem in enumerate(stems):
        channels = 1 if stem == "bass" else 2
        sound = noise.uniform(-0.1, 0.1, (channels, frames)).astype(np.float32)
        mix += sound
        files[stem] = write(folder / f"{len(list(folder.iterdir()))}-{number}.wav", sound, rate)
    if not stems:
        mix += noise.uniform(-0.1, 0.1, mix.shape).astype(np.float32)
    facts = {"prompt": name, "seed": 7, "licence": "CC0-1.0", "key": "F# minor"}
    metre_facts = {"beats_per_bar": metre[0], "beat_unit": metre[1]}
    given = {
        "name": name,
        "mix": write(folder / f"{len(list(folder.iterdir()))}-mix.wav", mix, rate),
        "stems": files,
        "do_stems_sum_to_mix": True,
        "score": make_score(bpm, bars),
        "facts": TakeFacts(**facts, **metre_facts),
    }
    return TakeInput(**(given | changes))


def write(path: Path, sound: np.ndarray[Any, Any], rate: int = RATE) -> SourceFile:
    write_wav(path, sound, rate, bit_depth="FLOAT")
    return SourceFile(path, hashlib.sha256(path.read_bytes()).hexdigest())
