"""Texture patches: the duration of a note is theirs, its pitch does not matter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from services.generation.composer.synth.curves import (
    Adsr,
    constant,
    control_points,
    control_times,
    envelope,
    smooth_step,
)
from services.generation.composer.synth.filters import (
    apply_biquads,
    high_pass,
    keep_band,
    low_pass,
    sweep,
)
from services.generation.composer.synth.instrument import Instrument, Tone, make_instrument
from services.generation.composer.synth.oscillators import noise

if TYPE_CHECKING:
    from services.generation.composer.synth.kernels import Audio, Curve

BAND_PASS = np.array([0.0, 1.0, 0.0])


def _brighten(tone: Tone, seconds: Curve, hertz: Curve) -> Curve:
    return hertz * 2.0 ** tone.octaves(seconds)


def vinyl(tone: Tone) -> Audio:
    """Play vinyl: about nine clicks a second, a little rumble, and hiss."""
    adsr = Adsr(0.05, 0.1, 1.0, 0.12)
    samples = tone.length(adsr.release)
    seconds = control_times(control_points(samples), tone.rate)
    out = 0.11 * keep_band(noise(tone.rng, 2, samples), tone.rate, 900.0, 7_500.0)
    out += 0.09 * keep_band(noise(tone.rng, 1, samples), tone.rate, 60.0, 300.0)
    clicks = np.zeros((2, samples), dtype=np.float32)
    count = int(9.0 * samples / tone.rate) + 1
    at = tone.rng.integers(0, samples, count)
    size = np.minimum(tone.rng.exponential(1.0, count), 3.0) * tone.rng.choice([-1.0, 1.0], count)
    side = tone.rng.uniform(0.3, 1.0, (2, count))
    for channel in range(2):
        np.add.at(clicks[channel], at, (2.5 * size * side[channel]).astype(np.float32))
    out += keep_band(clicks, tone.rate, 700.0, 5_000.0)
    level = tone.gain * envelope(adsr, seconds, tone.held)
    cutoff = _brighten(tone, seconds, constant(seconds.size, 8_000.0))
    return sweep(np.ascontiguousarray(out), cutoff, tone.rate, amplitude=level)


def riser(tone: Tone) -> Audio:
    """Play noise that becomes louder, brighter and wider until the note ends."""
    adsr = Adsr(0.05, 0.1, 1.0, 0.06)
    samples = tone.length(adsr.release)
    seconds = control_times(control_points(samples), tone.rate)
    progress = np.clip(seconds / tone.held, 0.0, 1.0)
    middle, side = noise(tone.rng, 1, samples), noise(tone.rng, 1, samples)
    width = np.interp(np.arange(samples) / tone.rate, seconds, 0.2 + 0.6 * progress)
    side *= width.astype(np.float32)
    out = np.concatenate([middle + side, middle - side])
    hertz = _brighten(tone, seconds, 280.0 * 2.0 ** (5.0 * progress**1.2))
    level = tone.gain * progress**1.7 * envelope(adsr, seconds, tone.held)
    shaped = sweep(out, hertz, tone.rate, resonance=0.55, weights=BAND_PASS, amplitude=level)
    return apply_biquads(shaped, high_pass(200.0, tone.rate))


def impact(tone: Tone) -> Audio:
    """Play a boom that falls below the kick, and a long tail of dark noise."""
    length = 2.6
    samples = int(length * tone.rate)
    t = np.arange(samples) / tone.rate
    frequency = 38.0 + 75.0 * np.exp(-t / 0.09)
    end = np.clip((t[-1] - t) / 0.4, 0.0, 1.0) ** 2
    boom = np.sin(2.0 * np.pi * np.cumsum(frequency) / tone.rate) * np.exp(-t / 0.5)
    boom = np.tanh(1.6 * boom) * np.clip(t / 0.003, 0.0, 1.0) * end
    wash = noise(tone.rng, 2, samples)
    seconds = control_times(control_points(samples), tone.rate)
    hertz = _brighten(tone, seconds, 350.0 + 6_500.0 * np.exp(-seconds / 0.22))
    fall = np.clip(seconds / 0.003, 0.0, 1.0) * np.exp(-seconds / 0.55)
    sweep(wash, hertz, tone.rate, amplitude=fall * np.clip((length - seconds) / 0.4, 0.0, 1.0))
    out = tone.gain * (0.8 * boom + 0.5 * apply_biquads(wash, high_pass(120.0, tone.rate)))
    return np.ascontiguousarray(out, dtype=np.float32)


def wind(tone: Tone) -> Audio:
    """Play noise through a slowly moving resonance on each side."""
    attack = min(1.5, 0.4 * tone.held)
    adsr = Adsr(max(attack, 0.01), 1.0, 1.0, 1.2)
    samples = tone.length(adsr.release)
    seconds = control_times(control_points(samples), tone.rate)
    level = tone.gain * envelope(adsr, seconds, tone.held)
    sides = []
    first = tone.rng.random()
    for phase in (first, first + 0.37):
        slow = np.sin(2.0 * np.pi * (0.071 * seconds + phase))
        quick = np.sin(2.0 * np.pi * (0.23 * seconds + 1.7 * phase))
        hertz = _brighten(tone, seconds, 700.0 * 2.0 ** (0.9 * slow + 0.4 * quick))
        gusts = level * (0.6 + 0.4 * smooth_step(0.5 + 0.5 * slow)) * np.sqrt(700.0 / hertz)
        side = noise(tone.rng, 1, samples)
        sweep(side, hertz, tone.rate, resonance=0.7, weights=BAND_PASS, amplitude=gusts)
        sides.append(side)
    left, right = sides
    wide = np.concatenate([left + 0.35 * right, right + 0.35 * left])
    return apply_biquads(wide, high_pass(150.0, tone.rate), low_pass(7_000.0, tone.rate))


TEXTURES: dict[str, Instrument] = {
    "vinyl": make_instrument(vinyl),
    "noise-riser": make_instrument(riser),
    "impact": make_instrument(impact),
    "wind": make_instrument(wind),
}
