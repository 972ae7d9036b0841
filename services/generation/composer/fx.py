"""Effects: texture beds, and risers and impacts between sections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.generation.composer.harmony import BAR
from services.generation.score import Note

if TYPE_CHECKING:
    from services.generation.composer.plan import Plan
    from services.generation.composer.voices import Voice

_PITCH = 60
"""Effects have no pitch; a note needs one."""


def play_texture(plan: Plan, voice: Voice) -> list[Note]:
    """Return one long note for each run of sections in which the texture plays."""
    notes: list[Note] = []
    for passage, bars in plan.passages_of(voice):
        start, length = bars.start * BAR, len(bars) * BAR
        loud = 0.5 + 0.3 * passage.section.energy
        if notes and notes[-1].start + notes[-1].duration == start:
            before = notes.pop()
            start, length, loud = before.start, before.duration + length, before.velocity
        notes.append(Note(start, length, _PITCH, loud))
    return notes


def play_risers(plan: Plan, _voice: Voice) -> list[Note]:
    """Return a riser before every section with clearly more energy than the one before it."""
    notes = []
    for passage in plan.passages:
        if passage.next_kind is None or passage.next_kind.energy - passage.kind.energy < 0.2:
            continue
        bars = min(passage.section.bars, 4 if passage.kind.is_build else 2)
        end = passage.end_bar * BAR
        notes.append(
            Note(end - bars * BAR, bars * BAR, _PITCH, 0.5 + 0.3 * passage.next_kind.energy)
        )
    return notes


def play_riser_alone(plan: Plan) -> list[Note]:
    """Return a riser over the last bars, for a piece of risers that has no section to lead to."""
    bars = min(plan.bars, 4)
    return [Note((plan.bars - bars) * BAR, bars * BAR, _PITCH, 0.75)]


def play_impacts(plan: Plan, voice: Voice) -> list[Note]:
    """Return an impact on the first beat of every section that a riser leads to."""
    return [
        Note(note.start + note.duration, 2 * BAR, _PITCH, 0.75)
        for note in play_risers(plan, voice)
        if note.start + note.duration < plan.beats
    ]
