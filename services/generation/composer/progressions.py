"""Chord progressions in roman numerals, for each genre and mode.

A word is a bar ("i/VI": half a bar each). Numerals count in the mode's own scale: in minor, VI is
the flat sixth. An upper-case V in a minor mode is the major dominant of harmonic minor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.generation.score import Mode

_COMMON: dict[Mode, tuple[str, ...]] = {
    "minor": ("i VI III VII", "i iv VI V", "i VII VI VII", "i VI iv V", "i iv i V"),
    "major": ("I V vi IV", "I vi IV V", "I IV vi V", "I iii IV V", "I IV I V"),
    "dorian": ("i IV i IV", "i VII IV i", "i ii III IV", "i IV VII i"),
    "phrygian": ("i II i II", "i II III II", "i i II vii", "i vii II i"),
    "mixolydian": ("I VII IV I", "I v IV I", "I VII I IV", "I IV VII IV"),
    "lydian": ("I II I II", "I II vii I", "I vii II I", "I iii II I"),
}

_BY_GENRE: dict[str, dict[Mode, tuple[str, ...]]] = {
    "trap": {
        "minor": ("i i VI VI", "i VI i V", "i i VI V", "i iv i VI", "i VI iv V", "i i iv V"),
        "phrygian": ("i i II II", "i II i vii", "i i II i", "i III II II"),
    },
    "hip-hop": {
        "minor": ("i iv i V", "i VI i VII", "i iv VI V", "i i iv iv", "i VII VI V"),
        "dorian": ("i IV i IV", "i i IV IV", "i ii i IV", "i IV VII i"),
    },
    "lo-fi": {
        "major": ("I vi ii V", "I I ii V", "I iii IV V", "I IV ii/V I", "I vi IV V"),
        "minor": ("i iv V i", "i VI iv V", "i iv i V", "i iv VI V"),
        "dorian": ("i IV i IV", "i ii III IV", "i IV VII i"),
    },
    "house": {
        "minor": ("i VI VII i", "i iv VI V", "i VI iv V", "i iv i VII", "i i iv V"),
        "dorian": ("i IV i IV", "i i IV IV", "i VII IV IV"),
        "major": ("I vi IV V", "I IV I V", "I V vi IV", "I IV vi V"),
    },
    "techno": {
        "minor": ("i i i i", "i i i VI", "i i VII i", "i i iv i", "i i i v"),
        "phrygian": ("i i i II", "i i II i", "i i i vii", "i i i i"),
        "dorian": ("i i i IV", "i i IV i", "i i VII i"),
    },
    "drum and bass": {
        "minor": ("i VI VII i", "i i VI VII", "i VI iv V", "i iv VI V", "i i VI V"),
        "dorian": ("i IV i IV", "i VII IV i", "i i IV VII"),
    },
    "ambient": {
        "major": ("I IV", "I vi IV I", "I IV I V", "I V IV I"),
        "lydian": ("I II", "I II I vii", "I iii II I"),
        "minor": ("i iv", "i VI iv i", "i v VI i", "i iv i v"),
        "dorian": ("i IV", "i VII IV i", "i ii i IV"),
    },
    "synthwave": {
        "minor": ("i VI III VII", "i VI VII i", "i VII VI V", "i iv VI V", "i i VI VII"),
        "dorian": ("i IV VII i", "i VII IV i", "i III VII IV"),
        "major": ("I V vi IV", "I vi IV V", "I IV vi V"),
    },
}


def progressions(genre: str, mode: Mode) -> tuple[str, ...]:
    """Return the loops of a genre in a mode; the common ones where the genre has none."""
    return _BY_GENRE.get(genre, {}).get(mode, _COMMON[mode])
