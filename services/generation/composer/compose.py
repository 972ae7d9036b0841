"""Writes the score of a plan. The same arguments give the same notes everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.generation.composer.bass import play_bass
from services.generation.composer.comping import play_arp, play_chords, play_pad
from services.generation.composer.drums import play_drums, play_drums_alone
from services.generation.composer.fx import (
    play_impacts,
    play_riser_alone,
    play_risers,
    play_texture,
)
from services.generation.composer.melody import play_lead
from services.generation.composer.plan import Plan, make_plan
from services.generation.composer.random_streams import RandomStream
from services.generation.composer.rhythm import perform
from services.generation.score import Note, Part, Score

if TYPE_CHECKING:
    from services.generation.composer.arrangement import Passage
    from services.generation.composer.prompt import ParsedPrompt
    from services.generation.composer.voices import Voice

_STEP_BEATS = 1 / 32
"""Beats that a filter takes from one section's brightness to the next."""

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


def compose(
    parsed: ParsedPrompt,
    *,
    duration_seconds: float,
    seed: int,
    bars: int | None = None,
    loop: bool | None = None,
) -> Score:
    """Write as many whole bars as fit the duration, at least one.

    No note starts in what is left of the duration after the last bar.

    Args:
        parsed: the reading of the prompt, which fixes tempo, key and style.
        duration_seconds: more than 0.
        seed: chooses among the pieces of that tempo, key and style.
        bars: how many to write; None for those that fit the duration.
        loop: whether the end leads back to the start; None for what the prompt says.
    """
    plan = make_plan(parsed, duration_seconds=duration_seconds, seed=seed, bars=bars, loop=loop)
    parts = [_perform(plan, voice, _play(plan, voice)) for voice in plan.voices]
    if not any(part.notes for part in parts):
        parts = [_perform(plan, voice, _play_alone(plan, voice)) for voice in plan.voices]
    return Score(
        tempo_bpm=plan.tempo_bpm,
        bars=plan.bars,
        key=plan.key,
        genre=plan.genre,
        sections=tuple(passage.section for passage in plan.passages),
        chords=plan.harmony.chords,
        parts=tuple(part for part in parts if part.notes),
        loop=plan.loop,
    )


def _play(plan: Plan, voice: Voice) -> list[Note]:
    return _play_kit(plan, voice) if voice.slot == "drums" else _PLAYERS[voice.slot](plan, voice)


def _play_alone(plan: Plan, voice: Voice) -> list[Note]:
    """Return the notes of a voice that the prompt wants alone and the genre leaves silent."""
    if voice.slot == "drums":
        return play_drums_alone(voice.only_pitches, plan.bars)
    return play_riser_alone(plan)


def _perform(plan: Plan, voice: Voice, notes: list[Note]) -> Part:
    played = perform(
        notes,
        plan.feel,
        role=voice.role,
        end=plan.beats,
        rng=RandomStream(plan.seed, "feel", voice.name),
    )
    mix = voice.mix
    return Part(
        name=voice.name,
        role=voice.role,
        patch=voice.patch,
        notes=tuple(played),
        gain_db=mix.gain_db,
        pan=mix.pan,
        reverb=mix.reverb,
        delay=mix.delay,
        sidechain=mix.sidechain,
        brightness=_follow_sections(plan, voice),
    )


def _play_kit(plan: Plan, voice: Voice) -> list[Note]:
    hits = play_drums(plan.drum_patterns, plan.passages, steady=voice.plays_throughout)
    return [
        hit
        for hit in hits
        if hit.pitch not in voice.muted_pitches
        and (not voice.only_pitches or hit.pitch in voice.only_pitches)
    ]


def _follow_sections(plan: Plan, voice: Voice) -> tuple[tuple[float, float], ...]:
    """Return filter breakpoints that follow the sections; drums and effects have none."""
    if voice.slot in ("drums", "texture", "riser", "impact"):
        return ()
    depth = 0.5 if voice.slot == "bass" else 1.0
    points: list[tuple[float, float]] = []
    for passage in plan.passages:
        start, end = (_brightness_at(plan, passage, which, depth) for which in (0, 1))
        first = passage.section.start_bar * 4.0
        if plan.loop and not points:
            # The filter comes from where the loop ends.
            points.append((0.0, _brightness_at(plan, plan.passages[-1], 1, depth)))
        points += [(first + (_STEP_BEATS if points else 0.0), start), (passage.end_bar * 4.0, end)]
    return tuple(points)


def _brightness_at(plan: Plan, passage: Passage, which: int, depth: float) -> float:
    value = 0.5 + depth * (passage.kind.brightness[which] - 0.5) + 0.15 * plan.brightness
    return round(min(1.0, max(0.0, value)), 4)
