"""MIDI files, read back by a parser of their own."""

import struct
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.daw.midi import TICKS, key_signature, score_to_midi
from services.generation.composer.compose import compose
from services.generation.composer.genres import GENRES
from services.generation.composer.prompt import parse_prompt
from services.generation.score import Key, Note, Part, Score, Section


@dataclass
class Track:
    name: str = ""
    tempo: int = 0
    time_signature: tuple[int, ...] = ()
    key_signature: tuple[int, int] = (99, 99)
    markers: list[tuple[int, str]] = field(default_factory=list)
    program: int | None = None
    channels: set[int] = field(default_factory=set)
    notes: list[tuple[int, int, int, int]] = field(default_factory=list)
    """(start, end, pitch, velocity)."""
    bends: list[tuple[int, int]] = field(default_factory=list)
    end: int = -1


def variable(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    while True:
        byte = data[at]
        at += 1
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at


def read_track(data: bytes) -> Track:
    track, at, now = Track(), 0, 0
    open_notes: dict[int, tuple[int, int]] = {}
    while at < len(data):
        assert track.end < 0, "events after the end of the track"
        delta, at = variable(data, at)
        now += delta
        status = data[at]
        if status == 0xFF:
            kind = data[at + 1]
            length, at = variable(data, at + 2)
            body, at = data[at : at + length], at + length
            if kind == 0x03:
                track.name = body.decode()
            elif kind == 0x06:
                track.markers.append((now, body.decode()))
            elif kind == 0x51:
                track.tempo = int.from_bytes(body, "big")
            elif kind == 0x58:
                track.time_signature = tuple(body)
            elif kind == 0x59:
                track.key_signature = struct.unpack(">bb", body)
            else:
                assert kind == 0x2F
                track.end = now
            continue
        assert status >= 0x80, "running status is not used"
        track.channels.add(status & 0x0F)
        size = 2 if status >> 4 == 0xC else 3
        first, second = data[at + 1], data[at + size - 1]
        at += size
        assert first < 0x80
        assert second < 0x80
        if status >> 4 == 0x9:
            assert first not in open_notes, "a note starts while it sounds"
            open_notes[first] = (now, second)
        elif status >> 4 == 0x8:
            start, velocity = open_notes.pop(first)
            track.notes.append((start, now, first, velocity))
        elif status >> 4 == 0xC:
            track.program = first
        elif status >> 4 == 0xE:
            track.bends.append((now, (first | second << 7) - 8192))
    assert not open_notes
    return track


def read_midi(data: bytes) -> list[Track]:
    magic, size, kind, count, ticks = struct.unpack(">4sIHHH", data[:14])
    assert (magic, size, kind, ticks) == (b"MThd", 6, 1, TICKS)
    tracks, at = [], 14
    while at < len(data):
        magic, size = struct.unpack(">4sI", data[at : at + 8])
        assert magic == b"MTrk"
        tracks.append(read_track(data[at + 8 : at + 8 + size]))
        at += 8 + size
    assert len(tracks) == count
    return tracks


def score_of(*notes: Note, role: str = "bass", key: Key | None = None) -> Score:
    part = Part("bass", role, "bass-808", notes)
    section = Section("groove", 0, 2, 0.5)
    return Score(120.0, 2, key or Key(0, "minor"), "trap", (section,), (), (part,))


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(list(GENRES)), st.floats(1.0, 60.0), st.integers(0, 1000))
def test_a_midi_file_reads_back_as_its_score(genre: str, seconds: float, seed: int) -> None:
    score = compose(parse_prompt(genre), duration_seconds=seconds, seed=seed)
    conductor, *tracks = read_midi(score_to_midi(score))
    assert conductor.tempo == round(60e6 / score.tempo_bpm)
    assert conductor.time_signature == (4, 2, 24, 8)
    assert conductor.markers == [(s.start_bar * 4 * TICKS, s.name) for s in score.sections]
    assert [track.name for track in tracks] == [part.name for part in score.parts]
    for track, part in zip(tracks, score.parts, strict=True):
        assert track.end == conductor.end == round(score.beats * TICKS)
        assert (track.channels == {9}) == (part.role == "drums")
        assert len(track.notes) == len(part.notes)
        written = sorted((note.start, note.pitch) for note in part.notes)
        heard = sorted((start / TICKS, pitch) for start, _, pitch, _ in track.notes)
        for (start, pitch), (at, key) in zip(written, heard, strict=True):
            assert abs(start - at) <= 0.5 / TICKS + 1e-9
            assert pitch == key or abs(start - at) < 2 / TICKS


def test_notes_keep_length_and_velocity() -> None:
    tracks = read_midi(score_to_midi(score_of(Note(1.0, 0.5, 36, 0.8), Note(1.5, 2.5, 36, 1.0))))
    assert tracks[1].notes == [(480, 720, 36, 102), (720, 1920, 36, 127)]
    assert tracks[1].program == 38


def test_a_slide_bends_to_its_target_and_back() -> None:
    tracks = read_midi(score_to_midi(score_of(Note(0.0, 2.0, 36, 0.8, glide_to=48))))
    bends = tracks[1].bends
    values = [value for _, value in bends]
    assert values[:-1] == sorted(values[:-1])
    assert values[-2] == 4096
    assert values[-1] == 0
    assert bends[-1][0] == 960


