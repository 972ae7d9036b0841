"""Arrangement: whole sections, an early groove, contrast and an ending."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.generation.composer.arrangement import SECTION_KINDS, SHORT_BARS, arrange
from services.generation.composer.compose import compose
from services.generation.composer.prompt import parse_prompt

FORMS = list(SECTION_KINDS)
SLOTS = {"bass", "chords", "pad", "lead", "arp", "texture", "riser", "drums"}


@settings(max_examples=200)
@given(st.integers(1, 700), st.sampled_from(FORMS), st.booleans(), st.booleans())
def test_passages_cover_all_bars_once(bars: int, form: str, loop: bool, build: bool) -> None:
    structure = ("build", "drop", "break") if build else ()
    passages = arrange(bars, form, loop=loop, structure=structure)
    at = 0
    for passage in passages:
        assert passage.section.start_bar == at
        at = passage.end_bar
    assert at == bars
    assert [passage.is_last for passage in passages].count(True) == (0 if loop else 1)
    assert all(p.next_kind is not None for p in passages[:-1])
    assert passages[-1].next_kind == (passages[0].kind if loop else None)
    assert [p.turns_around for p in passages] == [loop and p is passages[-1] for p in passages]


@given(st.integers(SHORT_BARS + 1, 700), st.sampled_from(FORMS))
def test_long_forms_are_made_of_whole_phrases(bars: int, form: str) -> None:
    passages = arrange(bars, form)
    assert all(passage.section.bars % 2 == 0 for passage in passages[:-1])
    assert max(passage.section.bars for passage in passages) <= 24
    energies = [passage.section.energy for passage in passages]
    assert energies[0] < max(energies)
    assert energies[-1] < max(energies)


@given(st.integers(3, SHORT_BARS), st.sampled_from(FORMS))
def test_short_forms_have_their_groove_by_the_third_bar(bars: int, form: str) -> None:
    passages = arrange(bars, form)
    full = next(p for p in passages if p.section.name in ("groove", "drop"))
    assert full.section.start_bar <= 2
    grooving = sum(p.section.bars for p in passages if p.section.name not in ("intro", "ending"))
    assert grooving >= bars / 2


@pytest.mark.parametrize("form", FORMS)
def test_a_nine_bar_clip_has_intro_groove_variation_and_ending(form: str) -> None:
    lengths = [passage.section.bars for passage in arrange(9, form)]
    assert lengths == [2, 4, 2, 1]


def test_structure_words_change_the_form() -> None:
    assert arrange(9, "dance", structure=("build",))[0].section.name == "build"
    names = [p.section.name for p in arrange(14, "beat", structure=("break",))]
    assert "break" in names


@pytest.mark.parametrize("form", FORMS)
def test_section_kinds_name_known_slots_and_stay_in_range(form: str) -> None:
    for shape in SECTION_KINDS[form].values():
        assert shape.slots == "all" or set(shape.slots.split()) <= SLOTS
        assert set(shape.late_slots.split()) | set(shape.leaving_slots.split()) <= SLOTS
        assert 0.0 <= shape.energy <= 1.0
        assert all(0.0 <= opening <= 1.0 for opening in shape.brightness)


def test_a_late_slot_joins_halfway_through_a_section() -> None:
    drop = next(p for p in arrange(93, "dance") if p.section.name == "drop")
    first, end = drop.section.start_bar, drop.end_bar
    assert drop.bars_of("bass") == range(first, end)
    assert drop.bars_of("arp").start > first
    assert drop.bars_of("arp").stop == end


def test_a_late_slot_plays_a_repeated_section_from_its_start() -> None:
    again = next(p for p in arrange(93, "dance") if p.section.name == "drop 2")
    assert again.bars_of("arp") == range(again.section.start_bar, again.end_bar)


def test_a_leaving_slot_stops_halfway_through_a_section() -> None:
    outro = arrange(180, "dance")[-1]
    assert outro.section.bars >= 8
    assert outro.bars_of("pad").stop < outro.end_bar
    assert outro.bars_of("bass").stop == outro.end_bar


def test_a_repeated_section_has_more_energy() -> None:
    energies = {p.section.name: p.section.energy for p in arrange(130, "dance")}
    assert energies["drop 2"] > energies["drop"]


@pytest.mark.parametrize("prompt", ["house 124 bpm", "techno 130 bpm", "synthwave 110 bpm"])
def test_risers_lead_into_impacts(prompt: str) -> None:
    found = False
    for seed in range(6):
        score = compose(parse_prompt(prompt), duration_seconds=120.0, seed=seed)
        names = {part.name for part in score.parts}
        if {"riser", "impact"} <= names:
            found = True
            ends = {note.start + note.duration for note in score.part("riser").notes}
            starts = {section.start_bar * 4.0 for section in score.sections}
            assert ends <= starts
            assert {note.start for note in score.part("impact").notes} <= ends
    assert found


def test_filters_open_through_a_build() -> None:
    score = compose(parse_prompt("house 124 bpm"), duration_seconds=120.0, seed=1)
    build = next(s for s in score.sections if s.name == "build")
    first, end = build.start_bar * 4.0, (build.start_bar + build.bars) * 4.0
    line = dict(score.part("chords").brightness)
    inside = [value for beat, value in sorted(line.items()) if first < beat <= end]
    assert inside == sorted(inside)
    assert inside[-1] - inside[0] > 0.4


def test_dark_moods_close_the_filter() -> None:
    dark = compose(parse_prompt("dark house in C minor"), duration_seconds=16.0, seed=1)
    bright = compose(parse_prompt("bright house in C minor"), duration_seconds=16.0, seed=1)
    peak = max(value for _, value in dark.part("chords").brightness)
    assert peak < max(value for _, value in bright.part("chords").brightness)


def test_a_texture_without_a_pause_is_one_note() -> None:
    score = compose(parse_prompt("lo-fi with vinyl crackle"), duration_seconds=60.0, seed=1)
    notes = score.part("texture").notes
    assert len(notes) == 1
    assert notes[0].duration == score.beats


@given(st.integers(1, 200), st.sampled_from(FORMS))
def test_a_loop_is_a_groove_and_its_variation(bars: int, form: str) -> None:
    passages = arrange(bars, form, loop=True)
    assert [passage.section.name for passage in passages] == ["groove", "variation"][
        : len(passages)
    ]
    assert not any(passage.resolves or passage.is_last for passage in passages)
    if bars >= 8:
        assert passages[0].section.bars % 4 == 0


def test_section_names_are_unique_and_numbered() -> None:
    names = [passage.section.name for passage in arrange(300, "beat")]
    assert len(set(names)) == len(names)
    assert {"verse", "verse 2", "hook", "hook 2"} <= set(names)


@pytest.mark.parametrize("bars", [1, 2, 3])
def test_a_very_short_clip_does_not_resolve(bars: int) -> None:
    passages = arrange(bars, "beat")
    assert passages[-1].is_last
    assert not passages[-1].resolves


def test_a_break_is_added_only_where_it_fits() -> None:
    for bars in range(3, SHORT_BARS + 1):
        names = [p.section.name for p in arrange(bars, "beat", structure=("break",))]
        assert names.count("break") <= 1
        assert sum(p.section.bars for p in arrange(bars, "beat", structure=("break",))) == bars


def test_slots_outside_a_section_have_no_bars_there() -> None:
    outro = arrange(180, "dance")[-1]
    assert not outro.plays("lead")
    assert len(outro.bars_of("lead")) == 0


def test_sections_of_a_short_piece_do_not_change_halfway() -> None:
    for passage in arrange(20, "dance"):
        assert passage.midpoint_bar == passage.section.start_bar
