"""The mixer: brightness, gain, pan, sends and ducking of each part, and the bus compressor."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, cos, exp, pi, sin, sqrt
from typing import TYPE_CHECKING

import numpy as np

from services.generation.composer.synth.curves import control_points, control_times
from services.generation.composer.synth.effects import Echo, Reverb, tape
from services.generation.composer.synth.filters import (
    FILTER_LEAD_SECONDS,
    apply_biquads,
    high_pass,
    sweep,
)
from services.generation.composer.synth.instrument import Instrument, RenderContext, brightness_at
from services.generation.composer.synth.kits import KICKS, sounding_pitch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from services.generation.composer.synth.kernels import Audio
    from services.generation.score import Part, Score

MONO_BELOW_HZ = 120.0
SUBSONIC_HZ = 24.0
END_FADE_SECONDS = 0.025

_RETURN = 0.9
"""Gain of an effect's return when the send is 1."""
_DUCK_LEAD_SECONDS = 0.004
_BLOCK = 256
"""Samples between two gains of the bus compressor."""


_REVERB = Reverb()
_ECHO = Echo()


@dataclass(frozen=True, slots=True)
class SendEffects:
    """The effects that the parts of a genre share."""

    reverb: Reverb = _REVERB
    echo: Echo = _ECHO
    on_tape: bool = False
    """Chords, leads, pads and arpeggios have the tape effect."""


_EFFECTS: dict[str, SendEffects] = {
    "trap": SendEffects(Reverb(1.6, 0.3, 0.02), Echo(0.75, 0.35)),
    "boombap": SendEffects(Reverb(1.0, 0.25, 0.008, 0.8), Echo(0.5, 0.3, 3_000.0)),
    "hiphop": SendEffects(Reverb(1.1, 0.25, 0.008, 0.8), Echo(0.5, 0.3, 3_000.0)),
    "lofi": SendEffects(
        Reverb(1.2, 0.2, 0.012, 0.9, 200.0, 5_500.0), Echo(0.75, 0.3, 2_500.0), on_tape=True
    ),
    "house": SendEffects(Reverb(1.7, 0.35, 0.018), Echo(0.75, 0.4)),
    "techno": SendEffects(Reverb(2.4, 0.3, 0.02, 1.1), Echo(0.75, 0.5, 3_500.0)),
    "drumandbass": SendEffects(Reverb(2.0, 0.35, 0.015), Echo(0.75, 0.4)),
    "synthwave": SendEffects(Reverb(2.6, 0.4, 0.025, 1.15), Echo(0.75, 0.42, 4_000.0)),
    "ambient": SendEffects(Reverb(6.0, 0.3, 0.04, 1.45, 160.0, 7_500.0), Echo(1.5, 0.55, 3_000.0)),
}


def effects_of(genre: str) -> SendEffects:
    """Return the effects of a genre; the default ones for an unknown genre."""
    return _EFFECTS.get(genre.lower().replace("-", "").replace(" ", ""), SendEffects())


def duck_curve(score: Score, rate: int, samples: int) -> NDArray[np.float32]:
    """Return the depth of the ducking by the kicks at each sample, 0..1."""
    starts = sorted(
        round(score.seconds_at(note.start) * rate)
        for part in score.parts
        if part.role == "drums"
        for note in part.notes
        if sounding_pitch(note.pitch) in KICKS
    )
    curve = np.zeros(samples, dtype=np.float32)
    dip = _duck_shape(rate, score.seconds_at(1.0))
    lead = round(_DUCK_LEAD_SECONDS * rate)
    if score.loop:
        # The first kicks of the next time round duck the end.
        for start in starts:
            places = np.arange(start - lead, start - lead + dip.size) % samples
            np.maximum.at(curve, places, dip)
        return curve
    for start in starts:
        begin = max(0, start - lead)
        piece = dip[begin - (start - lead) :][: max(0, samples - begin)]
        under = curve[begin : begin + piece.size]
        np.maximum(under, piece, out=under)
    return curve


