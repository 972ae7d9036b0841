"""Loudness meter, true peak, limiter and writer, beside libebur128 and pyloudnorm in one run."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyebur128
import pyloudnorm

from services.audio import TakeFacts, analyse, limit, master, measure_loudness, write_wav
from services.audio.loudness import KWeighting, Programme
from services.audio.sources import ArraySource
from services.audio.truepeak import true_peak

if TYPE_CHECKING:
    from numpy.typing import NDArray

RATE = 48_000
SECONDS = (16, 30, 300)
TARGETS = {
    ("loudness and true peak", 30): "0.25 s",
    ("loudness and true peak", 300): "2.5 s",
    ("master, measure tempo and key, write", 16): "0.4 s",
}

LOUDNESS = pyebur128.MeasurementMode.MODE_I | pyebur128.MeasurementMode.MODE_LRA
TRUE_PEAK = pyebur128.MeasurementMode.MODE_TRUE_PEAK


def music(seconds: int) -> NDArray[np.float32]:
    """Chords, bass and a snare: about 3 dB of limiting at -14 LUFS, none at -23."""
    chance = np.random.default_rng(0)
    at = np.arange(seconds * RATE) / RATE
    tonal = sum(np.sin(2 * np.pi * hertz * at + hertz) for hertz in (220.0, 277.2, 329.6)) * 0.04
    tonal += 0.2 * np.sin(2 * np.pi * 55 * at)
    snare = chance.standard_normal((2, at.size)) * np.exp(-30 * (at % 0.5)) * 0.2
    return (tonal + snare).astype(np.float32)


def best(task: Callable[[], object], repeats: int) -> float:
    """Return the shortest time of a few runs, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        task()
        times.append(time.perf_counter() - start)
    return min(times)


def libebur128(frames: NDArray[np.float64], mode: pyebur128.MeasurementMode) -> None:
    state = pyebur128.R128State(2, RATE, mode)
    state.add_frames(frames, frames.size // 2)
    # The mode flags share bits, so compare instead of testing bits.
    if mode != TRUE_PEAK:
        pyebur128.get_loudness_global(state)
        pyebur128.get_loudness_range(state)
    if mode != LOUDNESS:
        pyebur128.get_true_peak(state, 0)


def pyloudnorm_loudness(audio: NDArray[np.float32]) -> None:
    meter = pyloudnorm.Meter(RATE)
    meter.integrated_loudness(audio.T)
    meter.loudness_range(audio.T)


def tasks(audio: NDArray[np.float32], folder: Path) -> dict[str, Callable[[], object]]:
    frames = np.ascontiguousarray(audio.T, np.float64).ravel()

    def loudness() -> None:
        weighting, programme = KWeighting(ArraySource(audio, RATE)), Programme(RATE)
        programme.push(weighting.push(audio))
        programme.push(weighting.finish())
        programme.finish()
        programme.integrated_lufs()
        programme.loudness_range_lu()

    def deliver(target: float) -> Callable[[], object]:
        return lambda: write_wav(folder / "take.wav", master(audio, RATE, target).audio, RATE)

    def deliver_measured() -> None:
        mastered = master(audio, RATE, -14.0)
        analyse(mastered.audio, RATE, 120.0, mastered.loudness)
        facts = TakeFacts(prompt="music", seed=1, bpm=120.0, loudness=mastered.loudness)
        write_wav(folder / "take.wav", mastered.audio, RATE, facts=facts)

    return {
        "loudness": loudness,
        "loudness, libebur128": lambda: libebur128(frames, LOUDNESS),
        "loudness, pyloudnorm": lambda: pyloudnorm_loudness(audio),
        "true peak": lambda: true_peak(audio, RATE),
        "true peak, libebur128": lambda: libebur128(frames, TRUE_PEAK),
        "loudness and true peak": lambda: measure_loudness(audio, RATE),
        "loudness and true peak, libebur128": lambda: libebur128(frames, LOUDNESS | TRUE_PEAK),
        "limiter": lambda: limit(audio, RATE, -9.0),
        "master and write, gain alone": deliver(-23.0),
        "master and write, limiting": deliver(-14.0),
        "master, measure tempo and key, write": deliver_measured,
    }


def run(lengths: Sequence[int] = SECONDS, repeats: int = 3) -> list[tuple[str, str, str]]:
    """Return rows of operation, seconds, and the limit in seconds if there is one."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seconds in lengths:
            for name, task in tasks(music(seconds), Path(folder)).items():
                took = best(task, repeats)
                target = TARGETS.get((name, seconds), "")
                rows.append((f"{name}, {seconds} s", f"{took * 1000:.0f} ms", target))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.audio", description=__doc__)
    parser.add_argument("--seconds", type=int, nargs="+", default=SECONDS, help="lengths of audio")
    parser.add_argument("--repeats", type=int, default=3, help="runs, of which the best counts")
    options = parser.parse_args()
    print(f"stereo, {RATE} Hz; best of {options.repeats}")
    for what, took, target in run(options.seconds, options.repeats):
        print(f"{what:48} {took:>9}  {target and f'at most {target}'}".rstrip())


if __name__ == "__main__":
    main()
