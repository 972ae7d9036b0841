"""Comping styles, span by span, and the tones that each part plays."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.generation.composer.comping import COMPING_STYLES, ChordSpan, play_arp, play_pad
from services.generation.composer.compose import compose
from services.generation.composer.plan import make_plan
from services.generation.composer.prompt import parse_prompt
from services.generation.composer.random_streams import RandomStream
from services.generation.score import Chord

VOICING = (52, 55, 60, 64)


def span(start: float = 0.0, duration: float = 4.0, *, bar: int = 0, seed: int = 1, **fields):
    values = {"is_onset": True, "remaining": 0.0, "energy": 0.8}
    return ChordSpan(
        start=8.0 + start,
        duration=duration,
        chord=Chord(8.0 + start, duration, 0, (0, 4, 7), "C"),
        voicing=VOICING,
        bar=bar,
        bar_start=8.0,
        rng=RandomStream(seed),
        **values | fields,
    )


@pytest.mark.parametrize("style", COMPING_STYLES)
@given(
    seed=st.integers(0, 10_000),
    start=st.sampled_from([0.0, 2.0]),
    bar=st.integers(-1, 3),
)
@settings(max_examples=30)
def test_a_style_plays_the_voicing_inside_its_span(
    style: str, seed: int, start: float, bar: int
) -> None:
    played = COMPING_STYLES[style](span(start, 2.0, bar=bar, seed=seed))
    for note in played:
        assert 8.0 + start <= note.start < 10.0 + start
        assert 0.0 < note.duration <= 10.0 + start - note.start + 1e-9
        assert note.pitch in VOICING
        assert 0.3 < note.velocity < 0.9


@pytest.mark.parametrize("style", ["chops", "stabs", "dub", "broken", "pushes", "lazy", "sustain"])
def test_the_last_bar_of_a_piece_holds_the_whole_chord(style: str) -> None:
    played = COMPING_STYLES[style](span(bar=-1))
    assert {note.pitch for note in played} == set(VOICING)
    assert all(note.start - 8.0 < 0.1 for note in played)
    assert all(note.duration > 3.9 for note in played)


def test_a_sustained_chord_is_played_once_and_held_over_the_bar_line() -> None:
    held = COMPING_STYLES["sustain"](span(remaining=4.0))
    assert {note.duration for note in held} == {8.0}
    assert COMPING_STYLES["sustain"](span(is_onset=False)) == []


def test_stabs_are_short_and_dub_plays_one_or_two() -> None:
    for seed in range(10):
        stabs = COMPING_STYLES["stabs"](span(seed=seed))
        assert max(note.duration for note in stabs) <= 0.4
        dub = {note.start for note in COMPING_STYLES["dub"](span(seed=seed))}
        assert 1 <= len(dub) <= 2


def test_a_rolled_chord_starts_low() -> None:
    first = [note for note in COMPING_STYLES["lazy"](span()) if note.start < 8.5]
    starts = [note.start for note in sorted(first, key=lambda note: note.pitch)]
    assert starts == sorted(set(starts))


def test_a_broken_chord_plays_one_note_at_a_time() -> None:
    starts = [note.start for note in COMPING_STYLES["broken"](span())]
    assert len(set(starts)) == len(starts) >= 7


def plan_and_voice(prompt: str, slot: str, seconds: float = 30.0, seed: int = 1):
    plan = make_plan(parse_prompt(prompt), duration_seconds=seconds, seed=seed)
    return plan, next(voice for voice in plan.voices if voice.slot == slot)


def test_a_pad_holds_each_chord_with_its_root_below() -> None:
    plan, voice = plan_and_voice("ambient with warm pads in C major", "pad")
    by_start: dict[float, list] = {}
    for note in play_pad(plan, voice):
        by_start.setdefault(note.start, []).append(note)
    for start, notes in by_start.items():
        chord = plan.harmony.at(start)
        assert notes[0].pitch % 12 == chord.root
        assert notes[0].pitch == min(note.pitch for note in notes)
        assert len({note.duration for note in notes}) == 1


@pytest.mark.parametrize("seed", range(6))
def test_an_arpeggio_plays_tones_of_the_chord(seed: int) -> None:
    plan, voice = plan_and_voice("synthwave with arps in A minor", "arp", seed=seed)
    notes = play_arp(plan, voice)
    assert notes
    for note in notes:
        assert note.pitch % 12 in plan.harmony.at(note.start).pitch_classes


def test_only_ringing_patches_of_quiet_genres_overlap_in_an_arpeggio() -> None:
    def longest(prompt: str) -> float:
        plan, voice = plan_and_voice(prompt, "arp")
        return max(note.duration for note in play_arp(plan, voice))

    assert longest("ambient with guitar arpeggio") >= 1.5
    assert longest("trap with guitar arpeggio") < 1.5


@pytest.mark.parametrize("genre", ["lo-fi", "ambient", "hip-hop"])
def test_a_pad_beside_chords_keeps_the_tonic_a_triad(genre: str) -> None:
    score = compose(
        parse_prompt(f"{genre} with keys and pads in C minor"), duration_seconds=60.0, seed=2
    )
    for note in score.part("pad").notes:
        chord = [chord for chord in score.chords if chord.start <= note.start + 0.1][-1]
        if chord.root == 0:
            assert note.pitch % 12 in chord.pitch_classes[:3]
