import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.audio.facts import TakeFacts
from services.audio.loudness import Loudness
from services.audio.wav_ixml import build_ixml, parse_ixml, to_one_line

TEXT = st.text(st.characters(exclude_categories=[]))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (" a\tb\r\nc ", "a b c"),
        ("a\x00\x1f\x7f\x85b", "a b"),
        ("\ud800\ufffe\uffff", ""),
        ("caf\xe9 \U0001f319", "caf\xe9 \U0001f319"),
    ],
)
def test_text_becomes_one_line(text, line):
    assert to_one_line(text) == line


@given(TEXT)
def test_any_text_becomes_one_line_that_xml_preserves(text):
    line = to_one_line(text)
    assert to_one_line(line) == line
    assert len(line.splitlines()) <= 1
    element = ET.Element("a")
    element.text = line
    assert (ET.fromstring(ET.tostring(element)).text or "") == line


@given(prompt=TEXT, channels=st.sampled_from([1, 2]))
def test_any_prompt_is_read_back(prompt, channels):
    facts = TakeFacts(prompt=prompt or None)
    assert parse_ixml(build_ixml(facts, channels)) == facts


@pytest.mark.parametrize(("channels", "names"), [(1, ["Mono"]), (2, ["Left", "Right"])])
def test_tracks_are_named_after_their_channels(channels, names):
    root = ET.fromstring(build_ixml(TakeFacts(), channels))
    assert [name.text for name in root.iter("NAME")] == names
    assert root.findtext("TRACK_LIST/TRACK_COUNT") == str(channels)


def test_unknown_facts_have_no_elements():
    tags = [child.tag for child in ET.fromstring(build_ixml(TakeFacts(), 2))]
    assert tags == ["IXML_VERSION", "PROJECT", "TRACK_LIST", "USER"]


def test_levels_out_of_range_have_no_element():
    loudness = Loudness(-16.0, -100.0, 99.99, 0.0, float("-inf"), 0.0)
    root = ET.fromstring(build_ixml(TakeFacts(loudness=loudness), 2))
    assert {child.tag: child.text for child in root.find("LOUDNESS")} == {
        "LOUDNESS_VALUE": "-16.00",
        "LOUDNESS_RANGE": "0.00",
        "MAX_SHORT_TERM_LOUDNESS": "99.99",
    }


def test_same_facts_give_the_same_document():
    facts = TakeFacts(prompt="dusk", seed=7)
    assert build_ixml(facts, 2) == build_ixml(facts, 2)
