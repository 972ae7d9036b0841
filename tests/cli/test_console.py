"""Output of the commands to pipes, terminals and closed streams."""

import io
import json
import os
import sys
from contextlib import contextmanager

import pytest

from services.cli import console
from tests.cli.conftest import COLOUR


def on_terminal(monkeypatch, width):
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    return stream


def test_rows_are_tab_separated_lines_in_a_pipe(capsys):
    console.answer_table(("id", "prompt"), [("1", "a\tb\nc"), ("2", "[red]x")])
    assert capsys.readouterr().out == "1\ta b c\n2\t[red]x\n"


def test_a_row_in_a_pipe_is_one_line_whatever_is_in_it(capsys):
    console.answer_table(("id", "prompt"), [("1", "a\x1b[2Jb\rc\u2028d\x85")])
    assert capsys.readouterr().out == "1\ta\\u001b[2Jb\\u000dc\\u2028d\\u0085\n"


@pytest.mark.parametrize("width", [None, 80])
def test_a_field_is_one_line_without_control_characters(monkeypatch, capsys, width):
    stream = None if width is None else on_terminal(monkeypatch, width)
    console.answer_fields({"title": HOSTILE, "id": "1"})
    shown = capsys.readouterr().out if stream is None else stream.getvalue()
    assert shown == f"title  {HARMLESS}\nid     1\n"


def test_rows_are_a_table_on_a_terminal_and_prompts_are_not_markup(monkeypatch):
    stream = on_terminal(monkeypatch, 80)
    console.answer_table(("id", "prompt"), [("1", "[red]x")])
    headings, row = stream.getvalue().splitlines()
    assert "prompt" in headings
    assert row.split() == ["1", "[red]x"]


def test_only_prose_columns_wrap(monkeypatch):
    stream = on_terminal(monkeypatch, 44)
    console.answer_table(("id", "prompt"), [("0123456789" * 2, "word " * 10)])
    lines = stream.getvalue().splitlines()
    assert len(lines) > 3
    assert lines[1].startswith("0123456789" * 2)


@pytest.mark.parametrize("width", [24, 40, 60, 80, 120])
def test_no_figure_is_cut_at_any_width(monkeypatch, width):
    stream = on_terminal(monkeypatch, width)
    row = ("8c02f977", "completed", "122.5", "F# phrygian", "word " * 12)
    console.answer_table(("id", "status", "bpm", "key", "prompt"), [row])
    shown = COLOUR.sub("", stream.getvalue())
    assert max(map(len, shown.splitlines())) <= width
    assert all(cell in shown for cell in row[:3])
    assert shown.count("word") == 12


def test_table_becomes_a_list_with_headings_where_it_does_not_fit(monkeypatch):
    stream = on_terminal(monkeypatch, 30)
    console.answer_table(("id", "key", "prompt"), [("1" * 20, "", "[red]x"), ("2", "A minor", "y")])
    lines = [line.rstrip() for line in COLOUR.sub("", stream.getvalue()).splitlines()]
    assert lines == ["1" * 20, "  prompt  [red]x", "2", "  key     A minor", "  prompt  y"]


def test_json_keeps_the_order_of_keys_and_letters_of_any_language(capsys):
    console.answer_json({"b": "ä", "a": [1]})
    assert capsys.readouterr().out == '{\n  "b": "ä",\n  "a": [\n    1\n  ]\n}\n'


def test_bytes_that_are_no_text_are_replaced_in_output(capsys):
    console.answer(os.fsdecode(b"a\xff.wav"))
    assert capsys.readouterr().out == "a\ufffd.wav\n"


HOSTILE = "a\x1b]0;title\x07\x9b31m\u202egnp\n.wav"
HARMLESS = r"a\u001b]0;title\u0007\u009b31m\u202egnp\u000a.wav"


def test_control_characters_are_escaped_on_a_terminal(monkeypatch, capsys):
    stream = on_terminal(monkeypatch, 120)
    console.answer(HOSTILE)
    console.answer_table(("id", "file"), [("1", HOSTILE)])
    shown = COLOUR.sub("", stream.getvalue())
    assert shown.splitlines()[0] == HARMLESS
    assert HARMLESS.replace(r"\u000a", " ") in shown.splitlines()[2]
    console.note(f"no file {HOSTILE}")
    assert capsys.readouterr().err == f"no file {HARMLESS}\n".replace(r"\u000a", "\n  ")


def test_program_that_reads_the_output_gets_names_as_they_are(capsys):
    console.answer(HOSTILE)
    assert capsys.readouterr().out == f"{HOSTILE}\n"


def test_json_on_a_terminal_has_the_exact_name_and_no_control_character(monkeypatch):
    stream = on_terminal(monkeypatch, 80)
    console.answer_json({"file": HOSTILE})
    assert json.loads(stream.getvalue()) == {"file": HOSTILE}
    assert not set(stream.getvalue()) & {"\x1b", "\x07", "\x9b", "\u202e"}


def test_closed_stream_is_no_terminal():
    assert not console.is_terminal(None)


def test_note_on_a_broken_stderr_is_dropped(monkeypatch):
    class Broken(io.StringIO):
        def write(self, _text):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(sys, "stderr", Broken())
    console.note("hello")


@contextmanager
def real_stderr():
    """sys.stderr on descriptor 2, as in a process; pytest has it elsewhere."""
    with (
        open(2, "w", buffering=1, closefd=False) as stream,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(sys, "stderr", stream)
        yield


def test_library_that_writes_to_the_descriptor_is_silenced_and_ours_is_not(capfd):
    with real_stderr():
        with console.silence_libraries():
            os.write(2, b"mpg123: bad frame\n")
            console.note("ours")
        os.write(2, b"later\n")
    assert capfd.readouterr().err == "ours\nlater\n"


@pytest.mark.parametrize("stream", [None, io.StringIO()])
def test_silence_needs_no_real_stderr(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    with console.silence_libraries():
        pass
    assert sys.stderr is stream


def test_stderr_is_restored_after_an_error(capfd):
    with real_stderr():
        before = sys.stderr
        with pytest.raises(ValueError, match="bad"), console.silence_libraries():
            raise ValueError("bad")
        assert sys.stderr is before
        os.write(2, b"later\n")
    assert capfd.readouterr().err == "later\n"
