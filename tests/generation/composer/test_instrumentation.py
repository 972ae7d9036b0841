"""Reading instruments: lists, negations, emphasis, slots."""

import pytest

from services.generation.composer.instrumentation import Instrumentation, read_instrumentation


@pytest.mark.parametrize(
    ("text", "excluded"),
    [
        ("no drums or bass", ("drums", "bass")),
        ("no drums and no bass", ("drums", "bass")),
        ("no drums, bass, or piano", ("drums", "bass", "piano")),
        ("without any strings", ("strings",)),
        ("w/o hats", ("hats",)),
        ("free of piano", ("piano",)),
        ("piano-less", ("piano",)),
        ("exclude the guitar", ("guitar",)),
        ("do not use a flute", ("flute",)),
        ("drumless", ("drums",)),
        ("beat-less", ("drums",)),
        ("no beats", ("drums",)),
        ("bass-less", ("bass",)),
    ],
)
def test_a_negation_covers_its_list(text: str, excluded: tuple[str, ...]) -> None:
    read = read_instrumentation(text)
    assert read.excluded == excluded
    assert read.requested == ()


@pytest.mark.parametrize(
    ("text", "requested", "excluded"),
    [
        ("no drums, piano", ("piano",), ("drums",)),
        ("no drums with piano", ("piano",), ("drums",)),
        ("piano, no drums, strings", ("piano", "strings"), ("drums",)),
        ("no piano but strings", ("strings",), ("piano",)),
        ("piano, no piano", (), ("piano",)),
    ],
)
def test_a_negation_ends_before_the_next_item(
    text: str, requested: tuple[str, ...], excluded: tuple[str, ...]
) -> None:
    read = read_instrumentation(text)
    assert (read.requested, read.excluded) == (requested, excluded)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("electric piano", "rhodes"),
        ("double bass", "upright bass"),
        ("bass guitar", "synth bass"),
        ("steel drums", "mallets"),
        ("bass drum", "kick"),
        ("electric guitar", "guitar"),
        ("supersaw lead", "supersaw"),
    ],
)
def test_the_longest_name_counts(text: str, name: str) -> None:
    assert read_instrumentation(text).requested == (name,)


def test_instruments_keep_the_order_of_the_text_and_count_once() -> None:
    read = read_instrumentation("strings, piano, more strings and a piano")
    assert read.requested == ("strings", "piano")


@pytest.mark.parametrize(
    ("text", "slots"),
    [
        ("piano melody", (("piano", "lead"),)),
        ("melody for cello", (("strings", "lead"),)),
        ("melody in a minor on the flute", (("flute", "lead"),)),
        ("guitar chords", (("guitar", "chords"),)),
        ("bell arpeggio", (("bells", "arp"),)),
        ("piano, melody", ()),
        ("bass melody", ()),
        ("with a guitar solo", (("guitar", "lead"),)),
    ],
)
def test_an_instrument_and_its_slot_are_read_together(
    text: str, slots: tuple[tuple[str, str], ...]
) -> None:
    assert read_instrumentation(text).slots == slots


def test_a_slot_word_beside_its_instrument_is_not_an_instrument() -> None:
    assert read_instrumentation("piano melody").requested == ("piano",)
    assert read_instrumentation("piano and a melody").requested == ("piano", "lead")


@pytest.mark.parametrize(
    ("text", "emphasis"),
    [
        ("heavy bass", {"bass": 2.0}),
        ("lots of strings", {"strings": 2.0}),
        ("soft piano", {}),
        ("subtle strings and big drums", {"strings": -3.0, "drums": 2.0}),
        ("bass", {}),
    ],
)
def test_adjectives_are_gains_in_db(text: str, emphasis: dict[str, float]) -> None:
    assert dict(read_instrumentation(text).emphasis) == emphasis


def test_blanked_out_words_separate_nothing() -> None:
    assert read_instrumentation("only ···· piano").only == ("piano",)


@pytest.mark.parametrize("text", ["for vocals", "for my vocals", "for rap vocals", "for the vox"])
def test_vocals_over_the_music_are_not_part_of_it(text: str) -> None:
    assert read_instrumentation(f"piano {text}") == Instrumentation(("piano",), (), (), ())


def test_a_drum_loop_is_drums_alone_unless_it_is_added_to_something() -> None:
    assert read_instrumentation("amen drum break").only == ("drums",)
    assert read_instrumentation("synth and a drum break").only == ()
    assert read_instrumentation("drums").only == ()
