"""The patches that a score may name."""

from __future__ import annotations

from dataclasses import replace

from services.generation.composer.synth.bass import BASSES
from services.generation.composer.synth.instrument import Instrument
from services.generation.composer.synth.keys import KEYS
from services.generation.composer.synth.kits import KITS
from services.generation.composer.synth.leads import LEADS
from services.generation.composer.synth.pads import PADS
from services.generation.composer.synth.textures import TEXTURES

# Measured: the gain that gives a patch its level in a mix at velocity 0.8 and gain 0.
_LEVELS_DB: dict[str, float] = {
    "bass-808": -12.8,
    "bass-sub": -7.9,
    "bass-reese": -11.3,
    "bass-saw": -8.4,
    "bass-acid": -11.1,
    "bass-upright": -5.6,
    "keys-rhodes": -22.6,
    "keys-piano": -14.7,
    "keys-organ": -18.9,
    "stab-house": -13.4,
    "pad-warm": -19.1,
    "pad-air": -20.4,
    "pad-supersaw": -21.2,
    "strings": -21.2,
    "lead-pluck": -12.5,
    "lead-bell": -17.5,
    "lead-saw": -12.4,
    "lead-square": -15.0,
    "lead-flute": -14.7,
    "guitar-pluck": -6.8,
    "arp-pluck": -10.7,
    "brass-synth": -12.6,
    "vinyl": -17.1,
    "noise-riser": -23.4,
    "impact": -13.1,
    "wind": -17.4,
}

_VOICED = {**BASSES, **KEYS, **PADS, **LEADS, **TEXTURES}

PATCHES: dict[str, Instrument] = {
    **{name: Instrument(kit.play, filtered=False) for name, kit in KITS.items()},
    **{
        name: replace(instrument, level_db=_LEVELS_DB[name]) for name, instrument in _VOICED.items()
    },
}
"""Name -> instrument."""