def _duck_shape(rate: int, beat_seconds: float) -> NDArray[np.float32]:
    """Return the ducking by one kick: it starts before the kick and ends within a beat."""
    back = min(0.32, 0.7 * beat_seconds)
    t = np.arange(round((0.05 + back) * rate)) / rate
    down = np.sin(0.5 * pi * np.clip(t / _DUCK_LEAD_SECONDS, 0.0, 1.0)) ** 2
    up = np.cos(0.5 * pi * np.clip((t - 0.05) / back, 0.0, 1.0)) ** 2
    return np.asarray(down * up, dtype=np.float32)


def render_channel(
    instrument: Instrument,
    part: Part,
    context: RenderContext,
    effects: SendEffects,
    duck: NDArray[np.float32],
) -> Audio:
    """Return a part as it reaches the bus, effects included: `[2, samples]`."""
    # `out` is the only reference to the audio, so that the input of an effect is freed at once.
    out = instrument.render(part, context)
    if effects.on_tape and part.role in {"chords", "lead", "pad", "arp"}:
        out = tape()(out, context)
    if part.brightness and not instrument.filtered:
        out = apply_brightness(out, part, context)
    out *= np.float32(10.0 ** (part.gain_db / 20.0))
    apply_pan(out, part.pan)
    context.check_cancelled()
    if part.delay > 0.0:
        echo = effects.echo
        repeats = context.apply(
            lambda dry, _start: echo.render(dry, context.rate, context.beat_seconds),
            out,
            echo.lead_seconds(context.beat_seconds),
        )
        out = _add_return(out, repeats, part.delay)
        context.check_cancelled()
    if part.reverb > 0.0:
        reverb = effects.reverb
        returned = context.apply(
            lambda dry, _start: reverb.render(dry, context.rate), out, reverb.lead_seconds
        )
        out = _add_return(out, returned, part.reverb)
        context.check_cancelled()
    if part.sidechain > 0.0 and part.role != "drums":
        out *= np.float32(1.0) - np.float32(min(part.sidechain, 1.0)) * duck
    return context.apply(
        lambda dry, _start: make_lows_mono(dry, context.rate), out, FILTER_LEAD_SECONDS
    )


def _add_return(dry: Audio, returned: Audio, send: float) -> Audio:
    """Add the dry signal to the return of a send, in place."""
    returned *= np.float32(_RETURN * send)
    returned += dry
    return returned


def apply_brightness(audio: Audio, part: Part, context: RenderContext) -> Audio:
    """Low-pass a part without a filter of its own; above 0.5 it stays open."""

    def apply(dry: Audio, start: float) -> Audio:
        seconds = control_times(control_points(dry.shape[1]), context.rate) + start
        if context.loop:
            seconds %= context.seconds
        octaves = 12.0 * np.minimum(
            brightness_at(part.brightness, seconds / context.beat_seconds) - 0.5, 0.0
        )
        return sweep(dry, 21_000.0 * 2.0**octaves, context.rate) if np.any(octaves) else dry

    return context.apply(apply, audio, FILTER_LEAD_SECONDS)


def apply_pan(audio: Audio, pan: float) -> None:
    """Pan with equal power, 0 dB in the middle; in place."""
    angle = (min(max(pan, -1.0), 1.0) + 1.0) * pi / 4.0
    audio[0] *= np.float32(sqrt(2.0) * cos(angle))
    audio[1] *= np.float32(sqrt(2.0) * sin(angle))


