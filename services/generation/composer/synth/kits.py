"""Drum kits: the sound and level of each pitch of the General MIDI percussion map."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from services.generation.composer.synth.drums import (
    Clap,
    Cymbal,
    DrumSound,
    Hat,
    Hit,
    Kick,
    Ping,
    Shaker,
    Snare,
    Tom,
)
from services.generation.composer.synth.filters import (
    FILTER_LEAD_SECONDS,
    apply_biquads,
    low_pass,
)
from services.generation.composer.synth.instrument import RenderContext, velocity_gain

if TYPE_CHECKING:
    from services.generation.composer.synth.kernels import Audio
    from services.generation.score import Note, Part

KICKS = frozenset({35, 36})
HATS = frozenset({42, 44, 46})
KIT_PITCHES = (35, 36, 37, 38, 39, 40, 41, 42, 44, 45, 46, 48, 49, 51, 54, 56, 70, 75)
"""The pitches for which every kit has a sound."""

# The other pitches of the map -> the pitch whose sound they use.
_ALIASES = {
    43: 41, 47: 45, 50: 48, 52: 49, 53: 51, 55: 49, 57: 49, 58: 56, 59: 51, 60: 48, 61: 45,
    62: 48, 63: 45, 64: 41, 65: 48, 66: 41, 67: 56, 68: 56, 69: 70, 71: 75, 72: 75, 73: 75,
    74: 75, 76: 75, 77: 75, 78: 45, 79: 41, 80: 54, 81: 54, 82: 70, 83: 54, 84: 54, 85: 75,
    86: 41, 87: 41,
}  # fmt: skip

_PEAK_DB = {
    35: -11.0, 36: -8.0, 37: -16.5, 38: -10.5, 39: -12.5, 40: -15.0, 41: -13.0, 42: -22.0,
    44: -25.0, 45: -13.0, 46: -21.0, 48: -13.5, 49: -17.0, 51: -22.0, 54: -23.5, 56: -22.0,
    70: -25.0, 75: -21.0,
}  # fmt: skip

_PAN = {
    41: 0.3, 42: 0.12, 44: 0.12, 45: 0.0, 46: 0.12, 48: -0.3, 49: -0.2, 51: 0.3, 54: -0.35,
    56: 0.25, 70: -0.3, 75: 0.3, 37: -0.1,
}  # fmt: skip

_VARIANTS = 3
_STRENGTHS = 12
_CHOKE_SECONDS = 0.012


@dataclass(frozen=True, slots=True)
class Kit:
    sounds: dict[int, DrumSound]
    """By pitch."""
    top: float = 20_000.0
    """Low pass over the kit, Hz."""
    trims: dict[int, float] | None = None
    """Pitch -> dB relative to the other kits."""

    def play(self, part: Part, context: RenderContext) -> Audio:
        """Render all hits of a part: `[2, samples]`."""
        out = np.zeros((2, context.samples), dtype=np.float32)
        salt = int(context.rng.integers(2**31))
        hits: dict[tuple[int, int, int], Audio] = {}
        counts: dict[int, int] = {}
        notes = sorted(part.notes, key=lambda note: (note.start, note.pitch))
        chokes = _find_chokes(notes, context)
        for note, choke in zip(notes, chokes, strict=True):
            context.check_cancelled()
            begin = context.sample_at(note.start)
            if begin >= context.samples:
                continue
            pitch = sounding_pitch(note.pitch)
            variant = counts.get(pitch, 0) % _VARIANTS
            counts[pitch] = counts.get(pitch, 0) + 1
            strength = round(min(max(note.velocity, 0.0), 1.0) * _STRENGTHS)
            key = (pitch, strength, variant)
            if key not in hits:
                hits[key] = self.render_hit(
                    pitch, strength / _STRENGTHS, variant, salt, context.rate
                )
            sound = hits[key] * np.float32(velocity_gain(note.velocity))
            context.add(out, _choke(sound, choke - begin, context.rate), begin)
        if self.top >= 18_000.0:
            return out
        section = low_pass(self.top, context.rate)
        return context.apply(
            lambda audio, _start: apply_biquads(audio, section), out, FILTER_LEAD_SECONDS
        )

    def render_hit(self, pitch: int, velocity: float, variant: int, salt: int, rate: int) -> Audio:
        """Return one hit `[2, n]` at the level that it has at the reference velocity."""
        rng = np.random.Generator(np.random.PCG64([salt, pitch, variant]))
        raw = self.sounds[pitch].render(Hit(velocity, rate, rng))
        trim = (self.trims or {}).get(pitch, 0.0) + 0.35 * (variant - 1)
        level = 10.0 ** ((_PEAK_DB[pitch] + trim) / 20.0) / float(np.max(np.abs(raw)))
        angle = (_PAN.get(pitch, 0.0) + 1.0) * np.pi / 4.0
        sides = np.sqrt(2.0) * level * np.array([[np.cos(angle)], [np.sin(angle)]])
        return np.asarray(raw * sides, dtype=np.float32)


def sounding_pitch(pitch: int) -> int:
    """Return the pitch whose sound is played: an alias, or the nearest of the kit."""
    if pitch in _ALIASES:
        return _ALIASES[pitch]
    return min(KIT_PITCHES, key=lambda known: (abs(known - pitch), known))


def _find_chokes(notes: list[Note], context: RenderContext) -> list[int]:
    """Return the sample at which a later hat chokes each note, far beyond the end where none does.

    In a loop the first hat chokes an open one before the end.
    """
    never = context.samples + 60 * context.rate
    following = never
    if context.loop:
        hats = (note for note in notes if sounding_pitch(note.pitch) in HATS)
        following = next((context.sample_at(hat.start) + context.samples for hat in hats), never)
    out = []
    for note in reversed(notes):
        is_hat = sounding_pitch(note.pitch) in HATS
        out.append(following if sounding_pitch(note.pitch) == 46 else never)
        if is_hat:
            following = context.sample_at(note.start)
    return out[::-1]


def _choke(sound: Audio, after: int, rate: int) -> Audio:
    if after >= sound.shape[1]:
        return sound
    fade = round(_CHOKE_SECONDS * rate)
    cut = sound[:, : max(after, 0) + fade].copy()
    length = min(fade, cut.shape[1])
    cut[:, cut.shape[1] - length :] *= np.linspace(1.0, 0.0, length, dtype=np.float32) ** 2
    return cut


_BASE: dict[int, DrumSound] = {
    36: Kick(),
    37: Ping((1_720.0, 480.0), 0.06, 0.4),
    38: Snare(),
    39: Clap(),
    41: Tom(82.0, 0.85),
    42: Hat(),
    45: Tom(118.0, 0.7),
    46: Hat(0.8),
    48: Tom(160.0, 0.58),
    49: Cymbal(2.6),
    51: Cymbal(1.9, 3_200.0, ping=0.45, wash=0.45),
    54: Shaker(0.22, 6_000.0, 15_000.0, 0.002, jingles=0.35),
    56: Ping((540.0, 800.0), 0.34, 0.1, square=True, centre=880.0),
    70: Shaker(0.11, 5_500.0, 13_000.0, 0.022),
    75: Ping((2_480.0,), 0.08, 0.05),
}


def _make_kit(
    kick: Kick,
    snare: Snare,
    *,
    top: float = 20_000.0,
    trims: dict[int, float] | None = None,
    **sounds: DrumSound,
) -> Kit:
    """Make a kit of its kick and snare, and of other sounds given as `p42=Hat(...)`."""
    filled: dict[int, DrumSound] = dict(_BASE)
    filled[36], filled[38] = kick, snare
    filled[35] = replace(kick, click=0.4 * kick.click, drive=0.8 * kick.drive, top=0.8 * kick.top)
    filled[40] = replace(
        snare,
        noise_high=0.7 * snare.noise_high,
        snap=0.3 * snare.snap,
        noise_length=0.6 * snare.noise_length,
        gate=0.0,
    )
    filled.update({int(name[1:]): sound for name, sound in sounds.items()})
    hat = filled[42]
    assert isinstance(hat, Hat)
    filled.setdefault(44, replace(hat, length=0.7 * hat.length, noise=1.3 * hat.noise))
    return Kit(filled, top, trims)


KITS: dict[str, Kit] = {
    "kit-trap": _make_kit(
        Kick(230.0, 47.0, 0.022, 0.36, 0.3, 4_200.0, 1.6),
        Snare((196.0, 371.0), 0.2, 0.4, 0.36, 1_500.0, 12_500.0, 0.6, 0.8, 1.2),
        trims={42: 1.0},
        p39=Clap(1_150.0, 1.3, 0.3),
        p42=Hat(0.1, 7_000.0, 0.9, 0.3, 1.08, 15_000.0),
        p46=Hat(0.62, 6_200.0, 0.9, 0.35, 1.08, 15_000.0),
    ),
    "kit-boombap": _make_kit(
        Kick(170.0, 58.0, 0.03, 0.27, 0.14, 2_200.0, 1.8, 0.35),
        Snare((172.0, 268.0), 0.24, 0.7, 0.34, 700.0, 8_500.0, 0.6, 0.5, 1.6),
        top=11_000.0,
        p37=Ping((1_350.0, 410.0), 0.08, 0.5),
        p42=Hat(0.14, 4_200.0, 0.3, 0.8, 0.86, 10_000.0),
        p46=Hat(0.55, 3_800.0, 0.35, 0.7, 0.86, 10_000.0),
    ),
    "kit-lofi": _make_kit(
        Kick(135.0, 52.0, 0.034, 0.3, 0.05, 1_600.0, 1.3, 0.25),
        Snare((160.0, 240.0), 0.2, 0.5, 0.28, 700.0, 7_500.0, 0.6, 0.35, 1.2),
        top=9_000.0,
        trims={36: -2.0, 38: -2.0, 42: 1.5, 46: 1.5},
        p37=Ping((1_150.0, 380.0), 0.075, 0.35),
        p42=Hat(0.12, 3_600.0, 0.2, 0.8, 0.8, 8_500.0, 0.0012),
        p46=Hat(0.42, 3_400.0, 0.25, 0.7, 0.8, 8_500.0, 0.0012),
    ),
    "kit-house": _make_kit(
        Kick(260.0, 49.0, 0.03, 0.4, 0.3, 3_200.0, 1.5),
        Snare((188.0, 336.0), 0.16, 0.5, 0.36, 1_400.0, 10_500.0, 0.6, 0.5, 1.1),
        trims={39: 1.0, 42: 2.0, 46: 2.0},
        p39=Clap(1_300.0, 1.1, 0.28),
        p42=Hat(0.13, 6_000.0, 0.35, 0.7, 1.25, 13_000.0),
        p46=Hat(0.78, 5_400.0, 0.4, 0.65, 1.25, 13_000.0),
    ),
    "kit-techno": _make_kit(
        Kick(300.0, 46.0, 0.034, 0.44, 0.38, 3_800.0, 2.8),
        Snare((210.0, 382.0), 0.12, 0.35, 0.25, 1_800.0, 12_000.0, 0.7, 0.6, 1.8),
        trims={35: -1.0, 36: -1.5, 39: 1.5, 42: 2.5, 46: 2.5, 51: 2.0},
        p39=Clap(1_500.0, 1.6, 0.22),
        p42=Hat(0.075, 8_000.0, 0.8, 0.45, 1.6, 16_000.0),
        p46=Hat(0.48, 7_200.0, 0.8, 0.45, 1.6, 16_000.0),
    ),
    "kit-dnb": _make_kit(
        Kick(290.0, 60.0, 0.018, 0.24, 0.45, 3_600.0, 1.9, 0.12),
        Snare((204.0, 352.0), 0.2, 0.75, 0.36, 1_100.0, 12_500.0, 0.6, 0.85, 1.7),
        p42=Hat(0.085, 4_400.0, 0.25, 0.85, 1.12, 15_000.0),
        p46=Hat(0.5, 4_200.0, 0.3, 0.8, 1.12, 15_000.0),
        p51=Cymbal(1.4, 3_800.0, ping=0.4, wash=0.6),
    ),
    "kit-synthwave": _make_kit(
        Kick(190.0, 55.0, 0.024, 0.32, 0.4, 2_800.0, 1.4, 0.1),
        Snare((178.0, 286.0), 0.28, 0.6, 0.4, 900.0, 9_500.0, 0.65, 0.6, 1.3, gate=0.26),
        p41=Tom(78.0, 0.8, 0.6, 0.2, gate=0.3),
        p45=Tom(112.0, 0.7, 0.6, 0.2, gate=0.28),
        p48=Tom(154.0, 0.6, 0.6, 0.2, gate=0.26),
        p42=Hat(0.16, 4_200.0, 0.5, 0.6, 0.95, 9_500.0),
        p46=Hat(0.62, 3_900.0, 0.5, 0.6, 0.95, 9_500.0),
    ),
    "kit-soft": _make_kit(
        Kick(95.0, 44.0, 0.045, 0.5, 0.0, 1_000.0, 0.6),
        Snare((150.0, 226.0), 0.26, 0.3, 0.42, 900.0, 5_500.0, 0.35, 0.05, 0.6),
        top=12_000.0,
        trims={35: -3.0, 36: -3.0, 38: -6.0, 40: -4.0, 42: -2.0, 46: -2.0, 49: -3.0},
        p37=Ping((880.0, 1_320.0, 2_650.0), 0.45, 0.03),
        p42=Hat(0.1, 5_000.0, 0.1, 0.7, 0.9, 10_000.0, 0.004),
        p46=Hat(0.5, 4_500.0, 0.15, 0.7, 0.9, 10_000.0, 0.004),
        p56=Ping((660.0, 1_980.0), 0.8, 0.02),
        p75=Ping((1_046.5, 2_760.0, 4_180.0), 0.6, 0.02),
    ),
}
