"""Pad and string patches: slow, wide, and high-passed to leave the bass free."""

from __future__ import annotations

from services.generation.composer.synth.curves import Adsr
from services.generation.composer.synth.effects import chorus, cut_lows
from services.generation.composer.synth.instrument import Instrument, make_instrument
from services.generation.composer.synth.subtractive import (
    Filter,
    Layer,
    Lfo,
    Subtractive,
)

_WARM = Subtractive(
    (
        Layer("saw", 0.7, voices=4, cents=9.0, width=0.8),
        Layer("triangle", 0.5, voices=2, cents=4.0, width=0.5),
    ),
    Adsr(0.35, 1.5, 0.85, 0.9),
    Filter(1_700.0, 0.4, 1.0, Adsr(0.9, 2.5, 0.5, 0.8), 1.2, 0.08, 2, Lfo(0.17, 0.3)),
)

_AIR = Subtractive(
    (
        Layer("triangle", 0.8, voices=4, cents=7.0, width=1.0),
        Layer("bowed", 0.22, voices=4, cents=11.0, width=1.0, semitones=12.0),
    ),
    Adsr(0.8, 2.0, 0.9, 1.8),
    Filter(7_500.0, 0.3, 0.6, Adsr(1.6, 3.0, 0.4, 1.5), 1.0, 0.05, 1, Lfo(0.11, 0.5)),
    noise_level=0.06,
)

_SUPERSAW = Subtractive(
    (Layer("saw", 1.0, voices=7, cents=16.0, width=1.0),),
    Adsr(0.05, 0.8, 0.85, 0.4),
    Filter(5_000.0, 0.4, 0.8, Adsr(0.03, 0.8, 0.4, 0.3), 1.6, 0.05),
)

_STRINGS = Subtractive(
    (Layer("bowed", 0.9, voices=6, cents=8.0, width=0.9),),
    Adsr(0.16, 0.8, 0.9, 0.45),
    Filter(6_000.0, 0.35, 0.5, Adsr(0.25, 1.0, 0.5, 0.4), 1.6, stages=1),
    vibrato=Lfo(5.3, 5.0, 0.5),
)

PADS: dict[str, Instrument] = {
    "pad-warm": make_instrument(_WARM.play, chorus(2.4, 0.37, 0.5), cut_lows(120.0)),
    "pad-air": make_instrument(_AIR.play, chorus(3.1, 0.23, 0.6, 13.0), cut_lows(200.0)),
    "pad-supersaw": make_instrument(_SUPERSAW.play, cut_lows(140.0)),
    "strings": make_instrument(_STRINGS.play, chorus(1.8, 0.51, 0.4), cut_lows(120.0)),
}
