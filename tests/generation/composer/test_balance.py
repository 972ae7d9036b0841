"""Balance of the parts in the mix, by their loudness (EBU R 128)."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from services.audio import measure_loudness
from services.generation.composer.engine import ComposerEngine
from services.generation.composer.genres import GENRES
from services.generation.engine import GenerationParams, Rendered

QUIETEST_LU = -24.0
"""Under the mix; a quieter part is masked."""
LOUDEST_LU = -1.0
"""A part closer to the mix masks the others."""


def render(prompt: str, seed: int = 2, seconds: float = 8.0) -> Rendered:
    params = GenerationParams(prompt=prompt, duration_seconds=seconds, seed=seed, stems=True)
    return ComposerEngine().render(params, lambda *_: None, lambda: False)


def lufs(rendered: Rendered, audio: np.ndarray) -> float:
    return measure_loudness(audio, rendered.sample_rate).integrated_lufs


def beside_the_mix(rendered: Rendered) -> dict[str, float]:
    """Return stem -> LU relative to the mix."""
    mix = lufs(rendered, rendered.audio)
    return {name: lufs(rendered, stem) - mix for name, stem in rendered.stems.items()}


@cache
def play_whole_band(genre: str) -> tuple[Rendered, dict[str, float]]:
    """Return a genre with all its parts, without their audio, and the level of each."""
    rendered = render(f"{genre} with drums, bass, chords, pads, melody and an arp")
    return replace(rendered, stems={}), beside_the_mix(rendered)


@pytest.mark.parametrize("genre", GENRES)
def test_every_part_is_audible_and_none_masks_the_mix(genre: str) -> None:
    _, levels = play_whole_band(genre)
    assert len(levels) >= 6
    assert {name: level for name, level in levels.items() if level < QUIETEST_LU} == {}
    assert {name: level for name, level in levels.items() if level > LOUDEST_LU} == {}
    assert levels["lead"] < -3.0


@pytest.mark.parametrize("genre", ["hip-hop", "lo-fi"])
def test_requested_vinyl_crackle_is_audible(genre: str) -> None:
    levels = beside_the_mix(render(f"{genre} with vinyl crackle"))
    assert QUIETEST_LU < levels["texture"] < -12.0


@pytest.mark.parametrize("genre", GENRES)
def test_a_mix_keeps_its_loudness_in_mono_and_has_mono_lows(genre: str) -> None:
    rendered, _ = play_whole_band(genre)
    left, right = rendered.audio
    assert np.corrcoef(left, right)[0, 1] > 0.0
    middle = (left + right) / 2
    folded = lufs(rendered, np.stack([middle, middle]))
    assert folded - lufs(rendered, rendered.audio) > -3.0
    frequencies = np.fft.rfftfreq(left.size, 1 / rendered.sample_rate)
    low = (frequencies > 20) & (frequencies < 80)
    side, mid = (
        float((np.abs(np.fft.rfft(wave)[low]) ** 2).sum()) for wave in ((left - right) / 2, middle)
    )
    assert side < 0.01 * mid + 1e-3


def test_a_heavy_808_fills_the_lows_and_has_harmonics() -> None:
    rendered = render("trap beat with heavy 808 bass in C minor at 140 bpm", seconds=12.0)
    spectrum = np.abs(np.fft.rfft(rendered.stems["bass"].mean(axis=0))) ** 2
    mix = np.abs(np.fft.rfft(rendered.audio.mean(axis=0))) ** 2
    frequencies = np.fft.rfftfreq(rendered.audio.shape[1], 1 / rendered.sample_rate)

    def energy(power: np.ndarray, low: float, high: float) -> float:
        return float(power[(frequencies >= low) & (frequencies < high)].sum())

    assert energy(mix, 20, 120) > 0.5 * energy(mix, 20, 20_000)
    assert energy(spectrum, 150, 800) > 0.025 * energy(spectrum, 20, 120)
