"""Chooses a genre for a prompt that names none, by a draw weighted by its other words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.generation.composer.genres import GENRES

if TYPE_CHECKING:
    from services.generation.composer.instrumentation import Instrumentation
    from services.generation.composer.random_streams import RandomStream

_WEIGHTS = {
    "trap": 3.0,
    "hip-hop": 3.0,
    "lo-fi": 3.0,
    "house": 3.0,
    "synthwave": 2.0,
    "ambient": 1.0,
    "techno": 0.7,
    "drum and bass": 0.7,
}
"""Weights before any word of the prompt counts."""

_GENTLE = {"ambient": 6.0, "lo-fi": 3.0, "trap": 0.2, "house": 0.2, "synthwave": 0.4}
_HARD = {"trap": 3.0, "techno": 4.0, "drum and bass": 3.0, "lo-fi": 0.1, "ambient": 0.1}
_LIVELY = {"house": 3.0, "synthwave": 2.0, "drum and bass": 2.0, "lo-fi": 0.4, "ambient": 0.1}
_HANDMADE = {"lo-fi": 4.0, "hip-hop": 2.0, "ambient": 4.0, "trap": 0.5, "techno": 0.1}
_MACHINES = {"synthwave": 4.0, "house": 2.0, "techno": 2.0, "lo-fi": 0.3, "hip-hop": 0.3}

_FACTORS: dict[str, dict[str, float]] = {
    "sad": _GENTLE,
    "melancholic": _GENTLE,
    "romantic": _GENTLE,
    "calm": _GENTLE,
    "chill": _GENTLE,
    "dreamy": _GENTLE,
    "mysterious": _GENTLE,
    "dark": {"trap": 3.0, "techno": 2.0},
    "aggressive": _HARD,
    "scary": {"trap": 2.0, "ambient": 3.0},
    "happy": _LIVELY,
    "uplifting": _LIVELY,
    "energetic": _LIVELY,
    "groovy": {"house": 4.0, "hip-hop": 3.0},
    "808 bass": {"trap": 40.0},
    "hats": {"trap": 3.0},
    "reese bass": {"drum and bass": 20.0},
    "acid bass": {"techno": 20.0},
    "upright bass": _HANDMADE,
    "piano": _HANDMADE,
    "rhodes": _HANDMADE,
    "guitar": _HANDMADE,
    "strings": _HANDMADE,
    "flute": _HANDMADE,
    "harp": _HANDMADE,
    "organ": {"trap": 0.3, "techno": 0.2, "drum and bass": 0.3},
    "choir": {"ambient": 6.0, "trap": 0.5},
    "no drums": {"ambient": 8.0, "lo-fi": 2.0, "trap": 0.1, "house": 0.1, "techno": 0.1},
    "vinyl": {"lo-fi": 8.0, "hip-hop": 3.0},
    "supersaw": _MACHINES,
    "synth bass": _MACHINES,
    "synths": _MACHINES,
    "saw lead": _MACHINES,
    "arpeggio": _MACHINES,
    "airy pad": _GENTLE,
    "pad": {"ambient": 3.0},
    "wind": {"ambient": 12.0},
}


def choose_genre(
    instrumentation: Instrumentation,
    moods: tuple[str, ...],
    tempo: float | None,
    rng: RandomStream,
) -> str:
    """Return one of `GENRES`; a stated tempo makes genres that are never that fast unlikely."""
    weights = dict(_WEIGHTS)
    excluded = (f"no {name}" for name in instrumentation.excluded)
    for name in (*moods, *instrumentation.requested, *excluded):
        for genre, factor in _FACTORS.get(name, {}).items():
            weights[genre] *= factor
    if tempo is not None:
        for genre in weights:
            slowest, _, fastest = GENRES[genre].tempo
            if not 0.93 * slowest <= tempo <= 1.07 * fastest:
                weights[genre] *= 0.02
    return rng.weighted_choice(weights)
