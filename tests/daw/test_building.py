"""Sessions built from takes."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given
from hypothesis import strategies as st

from services.audio.facts import Section as TimedSection
from services.audio.facts import TakeFacts
from services.daw.building import TakeInput, build_session
from services.daw.session import Metre, Session, Take
from services.daw.sources import SourceFile
from services.errors import FileDamagedError, FileGoneError, InvalidRequestError
from tests.daw.takes import BAD_NAMES, make_score, make_take


def test_stems_that_sum_to_the_mix_play_and_the_mix_is_muted(tmp_path):
    session = build_session("s", [make_take(tmp_path)])
    assert session.audio_tracks[0].muted
    assert not session.buses[0].muted


@pytest.mark.parametrize("other", [{"do_stems_sum_to_mix": False}, {"stems": {}}])
def test_the_mix_plays_unless_the_stems_of_all_takes_sum_to_it(tmp_path, other):
    takes = [make_take(tmp_path), make_take(tmp_path, "b", **other)]
    session = build_session("s", takes)
    assert not session.audio_tracks[0].muted
    assert session.buses[0].muted


def test_a_take_without_stems_has_no_bus(tmp_path):
    session = build_session("s", [make_take(tmp_path, stems=())])
    assert session.buses == ()
    assert [track.name for track in session.audio_tracks] == ["Mix"]
    assert not session.audio_tracks[0].muted


def test_takes_follow_each_other_on_whole_bars_after_the_sound(tmp_path):
    takes = [
        make_take(tmp_path, "a", bpm=97.3, metre=(7, 8), tail=100),
        make_take(tmp_path, "b", bpm=120, metre=(3, 4)),
        make_take(tmp_path, "c", bpm=120, metre=(3, 4)),
    ]
    a, b, c = build_session("s", takes).takes
    assert (a.start_bar, a.start_beat, a.bars) == (0, 0, 1)
    assert (b.start_bar, b.start_beat, b.bars) == (2, 7.0, 1)
    assert (c.start_bar, c.start_beat) == (3, 10.0)


def test_seconds_follow_all_changes_of_tempo(tmp_path):
    takes = [make_take(tmp_path, "a", bpm=60), make_take(tmp_path, "b", bpm=120)]
    session = build_session("s", takes)
    assert [session.seconds_at(beat) for beat in (0, 4, 6, 8)] == [0, 4, 5, 6]
    assert session.seconds == pytest.approx(6)


def test_a_beat_of_an_eighth_is_half_a_quarter(tmp_path):
    facts = TakeFacts(bpm=180, beats_per_bar=7, beat_unit=8)
    [take] = build_session("s", [make_take(tmp_path, score=None, facts=facts)]).takes
    assert take.tempo_bpm == 90
    assert take.metre == Metre(7, 8)
    assert take.metre.bar_beats == 3.5


def test_without_a_tempo_the_notes_say_that_the_grid_is_a_guess(tmp_path):
    [take] = build_session("s", [make_take(tmp_path, score=None, facts=TakeFacts())]).takes
    assert take.tempo_bpm == 120
    assert "Tempo: not known, the grid is at 120 BPM" in take.notes


def test_sections_in_seconds_become_markers_at_bars(tmp_path):
    sections = (TimedSection(0.0, "intro"), TimedSection(4.1, "drop"))
    facts = TakeFacts(bpm=120, bars=4, sections=sections)
    session = build_session("s", [make_take(tmp_path, score=None, facts=facts)])
    assert list(session.markers()) == [("intro", 0.0), ("drop", 8.0)]


def test_each_of_several_takes_has_a_marker_with_its_name(tmp_path):
    session = build_session("s", [make_take(tmp_path, "a"), make_take(tmp_path, "b")])
    assert list(session.markers()) == [("a", 0.0), ("intro", 0.0), ("b", 4.0), ("intro", 4.0)]


def test_the_loop_range_is_of_the_first_take_that_is_a_loop(tmp_path):
    loop = make_take(tmp_path, "b", facts=TakeFacts(is_loop=True, bars=1))
    session = build_session("s", [make_take(tmp_path, "a"), loop])
    assert session.loop == (4.0, 8.0)


def test_stems_of_one_name_share_a_track(tmp_path):
    takes = [make_take(tmp_path, "a"), make_take(tmp_path, "b", stems=("drums", "pad"))]
    session = build_session("s", takes)
    clips = {track.name: [clip.take.name for clip in track.clips] for track in session.audio_tracks}
    assert clips == {"Mix": ["a", "b"], "drums": ["a", "b"], "bass": ["a"], "pad": ["b"]}


def test_parts_with_notes_are_midi_tracks(tmp_path):
    session = build_session("s", [make_take(tmp_path)])
    tracks = {track.name: (track.role, track.program) for track in session.midi_tracks}
    assert tracks == {"drums MIDI": ("drums", None), "bass MIDI": ("bass", 38)}


def test_bad_names_give_different_tracks_and_files(tmp_path):
    session = build_session("s", [make_take(tmp_path, stems=BAD_NAMES)])
    names = [track.name.casefold() for track in session.tracks]
    files = [name.casefold() for name in session.name_audio_files().values()]
    assert len(set(names)) == len(names)
    assert len(set(files)) == len(files) == len(BAD_NAMES) + 1


def test_the_facts_are_in_the_notes(tmp_path):
    session = build_session("s", [make_take(tmp_path, "dark trap", bpm=97.3, metre=(7, 8))])
    for line in ("Prompt: dark trap", "Tempo: 97.3 BPM", "Metre: 7/8", "Seed: 7"):
        assert line in session.notes.split("\n")


def test_key_and_bars_of_the_score_are_in_the_notes(tmp_path):
    session = build_session("s", [make_take(tmp_path, facts=TakeFacts())])
    assert {"Key: F# minor", "Bars: 1"} <= set(session.notes.split("\n"))


def test_tracks_whose_names_differ_in_case_only_are_refused(tmp_path):
    session = build_session("s", [make_take(tmp_path)])
    mix, drums, *others = session.tracks
    with pytest.raises(ValueError, match="names that differ"):
        replace(session, tracks=(mix, replace(drums, name="mIX"), *others))


def test_a_session_needs_a_take():
    with pytest.raises(InvalidRequestError, match="at least one take"):
        build_session("s", [])


def test_all_missing_files_are_named(tmp_path):
    take = TakeInput(
        name="a",
        mix=SourceFile(tmp_path / "mix.wav"),
        stems={"drums": SourceFile(tmp_path / "drums.wav")},
    )
    with pytest.raises(FileGoneError, match=r"mix\.wav is missing.*drums\.wav is missing"):
        build_session("s", [take])


def test_a_file_that_is_no_audio_is_named(tmp_path):
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"RIFF----WAVE")
    with pytest.raises(FileDamagedError, match=r"bad\.wav"):
        build_session("s", [TakeInput(name="a", mix=SourceFile(bad))])


def test_a_file_that_is_no_wav_is_refused(tmp_path):
    flac = tmp_path / "mix.flac"
    sf.write(flac, np.zeros((9600, 2)), 48000)
    with pytest.raises(InvalidRequestError, match=r"mix\.flac is no mono or stereo WAV"):
        build_session("s", [TakeInput(name="a", mix=SourceFile(flac))])


def test_takes_of_another_sample_rate_are_refused(tmp_path):
    takes = [make_take(tmp_path, stems=()), make_take(tmp_path, "b", stems=(), rate=44100)]
    with pytest.raises(InvalidRequestError, match=r"48000 Hz here: .*mix\.wav \(44100 Hz\)"):
        build_session("s", takes)


@pytest.mark.parametrize("metre", [(0, 4), (5, 3), (65, 4)])
def test_a_metre_that_is_none_is_refused(metre):
    with pytest.raises(InvalidRequestError, match="no metre"):
        Metre(*metre)


@pytest.mark.parametrize("bpm", [9.9, 1000, float("nan")])
def test_a_tempo_that_no_daw_plays_is_refused(tmp_path, bpm):
    take = make_take(tmp_path)
    take = TakeInput(name="a", mix=take.mix, score=make_score(bpm))
    with pytest.raises(InvalidRequestError, match="10 to 999 BPM"):
        build_session("s", [take])


GRIDS = st.tuples(
    st.floats(10, 999),
    st.sampled_from([Metre(4, 4), Metre(3, 4), Metre(7, 8), Metre(5, 16)]),
    st.integers(1, 64),
)


@given(st.lists(GRIDS, min_size=1, max_size=6))
def test_each_take_lasts_as_long_as_its_bars_wherever_it_stands(grids):
    takes, bar, beat = [], 0, 0.0
    for tempo, metre, bars in grids:
        take = Take(
            name="t", start_bar=bar, start_beat=beat, bars=bars, tempo_bpm=tempo, metre=metre
        )
        bar, beat = bar + bars, take.beat_of_bar(bars)
        takes.append(take)
    session = Session(name="s", sample_rate=48000, bit_depth=24, takes=tuple(takes), tracks=())
    for take in takes:
        start, end = (session.seconds_at(take.beat_of_bar(one)) for one in (0, take.bars))
        length = take.bars * take.metre.bar_beats * 60 / take.tempo_bpm
        assert end - start == pytest.approx(length, rel=1e-9)
    assert session.seconds == pytest.approx(session.seconds_at(beat))
