"""Draw docs/pictures: the composer's music for one prompt of each genre, as sound and as notes.

just pictures                     the pictures of docs/listening.md
just pictures --prompt "..." --output take.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from services.audio import Mastered, master
from services.generation.composer.engine import FACTS, ComposerEngine
from services.generation.composer.length import settle_length
from services.generation.composer.prompt import parse_prompt
from services.generation.engine import GenerationParams, Rendered
from services.generation.length import Length
from services.generation.score import Score

SEED = 7
LONG_SECONDS = 180.0
FOLDER = Path(__file__).parents[1] / "docs" / "pictures"
PROMPTS = {
    "trap": "trap beat with heavy 808 bass at 140 BPM",
    "lo-fi": "chill lo-fi hip hop with rhodes and vinyl, 78 BPM in D minor",
    "house": "deep house with warm pads and a pumping bass at 122 BPM in A minor",
    "drum-and-bass": "dark drum and bass with a reese at 174 BPM in F minor",
    "ambient": "dreamy ambient with slow strings and bells in E major",
    "synthwave": "uplifting synthwave with arps and gated drums at 104 BPM in G major",
}
COLOURS = plt.get_cmap("tab10")


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw what the composer makes.")
    parser.add_argument("--prompt", help="draw this prompt instead of those of docs/")
    parser.add_argument("--output", type=Path, default=Path("take.png"), help="with --prompt")
    parser.add_argument("--seconds", type=float, default=16.0)
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args()
    if options.prompt:
        draw(options.prompt, options.seconds, options.seed, options.output)
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, prompt in PROMPTS.items():
        draw(prompt, options.seconds, options.seed, FOLDER / f"{name}.png")
    draw(PROMPTS["house"], LONG_SECONDS, options.seed, FOLDER / "house-three-minutes.png")
    draw_seam(PROMPTS["house"], options.seconds, options.seed, FOLDER / "seam.png")


def draw(prompt: str, seconds: float, seed: int, path: Path) -> None:
    """Write a PNG with waveform, spectrogram and piano roll on one time axis."""
    rendered, mastered = make(prompt, seconds, seed)
    assert rendered.score is not None
    figure, (wave, spectrum, roll) = plt.subplots(
        3, 1, figsize=(12, 9), sharex=True, height_ratios=(1, 1.6, 2), layout="constrained"
    )
    summary = parse_prompt(prompt).summary
    figure.suptitle(
        f"“{prompt}”, seed {seed}\n{summary} · "
        f"{mastered.integrated_lufs:.1f} LUFS, {mastered.true_peak_dbtp:.1f} dBTP",
        fontsize=10,
    )
    draw_waveform(wave, mastered.audio, rendered.sample_rate)
    draw_spectrogram(spectrum, mastered.audio, rendered.sample_rate)
    draw_piano_roll(roll, rendered.score)
    for axes in (wave, spectrum, roll):
        mark_bars(axes, rendered)
    roll.set_xlabel("seconds")
    roll.set_xlim(0, rendered.audio.shape[1] / rendered.sample_rate)
    figure.savefig(path, dpi=80)
    plt.close(figure)
    print(path)


def make(prompt: str, seconds: float, seed: int) -> tuple[Rendered, Mastered]:
    """Make the take of a request with this duration."""
    asked = Length(duration_seconds=seconds)
    length = settle_length(prompt, asked, FACTS, usual_seconds=seconds)
    assert length.duration_seconds is not None
    params = GenerationParams(
        prompt=prompt,
        duration_seconds=length.duration_seconds,
        seed=seed,
        bars=length.bars,
        loop=bool(length.loop),
    )
    rendered = ComposerEngine().render(params, lambda *_: None, lambda: False)
    return rendered, master(rendered.audio, rendered.sample_rate, loop=rendered.loop)


def draw_seam(prompt: str, seconds: float, seed: int, path: Path) -> None:
    """Write a PNG of a loop played twice, and of the 20 ms around its seam."""
    rendered, mastered = make(prompt, seconds, seed)
    assert rendered.loop
    audio, rate = mastered.audio, rendered.sample_rate
    twice, length = np.tile(audio, 2), audio.shape[1]
    figure, (wave, spectrum, near) = plt.subplots(
        3, 1, figsize=(12, 8), height_ratios=(1, 1.6, 1), layout="constrained"
    )
    figure.suptitle(f"“{prompt}”, seed {seed}: {rendered.bars} bars, twice", fontsize=10)
    draw_waveform(wave, twice, rate)
    draw_spectrogram(spectrum, twice, rate)
    for axes in (wave, spectrum):
        axes.set_xlim(length / rate - 2.0, length / rate + 2.0)
        axes.axvline(length / rate, color="red", linewidth=0.8)
    around = round(0.01 * rate)
    times = np.arange(-around, around) / rate * 1000.0
    near.plot(times, twice[:, length - around : length + around].T, linewidth=0.8)
    near.axvline(0.0, color="red", linewidth=0.8)
    near.set_xlabel("milliseconds from the seam")
    figure.savefig(path, dpi=80)
    plt.close(figure)
    print(path)


def draw_waveform(axes: Axes, audio: np.ndarray, rate: int) -> None:
    hop = max(1, audio.shape[1] // 4000)
    whole = audio[:, : audio.shape[1] // hop * hop].reshape(2, -1, hop)
    times = np.arange(whole.shape[1]) * hop / rate
    axes.fill_between(times, whole.min(axis=(0, 2)), whole.max(axis=(0, 2)), linewidth=0)
    axes.set_ylim(-1, 1)
    axes.set_ylabel("amplitude")


def draw_spectrogram(axes: Axes, audio: np.ndarray, rate: int) -> None:
    size, hop = 4096, 1024
    mono = np.pad(audio.mean(axis=0), size // 2)
    frames = np.lib.stride_tricks.sliding_window_view(mono, size)[::hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(size), axis=1)).T / size * 4
    decibels = 20 * np.log10(np.maximum(power, 1e-6))
    axes.pcolormesh(
        np.arange(frames.shape[0]) * hop / rate,
        np.fft.rfftfreq(size, 1 / rate),
        decibels,
        vmin=-90,
        vmax=-10,
        cmap="magma",
        rasterized=True,
    )
    axes.set_yscale("log")
    axes.set_ylim(25, 20_000)
    axes.set_ylabel("Hz")


def draw_piano_roll(axes: Axes, score: Score) -> None:
    for index, part in enumerate(score.parts):
        spans = [
            (score.seconds_at(note.start), score.seconds_at(note.duration)) for note in part.notes
        ]
        for (start, length), note in zip(spans, part.notes, strict=True):
            shown = 0.06 if part.role == "drums" else length
            axes.broken_barh(
                [(start, shown)],
                (note.pitch - 0.4, 0.8),
                facecolors=COLOURS(index % 10),
                alpha=0.35 + 0.6 * note.velocity,
            )
        axes.plot(
            [], [], color=COLOURS(index % 10), linewidth=6, label=f"{part.name}: {part.patch}"
        )
    for section in score.sections:
        start = score.seconds_at(section.start_bar * score.beats_per_bar)
        axes.text(start, 1.0, f" {section.name}", transform=axes.get_xaxis_transform(), va="bottom")
    axes.set_ylabel("MIDI pitch")
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.12), fontsize=8, ncols=8, handlelength=1
    )


def mark_bars(axes: Axes, rendered: Rendered) -> None:
    assert rendered.score is not None
    bars = rendered.score.bars
    for bar in range(0, bars + 1, 1 if bars <= 32 else 8):
        axes.axvline(
            rendered.score.seconds_at(bar * rendered.score.beats_per_bar),
            color="grey",
            linewidth=0.8 if bar % 4 == 0 else 0.3,
        )


if __name__ == "__main__":
    main()
