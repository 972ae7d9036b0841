"""From the written rhythm to the played one: swing, feel, and notes that do not collide."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from services.generation.score import Note, Role

if TYPE_CHECKING:
    from services.generation.composer.dice import Dice

STEP = 0.25
"""A sixteenth, in beats."""
SHORTEST = 1 / 64
"""Beats; a note that would be shorter than this is left out."""

_SNARES = (37, 38, 39, 40)


@dataclass(frozen=True, slots=True)
class Feel:
    """How a piece is played; lengths in beats."""

    swing: float = 0.5
    """The share of a pair of sixteenths that the first one takes."""
    loose: float = 0.0
    """Largest deviation of an onset."""
    late_snare: float = 0.0

    def time(self, beat: float) -> float:
        """Where a written beat is played: linear inside each sixteenth of a swung pair."""
        eighth, inside = divmod(beat, 0.5)
        if inside < 0.25:
            return eighth * 0.5 + inside * 2.0 * self.swing
        return eighth * 0.5 + 0.5 * self.swing + (inside - 0.25) * 2.0 * (1.0 - self.swing)


def perform(notes: Iterable[Note], feel: Feel, *, role: Role, end: float, dice: Dice) -> list[Note]:
    """The notes as played: sorted, inside 0..end, no two of one pitch at once.

    Args:
        notes: as written, without swing.
        feel: how.
        role: drums get the late snare; textures stay where they are.
        end: length of the piece in beats.
        dice: the stream of the part's deviations.
    """
    played = []
    for note in notes:
        start, stop = feel.time(note.start), feel.time(note.start + note.duration)
        if feel.loose and role != "texture":
            start += dice.triangular(-feel.loose, feel.loose, 0.0)
        if role == "drums" and note.pitch in _SNARES:
            start += feel.late_snare
        start, stop = max(0.0, start), min(end, max(stop, start + SHORTEST))
        if stop - start >= SHORTEST:
            velocity = min(1.0, max(0.05, note.velocity))
            played.append(Note(start, stop - start, note.pitch, velocity, note.glide_to))
    return _apart(played)


def _apart(notes: list[Note]) -> list[Note]:
    """Shorten what would still sound when the same pitch starts again."""
    by_pitch: dict[int, list[Note]] = defaultdict(list)
    for note in notes:
        by_pitch[note.pitch].append(note)
    out: list[Note] = []
    for same in by_pitch.values():
        same.sort(key=lambda note: (note.start, -note.velocity))
        kept = [same[0]]
        for note in same[1:]:
            if note.start - kept[-1].start >= SHORTEST:
                kept.append(note)
        for note, following in pairwise(kept):
            room = following.start - note.start
            out.append(note if note.duration <= room else _shortened(note, room))
        out.append(kept[-1])
    out.sort(key=lambda note: (note.start, note.pitch))
    return out


def one_at_a_time(notes: Iterable[Note]) -> list[Note]:
    """A single line: each note ends where the next one starts."""
    ordered = sorted(notes, key=lambda note: (note.start, -note.velocity))
    out: list[Note] = []
    for note in ordered:
        if out and note.start - out[-1].start < SHORTEST:
            continue
        if out and out[-1].start + out[-1].duration > note.start:
            out[-1] = _shortened(out[-1], note.start - out[-1].start)
        out.append(note)
    return out


def _shortened(note: Note, duration: float) -> Note:
    return Note(note.start, duration, note.pitch, note.velocity, note.glide_to)


def steps(pattern: str) -> list[int]:
    """The sixteenths of a bar at which a pattern has something."""
    return [index for index, mark in enumerate(pattern) if mark != "."]