def make_lows_mono(audio: Audio, rate: int) -> Audio:
    """Remove DC, and the side signal below `MONO_BELOW_HZ`; in place."""
    left, right = audio
    middle = left + right
    np.subtract(left, right, out=right)
    left[:] = middle
    audio *= np.float32(0.5)
    apply_biquads(audio[:1], high_pass(SUBSONIC_HZ, rate))
    if np.any(right):
        apply_biquads(audio[1:], high_pass(MONO_BELOW_HZ, rate), high_pass(MONO_BELOW_HZ, rate))
    np.add(left, right, out=middle)
    np.subtract(left, right, out=right)
    left[:] = middle
    return audio


def bus_gain(
    total: Audio, rate: int, threshold_db: float = -15.0, *, loop: bool = False
) -> NDArray[np.float32]:
    """Return the gain of the bus compressor at each sample: 2:1 above an RMS threshold, soft knee.

    One curve applies to all stems, so that they sum to the mix. That of a loop ends where it
    begins.
    """
    samples = total.shape[1]
    if loop:
        return _bus_gain_of_loop(total, rate, threshold_db)
    blocks = -(-samples // _BLOCK)
    whole = samples // _BLOCK
    means = np.zeros(blocks)
    for side in total:
        framed = side[: whole * _BLOCK].reshape(whole, _BLOCK)
        means[:whole] += np.einsum("ij,ij->i", framed, framed) / (2.0 * _BLOCK)
    gains = _compress(_follow_level(means, 0.0, rate), threshold_db)
    # Linear within a block, from the gain of the block before.
    steps = np.diff(gains, prepend=1.0)[:, np.newaxis].astype(np.float32)
    ramp = np.linspace(-1.0, 0.0, _BLOCK, endpoint=False, dtype=np.float32)
    return (gains[:, np.newaxis].astype(np.float32) + steps * ramp).reshape(-1)[:samples]


def _bus_gain_of_loop(total: Audio, rate: int, threshold_db: float) -> NDArray[np.float32]:
    samples = total.shape[1]
    # Blocks of almost equal length fill the loop exactly.
    edges = np.round(np.linspace(0, samples, max(1, round(samples / _BLOCK)) + 1)).astype(int)
    power = np.sum(total.astype(np.float64) ** 2, axis=0)
    means = np.add.reduceat(power, edges[:-1]) / (2.0 * np.diff(edges))
    # The level at the end of one time round is that at the start of the next.
    level = 0.0
    for _ in range(1 + ceil(2.0 * rate / samples)):
        level = float(_follow_level(means, level, rate)[-1])
    gains = _compress(_follow_level(means, level, rate), threshold_db)
    at_edges = np.concatenate((gains[-1:], gains))
    return np.interp(np.arange(samples), edges, at_edges).astype(np.float32)


def _follow_level(means: NDArray[np.float64], level: float, rate: int) -> NDArray[np.float64]:
    """Return the smoothed power after each block, from the `level` before the first."""
    rise = 1.0 - exp(-_BLOCK / (0.03 * rate))
    fall = 1.0 - exp(-_BLOCK / (0.18 * rate))
    levels = np.zeros(means.size)
    for index, mean in enumerate(means.tolist()):
        level += (rise if mean > level else fall) * (mean - level)
        levels[index] = level
    return levels


def _compress(levels: NDArray[np.float64], threshold_db: float) -> NDArray[np.float64]:
    """Return the linear gain for each level (power)."""
    over = 10.0 * np.log10(levels + 1e-10) - threshold_db
    knee = 6.0
    reduction = np.where(over > knee / 2, over, np.clip(over + knee / 2, 0, None) ** 2 / (2 * knee))
    return np.asarray(10.0 ** (-0.5 * reduction / 20.0))


def end_fade(samples: int, rate: int) -> NDArray[np.float32]:
    """Return levels: 1, then half a cosine down to exactly 0 at the last sample."""
    length = min(samples, round(END_FADE_SECONDS * rate))
    curve = np.ones(samples, dtype=np.float32)
    if length > 1:
        curve[samples - length :] = 0.5 + 0.5 * np.cos(np.linspace(0.0, pi, length))
    curve[-1] = 0.0
    return curve
