"""The desk: brightness, ducking, sends and place of each part; one gain curve over all of them."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, exp, pi, sin, sqrt
from typing import TYPE_CHECKING

import numpy as np

from services.generation.composer.synth.curves import points_of, times
from services.generation.composer.synth.effects import Echo, Room, tape
from services.generation.composer.synth.filters import high_pass, run, sweep
from services.generation.composer.synth.instrument import Instrument, Stage, opening
from services.generation.composer.synth.kits import KICKS, answering

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from services.generation.composer.synth.kernels import Audio
    from services.generation.score import Part, Score

MONO_BELOW_HZ = 120.0
SUBSONIC_HZ = 24.0
END_FADE_SECONDS = 0.025

_RETURN = 0.9
"""Level at which a send of 1 comes back."""
_DUCK_LEAD_SECONDS = 0.004
_BLOCK = 256
"""Samples between two decisions of the bus compressor."""


_ROOM = Room()
_ECHO = Echo()


@dataclass(frozen=True, slots=True)
class Space:
    """The room and the echo that a genre's parts share."""

    room: Room = _ROOM
    echo: Echo = _ECHO
    worn: bool = False
    """Keys, leads and pads come from a cassette."""


_SPACES: dict[str, Space] = {
    "trap": Space(Room(1.6, 0.3, 0.02), Echo(0.75, 0.35)),
    "boombap": Space(Room(1.0, 0.25, 0.008, 0.8), Echo(0.5, 0.3, 3_000.0)),
    "hiphop": Space(Room(1.1, 0.25, 0.008, 0.8), Echo(0.5, 0.3, 3_000.0)),
    "lofi": Space(Room(1.2, 0.2, 0.012, 0.9, 200.0, 5_500.0), Echo(0.75, 0.3, 2_500.0), worn=True),
    "house": Space(Room(1.7, 0.35, 0.018), Echo(0.75, 0.4)),
    "techno": Space(Room(2.4, 0.3, 0.02, 1.1), Echo(0.75, 0.5, 3_500.0)),
    "drumandbass": Space(Room(2.0, 0.35, 0.015), Echo(0.75, 0.4)),
    "synthwave": Space(Room(2.6, 0.4, 0.025, 1.15), Echo(0.75, 0.42, 4_000.0)),
    "ambient": Space(Room(6.0, 0.3, 0.04, 1.45, 160.0, 7_500.0), Echo(1.5, 0.55, 3_000.0)),
}


def space_of(genre: str) -> Space:
    """The space of a genre; a plain one for a genre that has none of its own."""
    return _SPACES.get(genre.lower().replace("-", "").replace(" ", ""), Space())


def duck_curve(score: Score, rate: int, samples: int) -> NDArray[np.float32]:
    """How far a kick pushes a part down at each sample: 1 under it, 0 away from it."""
    starts = sorted(
        round(score.seconds_at(note.start) * rate)
        for part in score.parts
        if part.role == "drums"
        for note in part.notes
        if answering(note.pitch) in KICKS
    )
    curve = np.zeros(samples, dtype=np.float32)
    dip = _dip(rate, score.seconds_at(1.0))
    lead = round(_DUCK_LEAD_SECONDS * rate)
    for start in starts:
        begin = max(0, start - lead)
        piece = dip[begin - (start - lead) :][: max(0, samples - begin)]
        under = curve[begin : begin + piece.size]
        np.maximum(under, piece, out=under)
    return curve


def _dip(rate: int, beat_seconds: float) -> NDArray[np.float32]:
    """One push: down just before the kick, held a moment, back within three quarters of a beat."""
    back = min(0.32, 0.7 * beat_seconds)
    t = np.arange(round((0.05 + back) * rate)) / rate
    down = np.sin(0.5 * pi * np.clip(t / _DUCK_LEAD_SECONDS, 0.0, 1.0)) ** 2
    up = np.cos(0.5 * pi * np.clip((t - 0.05) / back, 0.0, 1.0)) ** 2
    return np.asarray(down * up, dtype=np.float32)


