"""Rhythm and drums: swing, overlaps, and the typical patterns of each style."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generation.composer.arrangement import arrange
from services.generation.composer.compose import compose
from services.generation.composer.drums import FILLS, choose_patterns, play_drums
from services.generation.composer.genres import GENRES
from services.generation.composer.grooves import GROOVES, VELOCITY
from services.generation.composer.plan import make_plan
from services.generation.composer.prompt import parse_prompt
from services.generation.composer.random_streams import RandomStream
from services.generation.composer.rhythm import SHORTEST, Feel, make_monophonic, perform
from services.generation.composer.styles import STYLES
from services.generation.score import Note, Section

KICKS, SNARES = (35, 36), (37, 38, 39, 40)
FULL = ("groove", "drop", "variation", "hook", "verse")


def hits(prompt: str, seconds: float, seed: int, pitches: tuple[int, ...]):
    """Return (section, bar, beats without swing) of each full bar that has no fill."""
    parsed = parse_prompt(prompt)
    plan = make_plan(parsed, duration_seconds=seconds, seed=seed)
    score = compose(parsed, duration_seconds=seconds, seed=seed)
    out: list[tuple[Section, int, set[float]]] = []
    for section in score.sections:
        if section.name.split()[0] not in FULL:
            continue
        for bar in range(section.start_bar, section.start_bar + section.bars - 1):
            if (bar - section.start_bar) % 4 == 3:
                continue
            found = {
                step / 4
                for note in score.part("drums").notes
                for step in range(16)
                if note.pitch in pitches
                and abs(note.start - bar * 4 - plan.feel.apply_swing(step / 4)) < 0.04
            }
            out.append((section, bar, found))
    return out


@pytest.mark.parametrize("style", ["house", "deep house", "trance", "techno", "acid"])
@pytest.mark.parametrize("seed", range(4))
def test_four_on_the_floor_has_a_kick_on_every_beat(style: str, seed: int) -> None:
    bars = hits(style, 60.0, seed, KICKS)
    assert bars
    assert all({0.0, 1.0, 2.0, 3.0} <= beats for _, _, beats in bars)


@pytest.mark.parametrize("style", ["house", "trance"])
def test_house_claps_on_two_and_four_with_open_hats_off_the_beat(style: str) -> None:
    assert all({1.0, 3.0} <= beats for _, _, beats in hits(style, 30.0, 2, SNARES))
    assert all({0.5, 1.5, 2.5, 3.5} <= beats for _, _, beats in hits(style, 30.0, 2, (46,)))


@pytest.mark.parametrize("seed", range(5))
def test_trap_has_its_snare_on_beat_three_only(seed: int) -> None:
    for _, _, beats in hits("trap", 60.0, seed, (38,)):
        assert 2.0 in beats
        assert not beats & {1.0, 3.0}


@pytest.mark.parametrize("seed", range(3))
def test_trap_hats_roll_faster_than_sixteenths(seed: int) -> None:
    score = compose(parse_prompt("trap 140 bpm"), duration_seconds=60.0, seed=seed)
    hats = [note.start for note in score.part("drums").notes if note.pitch == 42]
    gaps = [after - at for at, after in itertools.pairwise(hats)]
    assert sum(gap < 0.2 for gap in gaps) > 10


@pytest.mark.parametrize("style", ["boom bap", "lo-fi", "drum and bass", "synthwave"])
@pytest.mark.parametrize("seed", range(3))
def test_the_backbeat_is_on_two_and_four(style: str, seed: int) -> None:
    for _, _, beats in hits(style, 40.0, seed, (38,)):
        assert {1.0, 3.0} <= beats


def drummer(style: str) -> str:
    return STYLES[style].groove or GENRES[STYLES[style].genre].groove


@pytest.mark.parametrize("style", [name for name in STYLES if drummer(name) != "ambient"])
def test_every_style_starts_its_bars_on_a_kick(style: str) -> None:
    drums = drummer(style)
    kit = choose_patterns(GROOVES[drums], seed=1, density=0.0, requested=())
    assert 0 in kit.kicks(0, 0)
    assert 0 in kit.kicks(0, 1)


def test_drum_and_bass_is_fast_and_hip_hop_swings() -> None:
    assert 165 <= parse_prompt("drum and bass").tempo_bpm <= 178
    for seed in range(5):
        plan = make_plan(parse_prompt("boom bap"), duration_seconds=16.0, seed=seed)
        assert 0.54 <= plan.feel.swing <= 0.62
        assert plan.feel.humanise > 0


def test_lo_fi_snares_are_late_by_milliseconds() -> None:
    parsed = parse_prompt("lo-fi straight 80 bpm")
    score = compose(parsed, duration_seconds=60.0, seed=1)
    snares = [n.start % 1.0 for n in score.part("drums").notes if n.pitch == 38]
    backbeats = [at if at < 0.5 else at - 1.0 for at in snares if at < 0.1 or at > 0.9]
    late = sum(backbeats) / len(backbeats) * 60.0 / 80.0
    assert 0.004 < late < 0.015


def test_phrases_end_in_fills() -> None:
    for seed in range(4):
        score = compose(parse_prompt("synthwave 120 bpm"), duration_seconds=64.0, seed=seed)
        drums = score.part("drums").notes

        def bar(number: int, drums=drums) -> list[tuple[float, int]]:
            return [(n.start % 4, n.pitch) for n in drums if int(n.start // 4) == number]

        drop = next(s for s in score.sections if s.name == "drop")
        last = drop.start_bar + drop.bars - 1
        assert bar(last) != bar(last - 2)


def test_drops_start_with_a_crash() -> None:
    score = compose(parse_prompt("house 124 bpm"), duration_seconds=120.0, seed=2)
    crashes = {n.start for n in score.part("drums").notes if n.pitch == 49}
    for section in score.sections:
        if section.name.startswith("drop"):
            assert section.start_bar * 4.0 in crashes


def test_a_build_has_an_accelerating_snare_roll_and_no_kick() -> None:
    score = compose(parse_prompt("house 124 bpm"), duration_seconds=120.0, seed=2)
    build = next(s for s in score.sections if s.name == "build")
    drums = score.part("drums").notes
    end = build.start_bar + build.bars
    counts = [
        sum(1 for n in drums if n.pitch == 38 and bar * 4 <= n.start < bar * 4 + 4)
        for bar in range(build.start_bar, end)
    ]
    assert counts == sorted(counts)
    assert counts[-1] > 2 * counts[0]
    assert not [n for n in drums if n.pitch == 36 and build.start_bar * 4 <= n.start < end * 4]


@pytest.mark.parametrize("name", GROOVES)
def test_groove_patterns_have_bars_of_sixteen_known_marks(name: str) -> None:
    style = GROOVES[name]
    lines = [*style.kick, *style.snare, *style.hat, *style.open_hat, *style.ghosts, style.ride]
    lines += [pattern for _, pattern in style.extra]
    for pattern in lines:
        for bar in pattern:
            assert len(bar) in (0, 16)
            assert set(bar) <= {*VELOCITY, "."}
    assert set(style.fills) <= {*FILLS, "none"}


@pytest.mark.parametrize("name", FILLS)
@pytest.mark.parametrize("start", [2.0, 3.0, 3.5])
def test_fills_stay_inside_their_bar(name: str, start: float) -> None:
    for seed in range(10):
        for note in FILLS[name](start, RandomStream(seed)):
            assert min(start, 3.0) <= note.start < 4.0
            assert 0.0 < note.velocity <= 1.0


@pytest.mark.parametrize("pitch", [51, 54, 56, 70, 75, 39, 37, 45])
def test_a_requested_drum_is_played(pitch: int) -> None:
    kit = choose_patterns(GROOVES["house"], seed=1, density=0.0, requested=(pitch,))
    notes = play_drums(kit, arrange(8, "dance"), steady=False)
    assert pitch in {note.pitch for note in notes}


@given(st.floats(0.0, 64.0), st.floats(0.5, 0.66))
def test_swing_keeps_order_and_leaves_eighths_in_place(beat: float, swing: float) -> None:
    feel = Feel(swing=swing)
    assert feel.apply_swing(beat) <= feel.apply_swing(beat + 0.01)
    assert feel.apply_swing(round(beat * 2) / 2) == pytest.approx(round(beat * 2) / 2)
    assert feel.apply_swing(beat) - beat <= (swing - 0.5) * 0.5 + 1e-9


def test_swing_delays_the_second_sixteenth_by_its_share() -> None:
    assert Feel(swing=0.6).apply_swing(0.25) == pytest.approx(0.3)
    assert Feel(swing=0.5).apply_swing(0.25) == 0.25


notes = st.lists(
    st.builds(
        Note,
        start=st.integers(0, 64).map(lambda n: n / 8),
        duration=st.floats(0.05, 6.0),
        pitch=st.integers(36, 40),
        velocity=st.floats(0.0, 1.5),
    ),
    max_size=40,
)


@given(notes, st.floats(0.5, 0.62), st.floats(0.0, 0.02), st.integers(0, 99))
def test_played_notes_of_one_pitch_never_overlap(
    written: list[Note], swing: float, loose: float, seed: int
) -> None:
    feel = Feel(swing, loose, 0.01)
    played = perform(written, feel, role="drums", end=8.0, rng=RandomStream(seed))
    ends: dict[int, float] = {}
    for note in played:
        assert 0.0 <= note.start < 8.0
        assert note.duration >= SHORTEST - 1e-9
        assert note.start + note.duration <= 8.0 + 1e-9
        assert 0.05 <= note.velocity <= 1.0
        assert note.start >= ends.get(note.pitch, 0.0) - 1e-9
        ends[note.pitch] = note.start + note.duration


@given(notes)
def test_a_monophonic_line_has_no_overlaps(written: list[Note]) -> None:
    line = make_monophonic(written)
    for note, following in itertools.pairwise(line):
        assert note.start + note.duration <= following.start + 1e-9
    assert {note.start for note in line} == {note.start for note in written}


def test_random_streams_of_different_names_are_independent() -> None:
    assert RandomStream(1, "a").random() == RandomStream(1, "a").random()
    assert (
        len(
            {
                RandomStream(1, "a").random(),
                RandomStream(1, "b").random(),
                RandomStream(2, "a").random(),
            }
        )
        == 3
    )
    assert RandomStream(1, "a", "b").random() != RandomStream(1, "ab").random()


def test_weighted_choices_follow_their_weights() -> None:
    rng = RandomStream(5)
    picks = [rng.weighted_choice({"often": 9.0, "seldom": 1.0}) for _ in range(500)]
    assert 400 < picks.count("often") < 490
    assert not RandomStream(1).chance(0.0)
    assert RandomStream(1).chance(1.0)
