"""The compiled loops over samples. They are few, since each is compiled once a machine.

Arrays are C-contiguous: audio is float32 `[channels, n]`; curves are float64 at the control rate,
with one value every `CONTROL` samples, `n // CONTROL + 2` at least, interpolated linearly.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from services.generation.composer.synth._jit import kernel

Audio = NDArray[np.float32]
Curve = NDArray[np.float64]

CONTROL = 32
"""Samples between two values of a control curve: 0.67 ms at 48 kHz."""
TABLE = 4096
"""Samples of one cycle in a wave table, which has one more, equal to the first."""

_LANES = 16
"""Samples of one partial that are computed at once."""

# Phases are integers with 2**32 to the cycle: they do not drift, wrap at no cost, and vectorise.
_TURN = 4294967296.0
_FRACTION_BITS = 20
_FRACTION = (1 << _FRACTION_BITS) - 1
_TO_FRACTION = np.float32(1.0 / (1 << _FRACTION_BITS))


@kernel
def unison(
    out: Audio, table: Audio, steps: Curve, phases: Curve, gains: NDArray[np.float64], pitch: Curve
) -> None:
    """Add oscillators of one wave table to `out` `[2, n]`.

    `steps` are cycles a sample, `phases` cycles, `gains` `[2, voices]`; `pitch` is a factor on the
    steps, constant within a block.
    """
    samples = out.shape[1]
    places = (phases * _TURN).astype(np.int64)
    for block in range((samples + CONTROL - 1) // CONTROL):
        first = block * CONTROL
        last = min(first + CONTROL, samples)
        factor = 0.5 * (pitch[block] + pitch[block + 1]) * _TURN
        for voice in range(steps.size):
            start = places[voice]
            step = np.int64(steps[voice] * factor)
            left = np.float32(gains[0, voice])
            right = np.float32(gains[1, voice])
            for i in range(first, last):
                place = start + step * (i - first)
                whole = (place >> _FRACTION_BITS) & (TABLE - 1)
                low = table[whole]
                between = np.float32(place & _FRACTION) * _TO_FRACTION
                value = low + (table[whole + 1] - low) * between
                out[0, i] += left * value
                out[1, i] += right * value
            places[voice] = start + step * (last - first)


@kernel
def state_variable_filter(
    audio: Audio,
    angle: Curve,
    damping: float,
    weights: NDArray[np.float64],
    stages: int,
    drive: float,
    amplitude: Curve,
) -> None:
    """Filter `audio` in place, then saturate and scale it.

    Trapezoidal integrators (Zavalishin, The Art of VA Filter Design, ch. 4). `angle` is
    tan(pi f / rate), `damping` 1/Q, `weights` mix input, band and low pass, `stages` 1 or 2 in
    series, `drive` 0 or the gain into tanh.
    """
    channels, samples = audio.shape
    by_input, by_band, by_low = weights[0], weights[1], weights[2]
    for channel in range(channels):
        # Scalars stay in registers; an array would not.
        s1, s2, t1, t2 = 0.0, 0.0, 0.0, 0.0
        for block in range((samples + CONTROL - 1) // CONTROL):
            first = block * CONTROL
            g = angle[block]
            g_slope = (angle[block + 1] - g) / CONTROL
            level = amplitude[block]
            level_slope = (amplitude[block + 1] - level) / CONTROL
            for i in range(first, min(first + CONTROL, samples)):
                x = float(audio[channel, i])
                a1 = 1.0 / (1.0 + g * (g + damping))
                a2 = g * a1
                a3 = g * a2
                v3 = x - s2
                v1 = a1 * s1 + a2 * v3
                v2 = s2 + a2 * s1 + a3 * v3
                s1 = 2.0 * v1 - s1
                s2 = 2.0 * v2 - s2
                x = by_input * x + by_band * v1 + by_low * v2
                if stages > 1:
                    v3 = x - t2
                    v1 = a1 * t1 + a2 * v3
                    v2 = t2 + a2 * t1 + a3 * v3
                    t1 = 2.0 * v1 - t1
                    t2 = 2.0 * v2 - t2
                    x = by_input * x + by_band * v1 + by_low * v2
                if drive > 0.0:
                    x = math.tanh(x * drive)
                audio[channel, i] = np.float32(x * level)
                g += g_slope
                level += level_slope


@kernel
def fm(out: Audio, sine: Audio, step: float, ratio: float, index: Curve, amplitude: Curve) -> None:
    """Add a carrier of `step` cycles a sample, phase-modulated at `ratio` times it, to `out[n]`.

    `index` is the peak phase deviation in radians (Chowning 1973).
    """
    samples = out.size
    carrier = np.int64(0)
    modulator = np.int64(0)
    radian = _TURN / (2.0 * math.pi)
    for block in range((samples + CONTROL - 1) // CONTROL):
        first = block * CONTROL
        last = min(first + CONTROL, samples)
        depth = index[block] * radian
        depth_slope = (index[block + 1] - index[block]) * radian / CONTROL
        level = amplitude[block]
        level_slope = (amplitude[block + 1] - level) / CONTROL
        advance = np.int64(step * _TURN)
        swing = np.int64(step * ratio * _TURN)
        for i in range(first, last):
            since = i - first
            place = modulator + swing * since
            whole = (place >> _FRACTION_BITS) & (TABLE - 1)
            between = np.float32(place & _FRACTION) * _TO_FRACTION
            bend = sine[whole] + (sine[whole + 1] - sine[whole]) * between
            place = carrier + advance * since + np.int64((depth + depth_slope * since) * bend)
            whole = (place >> _FRACTION_BITS) & (TABLE - 1)
            between = np.float32(place & _FRACTION) * _TO_FRACTION
            value = sine[whole] + (sine[whole + 1] - sine[whole]) * between
            out[i] += np.float32((level + level_slope * since) * value)
        carrier += advance * (last - first)
        modulator += swing * (last - first)


@kernel
def pluck(out: Audio, burst: Audio, allpass: float, damping: float, loss: float) -> None:
    """Add a plucked string to `out[n]`: a delay line that `burst` fills at the start.

    Two-tap loss filter and first-order all-pass in the loop (Jaffe and Smith 1983).
    """
    line = burst.copy()
    place = 0
    before = 0.0
    into = 0.0
    tuned = 0.0
    for i in range(out.size):
        value = float(line[place])
        damped = loss * ((1.0 - damping) * value + damping * before)
        before = value
        tuned = allpass * (damped - tuned) + into
        into = damped
        out[i] += np.float32(tuned)
        line[place] = np.float32(tuned)
        place += 1
        if place == line.size:
            place = 0


@kernel
def partials(out: Audio, omegas: Curve, decays: Curve, gains: NDArray[np.float64]) -> None:
    """Add decaying sines of phase 0 to `out` `[2, n]`.

    `omegas` are radians a sample, `decays` factors a sample, `gains` `[2, partials]`. A partial
    ends at a whole block once it is 80 dB below a gain of 1.
    """
    one = np.zeros(_LANES)
    two = np.zeros(_LANES)
    for k in range(omegas.size):
        omega = omegas[k]
        fall = math.log(decays[k])
        left = gains[0, k]
        right = gains[1, k]
        # A recurrence over whole blocks: its lanes are independent and vectorise.
        turn = 2.0 * math.exp(_LANES * fall) * math.cos(_LANES * omega)
        back = math.exp(2.0 * _LANES * fall)
        for lane in range(_LANES):
            before = lane - _LANES
            one[lane] = math.exp(before * fall) * math.sin(omega * before)
            before -= _LANES
            two[lane] = math.exp(before * fall) * math.sin(omega * before)
        loudest = max(abs(left), abs(right), 1e-4)
        length = min(out.shape[1], int((-9.2 - math.log(loudest)) / fall) + _LANES)
        for first in range(0, length - _LANES + 1, _LANES):
            for lane in range(_LANES):
                now = turn * one[lane] - back * two[lane]
                two[lane] = one[lane]
                one[lane] = now
                out[0, first + lane] += np.float32(left * now)
                out[1, first + lane] += np.float32(right * now)


@kernel
def biquads(audio: Audio, sections: NDArray[np.float64]) -> None:
    """Run `[sections, 5]` (b0 b1 b2 a1 a2) over each channel in place, transposed form II."""
    for section in range(sections.shape[0]):
        b0, b1, b2 = sections[section, 0], sections[section, 1], sections[section, 2]
        a1, a2 = sections[section, 3], sections[section, 4]
        for channel in range(audio.shape[0]):
            s1 = 0.0
            s2 = 0.0
            for i in range(audio.shape[1]):
                x = float(audio[channel, i])
                y = b0 * x + s1
                s1 = b1 * x - a1 * y + s2
                s2 = b2 * x - a2 * y
                audio[channel, i] = np.float32(y)


@kernel
def modulated_delay(audio: Audio, delay: NDArray[np.float64]) -> Audio:
    """Return `audio` `[2, n]` delayed by `delay` `[2, points]`, in samples, 2 or more.

    Third-order Lagrange interpolation.
    """
    channels, samples = audio.shape
    out = np.zeros((channels, samples), dtype=np.float32)
    for channel in range(channels):
        for block in range((samples + CONTROL - 1) // CONTROL):
            first = block * CONTROL
            lag = delay[channel, block]
            slope = (delay[channel, block + 1] - lag) / CONTROL
            for i in range(first, min(first + CONTROL, samples)):
                place = i - lag
                whole = math.floor(place)
                d = place - whole
                at = int(whole)
                if at >= 1:
                    low = audio[channel, at - 1]
                    here = audio[channel, at]
                    high = audio[channel, min(at + 1, samples - 1)]
                    far = audio[channel, min(at + 2, samples - 1)]
                    out[channel, i] = np.float32(
                        low * (-d * (d - 1.0) * (d - 2.0) / 6.0)
                        + here * ((d + 1.0) * (d - 1.0) * (d - 2.0) / 2.0)
                        + high * (-(d + 1.0) * d * (d - 2.0) / 2.0)
                        + far * ((d + 1.0) * d * (d - 1.0) / 6.0)
                    )
                lag += slope
    return out


@kernel
def echo(audio: Audio, delay: int, feedback: float, smoothing: float) -> None:
    """Replace `audio` `[2, n]` by its echoes alone, crossing sides and darker at each repeat.

    `delay` in samples, 1 or more.
    """
    waiting = np.zeros(delay)
    place = 0
    dull_left = 0.0
    dull_right = 0.0
    for i in range(audio.shape[1]):
        source = waiting[place]
        waiting[place] = 0.5 * (audio[0, i] + audio[1, i])
        place = 0 if place + 1 == delay else place + 1
        if i < delay:
            audio[0, i] = np.float32(0.0)
            audio[1, i] = np.float32(0.0)
            continue
        dull_left += smoothing * (source + feedback * audio[1, i - delay] - dull_left)
        dull_right += smoothing * (feedback * audio[0, i - delay] - dull_right)
        audio[0, i] = np.float32(dull_left)
        audio[1, i] = np.float32(dull_right)


@kernel
def reverberate(
    audio: Audio,
    lines: NDArray[np.int64],
    decays: Curve,
    dampings: Curve,
    diffusers: NDArray[np.int64],
    predelay: int,
) -> None:
    """Replace `audio` `[2, n]` by its reverb alone: a feedback delay network (Jot, Chaigne 1991).

    Eight `lines` (samples) joined by a Householder matrix, each losing `decays` a pass and high
    frequencies by a one-pole low pass of `dampings`; four all-pass `diffusers` a side in front,
    after a pre-delay of `early` samples, 1 or more.
    """
    waiting = np.zeros((2, predelay), dtype=np.float32)
    waiting_place = 0
    memory = np.zeros((8, lines.max()))
    smear = np.zeros((2, 4, diffusers.max()))
    dull = np.zeros(8)
    places = np.zeros(8, dtype=np.int64)
    smear_places = np.zeros((2, 4), dtype=np.int64)
    taps = np.zeros(8)
    entry = np.zeros(2)
    for i in range(audio.shape[1]):
        for side in range(2):
            x = float(waiting[side, waiting_place])
            waiting[side, waiting_place] = audio[side, i]
            for k in range(4):
                at = smear_places[side, k]
                held = smear[side, k, at]
                inner = x + 0.6 * held
                smear[side, k, at] = inner
                x = held - 0.6 * inner
                smear_places[side, k] = 0 if at + 1 == diffusers[side * 4 + k] else at + 1
            entry[side] = x
        waiting_place = 0 if waiting_place + 1 == predelay else waiting_place + 1
        total = 0.0
        for k in range(8):
            tap = memory[k, places[k]] * decays[k]
            dull[k] = tap + dampings[k] * (dull[k] - tap)
            taps[k] = dull[k]
            total += dull[k]
        total *= 0.25
        for k in range(8):
            memory[k, places[k]] = taps[k] - total + entry[k % 2]
            places[k] = 0 if places[k] + 1 == lines[k] else places[k] + 1
        audio[0, i] = np.float32(0.35 * (taps[0] - taps[2] + taps[4] - taps[6]))
        audio[1, i] = np.float32(0.35 * (taps[1] - taps[3] + taps[5] - taps[7]))
