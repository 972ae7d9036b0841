"""Keys in the form of `TakeFacts`, "C# minor", and in that of ID3's TKEY, "C#m"."""

from __future__ import annotations

import re

_KEY = re.compile(r"([A-G][b#]?) (\w+)")
_SHORT_KEY = re.compile(r"([A-G][b#]?)(m?)")
_MINOR_THIRD = {"minor", "aeolian", "dorian", "phrygian", "locrian"}
_MAJOR_THIRD = {"major", "ionian", "lydian", "mixolydian"}


def abbreviate_key(key: str | None) -> str | None:
    """Return a key in the form of ID3's TKEY: "C#m" for C# minor, "Eb" for Eb major.

    Modes count by their third: D dorian is "Dm". Returns None for an unknown key.
    """
    match = _KEY.fullmatch(key or "")
    if match is None:
        return None
    tonic, mode = match.groups()
    if mode in _MINOR_THIRD:
        return f"{tonic}m"
    return tonic if mode in _MAJOR_THIRD else None


def parse_key(text: str | None) -> str | None:
    """Return the key in the form of `TakeFacts`, from that form or from ID3's."""
    short = _SHORT_KEY.fullmatch(text or "")
    if short is not None:
        return f"{short[1]} {'minor' if short[2] else 'major'}"
    return text if abbreviate_key(text) else None
