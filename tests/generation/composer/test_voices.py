"""The choice of voices: slots, patches, playing styles and mix."""

import pytest

from services.generation.composer.bass import BASS_STYLES
from services.generation.composer.comping import COMPING_STYLES
from services.generation.composer.genres import GENRES, MixSettings
from services.generation.composer.prompt import parse_prompt
from services.generation.composer.styles import STYLES
from services.generation.composer.synth import PATCHES
from services.generation.composer.voices import SLOTS, Voice, choose_voices


def voices(prompt: str, seed: int = 1) -> dict[str, Voice]:
    return {voice.name: voice for voice in choose_voices(parse_prompt(prompt), seed)}


@pytest.mark.parametrize("style", STYLES)
def test_voices_have_known_patches_and_styles_in_the_order_of_the_slots(style: str) -> None:
    for seed in range(5):
        chosen = choose_voices(parse_prompt(style), seed)
        order = [SLOTS.index(voice.slot) for voice in chosen if not voice.is_countermelody]
        assert order == sorted(set(order))
        for voice in chosen:
            assert voice.patch in PATCHES
            if voice.slot == "bass":
                assert voice.style in BASS_STYLES
            if voice.slot == "chords":
                assert voice.style in COMPING_STYLES


@pytest.mark.parametrize("genre", GENRES)
def test_at_least_five_voices_play_unless_little_is_asked_for(genre: str) -> None:
    slots = [voices(genre, seed) for seed in range(10)]
    assert min(len(set(found) - {"riser", "impact"}) for found in slots) >= 5
    sparse = [voices(f"sparse simple {genre}", seed) for seed in range(10)]
    assert sum(map(len, sparse)) < sum(map(len, slots))


def test_a_voice_that_is_alone_plays_throughout() -> None:
    assert all(voice.plays_throughout for voice in voices("solo piano").values())
    assert not any(voice.plays_throughout for voice in voices("house").values())


def test_a_single_instrument_that_can_lead_plays_chords_and_lead() -> None:
    assert {name: voice.patch for name, voice in voices("only piano").items()} == {
        "chords": "keys-piano",
        "lead": "keys-piano",
    }


def test_instruments_without_a_free_slot_become_countermelodies() -> None:
    chosen = voices("trap with bells, flute, saw lead and square lead")
    extra = [voice for voice in chosen.values() if voice.is_countermelody]
    assert {voice.name for voice in extra} >= {"square-lead"}
    for voice in extra:
        main = chosen[voice.slot]
        assert voice.mix.gain_db == main.mix.gain_db - 2
        assert voice.mix.pan == (-main.mix.pan or 0.25)
        assert voice.is_requested


@pytest.mark.parametrize(
    ("prompt", "name", "change"),
    [("heavy 808 bass", "bass", 2.0), ("subtle 808 bass", "bass", -3.0)],
)
def test_an_adjective_changes_the_gain(prompt: str, name: str, change: float) -> None:
    plain, changed = voices("trap with 808 bass"), voices(f"trap with {prompt}")
    assert changed[name].mix.gain_db - plain[name].mix.gain_db == change


def test_gains_stay_between_minus_6_and_4_db() -> None:
    assert voices("hip-hop with loud vinyl")["texture"].mix.gain_db == 4.0
    assert voices("techno with subtle wind")["texture"].mix.gain_db == -6.0


def test_single_drums_are_the_only_ones_or_muted() -> None:
    only = voices("only kick and hats")["drums"]
    assert only.only_pitches == {35, 36, 42, 44, 46}
    assert voices("house, no snare")["drums"].muted_pitches == {37, 38, 40}
    assert voices("only drums")["drums"].only_pitches == frozenset()
    assert voices("only drums and kick")["drums"].only_pitches == frozenset()


def test_without_drums_there_is_no_impact() -> None:
    for seed in range(10):
        assert "impact" not in voices("techno, no drums", seed)


@pytest.mark.parametrize(
    ("prompt", "style"),
    [
        ("acid", "acid"),
        ("jazz", "walking"),
        ("house with 808 bass", "808"),
        ("techno with reese bass", "reese"),
        ("synthwave with acid bass", "acid"),
        ("disco", "octaves"),
    ],
)
def test_the_bass_style_follows_the_style_or_the_patch(prompt: str, style: str) -> None:
    assert all(voices(prompt, seed)["bass"].style == style for seed in range(5))


@pytest.mark.parametrize(
    ("prompt", "style"), [("house with strings chords", "sustain"), ("funk", "broken")]
)
def test_sustained_patches_hold_chords_and_guitars_break_them(prompt: str, style: str) -> None:
    assert all(voices(prompt, seed)["chords"].style == style for seed in range(5))


def test_a_slot_without_settings_has_the_default_mix() -> None:
    for seed in range(10):
        if impact := voices("house", seed).get("impact"):
            assert impact.mix == MixSettings()
            return
    raise AssertionError("no impact in ten seeds")


def test_pad_and_chords_and_lead_have_different_patches() -> None:
    for style in STYLES:
        for seed in range(3):
            chosen = voices(style, seed)
            if {"pad", "chords"} <= set(chosen):
                assert chosen["pad"].patch != chosen["chords"].patch, (style, seed)