def strip(
    instrument: Instrument, part: Part, stage: Stage, space: Space, duck: NDArray[np.float32]
) -> Audio:
    """A part as it reaches the bus, with its share of the effects: `[2, samples]`."""
    # One name for the audio throughout: what an effect has replaced is freed at once.
    out = instrument.render(part, stage)
    if space.worn and part.role in {"chords", "lead", "pad", "arp"}:
        out = tape()(out, stage)
    if part.brightness and not instrument.filtered:
        brighten(out, part, stage)
    out *= np.float32(10.0 ** (part.gain_db / 20.0))
    place(out, part.pan)
    stage.check()
    if part.delay > 0.0:
        out = _with(out, space.echo.render(out, stage.rate, stage.beat_seconds), part.delay)
        stage.check()
    if part.reverb > 0.0:
        out = _with(out, space.room.render(out, stage.rate), part.reverb)
        stage.check()
    if part.sidechain > 0.0 and part.role != "drums":
        out *= np.float32(1.0) - np.float32(min(part.sidechain, 1.0)) * duck
    return centre_lows(out, stage.rate)


def _with(dry: Audio, returned: Audio, send: float) -> Audio:
    """Both together, in the memory of what the effect returned."""
    returned *= np.float32(_RETURN * send)
    returned += dry
    return returned


def brighten(audio: Audio, part: Part, stage: Stage) -> None:
    """Close a part that has no filter of its own, in place; above the middle it stays open."""
    beats = times(points_of(audio.shape[1]), stage.rate) / stage.beat_seconds
    octaves = 12.0 * np.minimum(opening(part.brightness, beats) - 0.5, 0.0)
    if np.any(octaves):
        sweep(audio, 21_000.0 * 2.0**octaves, stage.rate)


def place(audio: Audio, pan: float) -> None:
    """Equal power between the sides, 0 dB in the middle; in place."""
    angle = (min(max(pan, -1.0), 1.0) + 1.0) * pi / 4.0
    audio[0] *= np.float32(sqrt(2.0) * cos(angle))
    audio[1] *= np.float32(sqrt(2.0) * sin(angle))


def centre_lows(audio: Audio, rate: int) -> Audio:
    """No DC, and no difference between the sides below `MONO_BELOW_HZ`; in place."""
    left, right = audio
    middle = left + right
    np.subtract(left, right, out=right)
    left[:] = middle
    audio *= np.float32(0.5)
    run(audio[:1], high_pass(SUBSONIC_HZ, rate))
    if np.any(right):
        run(audio[1:], high_pass(MONO_BELOW_HZ, rate), high_pass(MONO_BELOW_HZ, rate))
    np.add(left, right, out=middle)
    np.subtract(left, right, out=right)
    left[:] = middle
    return audio


def bus_gain(total: Audio, rate: int, threshold_db: float = -15.0) -> NDArray[np.float32]:
    """The bus compressor's gain at each sample: 2:1 above the threshold (RMS), soft knee.

    One curve for all stems, so that they still sum to the mix.
    """
    samples = total.shape[1]
    blocks = -(-samples // _BLOCK)
    whole = samples // _BLOCK
    means = np.zeros(blocks)
    for side in total:
        framed = side[: whole * _BLOCK].reshape(whole, _BLOCK)
        means[:whole] += np.einsum("ij,ij->i", framed, framed) / (2.0 * _BLOCK)
    rise = 1.0 - exp(-_BLOCK / (0.03 * rate))
    fall = 1.0 - exp(-_BLOCK / (0.18 * rate))
    level, levels = 0.0, np.zeros(blocks)
    for index, mean in enumerate(means.tolist()):
        level += (rise if mean > level else fall) * (mean - level)
        levels[index] = level
    over = 10.0 * np.log10(levels + 1e-10) - threshold_db
    knee = 6.0
    reduction = np.where(over > knee / 2, over, np.clip(over + knee / 2, 0, None) ** 2 / (2 * knee))
    gains = 10.0 ** (-0.5 * reduction / 20.0)
    # A straight line from block to block, each beginning where the one before ended.
    steps = np.diff(gains, prepend=1.0)[:, np.newaxis].astype(np.float32)
    ramp = np.linspace(-1.0, 0.0, _BLOCK, endpoint=False, dtype=np.float32)
    return (gains[:, np.newaxis].astype(np.float32) + steps * ramp).reshape(-1)[:samples]


def end_fade(samples: int, rate: int) -> NDArray[np.float32]:
    """1, then half a cosine down to exactly 0 at the last sample."""
    length = min(samples, round(END_FADE_SECONDS * rate))
    curve = np.ones(samples, dtype=np.float32)
    if length > 1:
        curve[samples - length :] = 0.5 + 0.5 * np.cos(np.linspace(0.0, pi, length))
    curve[-1] = 0.0
    return curve
