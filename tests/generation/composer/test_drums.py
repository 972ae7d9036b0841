"""Rhythm and drums: swing, overlaps, and the typical patterns of each style."""

import itertools
from typing import TYPE_CHECKING

import pytest

from services.generation.composer.arrangement import arrange
from services.generation.composer.compose import compose
from services.generation.composer.drums import FILLS, choose_patterns, play_drums
from services.generation.composer.genres import GENRES
from services.generation.composer.grooves import GROOVES, VELOCITY
from services.generation.composer.plan import make_plan
from services.generation.composer.prompt import parse_prompt
from services.generation.composer.random_streams import RandomStream
from services.generation.composer.styles import STYLES

if TYPE_CHECKING:
    from services.generation.score import Section

KICKS, SNARES = (35, 36), (37, 38, 39, 40)
FULL = ("groove", "drop", "variation", "hook", "verse")


def hits(prompt: str, seconds: float, seed: int, pitches: tuple[int, ...]):
    """Return (section, bar, beats without swing) of each full bar that has no fill."""
    parsed = parse_prompt(prompt)
    plan = make_plan(parsed, duration_seconds=seconds, seed=seed)
    score = compose(parsed, duration_seconds=seconds, seed=seed)
    starts = [note.start for note in score.part("drums").notes if note.pitch in pitches]
    steps = {step / 4: plan.feel.apply_swing(step / 4) for step in range(16)}
    out: list[tuple[Section, int, set[float]]] = []
    for section in score.sections:
        if section.name.split()[0] not in FULL:
            continue
        for bar in range(section.start_bar, section.start_bar + section.bars - 1):
            if (bar - section.start_bar) % 4 == 3:
                continue
            found = {
                beat
                for start in starts
                for beat, played in steps.items()
                if abs(start - bar * 4 - played) < 0.04
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
