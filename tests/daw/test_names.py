"""Names for files, tracks and XML."""

import re
import unicodedata
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.daw.names import (
    clean_label,
    clean_text,
    make_file_name,
    make_key_slug,
    make_slug,
    make_unique,
)
from tests.daw.takes import BAD_NAMES

FORBIDDEN = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|\ud800-\udfff]')
DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?")
# Unlike st.text(), also lone surrogates, which names of files on Linux may have.
ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=400)


def check_file_name(name: str) -> None:
    assert not FORBIDDEN.search(name)
    assert not DEVICES.fullmatch(name)
    assert name
    assert name == name.strip(" .")
    assert 0 < len(name.encode()) <= 124


@given(ANY_TEXT)
def test_a_file_name_is_one_on_every_system(text):
    check_file_name(make_file_name(text, "fallback"))


@pytest.mark.parametrize("text", BAD_NAMES)
def test_bad_names_become_file_names(text, tmp_path):
    name = make_file_name(text, "fallback")
    check_file_name(name)
    (tmp_path / f"{name}.wav").touch()


@given(ANY_TEXT)
def test_a_file_name_stays_when_it_is_made_safe_again(text):
    name = make_file_name(text, "fallback")
    assert make_file_name(name, "fallback") == name


@given(ANY_TEXT)
def test_xml_holds_cleaned_text(text):
    clean = clean_text(text)
    element = ET.Element("one", name=clean)
    element.text = clean
    read = ET.fromstring(ET.tostring(element, encoding="UTF-8"))
    assert read.get("name") == clean
    assert (read.text or "") == clean


@given(ANY_TEXT)
def test_a_label_is_one_short_line(text):
    label = clean_label(text, "fallback")
    assert 0 < len(label) <= 100
    assert len(label.splitlines()) == 1
    assert not any(unicodedata.category(one) == "Cc" for one in label)


def test_letters_of_all_scripts_stay():
    assert make_file_name("ключ 音楽 e\u0301", "x") == "ключ 音楽 é"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("F# minor", "Fsharp minor"),
        ("a/b:c", "a_b_c"),
        ("con", "_con"),
        ("nul.wav", "_nul.wav"),
        ("..", "fallback"),
        ("🎵", "fallback"),
        ("what? no!", "what_ no!"),
    ],
)
def test_what_file_names_become(text, name):
    assert make_file_name(text, "fallback") == name


@given(st.lists(st.sampled_from(["drums", "Drums", "DRUMS 2", "drums 2", "straße", "STRASSE"])))
def test_unique_names_differ_where_case_is_ignored(names):
    unique = make_unique(names, taken=["Mix"])
    folded = [name.casefold() for name in [*unique, "mix"]]
    assert len(set(folded)) == len(names) + 1
    assert all(one.startswith(name) for one, name in zip(unique, names, strict=True))


@pytest.mark.parametrize(
    ("key", "slug"),
    [("F# minor", "Fsharpmin"), ("C major", "Cmaj"), ("Bb dorian", "Bbdorian"), ("", "")],
)
def test_keys_in_file_names_have_no_sharp_sign(key, slug):
    assert make_key_slug(key) == slug


@given(ANY_TEXT)
def test_a_slug_is_lower_case_ascii(text):
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", make_slug(text, "take"))
    assert len(make_slug(text, "take")) <= 60


def test_a_slug_has_the_words_of_its_text():
    assert make_slug("Dark trap, don't stop (C#)!", "take") == "dark-trap-dont-stop-csharp"
