"""Lead, arpeggio and brass patches."""

from __future__ import annotations

import numpy as np

from services.generation.composer.synth.curves import Adsr, control_points, control_times, envelope
from services.generation.composer.synth.effects import chorus, cut_lows
from services.generation.composer.synth.filters import apply_biquads, band_pass, peak, sweep
from services.generation.composer.synth.instrument import Instrument, Tone, make_instrument
from services.generation.composer.synth.kernels import Audio, fm
from services.generation.composer.synth.oscillators import noise, wavetable
from services.generation.composer.synth.strings import string
from services.generation.composer.synth.subtractive import (
    Filter,
    Layer,
    Lfo,
    Subtractive,
)

_PLUCK = Subtractive(
    (
        Layer("saw", 0.7, voices=2, cents=4.0, width=0.6, resets_phase=True),
        Layer("pulse", 0.4, resets_phase=True),
    ),
    Adsr(0.003, 0.9, 0.0, 0.2),
    Filter(1_200.0, 0.5, 2.7, Adsr(0.003, 0.3, 0.0, 0.1), 2.2, 0.18),
)

_ARP = Subtractive(
    (
        Layer("square", 0.55, voices=2, cents=4.0, width=0.7, resets_phase=True),
        Layer("saw", 0.4, voices=2, cents=9.0, width=0.9, resets_phase=True),
    ),
    Adsr(0.003, 0.6, 0.0, 0.14),
    Filter(1_500.0, 0.5, 2.3, Adsr(0.003, 0.22, 0.0, 0.08), 2.2, 0.25),
)

_SAW = Subtractive(
    (Layer("saw", 0.9, voices=3, cents=7.0, width=0.5),),
    Adsr(0.008, 0.5, 0.8, 0.16),
    Filter(3_800.0, 0.5, 1.2, Adsr(0.006, 0.5, 0.3, 0.2), 2.0, 0.1),
    vibrato=Lfo(5.4, 7.0, 0.5),
)

_SQUARE = Subtractive(
    (Layer("square", 0.8, voices=2, cents=3.0, width=0.3), Layer("pulse", 0.25)),
    Adsr(0.005, 0.4, 0.75, 0.1),
    Filter(3_400.0, 0.5, 1.2, Adsr(0.003, 0.4, 0.2, 0.15), 2.0, 0.12),
    vibrato=Lfo(5.6, 6.0, 0.4),
)

_BRASS = Subtractive(
    (
        Layer("saw", 0.8, voices=3, cents=6.0, width=0.5),
        Layer("reed", 0.4, voices=2, cents=3.0, width=0.3),
    ),
    Adsr(0.035, 0.6, 0.85, 0.14),
    Filter(950.0, 0.5, 2.2, Adsr(0.09, 0.7, 0.55, 0.15), 2.4, 0.1),
    vibrato=Lfo(5.0, 4.0, 0.6),
)


def bell(tone: Tone) -> Audio:
    """Play an FM bell: a fundamental, and 1:3.5 and 1:7 pairs that decay sooner."""
    adsr = Adsr(0.002, 2.6, 0.0, 0.7)
    samples = tone.length(adsr.release)
    seconds = control_times(control_points(samples), tone.rate)
    level = tone.gain * envelope(adsr, seconds, tone.held)
    step = tone.frequency / tone.rate
    hard = 0.4 + 0.75 * tone.velocity
    sine = wavetable("sine", 1)
    out = np.zeros(samples, dtype=np.float32)
    fm(out, sine, step, 2.0, 0.9 * hard * np.exp(-seconds / 0.7), 0.7 * level)
    index = 1.8 * hard * np.exp(-seconds / 0.35) * min(1.0, 900.0 / tone.frequency)
    fm(out, sine, step, 3.5, index, 0.35 * level * np.exp(-seconds / 1.2))
    if 8.0 * tone.frequency < 0.45 * tone.rate:
        strike = 0.5 * hard * np.exp(-seconds / 0.06)
        fm(out, sine, step, 7.0, strike, 0.2 * level * np.exp(-seconds / 0.2))
    cutoff = 13_000.0 * 2.0 ** tone.octaves(seconds)
    return sweep(out[np.newaxis], cutoff, tone.rate)


_FLUTE = Subtractive(
    (Layer("flute", 0.9, resets_phase=True),),
    Adsr(0.045, 0.4, 0.85, 0.11),
    Filter(6_500.0, 0.5, 0.5, Adsr(0.06, 0.4, 0.4, 0.1), 1.6, stages=1),
    vibrato=Lfo(5.2, 9.0, 0.45),
)


def flute(tone: Tone) -> Audio:
    """Play a flute: a wave table, and breath noise that is strongest at the start."""
    out = _FLUTE.play(tone)
    samples = out.shape[1]
    seconds = control_times(control_points(samples), tone.rate)
    air = noise(tone.rng, 2, samples)
    apply_biquads(air, band_pass(min(2.0 * tone.frequency, 9_000.0), tone.rate, 1.2))
    puff = envelope(_FLUTE.amplitude, seconds, tone.held) * (0.35 + np.exp(-seconds / 0.07))
    opened = np.full(seconds.size, 9_000.0)
    return out + sweep(air, opened, tone.rate, amplitude=0.12 * tone.gain * puff)


def guitar(tone: Tone) -> Audio:
    """Play a nylon guitar: a plucked string with a small body."""
    adsr = Adsr(0.002, 0.3, 1.0, 0.13)
    samples = tone.length(adsr.release)
    seconds = control_times(control_points(samples), tone.rate)
    out = string(tone, samples, position=0.18, softness=0.5, damping=0.16, sustain=2.8)
    apply_biquads(out, peak(110.0, 2.5, tone.rate, 2.0), peak(220.0, 2.5, tone.rate, 2.0))
    cutoff = 6_500.0 * 2.0 ** (2.0 * (tone.velocity - 0.8) + tone.octaves(seconds))
    return sweep(out, cutoff, tone.rate, amplitude=tone.gain * envelope(adsr, seconds, tone.held))


LEADS: dict[str, Instrument] = {
    "lead-pluck": make_instrument(_PLUCK.play, cut_lows(90.0)),
    "lead-bell": make_instrument(bell, chorus(0.8, 0.6, 0.3), cut_lows(90.0)),
    "lead-saw": make_instrument(_SAW.play, cut_lows(110.0)),
    "lead-square": make_instrument(_SQUARE.play, cut_lows(110.0)),
    "lead-flute": make_instrument(flute, cut_lows(120.0)),
    "guitar-pluck": make_instrument(guitar, cut_lows(70.0)),
    "arp-pluck": make_instrument(_ARP.play, cut_lows(110.0)),
    "brass-synth": make_instrument(_BRASS.play, chorus(1.1, 0.6, 0.25), cut_lows(100.0)),
}