def test_parts_without_slides_have_no_bends() -> None:
    assert read_midi(score_to_midi(score_of(Note(0.0, 2.0, 36, 0.8))))[1].bends == []


def test_each_pitched_part_has_its_own_channel() -> None:
    score = compose(parse_prompt("house with piano, strings, flute"), duration_seconds=30.0, seed=1)
    _, *tracks = read_midi(score_to_midi(score))
    channels = [track.channels for track in tracks]
    assert len({next(iter(found)) for found in channels}) == len(tracks)


@pytest.mark.parametrize(
    ("key", "signature"),
    [
        (Key(0, "major"), (0, 0)),
        (Key(9, "minor"), (0, 1)),
        (Key(0, "minor"), (-3, 1)),
        (Key(6, "major"), (6, 0)),
        (Key(1, "minor"), (4, 1)),
        (Key(2, "dorian"), (0, 1)),
        (Key(4, "phrygian"), (0, 1)),
        (Key(7, "mixolydian"), (0, 0)),
        (Key(5, "lydian"), (0, 0)),
        (Key(10, "major"), (-2, 0)),
    ],
)
def test_key_signatures_have_the_notes_of_the_scale(key: Key, signature: tuple[int, int]) -> None:
    assert key_signature(key) == signature
    assert read_midi(score_to_midi(score_of(key=key)))[0].key_signature == signature


def test_a_long_rest_has_a_delta_of_several_bytes() -> None:
    score = Score(
        60.0, 100, Key(0, "major"), "ambient", (Section("drift", 0, 100, 0.3),), (),
        (Part("pad", "pad", "pad-air", (Note(390.0, 4.0, 60, 0.5),)),),
    )  # fmt: skip
    assert read_midi(score_to_midi(score))[1].notes == [(390 * 480, 394 * 480, 60, 64)]


def test_more_than_fifteen_pitched_parts_share_channels_but_not_with_the_drums() -> None:
    note = (Note(0.0, 1.0, 60, 0.8),)
    parts = [Part(f"lead {k}", "lead", "lead-saw", note) for k in range(17)]
    drums = Part("drums", "drums", "kit-house", (Note(0.0, 1.0, 36, 0.8),))
    score = Score(120.0, 1, Key(0, "major"), "house", (), (), (drums, *parts))
    tracks = read_midi(score_to_midi(score))[1:]
    assert tracks[0].channels == {9}
    channels = [next(iter(track.channels)) for track in tracks[1:]]
    assert 9 not in channels
    assert sorted(set(channels)) == [channel for channel in range(16) if channel != 9]
    assert channels[15:] == channels[:2]


@pytest.mark.parametrize(("pan", "value"), [(-1.0, 1), (0.0, 64), (1.0, 127)])
def test_the_pan_of_a_part_is_its_controller_10(pan: float, value: int) -> None:
    score = score_of(Note(0.0, 1.0, 36, 0.8))
    data = score_to_midi(replace(score, parts=(replace(score.parts[0], pan=pan),)))
    assert bytes((0xB0, 10, value)) in data


def test_drums_have_no_program_and_an_unknown_patch_is_a_piano() -> None:
    score = score_of(Note(0.0, 1.0, 36, 0.8), role="drums")
    assert read_midi(score_to_midi(score))[1].program is None
    unknown = replace(score_of(Note(0.0, 1.0, 36, 0.8)).parts[0], patch="bass-tuba")
    assert read_midi(score_to_midi(replace(score, parts=(unknown,))))[1].program == 0


@pytest.mark.parametrize(("velocity", "value"), [(0.0, 1), (0.001, 1), (0.5, 64), (1.0, 127)])
def test_no_velocity_becomes_a_note_off(velocity: float, value: int) -> None:
    track = read_midi(score_to_midi(score_of(Note(0.0, 1.0, 36, velocity))))[1]
    assert [note[3] for note in track.notes] == [value]


def test_a_note_shorter_than_a_tick_lasts_one() -> None:
    track = read_midi(score_to_midi(score_of(Note(1.0, 1e-4, 36, 0.8))))[1]
    assert track.notes[0][:2] == (480, 481)


def test_a_slide_beyond_the_bend_range_stops_at_its_end() -> None:
    for target, limit in ((36 + 40, 8191), (36 - 40 + 12, -8192)):
        start = 36 if target > 36 else 48
        bends = read_midi(score_to_midi(score_of(Note(0.0, 1.0, start, 0.8, glide_to=target))))[1]
        assert bends.bends[-2][1] == limit


def test_consecutive_notes_of_one_pitch_do_not_cut_each_other() -> None:
    notes = tuple(Note(float(k), 1.0, 36, 0.8) for k in range(4))
    track = read_midi(score_to_midi(score_of(*notes)))[1]
    assert [(start, end) for start, end, *_ in track.notes] == [
        (480 * k, 480 * (k + 1)) for k in range(4)
    ]


def test_an_empty_part_is_a_track_with_its_name_and_length() -> None:
    track = read_midi(score_to_midi(score_of()))[1]
    assert (track.name, track.notes, track.end) == ("bass", [], 2 * 4 * TICKS)
