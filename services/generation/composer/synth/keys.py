"""Keyboard patches: FM electric piano, additive felt piano, organ, house stab."""

from __future__ import annotations

import numpy as np

from services.generation.composer.synth.curves import (
    Adsr,
    constant,
    control_points,
    control_times,
    envelope,
)
from services.generation.composer.synth.effects import chorus, cut_lows, tremolo
from services.generation.composer.synth.filters import apply_biquads, high_pass, low_pass, sweep
from services.generation.composer.synth.instrument import Instrument, Tone, make_instrument
from services.generation.composer.synth.kernels import Audio, fm, partials
from services.generation.composer.synth.oscillators import noise, wavetable
from services.generation.composer.synth.subtractive import (
    Filter,
    Layer,
    Lfo,
    Subtractive,
)

SINE = wavetable("sine", 1)


def rhodes(tone: Tone) -> Audio:
    """Play an electric piano of two FM pairs: 1:1 for the body, 1:14 for the tine."""
    adsr = Adsr(0.003, 3.2, 0.05, 0.16)
    samples = tone.length(adsr.release)
    seconds = control_times(control_points(samples), tone.rate)
    hard = tone.velocity**1.5
    high = float(np.clip((84 - tone.pitch) / 36.0, 0.15, 1.2))
    level = envelope(adsr, seconds, tone.held)
    body = np.zeros(samples, dtype=np.float32)
    index = (0.35 + 2.5 * hard) * high * (0.35 + 0.65 * np.exp(-seconds / 0.55))
    step = tone.frequency / tone.rate
    fm(body, SINE, step, 1.0, index, 0.8 * level)
    strike = (0.15 + 0.8 * hard) * high * np.exp(-seconds / 0.12)
    if 15.0 * tone.frequency < 0.45 * tone.rate:
        fm(body, SINE, step, 14.0, strike, 0.4 * level * np.exp(-seconds / 0.6))
    # A second, slightly sharp body beats with the first.
    fm(body, SINE, step * 2.0 ** (0.8 / 1200.0), 1.0, 0.4 * index, 0.3 * level)
    cutoff = 8_000.0 * 2.0 ** tone.octaves(seconds)
    gain = constant(seconds.size, tone.gain)
    return sweep(body[np.newaxis], cutoff, tone.rate, amplitude=gain)


def piano(tone: Tone) -> Audio:
    """Play a felt piano: stretched partials of two strings, a soft hammer, dampers."""
    adsr = Adsr(0.003, 0.3, 1.0, 0.14)
    samples = tone.length(adsr.release)
    rate, f0 = tone.rate, tone.frequency
    count = int(np.clip(0.42 * rate / f0, 1, 20))
    n = np.arange(1, count + 1, dtype=np.float64)
    stretch = 7.5e-5 * 2.0 ** ((tone.pitch - 60) / 12.0)
    # The first partial is in tune.
    ratios = n * np.sqrt((1.0 + stretch * n * n) / (1.0 + stretch))
    # Signs after Schroeder, so that the partials do not all peak together.
    signs = np.where(np.cos(np.pi * n * n / count) >= 0.0, 1.0, -1.0)
    hammer = signs * np.abs(np.sin(np.pi * n * 0.121)) / n**0.9
    felt = np.exp(-n * f0 / (3_000.0 * 2.0 ** (2.2 * (tone.velocity - 0.8))))
    ring = 7.5 * 2.0 ** (-(tone.pitch - 48) / 15.0) / (1.0 + 0.22 * (n - 1.0))
    omegas, decays, gains = [], [], []
    # Of the second string, which rings longer, only the lower partials are audible.
    for cents, share, length, heard in ((-0.5, 0.62, 0.45, count), (0.6, 0.38, 1.6, 9)):
        omegas.append((2.0 * np.pi * f0 * ratios * 2.0 ** (cents / 1200.0) / rate)[:heard])
        decays.append(np.exp(-6.9 / (ring * length * rate))[:heard])
        gains.append((share * hammer * felt)[:heard])
    place = 0.35 * (tone.pitch - 60) / 30.0
    sides = np.array([[1.0 - place], [1.0 + place]])
    out = np.zeros((2, samples), dtype=np.float32)
    partials(out, np.concatenate(omegas), np.concatenate(decays), sides * np.concatenate(gains))
    t = np.arange(samples) / rate
    knock = noise(tone.rng, 1, samples) * (0.16 * np.exp(-t / 0.014)).astype(np.float32)
    out += tone.velocity * apply_biquads(knock, low_pass(900.0, rate), high_pass(120.0, rate))
    seconds = control_times(control_points(samples), rate)
    cutoff = 9_000.0 * 2.0 ** tone.octaves(seconds)
    level = tone.gain * envelope(adsr, seconds, tone.held)
    return sweep(out, cutoff, rate, amplitude=level)


_ORGAN = Subtractive(
    (Layer("organ", 0.9, voices=2, cents=1.2, width=0.4),),
    Adsr(0.005, 0.1, 0.9, 0.06),
    Filter(6_500.0, 0.1, 0.4, Adsr(0.001, 0.05, 0.0, 0.05), 0.8, stages=1),
    vibrato=Lfo(6.1, 3.0, 0.3),
)

_STAB = Subtractive(
    (
        Layer("saw", 0.7, voices=4, cents=11.0, width=0.8),
        Layer("square", 0.3, voices=2, cents=5.0, width=0.4),
    ),
    Adsr(0.003, 0.7, 0.0, 0.12),
    Filter(1_000.0, 0.35, 2.2, Adsr(0.003, 0.35, 0.05, 0.1), 2.0, 0.15),
)

KEYS: dict[str, Instrument] = {
    "keys-rhodes": make_instrument(
        rhodes, chorus(1.2, 0.7, 0.35), tremolo(4.6, 0.22), cut_lows(60.0)
    ),
    "keys-piano": make_instrument(piano, cut_lows(45.0)),
    "keys-organ": make_instrument(_ORGAN.play, chorus(0.9, 0.9, 0.4), cut_lows(60.0)),
    "stab-house": make_instrument(_STAB.play, cut_lows(110.0)),
}
