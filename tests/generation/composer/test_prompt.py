"""Parsing a prompt: tempo, key, genre, mood, instruments, and what is assumed."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.generation.composer.compose import compose
from services.generation.composer.genres import GENRES
from services.generation.composer.prompt import parse_prompt
from services.generation.composer.styles import STYLE_WORDS, STYLES
from services.generation.composer.tempo_and_key import read_bare_tempo, read_key, read_tempo
from services.generation.composer.vocabulary import INSTRUMENTS, MOODS
from services.generation.composer.voices import choose_voices


@pytest.mark.parametrize(
    ("text", "tempo"),
    [
        ("140 BPM", 140.0),
        ("140bpm", 140.0),
        ("trap at 92.5 bpm", 92.5),
        ("92,5 bpm", 92.5),
        ("tempo 120", 120.0),
        ("tempo: 118", 118.0),
        ("BPM: 133", 133.0),
        ("bpm=133", 133.0),
        ("120-130 bpm", 125.0),
        ("120 to 130 BPM", 125.0),
        ("120\u2013130 bpm", 125.0),
        ("90 beats per minute", 90.0),
        ("140-bpm", 140.0),
        ("@ 128", 128.0),
        ("40 bpm", 40.0),
        ("240 bpm", 240.0),
        ("1000 bpm, no, 100 bpm", 100.0),
    ],
)
def test_a_stated_tempo_is_read_exactly(text: str, tempo: float) -> None:
    assert read_tempo(text) == (tempo, "")


@pytest.mark.parametrize("text", ["39.9 bpm", "241 bpm", "1000 BPM", "0 bpm"])
def test_a_tempo_out_of_range_is_refused_with_a_reason(text: str) -> None:
    tempo, reason = read_tempo(text)
    assert tempo is None
    assert "outside 40 to 240" in reason


@pytest.mark.parametrize("text", ["808s and a 909", "16 bars", "an 80s groove", "", "24/7"])
def test_other_numbers_are_not_read_as_a_tempo(text: str) -> None:
    assert read_tempo(text) == (None, "")


@pytest.mark.parametrize(
    ("text", "tempo"),
    [
        ("dnb at 174", 174.0),
        ("trance, 138", 138.0),
        ("house 124 125", None),
        ("loop of 120 bars", None),
        ("120 seconds", None),
        ("130's", None),
        ("at 128kbps", None),
        ("$120", None),
        ("303 and 808", None),
    ],
)
def test_a_bare_number_is_a_tempo_only_where_nothing_else_fits(
    text: str, tempo: float | None
) -> None:
    assert read_bare_tempo(text, 100.0, 180.0) == tempo


@pytest.mark.parametrize(
    ("text", "tonic", "mode"),
    [
        ("C minor", 0, "minor"),
        ("in F# maj", 6, "major"),
        ("Am", 9, "minor"),
        ("an Am lofi beat", 9, "minor"),
        ("F#m drill", 6, "minor"),
        ("Ebm", 3, "minor"),
        ("Bbm trap", 10, "minor"),
        ("Bb major", 10, "major"),
        ("B\u266d major", 10, "major"),
        ("C\u266f minor", 1, "minor"),
        ("c sharp minor", 1, "minor"),
        ("E-flat major", 3, "major"),
        ("Cb major", 11, "major"),
        ("E dorian", 4, "dorian"),
        ("D Mixolydian", 2, "mixolydian"),
        ("g phrygian", 7, "phrygian"),
        ("F lydian", 5, "lydian"),
        ("A harmonic minor", 9, "minor"),
        ("A natural minor", 9, "minor"),
        ("a trap beat in a minor, 150 bpm", 9, "minor"),
        ("lofi in a minor", 9, "minor"),
        ("A minor trap beat", 9, "minor"),
        ("piano in A minor chords", 9, "minor"),
        ("c-moll", 0, "minor"),
        ("C-Dur", 0, "major"),
        ("Cmaj", 0, "major"),
        ("Gmin", 7, "minor"),
    ],
)
def test_a_stated_key_is_read(text: str, tonic: int, mode: str) -> None:
    words = read_key(text)
    assert (words.tonic, words.mode) == (tonic, mode)


@pytest.mark.parametrize(
    ("text", "tonic"),
    [
        ("key of D", 2),
        ("in the key of f#", 6),
        ("key: Bb", 10),
        ("house in G", 7),
        ("in A, fast", 9),
    ],
)
def test_a_key_may_come_without_its_mode(text: str, tonic: int) -> None:
    words = read_key(text)
    assert (words.tonic, words.mode) == (tonic, None)


@pytest.mark.parametrize(
    "text",
    [
        "a minor change in the mood",
        "A minor chord progression",
        "Just a major drop please",
        "a beat",
        "in a dark room",
        "IN A DARK ROOM",
        "vitamin C",
        "Am I dreaming",
        "e",
        "b-side vibes",
        "AM radio",
        "plan b, a big drop",
        "c",
    ],
)
def test_words_that_look_like_keys_are_not_read_as_one(text: str) -> None:
    assert read_key(text).tonic is None


@pytest.mark.parametrize(
    ("text", "mode"),
    [("in a minor key", "minor"), ("major chords", "major"), ("dorian house", "dorian")],
)
def test_a_mode_may_come_without_a_tonic(text: str, mode: str) -> None:
    words = read_key(text)
    assert (words.tonic, words.mode) == (None, mode)


@pytest.mark.parametrize(
    ("text", "genre", "style"),
    [
        ("dark trap", "trap", "trap"),
        ("hiphop", "hip-hop", "hip-hop"),
        ("hip-hop beat", "hip-hop", "hip-hop"),
        ("boom bap", "hip-hop", "boom bap"),
        ("lofi hip hop", "lo-fi", "lo-fi"),
        ("chillhop", "lo-fi", "lo-fi"),
        ("deep house", "house", "deep house"),
        ("EDM banger", "house", "house"),
        ("techno", "techno", "techno"),
        ("drum and bass", "drum and bass", "drum and bass"),
        ("drum & bass", "drum and bass", "drum and bass"),
        ("drum n bass", "drum and bass", "drum and bass"),
        ("DnB roller", "drum and bass", "drum and bass"),
        ("jungle", "drum and bass", "jungle"),
        ("retrowave", "synthwave", "retrowave"),
        ("outrun chase", "synthwave", "outrun"),
        ("cinematic strings", "ambient", "cinematic"),
        ("meditation", "ambient", "meditation"),
        ("UK drill", "trap", "drill"),
        ("phonk", "trap", "phonk"),
        ("uk garage", "house", "garage"),
        ("dubstep", "trap", "dubstep"),
        ("uplifting trance", "house", "trance"),
        ("reggaeton", "hip-hop", "reggaeton"),
        ("k-pop", "house", "pop"),
        ("jazz", "lo-fi", "jazz"),
        ("ambient techno", "techno", "techno"),
        ("lo-fi house", "house", "house"),
        ("techno with ambient pads", "techno", "techno"),
        ("not trap, house", "house", "house"),
    ],
)
def test_genres_and_styles_are_recognised(text: str, genre: str, style: str) -> None:
    parsed = parse_prompt(text)
    assert (parsed.genre, parsed.style) == (genre, style)
    assert "genre" in parsed.stated


def test_a_style_played_as_another_genre_is_noted() -> None:
    parsed = parse_prompt("phonk")
    assert parsed.notes == ("phonk is played as a kind of trap.",)
    assert parsed.summary.startswith("phonk (as trap), ")


@pytest.mark.parametrize(
    ("text", "wanted", "refused"),
    [
        ("heavy 808 bass, piano", {"808 bass", "piano"}, set()),
        ("no drums", set(), {"drums"}),
        ("without bass", set(), {"bass"}),
        ("without drums or bass, strings", {"strings"}, {"drums", "bass"}),
        ("no drums, bass or pads but a flute", {"flute"}, {"drums", "bass", "pad"}),
        ("no drums, piano and strings", {"piano", "strings"}, {"drums"}),
        ("drumless pads", {"pad"}, {"drums"}),
        ("beatless", set(), {"drums"}),
        ("bassless", set(), {"bass"}),
        ("no hats, rhodes", {"rhodes"}, {"hats"}),
        ("bells and a reese", {"bells", "reese bass"}, set()),
        ("upright bass and electric piano", {"upright bass", "rhodes"}, set()),
        ("drum and bass", set(), set()),
        ("don't use any guitar", set(), {"guitar"}),
        ("steel drums", {"mallets"}, set()),
    ],
)
def test_instruments_are_requested_and_excluded(
    text: str, wanted: set[str], refused: set[str]
) -> None:
    instrumentation = parse_prompt(text).instrumentation
    assert set(instrumentation.requested) == wanted
    assert set(instrumentation.excluded) == refused


@pytest.mark.parametrize(
    ("text", "only"),
    [
        ("only drums", ("drums",)),
        ("solo piano", ("piano",)),
        ("just a guitar", ("guitar",)),
        ("piano only", ("piano",)),
        ("piano and drums", ()),
        ("lo-fi, just guitar and piano", ("guitar", "piano")),
        ("just a piano, a flute and strings", ("piano", "flute", "strings")),
        ("minimal techno, only drums and bass", ("drums", "bass")),
        ("808 and hi hats only", ("808 bass", "hats")),
        ("no snare, just soft keys and kick", ("keys", "kick")),
        ("only piano and no drums", ("piano",)),
        ("hi-hat loop only", ("hats",)),
        ("solo acoustic guitar fingerpicking", ("guitar",)),
        ("sad piano solo", ("piano",)),
        ("rock track with a guitar solo", ()),
        ("drum loop, 174 bpm, amen break", ("drums",)),
        ("house with a drum loop", ()),
        ("drum loop with bass", ()),
    ],
)
def test_instruments_that_play_alone_are_read(text: str, only: tuple[str, ...]) -> None:
    assert parse_prompt(text).instrumentation.only == only


@pytest.mark.parametrize(
    ("text", "slot", "patch"),
    [
        ("trap with 808 bass and a sad piano melody", "lead", "keys-piano"),
        ("piano lead, rhodes chords, house", "chords", "keys-rhodes"),
        ("melody in D minor for cello", "lead", "strings"),
        ("loop of guitar chords at 88 bpm", "chords", "guitar-pluck"),
        ("synthwave with bell arpeggio", "arp", "lead-bell"),
        ("rock track with a guitar solo", "lead", "guitar-pluck"),
        ("amapiano with log drums", "bass", "bass-808"),
    ],
)
def test_an_instrument_takes_the_slot_that_the_prompt_states(
    text: str, slot: str, patch: str
) -> None:
    for seed in range(4):
        voices = {voice.slot: voice for voice in choose_voices(parse_prompt(text), seed)}
        assert voices[slot].patch == patch


def test_chords_do_not_double_a_requested_piano_lead() -> None:
    for seed in range(8):
        voices = {
            voice.slot: voice.patch
            for voice in choose_voices(parse_prompt("trap piano melody"), seed)
        }
        assert voices["lead"] == "keys-piano"
        assert "chords" not in voices or voices["chords"] not in ("keys-piano", voices.get("pad"))


@pytest.mark.parametrize("genre", GENRES)
def test_an_excluded_patch_is_used_in_no_slot(genre: str) -> None:
    for seed in range(6):
        parsed = parse_prompt(f"{genre} with strings and a flute, no piano, no rhodes, no bells")
        patches = {voice.patch for voice in choose_voices(parsed, seed)}
        assert not patches & {"keys-piano", "keys-rhodes", "lead-bell"}


@pytest.mark.parametrize("text", ["beat with space for vocals", "a track for my vocals", "for rap"])
def test_vocals_that_the_music_is_for_are_not_requested(text: str) -> None:
    parsed = parse_prompt(text)
    assert "choir" not in parsed.instrumentation.requested
    assert "dreamy" not in parsed.moods


def test_no_percussion_excludes_drums_unless_some_are_requested() -> None:
    assert set(parse_prompt("church organ, no percussion").instrumentation.excluded) == {
        "percussion",
        "drums",
    }
    assert parse_prompt("kick and snare, no percussion").instrumentation.excluded == ("percussion",)


@pytest.mark.parametrize(
    ("text", "tonic", "mode"),
    [
        ("trap en la menor", 9, "minor"),
        ("piano en do mayor", 0, "major"),
        ("house en ré mineur", 2, "minor"),
        ("lo-fi in fa diesis minore", 6, "minor"),
        ("si bémol majeur, synthwave", 10, "major"),
    ],
)
def test_solfege_keys_are_read(text: str, tonic: int, mode: str) -> None:
    words = read_key(text)
    assert (words.tonic, words.mode) == (tonic, mode)


@pytest.mark.parametrize("metre", ["3/4", "6/8", "waltz", "7 / 8"])
def test_another_time_signature_is_noted(metre: str) -> None:
    assert parse_prompt(f"lo-fi in {metre}").notes[-1] == (
        f"Everything is played in 4/4; {metre} was asked for."
    )


@pytest.mark.parametrize("text", ["lo-fi in 4/4", "house, 24/7 party", "techno 1/16 hats"])
def test_common_time_and_other_fractions_are_not_noted(text: str) -> None:
    assert not any("4/4" in note for note in parse_prompt(text).notes)


def test_instruments_guide_the_choice_of_a_genre() -> None:
    heavy = [parse_prompt(f"heavy 808 bass, take {n}").genre for n in range(30)]
    still = [parse_prompt(f"church organ, no drums, take {n}").genre for n in range(30)]
    assert heavy.count("trap") > 20
    assert still.count("trap") + still.count("techno") + still.count("house") < 5


def test_an_adjective_changes_the_level_of_its_instrument() -> None:
    instrumentation = parse_prompt("trap with heavy 808 bass and subtle bells").instrumentation
    assert dict(instrumentation.emphasis) == {"808 bass": 2.0, "bells": -3.0}


def test_moods_set_mode_energy_and_brightness() -> None:
    dark, happy = parse_prompt("dark house"), parse_prompt("happy house")
    assert (dark.key.mode, happy.key.mode) == ("minor", "major")
    assert dark.brightness < 0 < happy.brightness
    assert parse_prompt("energetic trap").energy > 0.5 > parse_prompt("calm trap").energy


def test_a_negated_mood_does_not_count() -> None:
    assert parse_prompt("house, not dark").moods == ()
    assert parse_prompt("not too aggressive techno").moods == ()


def test_a_stated_mode_wins_over_the_mood() -> None:
    assert parse_prompt("sad piano in C major").key.mode == "major"


def test_slow_and_fast_move_the_tempo_inside_the_range_of_the_style() -> None:
    slow, fast = parse_prompt("slow techno"), parse_prompt("fast techno")
    lowest, usual, highest = GENRES["techno"].tempo
    assert lowest <= slow.tempo_bpm < usual < fast.tempo_bpm <= highest
    assert "tempo_bpm" not in slow.stated


def test_a_stated_tempo_wins_over_slow_and_fast() -> None:
    assert parse_prompt("slow half-time trap 140 bpm").tempo_bpm == 140.0


def test_structure_loop_and_swing_are_read() -> None:
    parsed = parse_prompt("house with a build-up and a drop, seamless loop, shuffled")
    assert set(parsed.structure) == {"build", "drop"}
    assert parsed.loop
    assert parsed.swing == 0.6
    assert parse_prompt("straight hip hop").swing == 0.5


def test_stated_and_assumed_facts_are_separate() -> None:
    facts = parse_prompt("dark trap, 140 BPM").to_dict()
    assert facts["read"]["tempo_bpm"] == 140.0
    assert facts["read"]["genre"] == "trap"
    assert facts["read"]["mood"] == ["dark"]
    assert "key" in facts["assumed"]
    assert not set(facts["read"]) & set(facts["assumed"])


def test_the_summary_marks_assumed_facts() -> None:
    parsed = parse_prompt("dark trap 140 BPM with 808 bass, hats, bells")
    key = parsed.key.name
    assert parsed.summary == f"trap, 140 BPM, {key} (assumed), dark; 808 bass, hats, bells"
    assert "C minor," in parse_prompt("trap C minor, dark").summary


def test_the_summary_names_excluded_instruments() -> None:
    assert parse_prompt("techno 130 bpm in G minor, no drums").summary.endswith("; no drums")
    assert parse_prompt("only drums, trap").summary.endswith("; only drums")


@pytest.mark.parametrize(
    "text",
    [
        "\U0001f3b5\U0001f3b5\U0001f3b5",
        "日本の伝統音楽",
        "موسيقى هادئة",
        "שיר",
        "???",
        "\u0130\u0130 trap",
    ],
)
def test_an_unknown_prompt_gives_music_with_everything_assumed(text: str) -> None:
    parsed = parse_prompt(text)
    assert parsed.genre in GENRES
    assert parsed.stated <= {"genre", "style"}


def test_the_same_prompt_always_gives_the_same_result() -> None:
    assert parse_prompt("something nice") == parse_prompt("something nice")


def test_prompts_without_a_genre_get_different_ones() -> None:
    assert len({parse_prompt(f"idea number {n} of mine").genre for n in range(40)}) >= 4


def test_a_stated_tempo_guides_the_choice_of_a_genre() -> None:
    genres = [parse_prompt(f"take {n}, 174 bpm please").genre for n in range(30)]
    assert genres.count("drum and bass") > 20


@settings(max_examples=150)
@given(st.text(min_size=3, max_size=500))
def test_any_text_is_parsed(text: str) -> None:
    parsed = parse_prompt(text)
    assert 40.0 <= parsed.tempo_bpm <= 240.0
    assert 0 <= parsed.key.tonic < 12
    assert 0.0 <= parsed.energy <= 1.0
    assert json.loads(json.dumps(parsed.to_dict()))["summary"] == parsed.summary


_WORDS = st.sampled_from(
    [
        *STYLES,
        *MOODS,
        *INSTRUMENTS,
        "no",
        "without",
        "only",
        "in A minor",
        "140 bpm",
        ",",
        "and",
        "or",
    ]
)


@given(st.lists(_WORDS, min_size=1, max_size=12).map(" ".join), st.sampled_from([1.0, 16.0, 60.0]))
def test_any_mix_of_known_words_is_parsed_and_composed(text: str, seconds: float) -> None:
    parsed = parse_prompt(text)
    assert compose(parsed, duration_seconds=seconds, seed=1).parts
    assert parsed.genre in GENRES
    assert not set(parsed.instrumentation.requested) & set(parsed.instrumentation.excluded)
    assert set(parsed.instrumentation.only) <= set(parsed.instrumentation.requested)


@pytest.mark.parametrize("seconds", [1.0, 4.0, 16.0])
@pytest.mark.parametrize("instrument", INSTRUMENTS)
def test_any_instrument_alone_plays_in_every_genre(instrument: str, seconds: float) -> None:
    silent = [
        genre
        for genre in GENRES
        if not compose(
            parse_prompt(f"{genre} {instrument} only"), duration_seconds=seconds, seed=1
        ).parts
    ]
    assert silent == []


def test_every_style_is_found_by_its_name() -> None:
    assert set(STYLE_WORDS) == set(STYLES)
    assert {name for name in STYLES if parse_prompt(name).style != name} == set()


def test_a_tempo_out_of_range_is_noted_and_the_genre_chooses() -> None:
    parsed = parse_prompt("house at 300 bpm")
    assert parsed.notes == ("300 BPM is outside 40 to 240. The genre's own tempo was taken.",)
    assert 120 <= parsed.tempo_bpm <= 128
    assert "tempo_bpm" not in parsed.stated


def test_a_number_beside_a_refused_tempo_is_not_taken_for_it() -> None:
    assert "tempo_bpm" not in parse_prompt("house 124, 300 bpm").stated


def test_a_bare_number_is_a_tempo_only_beside_a_style() -> None:
    assert parse_prompt("house 124").tempo_bpm == 124.0
    assert "tempo_bpm" not in parse_prompt("124 things").stated


@pytest.mark.parametrize(
    ("prompt", "genre"), [("acid house in E minor", "house"), ("acid techno", "techno")]
)
def test_acid_takes_the_genre_it_precedes(prompt, genre):
    assert parse_prompt(prompt).genre == genre
