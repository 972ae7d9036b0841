"""The eight genres: tempo, harmony, form, voices with their playing styles, and the mix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from services.generation.score import Mode

Form = Literal["beat", "dance", "flow"]


@dataclass(frozen=True, slots=True)
class MixSettings:
    """The mix of a part; the fields are those of `score.Part`."""

    gain_db: float = 0.0
    pan: float = 0.0
    reverb: float = 0.0
    delay: float = 0.0
    sidechain: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Genre:
    """What the pieces of a genre have in common."""

    tempo: tuple[float, float, float]
    """Slowest, usual and fastest, in BPM."""
    modes: Mapping[Mode, float]
    """Weights for a prompt that states no mode."""
    colour: Literal["power", "triad", "seventh", "ninth"]
    """Of the chords."""
    form: Form
    """beat: verses and hooks; dance: builds and drops; flow: drifts and swells."""
    kit: str
    groove: str
    """A name in `grooves.GROOVES`."""
    swing: tuple[float, float] = (0.5, 0.5)
    """Length of the first of two sixteenths as a share of both: lowest, highest."""
    humanise: float = 0.0
    """Largest random deviation of an onset, in seconds."""
    late_snare: float = 0.0
    """Seconds behind the beat."""
    patches: Mapping[str, tuple[str, ...]]
    """Slot -> patches to choose from, the most typical first."""
    playing_styles: Mapping[str, tuple[str, ...]]
    """Slot -> styles of playing to choose from."""
    likelihood: Mapping[str, float]
    """Slot -> probability that it plays in a piece."""
    lead_density: float = 0.5
    """0..1: how busy the melody is."""
    mix: Mapping[str, MixSettings] = field(default_factory=dict)


GENRES: dict[str, Genre] = {
    "trap": Genre(
        tempo=(128, 140, 156),
        modes={"minor": 11, "phrygian": 1},
        colour="triad",
        form="beat",
        kit="kit-trap",
        groove="trap",
        patches={
            "bass": ("bass-808",),
            "chords": ("keys-piano", "strings", "keys-rhodes"),
            "pad": ("pad-air", "strings", "pad-warm"),
            "lead": ("lead-bell", "lead-pluck", "lead-flute", "guitar-pluck"),
            "arp": ("lead-pluck", "arp-pluck", "guitar-pluck"),
            "texture": ("vinyl",),
        },
        playing_styles={
            "bass": ("808",),
            "chords": ("broken", "sustain"),
            "arp": ("three-three-two", "eighths"),
        },
        likelihood={
            "drums": 1, "bass": 1, "chords": 0.5, "pad": 0.8, "lead": 1, "arp": 0.35,
            "texture": 0.15, "riser": 0.6, "impact": 0.7,
        },
        lead_density=0.45,
        mix={
            "drums": MixSettings(reverb=0.05),
            "bass": MixSettings(sidechain=0.25),
            "chords": MixSettings(1, -0.15, 0.3, 0.1),
            "pad": MixSettings(-1.5, 0, 0.4, 0, 0.25),
            "lead": MixSettings(0, 0.1, 0.3, 0.25),
            "arp": MixSettings(-3, 0.3, 0.25, 0.25),
        },
    ),
    "hip-hop": Genre(
        tempo=(82, 92, 102),
        modes={"minor": 8, "dorian": 1},
        colour="seventh",
        form="beat",
        kit="kit-boombap",
        groove="boom-bap",
        swing=(0.54, 0.6),
        humanise=0.004,
        late_snare=0.004,
        patches={
            "bass": ("bass-upright", "bass-sub", "bass-saw"),
            "chords": ("keys-rhodes", "keys-piano", "keys-organ"),
            "pad": ("strings", "pad-warm"),
            "lead": ("lead-flute", "brass-synth", "lead-bell", "guitar-pluck"),
            "arp": ("guitar-pluck", "lead-pluck"),
            "texture": ("vinyl",),
        },
        playing_styles={
            "bass": ("boom",),
            "chords": ("chops", "lazy"),
            "arp": ("three-three-two", "eighths"),
        },
        likelihood={
            "drums": 1, "bass": 1, "chords": 1, "pad": 0.4, "lead": 0.95, "arp": 0.2,
            "texture": 0.7, "riser": 0, "impact": 0.1,
        },
        lead_density=0.45,
        mix={
            "drums": MixSettings(reverb=0.05),
            "bass": MixSettings(-1, sidechain=0.2),
            "chords": MixSettings(0, -0.15, 0.15, 0.05),
            "pad": MixSettings(-2.5, 0.1, 0.3),
            "lead": MixSettings(-1, 0.2, 0.2, 0.15),
            "arp": MixSettings(-3, -0.3, 0.2, 0.1),
            "texture": MixSettings(4),
        },
    ),
    "lo-fi": Genre(
        tempo=(70, 80, 90),
        modes={"major": 4, "minor": 5, "dorian": 1},
        colour="ninth",
        form="beat",
        kit="kit-lofi",
        groove="lo-fi",
        swing=(0.55, 0.6),
        humanise=0.006,
        late_snare=0.009,
        patches={
            "bass": ("bass-upright", "bass-sub"),
            "chords": ("keys-rhodes", "keys-piano"),
            "pad": ("pad-warm", "strings"),
            "lead": ("guitar-pluck", "lead-bell", "lead-flute", "keys-piano"),
            "arp": ("guitar-pluck", "keys-piano"),
            "texture": ("vinyl",),
        },
        playing_styles={
            "bass": ("upright",),
            "chords": ("lazy", "chops"),
            "arp": ("eighths", "broken"),
        },
        likelihood={
            "drums": 1, "bass": 1, "chords": 1, "pad": 0.4, "lead": 1, "arp": 0.2,
            "texture": 1, "riser": 0, "impact": 0,
        },
        lead_density=0.4,
        mix={
            "drums": MixSettings(reverb=0.06),
            "bass": MixSettings(-1.5, sidechain=0.2),
            "chords": MixSettings(1, -0.1, 0.2, 0.05, 0.15),
            "pad": MixSettings(-2.5, 0.1, 0.3),
            "lead": MixSettings(-1, 0.2, 0.3, 0.2),
            "arp": MixSettings(-3, -0.3, 0.25, 0.15),
            "texture": MixSettings(3),
        },
    ),
    "house": Genre(
        tempo=(120, 124, 128),
        modes={"minor": 7, "dorian": 1, "major": 2},
        colour="seventh",
        form="dance",
        kit="kit-house",
        groove="house",
        swing=(0.5, 0.55),
        patches={
            "bass": ("bass-saw", "bass-sub"),
            "chords": ("stab-house", "keys-piano", "keys-organ"),
            "pad": ("pad-warm", "strings", "pad-supersaw"),
            "lead": ("lead-pluck", "lead-saw", "lead-bell"),
            "arp": ("arp-pluck", "lead-pluck"),
            "texture": ("vinyl",),
        },
        playing_styles={
            "bass": ("offbeat", "groove"),
            "chords": ("stabs",),
            "arp": ("sixteenths", "three-three-two"),
        },
        likelihood={
            "drums": 1, "bass": 1, "chords": 1, "pad": 0.7, "lead": 0.9, "arp": 0.4,
            "texture": 0, "riser": 0.9, "impact": 0.9,
        },
        lead_density=0.5,
        mix={
            "drums": MixSettings(reverb=0.04),
            "bass": MixSettings(sidechain=0.5),
            "chords": MixSettings(0, 0.1, 0.2, 0.2, 0.4),
            "pad": MixSettings(-1.5, 0, 0.3, 0, 0.6),
            "lead": MixSettings(-1, -0.1, 0.25, 0.25, 0.25),
            "arp": MixSettings(-3, 0.3, 0.2, 0.25, 0.3),
        },
    ),
    "techno": Genre(
        tempo=(126, 132, 140),
        modes={"minor": 9, "phrygian": 1, "dorian": 0.5},
        colour="triad",
        form="dance",
        kit="kit-techno",
        groove="techno",
        patches={
            "bass": ("bass-sub", "bass-acid", "bass-saw"),
            "chords": ("stab-house",),
            "pad": ("pad-air", "pad-warm"),
            "lead": ("lead-square", "lead-bell", "lead-pluck"),
            "arp": ("arp-pluck", "lead-square"),
            "texture": ("wind",),
        },
        playing_styles={
            "bass": ("rumble", "rolling", "acid"),
            "chords": ("dub",),
            "arp": ("sixteenths", "three-three-two"),
        },
        likelihood={
            "drums": 1, "bass": 1, "chords": 0.8, "pad": 0.7, "lead": 0.4, "arp": 0.9,
            "texture": 0.3, "riser": 0.9, "impact": 0.9,
        },
        lead_density=0.3,
        mix={
            "drums": MixSettings(reverb=0.05),
            "bass": MixSettings(sidechain=0.7),
            "chords": MixSettings(-2, -0.15, 0.35, 0.35, 0.4),
            "pad": MixSettings(-2.5, 0, 0.45, 0, 0.6),
            "lead": MixSettings(-2, 0.15, 0.3, 0.35, 0.3),
            "arp": MixSettings(-2, 0.2, 0.25, 0.3, 0.3),
            "texture": MixSettings(-4),
        },
    ),
    "drum and bass": Genre(
        tempo=(170, 174, 176),
        modes={"minor": 9, "dorian": 1},
        colour="seventh",
        form="dance",
        kit="kit-dnb",
        groove="dnb",
        patches={
            "bass": ("bass-reese", "bass-sub"),
            "chords": ("keys-piano", "keys-rhodes", "stab-house"),
            "pad": ("pad-air", "pad-warm", "strings"),
            "lead": ("lead-bell", "lead-pluck", "lead-saw"),
            "arp": ("arp-pluck", "lead-pluck"),
            "texture": ("wind",),
        },
        playing_styles={
            "bass": ("reese", "syncopated"),
            "chords": ("broken", "sustain"),
            "arp": ("three-three-two", "sixteenths"),
        },
        likelihood={
            "drums": 1, "bass": 1, "chords": 0.55, "pad": 1, "lead": 0.9, "arp": 0.5,
            "texture": 0.1, "riser": 0.8, "impact": 0.9,
        },
        lead_density=0.4,
        mix={
            "drums": MixSettings(reverb=0.06),
            "bass": MixSettings(sidechain=0.45),
            "chords": MixSettings(1, -0.15, 0.3, 0.15),
            "pad": MixSettings(-1, 0, 0.45, 0, 0.3),
            "lead": MixSettings(-1, 0.1, 0.35, 0.3),
            "arp": MixSettings(-3, 0.3, 0.3, 0.25),
        },
    ),
    "ambient": Genre(
        tempo=(56, 68, 84),
        modes={"major": 5, "lydian": 1, "minor": 4, "dorian": 1},
        colour="ninth",
        form="flow",
        kit="kit-soft",
        groove="ambient",
        humanise=0.005,
        patches={
            "bass": ("bass-sub",),
            "chords": ("keys-piano", "keys-rhodes", "guitar-pluck"),
            "pad": ("pad-air", "pad-warm", "strings"),
            "lead": ("lead-bell", "lead-flute", "keys-piano"),
            "arp": ("guitar-pluck", "lead-bell", "keys-piano"),
            "texture": ("wind",),
        },
        playing_styles={
            "bass": ("drone",),
            "chords": ("broken", "sustain"),
            "arp": ("drops", "eighths"),
        },
        likelihood={
            "drums": 0.3, "bass": 0.9, "chords": 0.7, "pad": 1, "lead": 0.95, "arp": 0.6,
            "texture": 0.9, "riser": 0, "impact": 0.2,
        },
        lead_density=0.2,
        mix={
            "drums": MixSettings(-1, 0, 0.5),
            "bass": MixSettings(-2, 0, 0.1),
            "chords": MixSettings(-2, -0.2, 0.5, 0.2),
            "pad": MixSettings(2, 0, 0.6),
            "lead": MixSettings(-2, 0.2, 0.6, 0.4),
            "arp": MixSettings(-4, -0.3, 0.55, 0.4),
            "texture": MixSettings(-3, 0, 0.2),
        },
    ),
    "synthwave": Genre(
        tempo=(88, 104, 118),
        modes={"minor": 8, "dorian": 0.5, "major": 1},
        colour="triad",
        form="dance",
        kit="kit-synthwave",
        groove="synthwave",
        patches={
            "bass": ("bass-saw",),
            "chords": ("brass-synth", "pad-supersaw", "keys-organ"),
            "pad": ("pad-warm", "pad-supersaw", "strings"),
            "lead": ("lead-saw", "lead-square", "lead-bell"),
            "arp": ("arp-pluck", "lead-pluck"),
            "texture": ("vinyl",),
        },
        playing_styles={
            "bass": ("octaves", "eighths"),
            "chords": ("pushes", "sustain"),
            "arp": ("sixteenths", "three-three-two"),
        },
        likelihood={
            "drums": 1, "bass": 1, "chords": 0.6, "pad": 0.9, "lead": 1, "arp": 0.85,
            "texture": 0, "riser": 0.6, "impact": 0.6,
        },
        lead_density=0.5,
        mix={
            "drums": MixSettings(reverb=0.08),
            "bass": MixSettings(sidechain=0.35),
            "chords": MixSettings(-3, -0.15, 0.3, 0.1, 0.3),
            "pad": MixSettings(-1.5, 0, 0.4, 0, 0.4),
            "lead": MixSettings(0, 0, 0.35, 0.3),
            "arp": MixSettings(-3, 0.3, 0.25, 0.25, 0.25),
        },
    ),
}  # fmt: skip
"""Name -> genre; users see these names."""
