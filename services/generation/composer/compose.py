"""Composing: a plan becomes a score. Pure: the same arguments give the same notes everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.generation.composer.bass import play_bass
from services.generation.composer.comping import play_arp, play_chords, play_pad
from services.generation.composer.dice import Dice
from services.generation.composer.drums import play_drums
from services.generation.composer.melody import play_lead
from services.generation.composer.plan import Plan, make_plan
from services.generation.composer.rhythm import perform
from services.generation.composer.texture import play_impacts, play_risers, play_texture
from services.generation.score import Note, Part, Score

if TYPE_CHECKING:
    from services.generation.composer.arrangement import Passage
    from services.generation.composer.prompt import Understood
    from services.generation.composer.voices import Voice

_JUMP = 1 / 32
"""Beats in which a filter moves from one section's setting to the next."""

_PLAYERS = {
    "bass": play_bass,
    "chords": play_chords,
    "pad": play_pad,
    "lead": play_lead,
    "arp": play_arp,
    "texture": play_texture,
    "riser": play_risers,
    "impact": play_impacts,
}


def compose(understood: Understood, *, duration_seconds: float, seed: int) -> Score:
    """Write the piece: as many whole bars as fit the duration, at least one.

    What is left of the duration after the last bar is its tail, in which nothing starts.

    Args:
        understood: what the prompt asked for.
        duration_seconds: more than 0.
        seed: the variation; tempo, key and style do not depend on it.
    """
    plan = make_plan(understood, duration_seconds=duration_seconds, seed=seed)
    parts = (_part(plan, voice) for voice in plan.voices)
    return Score(
        tempo_bpm=plan.tempo_bpm,
        bars=plan.bars,
        key=plan.key,
        genre=plan.genre,
        sections=tuple(passage.section for passage in plan.passages),
        chords=plan.harmony.chords,
        parts=tuple(part for part in parts if part.notes),
    )


def _part(plan: Plan, voice: Voice) -> Part:
    notes = _drums(plan, voice) if voice.slot == "drums" else _PLAYERS[voice.slot](plan, voice)
    played = perform(
        notes, plan.feel, role=voice.role, end=plan.beats, dice=Dice(plan.seed, "feel", voice.name)
    )
    seat = voice.seat
    return Part(
        name=voice.name,
        role=voice.role,
        patch=voice.patch,
        notes=tuple(played),
        gain_db=seat.gain_db,
        pan=seat.pan,
        reverb=seat.reverb,
        delay=seat.delay,
        sidechain=seat.sidechain,
        brightness=_brightness(plan, voice),
    )


def _drums(plan: Plan, voice: Voice) -> list[Note]:
    hits = play_drums(plan.kit, plan.passages, steady=voice.everywhere)
    return [
        hit
        for hit in hits
        if hit.pitch not in voice.silent and (not voice.pitches or hit.pitch in voice.pitches)
    ]


def _brightness(plan: Plan, voice: Voice) -> tuple[tuple[float, float], ...]:
    """Breakpoints that follow the sections; drums and effects keep their own sound."""
    if voice.slot in ("drums", "texture", "riser", "impact"):
        return ()
    depth = 0.5 if voice.slot == "bass" else 1.0
    points: list[tuple[float, float]] = []
    for passage in plan.passages:
        start, end = (_open(plan, passage, which, depth) for which in (0, 1))
        first = passage.section.start_bar * 4.0
        points += [(first + (_JUMP if points else 0.0), start), (passage.end_bar * 4.0, end)]
    return tuple(points)


def _open(plan: Plan, passage: Passage, which: int, depth: float) -> float:
    value = 0.5 + depth * (passage.shape.opening[which] - 0.5) + 0.15 * plan.brightness
    return round(min(1.0, max(0.0, value)), 4)
