"""REAPER projects, read back by a parser of the text format."""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.daw.building import build_session
from services.daw.names import clean_label
from services.daw.reaper import _quote, write_reaper
from tests.daw.takes import make_take


def parse(text):
    """Return the elements as [words, *children]; a line that is no element has no children."""
    stack = [[[]]]
    for line in map(str.strip, text.splitlines()):
        if line == ">":
            done = stack.pop()
            stack[-1].append(done)
        elif line.startswith("<"):
            stack.append([split(line[1:])])
        else:
            stack[-1].append([split(line)])
    [root] = stack
    return root[1]


def split(line):
    if line.startswith("|"):
        return [line]
    words = shlex.shlex(line, posix=True)
    words.quotes, words.escape, words.commenters = "\"'`", "", ""
    words.whitespace_split = True
    return list(words)


def find(element, name):
    return [child for child in element[1:] if child[0][0] == name]


def value(element, name):
    [found] = find(element, name)
    return found[0][1:]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reaper")
    takes = [
        make_take(folder / "in", "one", bpm=97.3, metre=(7, 8)),
        make_take(folder / "in", "two", do_stems_sum_to_mix=False),
    ]
    return parse(write_reaper(build_session("two takes", takes), folder).read_text())


def test_tempo_and_metre_change_with_the_take(project):
    assert value(project, "TEMPO") == ["97.3", "7", "8"]
    points = [child[0][1:] for child in find(project, "TEMPOENVEX")[0][1:] if child[0][0] == "PT"]
    start = [float(point[0]) for point in points]
    assert start == pytest.approx([0, 3.5 * 60 / 97.3])
    assert [point[1:] for point in points] == [
        ["97.3", "1", str(8 * 65536 + 7)],
        ["124", "1", str(4 * 65536 + 4)],
    ]


def test_tracks_are_in_order_and_stems_in_a_folder(project):
    tracks = find(project, "TRACK")
    assert [(value(one, "NAME")[0], value(one, "ISBUS")) for one in tracks] == [
        ("Mix", ["0", "0"]), ("Stems", ["1", "1"]), ("drums", ["0", "0"]), ("bass", ["2", "-1"]),
        ("drums MIDI", ["0", "0"]), ("bass MIDI", ["0", "0"]),
    ]  # fmt: skip
    muted = [value(one, "NAME")[0] for one in tracks if value(one, "MUTESOLO")[0] == "1"]
    assert muted == ["Stems"]


def test_items_start_with_their_take_and_have_no_fades(project):
    items = find(find(project, "TRACK")[0], "ITEM")
    positions = [float(value(item, "POSITION")[0]) for item in items]
    assert positions == pytest.approx([0, 3.5 * 60 / 97.3])
    assert all(value(item, "FADEIN")[1] == value(item, "FADEOUT")[1] == "0" for item in items)
    assert value(find(items[0], "SOURCE")[0], "FILE") == ["Media/one Mix.wav"]


def test_notes_are_midi_events_from_the_start_of_their_item(project):
    item = find(find(project, "TRACK")[-1], "ITEM")[0]
    source = find(item, "SOURCE")[0]
    assert value(source, "HASDATA") == ["1", "480", "QN"]
    events = [child[0][1:] for child in find(source, "E")]
    now, heard = 0, []
    for delta, status, first, _ in events:
        now += int(delta)
        if status == "90":
            heard.append((now, int(first, 16)))
    assert heard == [(0, 40), (720, 43)]
    assert ["0", "c0", "26", "00"] in events
    assert (now, events[-1][1:]) == (round(3.5 * 480), ["b0", "7b", "00"])


def test_markers_and_the_loop_range_are_in_seconds(project):
    second = 3.5 * 60 / 97.3
    markers = [(child[0][3], float(child[0][2])) for child in find(project, "MARKER")]
    assert [name for name, _ in markers] == ["one", "intro", "two", "intro"]
    assert [time for _, time in markers] == pytest.approx([0, 0, second, second])
    assert [float(one) for one in value(project, "SELECTION")] == pytest.approx([0, second])


def test_the_facts_are_in_the_notes_of_the_project(project):
    assert [["|Seed: 7"]] in find(project, "NOTES")[0]


@given(st.text(st.sampled_from("\"'`| <>ab\n")) | st.text(max_size=50))
def test_a_quoted_name_is_one_word(text):
    label = clean_label(text, "x")
    [read] = split(_quote(label))
    if {"'", '"', "`"} <= set(label):
        label = label.replace("`", "'")
    assert read.split() == label.split()
