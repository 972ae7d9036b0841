"""Bass patches. All are mono, or nearly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from services.generation.composer.synth.curves import Adsr, control_points, control_times, envelope
from services.generation.composer.synth.filters import apply_biquads, low_pass, peak, sweep
from services.generation.composer.synth.instrument import Instrument, Tone, make_instrument
from services.generation.composer.synth.kernels import Audio, unison
from services.generation.composer.synth.oscillators import noise, wavetable
from services.generation.composer.synth.strings import string
from services.generation.composer.synth.subtractive import (
    Filter,
    Layer,
    Lfo,
    Subtractive,
    pitch_bend,
)

_BOOM = Adsr(0.003, 2.6, 0.25, 0.09)


@dataclass(frozen=True, slots=True)
class Sub808:
    """A long sine whose pitch drops at the start, with drive that makes it audible on phones."""

    drop: float = 1.6
    """Octaves above the note at its start."""
    fall: float = 0.012
    """Time constant of the drop, seconds."""
    drive: float = 4.6
    amplitude: Adsr = _BOOM

    def play(self, tone: Tone) -> Audio:
        """Return a note, `[2, n]`, equal on both sides."""
        samples = tone.length(self.amplitude.release)
        seconds = control_times(control_points(samples), tone.rate)
        pitch = pitch_bend(tone, seconds) * 2.0 ** (self.drop * np.exp(-seconds / self.fall))
        out = np.zeros((2, samples), dtype=np.float32)
        step = np.array([tone.frequency / tone.rate])
        unison(out, wavetable("sine", 1), step, np.zeros(1), np.ones((2, 1)), pitch)
        # The envelope comes before the drive, so that harmonics fade with the note, as on tape.
        level = envelope(self.amplitude, seconds, tone.held)
        body = out * np.interp(np.arange(samples), np.arange(level.size) * 32.0, level)
        pushed = body * (self.drive * (0.6 + 0.5 * tone.velocity))
        # Even harmonics beside the odd ones of tanh; the mixer's high pass removes their DC.
        driven = np.tanh(pushed + 0.4 * pushed * pushed * np.exp(-np.abs(pushed)))
        open_hz = 4_500.0 * 2.0 ** tone.octaves(seconds)
        return sweep(
            driven.astype(np.float32), open_hz, tone.rate, amplitude=tone.gain * level**0.2
        )


_SUB = Subtractive(
    (Layer("sine", 0.9, resets_phase=True), Layer("triangle", 0.12, resets_phase=True)),
    Adsr(0.006, 0.5, 0.9, 0.07),
    Filter(900.0, 0.3, stages=1),
    drive=0.9,
)

_REESE = Subtractive(
    (
        Layer("saw", 0.8, voices=2, cents=14.0),
        Layer("saw", 0.35, voices=2, cents=6.0),
        Layer("sine", 0.75, resets_phase=True),
    ),
    Adsr(0.008, 0.6, 0.9, 0.09),
    Filter(1_500.0, 0.25, 0.5, Adsr(0.05, 0.6, 0.3, 0.2), 1.5, 0.35, 2, Lfo(0.43, 0.9)),
    drive=1.5,
)

_SAW = Subtractive(
    (
        Layer("saw", 0.6, resets_phase=True),
        Layer("saw", 0.4, voices=2, cents=7.0, resets_phase=True),
        Layer("square", 0.35, resets_phase=True),
    ),
    Adsr(0.003, 0.45, 0.65, 0.07),
    Filter(1_000.0, 0.3, 2.6, Adsr(0.002, 0.28, 0.12, 0.1), 2.0, 0.22),
    drive=1.2,
)

_ACID = Subtractive(
    (Layer("saw", 1.0, resets_phase=True),),
    Adsr(0.003, 0.5, 0.7, 0.04),
    Filter(330.0, 0.3, 3.1, Adsr(0.003, 0.24, 0.05, 0.08), 3.0, 0.86),
    drive=2.0,
)


def upright(tone: Tone) -> Audio:
    """Play a plucked double bass: string, body resonances and the thump of the finger."""
    adsr = Adsr(0.004, 2.2, 0.15, 0.12)
    samples = tone.length(adsr.release)
    seconds = control_times(control_points(samples), tone.rate)
    out = string(tone, samples, position=0.22, softness=0.72, damping=0.34, sustain=2.4)
    t = np.arange(samples) / tone.rate
    thump = noise(tone.rng, 1, samples) * (0.5 * np.exp(-t / 0.012)).astype(np.float32)
    out += apply_biquads(thump, low_pass(420.0, tone.rate))
    apply_biquads(out, peak(98.0, 4.0, tone.rate, 1.5), peak(205.0, 3.0, tone.rate, 2.0))
    octaves = 2.0 * (tone.velocity - 0.8) + tone.octaves(seconds)
    cutoff = 3_200.0 * 2.0**octaves
    level = tone.gain * envelope(adsr, seconds, tone.held)
    return sweep(out, cutoff, tone.rate, drive=1.8, amplitude=level)


BASSES: dict[str, Instrument] = {
    "bass-808": make_instrument(Sub808().play, mono=True),
    "bass-sub": make_instrument(_SUB.play, mono=True),
    "bass-reese": make_instrument(_REESE.play, mono=True),
    "bass-saw": make_instrument(_SAW.play, mono=True),
    "bass-acid": make_instrument(_ACID.play, mono=True),
    "bass-upright": make_instrument(upright, mono=True),
}
