"""What is neither rhythm nor harmony: beds of noise, risers and impacts at the seams."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.generation.composer.harmony import BAR
from services.generation.score import Note

if TYPE_CHECKING:
    from services.generation.composer.plan import Plan
    from services.generation.composer.voices import Voice

_PITCH = 60
"""Textures have none; this one stands for it."""


def play_texture(plan: Plan, voice: Voice) -> list[Note]:
    """One long note for each stretch of sections in which it plays."""
    notes: list[Note] = []
    for passage, bars in plan.playing(voice):
        start, length = bars.start * BAR, len(bars) * BAR
        loud = 0.5 + 0.3 * passage.section.energy
        if notes and notes[-1].start + notes[-1].duration == start:
            before = notes.pop()
            start, length, loud = before.start, before.duration + length, before.velocity
        notes.append(Note(start, length, _PITCH, loud))
    return notes


def play_risers(plan: Plan, _voice: Voice) -> list[Note]:
    """Into every section that is clearly louder than the one before it."""
    notes = []
    for passage in plan.passages:
        if passage.into is None or passage.into.energy - passage.shape.energy < 0.2:
            continue
        bars = min(passage.section.bars, 4 if passage.shape.rises else 2)
        end = passage.end_bar * BAR
        notes.append(Note(end - bars * BAR, bars * BAR, _PITCH, 0.5 + 0.3 * passage.into.energy))
    return notes


def play_impacts(plan: Plan, voice: Voice) -> list[Note]:
    """On the first beat of what the risers lead to."""
    return [
        Note(note.start + note.duration, 2 * BAR, _PITCH, 0.75)
        for note in play_risers(plan, voice)
        if note.start + note.duration < plan.beats
    ]
