import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from services.audio.key import PITCH_CLASSES, estimate_key
from services.generation import score

RATE = 22_050
MAJOR, MINOR = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10)
CADENCE = (0, 3, 4, 0)
KEYS = list(itertools.product(range(12), ("major", "minor")))


def chord(pitches, seconds=1.5, a4=440.0, partials=6):
    at = np.arange(round(seconds * RATE)) / RATE
    tones = [
        np.sin(2 * np.pi * a4 * 2 ** ((pitch - 69) / 12) * partial * at + pitch) / partial**1.2
        for pitch in pitches
        for partial in range(1, partials + 1)
    ]
    return np.sum(tones, axis=0) * np.exp(-0.7 * at) * 0.05


def cadence(tonic, mode, degrees=CADENCE, a4=440.0, partials=6):
    """A chord and its bass per degree; the dominant of minor is major."""
    parts = []
    for degree in degrees:
        scale = list(MAJOR if mode == "major" else MINOR)
        if mode == "minor" and degree == 4:
            scale[6] = 11
        notes = [tonic + scale[(degree + k) % 7] + 12 * ((degree + k) // 7) for k in (0, 2, 4)]
        parts.append(chord([48 + note for note in notes] + [36 + notes[0] % 12], 1.5, a4, partials))
    return np.concatenate(parts)


@pytest.mark.parametrize(("tonic", "mode"), KEYS)
def test_cadence_determines_every_key(tonic, mode):
    key = estimate_key(cadence(tonic, mode), RATE)
    assert (key.tonic, key.mode) == (tonic, mode)
    assert key.name == f"{PITCH_CLASSES[tonic]} {mode}"
    assert key.confidence > 0.5
    assert abs(key.tuning_cents) < 3.0
    assert key.name not in key.alternatives


@pytest.mark.parametrize("a4", [430.0, 432.0, 436.0, 442.0, 446.0, 450.0])
@pytest.mark.parametrize(("tonic", "mode"), [(9, "minor"), (3, "major"), (11, "major")])
def test_other_tunings_keep_the_key(a4, tonic, mode):
    key = estimate_key(cadence(tonic, mode, a4=a4), RATE)
    assert (key.tonic, key.mode) == (tonic, mode)
    assert key.tuning_cents == pytest.approx(1200 * np.log2(a4 / 440.0), abs=3.0)


@pytest.mark.parametrize("partials", [1, 2, 12])
def test_key_does_not_depend_on_timbre(partials):
    key = estimate_key(cadence(2, "minor", partials=partials), RATE)
    assert key.name == "D minor"


def test_relative_key_is_an_alternative():
    loop = estimate_key(cadence(9, "minor", degrees=(0, 5, 2, 6)), RATE)
    relatives = {"A minor", "C major"}
    assert loop.name in relatives
    assert relatives - {loop.name} <= set(loop.alternatives)
    assert loop.confidence < estimate_key(cadence(9, "minor"), RATE).confidence


@pytest.mark.parametrize(
    "signal",
    [
        np.zeros(1),
        np.zeros(5 * RATE),
        np.full(5 * RATE, 0.5),
        np.random.default_rng(0).standard_normal(RATE // 10),
        np.random.default_rng(1).standard_normal(8 * RATE) * 0.1,
        chord(range(57, 69), 6.0),
        np.tile(
            np.random.default_rng(2).standard_normal(RATE // 2) * np.geomspace(1, 1e-4, RATE // 2),
            12,
        ),
    ],
    ids=["one sample", "silence", "offset", "0.1 s", "noise", "all notes", "drums"],
)
def test_atonal_signals_have_no_key(signal):
    assert estimate_key(signal, RATE) is None


def test_single_note_gives_low_confidence():
    key = estimate_key(chord([57], 6.0), RATE)
    assert key is None or key.confidence < 0.3


def test_channels_in_opposite_phase_do_not_hide_the_music():
    signal = cadence(7, "major")
    assert estimate_key(np.stack((signal, -signal)), RATE).name == "G major"


def test_drums_do_not_change_the_key():
    signal = cadence(5, "minor")
    hits = np.random.default_rng(3).standard_normal(signal.size)
    hits *= 0.3 * np.exp(-25 * (np.arange(signal.size) / RATE % 0.5))
    assert estimate_key(signal + hits, RATE).name == "F minor"


def test_keys_are_spelled_as_in_the_composer():
    assert PITCH_CLASSES == score.PITCH_CLASSES


def test_result_is_json_ready():
    found = estimate_key(cadence(1, "minor"), RATE).to_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["name"] == "C# minor"


def test_invalid_audio_is_refused():
    with pytest.raises(ValueError, match="Empty"):
        estimate_key(np.zeros(0), RATE)
    with pytest.raises(ValueError, match="sample rate"):
        estimate_key(np.zeros(10), 999)


@given(arrays.arrays(np.float32, st.integers(1, 30_000), elements=st.floats(-4, 4, width=32)))
def test_result_of_any_signal_is_in_range(signal):
    key = estimate_key(signal, 8_000)
    if key is not None:
        assert 0.0 < key.confidence <= 1.0
        assert -50.0 <= key.tuning_cents <= 50.0
