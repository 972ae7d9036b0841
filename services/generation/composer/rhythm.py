"""Turns written notes into played ones: swing, humanising, and no overlaps of one pitch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from services.generation.score import Note, Role

if TYPE_CHECKING:
    from services.generation.composer.random_streams import RandomStream

STEP = 0.25
"""A sixteenth, in beats."""
SHORTEST = 1 / 64
"""Beats; shorter notes are dropped."""

_SNARES = (37, 38, 39, 40)


@dataclass(frozen=True, slots=True)
class Feel:
    """Swing and timing of a piece; lengths in beats."""

    swing: float = 0.5
    """Length of the first of two sixteenths as a share of both; 0.5 is straight."""
    humanise: float = 0.0
    """Largest random deviation of an onset."""
    late_snare: float = 0.0

    def apply_swing(self, beat: float) -> float:
        """Return the played beat of a written one; linear inside each sixteenth of a pair."""
        eighth, inside = divmod(beat, 0.5)
        if inside < 0.25:
            return eighth * 0.5 + inside * 2.0 * self.swing
        return eighth * 0.5 + 0.5 * self.swing + (inside - 0.25) * 2.0 * (1.0 - self.swing)


def perform(
    notes: Iterable[Note], feel: Feel, *, role: Role, end: float, rng: RandomStream
) -> list[Note]:
    """Return the notes as played: sorted, inside 0..end, no two of one pitch at once.

    Args:
        notes: as written, without swing.
        feel: swing and timing.
        role: drums get the late snare; textures are not humanised.
        end: length of the piece in beats.
        rng: draws the deviations of this part.
    """
    played = []
    for note in notes:
        start, stop = feel.apply_swing(note.start), feel.apply_swing(note.start + note.duration)
        if feel.humanise and role != "texture":
            start += rng.triangular(-feel.humanise, feel.humanise, 0.0)
        if role == "drums" and note.pitch in _SNARES:
            start += feel.late_snare
        start, stop = max(0.0, start), min(end, max(stop, start + SHORTEST))
        if stop - start >= SHORTEST:
            velocity = min(1.0, max(0.05, note.velocity))
            played.append(Note(start, stop - start, note.pitch, velocity, note.glide_to))
    return _trim_overlaps(played)


def _trim_overlaps(notes: list[Note]) -> list[Note]:
    """End each note where the next note of its pitch starts; sort by start and pitch."""
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
            gap = following.start - note.start
            out.append(note if note.duration <= gap else _shorten(note, gap))
        out.append(kept[-1])
    out.sort(key=lambda note: (note.start, note.pitch))
    return out


def make_monophonic(notes: Iterable[Note]) -> list[Note]:
    """Return a single line in which each note ends where the next one starts."""
    ordered = sorted(notes, key=lambda note: (note.start, -note.velocity))
    out: list[Note] = []
    for note in ordered:
        if out and note.start - out[-1].start < SHORTEST:
            continue
        if out and out[-1].start + out[-1].duration > note.start:
            out[-1] = _shorten(out[-1], note.start - out[-1].start)
        out.append(note)
    return out


def _shorten(note: Note, duration: float) -> Note:
    return Note(note.start, duration, note.pitch, note.velocity, note.glide_to)
