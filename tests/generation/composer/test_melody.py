"""The melody: motifs, and how sections use them."""

import itertools

import pytest

from services.generation.composer.melody import (
    MOTIF_BEATS,
    REGISTERS,
    Motif,
    make_motif,
    play_lead,
)
from services.generation.composer.plan import Plan, make_plan
from services.generation.composer.prompt import parse_prompt
from services.generation.composer.random_streams import RandomStream
from services.generation.composer.voices import Voice

MOTIF = Motif((0.0, 1.0, 4.0, 6.0), (0.9, 0.9, 1.5, 1.5), (0, 2, 1, -1))


def plan_and_lead(prompt: str, seconds: float = 90.0, seed: int = 1) -> tuple[Plan, Voice]:
    plan = make_plan(parse_prompt(prompt), duration_seconds=seconds, seed=seed)
    return plan, next(voice for voice in plan.voices if voice.slot == "lead")


def test_an_answer_is_the_first_bar_and_one_long_note() -> None:
    assert MOTIF.answer() == Motif((0.0, 1.0, 4.0), (0.9, 0.9, 3.0), (0, 2, 2))


def test_inverting_turns_the_contour_upside_down() -> None:
    assert MOTIF.invert().line == (0, -2, -1, 1)
    assert MOTIF.invert().onsets == MOTIF.onsets


def test_varying_moves_the_second_bar_only() -> None:
    for seed in range(10):
        varied = MOTIF.vary(RandomStream(seed))
        assert varied.line[:2] == MOTIF.line[:2]
        shift = varied.line[2] - MOTIF.line[2]
        assert shift == varied.line[3] - MOTIF.line[3]
        assert 1 <= abs(shift) <= 2


def test_a_denser_motif_has_more_notes() -> None:
    def notes(density: float) -> int:
        return sum(len(make_motif(RandomStream(seed), density).onsets) for seed in range(100))

    assert notes(0.1) < notes(0.5) < notes(0.9)


def test_a_leap_is_followed_by_a_step_back() -> None:
    for seed in range(100):
        line = make_motif(RandomStream(seed), 0.8).line
        moves = [after - before for before, after in itertools.pairwise(line)]
        for move, following in itertools.pairwise(moves):
            if abs(move) > 2:
                assert abs(following) == 1


EVERY = {"full": 1, "call": 2, "hint": 4}


@pytest.mark.parametrize("seed", range(4))
def test_sections_have_as_much_melody_as_their_kind(seed: int) -> None:
    plan, lead = plan_and_lead("synthwave with saw lead, 110 bpm", 120.0, seed)
    starts = [note.start for note in play_lead(plan, lead)]
    for passage in plan.passages:
        first, end = passage.section.start_bar * 4.0, passage.end_bar * 4.0
        units = {int((start - first) // MOTIF_BEATS) for start in starts if first <= start < end}
        if passage.kind.melody == "none":
            assert not units
        elif not passage.resolves:
            assert all(unit % EVERY[passage.kind.melody] == 0 for unit in units)


def test_a_countermelody_plays_every_second_unit() -> None:
    plan, _ = plan_and_lead("trap with bells, flute, saw lead and square lead")
    voice = next(voice for voice in plan.voices if voice.is_countermelody)
    starts = [note.start for note in play_lead(plan, voice)]
    assert starts
    for passage, _bars in plan.passages_of(voice):
        first, end = passage.section.start_bar * 4.0, passage.end_bar * 4.0
        if passage.section.bars > 2 and not passage.resolves:
            units = {int((at - first) // MOTIF_BEATS) for at in starts if first <= at < end}
            assert all(unit % 2 == 1 for unit in units)


def test_the_last_note_is_held_on_the_root_or_fifth() -> None:
    for seed in range(8):
        plan, lead = plan_and_lead("house with melody in C major", 16.0, seed)
        last = play_lead(plan, lead)[-1]
        if plan.passages[-1].resolves and plan.passages[-1].kind.melody == "full":
            assert last.pitch % 12 in (0, 7)
            assert last.duration == 3.0


def test_a_register_mood_moves_the_lead_but_not_a_countermelody() -> None:
    plan, _ = plan_and_lead("happy trap with bells, flute, saw lead and square lead in C major")
    assert plan.register == 2
    for voice in plan.voices:
        if voice.slot == "lead":
            low, high = REGISTERS[voice.patch]
            shift = 0 if voice.is_countermelody else plan.register
            pitches = [note.pitch for note in play_lead(plan, voice)]
            assert low + shift <= min(pitches) <= max(pitches) <= high + shift
