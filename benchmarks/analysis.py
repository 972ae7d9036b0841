"""Tempo and key against known truth, beside librosa: python -m benchmarks.analysis [--quick].

Constants of the estimators were chosen on composer takes and on the `TUNED` styles of
`benchmarks.songs`; the `HELD_OUT` styles were not looked at. The songs are played by
`benchmarks.instruments` and, where FluidSynth and a SoundFont are on the machine, by those too.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import librosa
import mir_eval
import numpy as np
import soxr

from benchmarks import instruments
from benchmarks.songs import HELD_OUT, TUNED, write_song
from services.audio import write_wav
from services.audio.analysis import analyse
from services.audio.key import PITCH_CLASSES, PROFILES, estimate_key
from services.audio.tempo import Tempo, estimate_tempo
from services.generation.composer.engine import ComposerEngine
from services.generation.composer.genres import GENRES
from services.generation.engine import GenerationParams

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Audio = NDArray[np.float32]

T = TypeVar("T")

SECONDS = 30.0
TARGETS = {
    "hint": "99 % within 0.1 BPM",
    "acc2": "98 %",
    "acc1": "75 %",
    "key": "MIREX 0.88",
    "time": "0.15 s",
    "memory": "400 MB",
}
_MAJOR_THIRD = ("major", "lydian", "mixolydian")
_WRONG = (0.7, 0.8, 1.2, 1.3, 1.44)
_MEMORY = """
import sys
from services.audio.analysis import analyse_file
analyse_file(sys.argv[1])
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece to render: by the composer, our instruments or FluidSynth."""

    group: str
    style: str
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Take:
    """A piece as audio, with its true tempo, key and beats."""

    audio: Audio
    rate: int
    bpm: float
    key: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The measurements of one piece."""

    piece: Piece
    acc1: bool
    acc2: bool
    within: float
    """BPM from the truth, with the hint."""
    beats: float
    """F-measure of the beats, with the hint."""
    parroted: bool
    """Whether a wrong hint came back as the tempo with confidence above one half."""
    key: float | None
    """Score after MIREX; None for drums alone."""
    librosa_acc1: bool
    librosa_acc2: bool
    librosa_key: float | None


