"""Seams: whether a loop of the composer can be heard to start again.

Every beat genre with a few seeds is made as a job makes it, mastered and in a 16-bit file, and read
back. The step from its last sample to its first, and the change of the spectrum there, are compared
with those inside the loop.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from services.audio import master, write_wav
from services.generation.composer.engine import FACTS, ComposerEngine
from services.generation.composer.genres import GENRES
from services.generation.composer.length import settle_length
from services.generation.engine import GenerationParams
from services.generation.length import Length

Audio = NDArray[np.float32]

GENRES_WITH_BEAT = tuple(name for name, genre in GENRES.items() if genre.form != "flow")
USUAL_STEP = 0.999
"""Quantile of the steps between neighbouring samples that the seam has to stay under."""

_WINDOW, _HOP, _FADE = 512, 128, 48
"""Samples at 48 kHz."""


@dataclass(frozen=True, slots=True)
class Seam:
    """The seam of a loop beside the rest of it; 1 or less is as quiet as the music itself."""

    step: float
    """Step from the last sample to the first, relative to the 99.9 % quantile of all steps."""
    flux: float
    """Largest rise of the spectrum over the seam, relative to any other in the bars.

    The first beat by itself, faded in after silence, is one of the others: a kick is no click.
    """

    @property
    def is_silent(self) -> bool:
        return self.step <= 1.0 and self.flux <= 1.0


def make_loop(
    prompt: str, seed: int, folder: Path, *, bars: int | None = None, is_cut: bool = False
) -> Audio:
    """Make a loop as a job does and return the samples of its 16-bit file, `[channels, n]`.

    With `is_cut` a piece with an ending and a tail is made instead, and cut after its last bar.
    """
    length = settle_length(prompt, Length(bars=bars), FACTS, usual_seconds=16.0)
    assert length.loop
    assert length.duration_seconds is not None
    params = GenerationParams(
        prompt=prompt,
        duration_seconds=length.duration_seconds + (1.0 if is_cut else 0.0),
        seed=seed,
        bars=length.bars,
        loop=not is_cut,
    )
    rendered = ComposerEngine().render(params, lambda _stage, _fraction: None, lambda: False)
    mastered = master(rendered.audio, rendered.sample_rate, loop=rendered.loop)
    path = folder / "loop.wav"
    write_wav(path, mastered.audio, rendered.sample_rate)
    samples, _ = soundfile.read(path, dtype="float32", always_2d=True)
    frames = round(length.duration_seconds * rendered.sample_rate)
    return np.ascontiguousarray(samples.T[:, :frames])


def measure_seam(audio: Audio) -> Seam:
    """Compare the seam of a loop `[channels, n]` with the steps and spectra inside it."""
    steps = np.abs(np.diff(audio, axis=1)).max(axis=0)
    step = np.abs(audio[:, 0] - audio[:, -1]).max()
    # The start of the loop is a multiple of the hop, so that the windows lie around the seam alike.
    flux = _follow_flux(np.concatenate((audio[:, -_WINDOW:], audio, audio[:, :_WINDOW]), axis=1))
    over_seam = _WINDOW // _HOP
    first_beat = audio[:, : 2 * _WINDOW].copy()
    first_beat[:, :_FADE] *= np.linspace(0.0, 1.0, _FADE, dtype=np.float32)
    alone = _follow_flux(np.pad(first_beat, ((0, 0), (_WINDOW, 0))))
    return Seam(
        step=float(step / np.quantile(steps, USUAL_STEP)),
        flux=float(flux[:over_seam].max() / max(flux[over_seam:-over_seam].max(), alone.max())),
    )


def _follow_flux(audio: Audio) -> NDArray[np.float64]:
    """Return the rise of the spectrum from each window to the next, `[windows - 1]`."""
    mono = audio.mean(axis=0)
    windows = np.lib.stride_tricks.sliding_window_view(mono, _WINDOW)[::_HOP]
    spectrum = np.abs(np.fft.rfft(windows * np.hanning(_WINDOW), axis=1))
    return np.asarray(np.maximum(np.diff(spectrum, axis=0), 0.0).sum(axis=1))


def measure_genres(seeds: int, *, is_cut: bool = False) -> Iterator[tuple[str, int, Seam]]:
    """Yield (genre, seed, seam) for every genre with a beat; see `make_loop`."""
    with tempfile.TemporaryDirectory() as folder:
        for genre in GENRES_WITH_BEAT:
            for seed in range(seeds):
                yield genre, seed, measure_seam(make_loop(genre, seed, Path(folder), is_cut=is_cut))


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.loops", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, metavar="N", help="Seeds of each genre.")
    parser.add_argument(
        "--cut", action="store_true", help="Cut pieces with an ending after their last bar instead."
    )
    options = parser.parse_args()
    found: dict[str, list[Seam]] = {}
    for genre, _, seam in measure_genres(options.seeds, is_cut=options.cut):
        found.setdefault(genre, []).append(seam)
    print(f"{'genre':16} {'loops':>5} {'silent':>6} {'step':>6} {'flux':>6}   (largest)")
    for genre, seams in found.items():
        silent = sum(seam.is_silent for seam in seams)
        step, flux = max(seam.step for seam in seams), max(seam.flux for seam in seams)
        print(f"{genre:16} {len(seams):5} {silent:6} {step:6.2f} {flux:6.2f}")


if __name__ == "__main__":
    main()
