"""Colours of tracks by role."""

from __future__ import annotations

_GREY = "#8a8f98"
_COLOURS = {
    "mix": "#d9d9d9",
    "drums": "#e05c4b",
    "bass": "#e8a33d",
    "chords": "#4f9d69",
    "lead": "#4a7fd6",
    "arp": "#35a7b8",
    "pad": "#8f6bd0",
    "texture": "#b56aa3",
}


def find_colour(role: str) -> str:
    """Return the colour of a track as "#rrggbb", grey for an unknown role."""
    return _COLOURS.get(role, _GREY)
