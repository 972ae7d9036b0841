"""Textures, risers and impacts along the sections of a piece."""

import pytest

from services.generation.composer.fx import play_impacts, play_risers, play_texture
from services.generation.composer.plan import Plan, make_plan
from services.generation.composer.prompt import parse_prompt
from services.generation.composer.voices import Voice


def plan_of(prompt: str, seconds: float = 120.0, seed: int = 1) -> Plan:
    return make_plan(parse_prompt(prompt), duration_seconds=seconds, seed=seed)


def voice_of(plan: Plan, slot: str) -> Voice:
    return next(voice for voice in plan.voices if voice.slot == slot)


def rises(plan: Plan) -> set[float]:
    """Beats at which a section with clearly more energy begins."""
    return {
        passage.end_bar * 4.0
        for passage in plan.passages
        if passage.next_kind and passage.next_kind.energy - passage.kind.energy >= 0.2
    }


@pytest.mark.parametrize("genre", ["house", "techno", "trap", "synthwave"])
def test_a_riser_ends_where_a_louder_section_begins(genre: str) -> None:
    plan = plan_of(f"{genre} with risers")
    risers = play_risers(plan, voice_of(plan, "riser"))
    assert {note.start + note.duration for note in risers} == rises(plan)
    assert all(0.5 < note.velocity <= 0.8 for note in risers)


def test_a_riser_in_a_build_is_longer() -> None:
    plan = plan_of("house with risers")
    lengths = {
        passage.kind.is_build: note.duration
        for note in play_risers(plan, voice_of(plan, "riser"))
        for passage in plan.passages
        if passage.end_bar * 4.0 == note.start + note.duration
    }
    assert lengths[True] == 16.0
    assert all(length == 8.0 for build, length in lengths.items() if not build)


def test_a_riser_is_not_longer_than_its_section() -> None:
    plan = plan_of("house with risers, build up, drop", 14.0)
    for note in play_risers(plan, voice_of(plan, "riser")):
        assert note.start >= 0.0


def test_every_riser_has_an_impact_after_it() -> None:
    plan = plan_of("house with risers")
    impacts = play_impacts(plan, voice_of(plan, "riser"))
    assert {note.start for note in impacts} == rises(plan)
    assert all(note.start < plan.beats for note in impacts)


def test_a_texture_is_joined_over_neighbouring_sections() -> None:
    plan = plan_of("lo-fi with vinyl crackle", 60.0)
    notes = play_texture(plan, voice_of(plan, "texture"))
    starts = [note.start for note in notes]
    ends = [note.start + note.duration for note in notes]
    assert not set(starts[1:]) & set(ends)
    assert sum(note.duration for note in notes) <= plan.beats
