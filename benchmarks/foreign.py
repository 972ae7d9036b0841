"""Tempo and key of music that nobody here wrote: python -m benchmarks.foreign.

The pieces of OpenMSX (Debian) and scores of the corpus of music21 (PyPI), played by FluidSynth.
All three are installed when this runs, the Python packages into a folder of the cache that belongs
to nothing else. Half of the pieces, chosen by a hash of their names, is held out: constants of the
estimators may be chosen on the other half only.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import soundfile

from benchmarks import instruments
from benchmarks.analysis import accuracies, key_score
from benchmarks.scores import OPENMSX, SECONDS, hash_name
from services.audio.key import Key, estimate_key
from services.audio.onsets import find_onsets
from services.audio.sources import ArraySource
from services.audio.spectrum import compute_spectrum
from services.audio.summary import summarise_signal
from services.audio.tempo import Tempo, find_tempo

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "dgx-music", "benchmarks")
_DEBIAN = ("fluidsynth", "openttd-openmsx", "timgm6mb-soundfont")
_PYPI = ("music21==10.5.1", "mido==1.3.3")
_WRONG = (3 / 4, 4 / 5, 1.23, 5 / 4, 4 / 3)
"""Wrong hints as ratios to the truth."""
_HINT_ERROR = 0.08
_SAME_KEY = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A piece with its truth."""

    name: str
    group: str
    sound: str
    bpm: float
    key: str | None
    """None where the score does not say."""
    held_out: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What was measured of a piece."""

    piece: Piece
    blind: Tempo
    hinted: Tempo
    """With the true tempo as the hint."""
    near: Tempo
    """With a hint up to 8 % off."""
    misled: tuple[Tempo, ...]
    """With each of the wrong hints."""
    key: Key | None


def install(cache: Path) -> bool:
    """Install what is missing; if that needs root, say what to install and return False."""
    if shutil.which("fluidsynth") is None or not OPENMSX.is_dir() or not instruments.soundfont():
        if os.geteuid() != 0:
            print(f"Not measured. Install the Debian packages {', '.join(_DEBIAN)} as root first.")
            return False
        command = ["apt-get", "install", "-y", "--no-install-recommends", *_DEBIAN]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    libraries = cache / "libraries"
    if not (libraries / "music21").is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(libraries)]
        subprocess.run([*pip, *_PYPI], check=True)
    return True


def load_pieces(cache: Path) -> list[Piece]:
    """Return all pieces; the first run takes minutes to write their MIDI files."""
    scores = cache / "scores"
    if not (scores / "pieces.json").exists():
        scores.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "benchmarks.scores", str(cache / "libraries"), str(scores)]
        subprocess.run(command, check=True)
    return [Piece(**values) for values in json.loads((scores / "pieces.json").read_text())]


def render(piece: Piece, cache: Path) -> Path:
    """Return the WAV file of a piece, which is played once."""
    wav = cache / "renders" / f"{piece.name}.wav"
    if not wav.exists():
        wav.parent.mkdir(exist_ok=True)
        font = instruments.soundfont()
        assert font is not None
        unfinished = wav.with_suffix(".part")
        instruments.play_midi(font, cache / "scores" / f"{piece.name}.mid", unfinished)
        unfinished.rename(wav)
    return wav


def measure(piece: Piece, wav: Path) -> Result:
    frames, rate = soundfile.read(wav, dtype="float32", always_2d=True)
    audio = frames[: round(SECONDS * rate)].T
    onsets = find_onsets(compute_spectrum(summarise_signal(ArraySource(audio, rate))))
    off = 1 + _HINT_ERROR * (2 * hash_name(piece.name, "hint") - 1)
    return Result(
        piece=piece,
        blind=find_tempo(onsets),
        hinted=find_tempo(onsets, piece.bpm),
        near=find_tempo(onsets, piece.bpm * off),
        misled=tuple(find_tempo(onsets, piece.bpm * ratio) for ratio in _WRONG),
        key=estimate_key(audio, rate),
    )


def share(values: Iterable[bool]) -> str:
    listed = list(values)
    return f"{100 * sum(listed) / len(listed):5.1f}" if listed else "    -"


def print_table(results: list[Result]) -> None:
    print(f"{'':22}   n  hint near none supp acc1  acc2  parr  |   n   key exact")
    for name, chosen in (
        ("tuning half", lambda r: not r.piece.held_out),
        ("held out", lambda r: r.piece.held_out),
        *((f"held out: {g}", _held_out_of(g)) for g in ("OpenMSX", "music21")),
    ):
        rows = [result for result in results if chosen(result)]
        keyed = [result for result in rows if result.piece.key]
        scores = [score_key(result) for result in keyed]
        print(
            f"{name:22} {len(rows):3d}",
            share(is_exact(r.hinted, r.piece) for r in rows),
            share(is_exact(r.near, r.piece) for r in rows),
            share(r.hinted.bpm is None for r in rows),
            share(bool(r.hinted.hint_supported) for r in rows),
            share(accuracies(r.piece.bpm, r.blind.bpm)[0] for r in rows),
            share(accuracies(r.piece.bpm, r.blind.bpm)[1] for r in rows),
            share(bool(t.hint_supported) for r in rows for t in r.misled),
            f" | {len(keyed):3d} {sum(scores) / max(len(scores), 1):.3f}",
            share(score == _SAME_KEY for score in scores),
        )
    print("hint: percent within 0.1 BPM with the true tempo as the hint (target 99); near: with a")
    print("hint up to 8 % off; none: no tempo; supp: hint supported; acc1, acc2: without a hint,")
    print("within 4 % of the tempo (or of its multiples, target 90); parr: wrong hints that are")
    print("called supported; key: mean MIREX score (target 0.80) and percent exact")


def _held_out_of(group: str) -> Callable[[Result], bool]:
    return lambda result: result.piece.held_out and result.piece.group == group


def is_exact(tempo: Tempo, piece: Piece) -> bool:
    return tempo.bpm is not None and abs(tempo.bpm - piece.bpm) <= 0.1


def score_key(result: Result) -> float:
    """Return the MIREX score; 0 for no key."""
    return key_score(result.piece.key, result.key.name if result.key else None) or 0.0


def print_reliability(results: list[Result], *, held_out: bool) -> None:
    """Print how many answers of each confidence are right; an estimator may also give none."""
    rows = [result for result in results if result.piece.held_out == held_out]
    answers = {
        "tempo": [
            (r.blind.confidence, accuracies(r.piece.bpm, r.blind.bpm)[0])
            for r in rows
            if r.blind.bpm
        ],
        "tempo, true hint": [
            (r.hinted.confidence, accuracies(r.piece.bpm, r.hinted.bpm)[0])
            for r in rows
            if r.hinted.bpm
        ],
        "tempo, wrong hint": [
            (tempo.confidence, accuracies(r.piece.bpm, tempo.bpm)[0])
            for r in rows
            for tempo in r.misled
            if tempo.bpm
        ],
        "key": [
            (r.key.confidence, score_key(r) == _SAME_KEY) for r in rows if r.key and r.piece.key
        ],
    }
    print(f"{'held out' if held_out else 'tuning half'}: percent right (answers) by confidence")
    edges = (0.0, 0.2, 0.4, 0.6, 0.8, 1.01)
    print(f"{'':18}" + "".join(f"{low:7.1f} on   " for low in edges[:-1]))
    for name, pairs in answers.items():
        cells = []
        for low, high in pairwise(edges):
            right = [is_right for confidence, is_right in pairs if low <= confidence < high]
            cells.append(f"{share(right)} ({len(right):3d})")
        print(f"{name:18}" + "  ".join(cells))


def print_pieces(results: list[Result]) -> None:
    """Print the pieces of the tuning half alone, so that nobody looks at the others."""
    for result in results:
        piece, key = result.piece, result.key
        if not piece.held_out:
            found = [
                "none" if t.bpm is None else f"{t.bpm:6.1f} {t.confidence:.2f}"
                for t in (result.blind, result.hinted)
            ]
            print(
                f"{piece.name[:26]:26} {piece.sound[:8]:8} {piece.bpm:6.1f}: {found[0]:11}, hinted",
                f"{found[1]:11}; {piece.key}: {key and f'{key.name} {key.confidence:.2f}'}",
            )


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.foreign", description=__doc__)
    parser.add_argument("--cache", type=Path, default=CACHE, help=f"folder (default {CACHE})")
    parser.add_argument("--pieces", action="store_true", help="a line a piece of the tuning half")
    options = parser.parse_args()
    if not install(options.cache):
        return
    pieces = load_pieces(options.cache)
    results = [measure(piece, render(piece, options.cache)) for piece in pieces]
    if options.pieces:
        print_pieces(results)
    print_table(results)
    for held_out in (False, True):
        print_reliability(results, held_out=held_out)


if __name__ == "__main__":
    main()