def pieces(each: int) -> list[Piece]:
    """All pieces, `each` of a style or genre; half as many by FluidSynth."""
    listed = [Piece("composer", genre, number) for genre in GENRES for number in range(each)]
    groups = (("tuned", TUNED), ("held out", HELD_OUT))
    listed += [Piece(name, s, n) for name, styles in groups for s in styles for n in range(each)]
    if instruments.soundfont() is not None:
        listed += [
            Piece(f"{name}, GM", style, 10 + number)
            for name, styles in groups
            for style in styles
            for number in range(max(1, each // 2))
        ]
    return listed


def make(piece: Piece) -> Take:
    """Render a piece."""
    if piece.group == "composer":
        return compose(piece)
    song = write_song(piece.style, (TUNED | HELD_OUT)[piece.style], piece.number, SECONDS)
    font = instruments.soundfont() if piece.group.endswith("GM") else None
    audio = instruments.play(song) if font is None else instruments.play_with(font, song)
    key = None if song.tonic is None else f"{PITCH_CLASSES[song.tonic]} {song.mode}"
    return Take(audio=audio, rate=instruments.RATE, bpm=song.bpm, key=key)


def compose(piece: Piece) -> Take:
    """A take of the composer, in every mode of its genre in turn."""
    genre, number = GENRES[piece.style], piece.number
    bpm = genre.tempo[number % 3] + 1.3 * (number // 3)
    tonic = (7 * number + list(GENRES).index(piece.style)) % 12
    mode = list(genre.modes)[number % len(genre.modes)]
    params = GenerationParams(
        prompt=f"{piece.style} at {bpm:g} BPM in {PITCH_CLASSES[tonic]} {mode}",
        duration_seconds=SECONDS,
        seed=number,
    )
    rendered = ComposerEngine().render(params, lambda *_: None, lambda: False)
    assert rendered.tempo_bpm is not None
    third = "major" if mode in _MAJOR_THIRD else "minor"
    return Take(
        audio=rendered.audio,
        rate=rendered.sample_rate,
        bpm=rendered.tempo_bpm,
        key=f"{PITCH_CLASSES[tonic]} {third}",
    )


def measure(piece: Piece) -> Result:
    """Render a piece and analyse it with both libraries."""
    take = make(piece)
    chance = np.random.default_rng(sum(map(ord, f"{piece.style}{piece.number}")))
    blind = estimate_tempo(take.audio, take.rate)
    key = estimate_key(take.audio, take.rate)
    hinted = estimate_tempo(take.audio, take.rate, take.bpm * chance.uniform(0.92, 1.08))
    wrong = take.bpm * chance.choice(_WRONG)
    misled = estimate_tempo(take.audio, take.rate, wrong)
    their_bpm, their_key = listen_with_librosa(take)
    acc1, acc2 = accuracies(take.bpm, blind.bpm)
    their_acc1, their_acc2 = accuracies(take.bpm, their_bpm)
    return Result(
        piece=piece,
        acc1=acc1,
        acc2=acc2,
        within=abs((hinted.bpm or 0.0) - take.bpm),
        beats=beat_score(take.bpm, hinted),
        parroted=parroted(misled, wrong),
        key=key_score(take.key, None if key is None else key.name),
        librosa_acc1=their_acc1,
        librosa_acc2=their_acc2,
        librosa_key=key_score(take.key, their_key),
    )


def parroted(tempo: Tempo, hint: float) -> bool:
    return tempo.bpm is not None and abs(tempo.bpm / hint - 1) < 0.04 and tempo.confidence > 0.5


def beat_score(bpm: float, found: Tempo) -> float:
    true = np.arange(0.0, SECONDS, 60 / bpm)
    return float(mir_eval.beat.f_measure(true, np.array(found.beats))) if found.beats else 0.0


def accuracies(true: float, found: float | None) -> tuple[bool, bool]:
    """Whether the tempo is within 4 % of the truth, or of its double, triple, half or third."""

    def hit(bpm: float) -> bool:
        pair = np.array([bpm, 2 * bpm])
        score, *_ = mir_eval.tempo.detection(pair, 1.0, np.array([found or 0.0, 0.0]), tol=0.04)
        return bool(score == 1.0)

    return hit(true), any(hit(true * factor) for factor in (1, 2, 3, 1 / 2, 1 / 3))


def key_score(true: str | None, found: str | None) -> float | None:
    if true is None:
        return None
    return float(mir_eval.key.weighted_score(true, found)) if found else 0.0


def listen_with_librosa(take: Take) -> tuple[float, str]:
    """Tempo by `beat_track`; key by `chroma_cqt` and the same profiles as ours."""
    mono = soxr.resample(take.audio.mean(axis=0), take.rate, 22_050)
    tempo, _ = librosa.beat.beat_track(y=mono, sr=22_050)
    chroma = librosa.feature.chroma_cqt(y=mono, sr=22_050).mean(axis=1)
    fits = {
        f"{PITCH_CLASSES[tonic]} {mode}": np.corrcoef(chroma, np.roll(profile, tonic))[0, 1]
        for mode, profile in zip(("major", "minor"), PROFILES, strict=True)
        for tonic in range(12)
    }
    return float(np.ravel(tempo)[0]), max(fits, key=lambda name: fits[name])


def timed(task: Callable[[], T]) -> tuple[T, float]:
    start = time.perf_counter()
    done = task()
    return done, time.perf_counter() - start


def share(values: Iterable[bool]) -> str:
    listed = list(values)
    return f"{100 * sum(listed) / len(listed):6.1f}"


def mean(values: Iterable[float | None]) -> str:
    listed = [value for value in values if value is not None]
    return f"{np.mean(listed):6.3f}" if listed else "     -"


def print_table(results: list[Result], *, by_style: bool) -> None:
    print(f"{'':24s}    n   hint   acc1   acc2  beats  wrong    key  | librosa: acc1 acc2 key")
    names = list(dict.fromkeys(result.piece.group for result in results))
    chosen = [(name, [r for r in results if r.piece.group == name]) for name in names]
    if by_style:
        keys = dict.fromkeys((r.piece.group, r.piece.style) for r in results)
        chosen += [
            (": ".join(key), [r for r in results if (r.piece.group, r.piece.style) == key])
            for key in keys
        ]
    held = [r for r in results if r.piece.group.startswith("held out")]
    chosen += [("held out, together", held), ("all", results)]
    for name, rows in chosen:
        ours = (
            share(r.within <= 0.1 for r in rows),
            share(r.acc1 for r in rows),
            share(r.acc2 for r in rows),
            mean(r.beats for r in rows),
            share(r.parroted for r in rows),
            mean(r.key for r in rows),
        )
        theirs = (
            share(r.librosa_acc1 for r in rows),
            share(r.librosa_acc2 for r in rows),
            mean(r.librosa_key for r in rows),
        )
        print(f"{name:24.24s} {len(rows):4d} {' '.join(ours)}  | {' '.join(theirs)}")
    print(
        "hint: tempo within 0.1 BPM, told one up to 8 % wrong (target 99); acc1 and acc2: without"
    )
    print(
        "hint (targets 75 and 98); beats: F-measure; wrong: percent of wrong hints that came back"
    )
    print("with confidence; key: mean MIREX score (target 0.88)")


def print_cost() -> None:
    take = make(Piece("composer", "house", 0))
    audio, rate = take.audio, take.rate
    pair = best_of(lambda: (estimate_tempo(audio, rate), estimate_key(audio, rate)))
    print(f"tempo and key of 30 s stereo at 48 kHz: {pair:.3f} s (target {TARGETS['time']})")
    librosas = best_of(lambda: listen_with_librosa(take))
    everything = best_of(lambda: analyse(audio, rate))
    print(f"the same by librosa:                    {librosas:.3f} s")
    print(f"everything, loudness included:          {everything:.3f} s")
    print(f"10-minute file: peak of {peak_megabytes(take):.0f} MB (target {TARGETS['memory']})")


def best_of(task: Callable[[], object], runs: int = 7) -> float:
    """Return the shortest time of a few runs, in seconds."""
    return min(timed(task)[1] for _ in range(runs))


def peak_megabytes(take: Take) -> float:
    """Peak memory of a process that analyses a file of ten minutes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "long.wav")
        write_wav(path, np.tile(take.audio, 20), take.rate)
        done = subprocess.run(
            [sys.executable, "-c", _MEMORY, str(path)], check=True, capture_output=True, text=True
        )
    return int(done.stdout) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2 pieces a style instead of 6")
    parser.add_argument("--by-style", action="store_true", help="a line a style as well")
    options = parser.parse_args()
    listed = pieces(2 if options.quick else 6)
    # librosa caches compiled code on disk; two processes writing it at once corrupt the cache.
    measure(listed[0])
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        results = list(pool.map(measure, listed, chunksize=4))
    print_table(results, by_style=options.by_style)
    print_cost()


if __name__ == "__main__":
    main()
