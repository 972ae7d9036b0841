import datetime as dt
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.audio.facts import Section, TakeFacts
from services.audio.loudness import Loudness

SILENCE = Loudness(*[-math.inf] * 3, 0.0, -math.inf, -math.inf)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=4,
)


def test_dictionary_has_only_known_facts():
    assert TakeFacts().to_dict() == {}
    assert TakeFacts(seed=0, is_loop=False).to_dict() == {"seed": 0, "is_loop": False}


def test_dictionary_is_json_and_is_read_back():
    facts = TakeFacts(
        prompt="dusk",
        created_at=dt.datetime(2026, 1, 2, 3, 4, 5, 6, dt.UTC),
        sections=(Section(0.0, "intro"), Section(7.5, "drop")),
        loudness=SILENCE,
    )
    text = json.dumps(facts.to_dict(), allow_nan=False)
    assert TakeFacts.from_dict(json.loads(text)) == facts


def test_beats_are_bars_times_beats_per_bar():
    assert TakeFacts(bars=8, beats_per_bar=3).beats == 24
    assert TakeFacts().beats is None


@pytest.mark.parametrize(
    ("name", "limit", "beyond"),
    [
        ("bpm", 1.0, 0.999),
        ("bpm", 1000.0, 1000.1),
        ("bars", 1, 0),
        ("bars", 1_000_000, 1_000_001),
        ("seed", (1 << 128) - 1, 1 << 128),
        ("seed", 1 - (1 << 128), -(1 << 128)),
    ],
)
def test_limits_are_inclusive(name, limit, beyond):
    assert getattr(TakeFacts.from_dict({name: limit}), name) == limit
    assert getattr(TakeFacts.from_dict({name: beyond}), name) is None


@pytest.mark.parametrize("name", ["beats_per_bar", "beat_unit"])
def test_invalid_meter_is_unknown_and_counts_as_four(name):
    assert getattr(TakeFacts.from_dict({name: 255}), name) == 255
    for value in (0, 256, 3.0, "3", None, True):
        found = TakeFacts.from_dict({name: value})
        assert getattr(found, name) is None
        assert found.meter == (4, 4)


def test_at_most_1000_sections_are_read():
    sections = [{"start_seconds": float(at), "name": f"part {at}"} for at in range(1001)]
    found = TakeFacts.from_dict({"sections": sections}).sections
    assert len(found) == 1000
    assert found[-1] == Section(999.0, "part 999")


def test_invalid_sections_are_skipped():
    sections = [{"start_seconds": -1.0, "name": "a"}, {"start_seconds": 2, "name": "b"}, "c"]
    assert TakeFacts.from_dict({"sections": sections}).sections == (Section(2.0, "b"),)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-02", dt.datetime(2026, 1, 2, tzinfo=dt.UTC)),
        ("2026-01-02T03:04:05+02:00", dt.datetime(2026, 1, 2, 1, 4, 5, tzinfo=dt.UTC)),
        ("2026-01-02T03:04:05Z", dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)),
        ("9999-12-31T23:59:59-14:00", None),
        ("2026-02-30", None),
    ],
)
def test_time_is_converted_to_utc(text, expected):
    assert TakeFacts.from_dict({"created_at": text}).created_at == expected


def test_loudness_needs_every_field():
    figures = SILENCE.to_dict()
    assert TakeFacts.from_dict({"loudness": figures}).loudness == SILENCE
    del figures["true_peak_dbtp"]
    assert TakeFacts.from_dict({"loudness": figures}).loudness is None


@given(st.dictionaries(st.sampled_from(TakeFacts.__slots__), JSON, max_size=6))
def test_any_json_gives_facts_that_are_read_back(found):
    facts = TakeFacts.from_dict(found)
    assert TakeFacts.from_dict(json.loads(json.dumps(facts.to_dict(), allow_nan=False))) == facts
