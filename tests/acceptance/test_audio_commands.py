"""`dgx-music analyze`, `normalize` and `convert`, and other formats from `generate`."""

import json

import numpy as np
import pytest
import soundfile
from PIL import Image

RATE = 44_100
FORMATS = [".wav", ".flac", ".mp3", ".ogg", ".opus"]


def tone(path, *, seconds=2.0, level=0.25, rate=RATE, **kind):
    at = np.arange(round(seconds * rate)) / rate
    soundfile.write(path, level * np.sin(2 * np.pi * 220 * at), rate, **kind)
    return str(path)


def clicks(path, *, bpm=120.0, seconds=8.0):
    at = np.arange(round(seconds * RATE)) / RATE
    drums = np.exp(-40 * (at % (60 / bpm))) * np.sin(2 * np.pi * 150 * at)
    soundfile.write(path, 0.5 * drums, RATE)
    return str(path)


def analysed(home, *arguments):
    result = home.run("analyze", *arguments, "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_take_in_any_format_tells_what_made_it(home, suffix):
    name = f"loop{suffix}"
    made = home.run("generate", "techno at 130 BPM", "-d", "3", "--seed", "7", "-o", name)
    assert (made.returncode, made.stdout) == (0, f"{name}\n"), made.stderr
    (report,) = analysed(home, name, "--bpm", "130")
    says = report["says"]
    assert (says["prompt"], says["seed"], says["bpm"]) == ("techno at 130 BPM", 7, 130.0)
    assert (says["engine"], says["licence"]) == ("composer", "CC0-1.0")
    assert says["generation_id"] == str(home.rows("id")[0][0])
    assert report["loudness"]["integrated_lufs"] == pytest.approx(-16.0, abs=0.3)
    assert report["loudness"]["true_peak_dbtp"] <= -1.0
    assert report["features"]["duration_seconds"] == pytest.approx(3.0, abs=0.001)


def test_what_a_file_says_is_enough_to_make_it_again(home):
    home.run("generate", "lo-fi at 82 BPM in D minor", "-d", "2", "-o", "first.wav")
    (first,) = analysed(home, "first.wav")
    says = first["says"]
    again = ("-d", "2", "--model", says["engine"], "--seed", str(says["seed"]), "-o", "second.wav")
    home.run("generate", says["prompt"], *again)
    one, two = (soundfile.read(home.path / name)[0] for name in ("first.wav", "second.wav"))
    assert np.array_equal(one, two)


def test_one_file_is_shown_line_by_line_and_several_as_a_table(home):
    clicks(home.path / "a.wav", bpm=97.0)
    tone(home.path / "b.flac")
    shown = home.run("analyze", "a.wav")
    assert "97.00 BPM" in shown.stdout
    assert "WAV PCM_16, 44100 Hz, mono" in shown.stdout
    rows = [line.split("\t") for line in home.run("analyze", "a.wav", "b.flac").stdout.splitlines()]
    assert [row[0] for row in rows] == ["a.wav", "b.flac"]
    assert rows[0][5] == "97.0"


def test_a_bad_file_does_not_hide_the_others(home):
    tone(home.path / "good.wav")
    (home.path / "bad.wav").write_bytes(b"RIFF and then nothing")
    result = home.run("analyze", "gone.wav", "good.wav", "bad.wav")
    assert result.returncode == 2
    assert result.stdout.startswith("good.wav\t")
    assert "No such file: gone.wav" in result.stderr
    assert "bad.wav is not audio" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_spectrogram_is_drawn_on_request(home):
    tone(home.path / "a.wav")
    result = home.run("analyze", "a.wav", "--spectrogram", "a.png")
    assert (result.returncode, result.stderr) == (0, "The spectrogram is a.png.\n")
    with Image.open(home.path / "a.png") as picture:
        assert picture.size == (1000, 320)


@pytest.mark.parametrize("suffix", FORMATS)
def test_normalising_gives_the_loudness_asked_for(home, suffix):
    clicks(home.path / "in.wav")
    result = home.run("normalize", "in.wav", f"out{suffix}", "--lufs", "-20", "--true-peak", "-2")
    assert (result.returncode, result.stdout) == (0, f"out{suffix}\n"), result.stderr
    loudness = analysed(home, f"out{suffix}")[0]["loudness"]
    assert loudness["integrated_lufs"] == pytest.approx(-20.0, abs=0.3)
    assert loudness["true_peak_dbtp"] <= -2.0


def test_a_file_can_be_normalised_in_place(home):
    tone(home.path / "a.wav", subtype="PCM_24")
    assert home.run("normalize", "a.wav", "a.wav").returncode == 7
    assert home.run("normalize", "a.wav", "a.wav", "--force").returncode == 0
    (report,) = analysed(home, "a.wav")
    assert report["loudness"]["integrated_lufs"] == pytest.approx(-16.0, abs=0.1)
    assert report["bit_depth"] == 24
    assert [path.name for path in home.path.iterdir()] == ["a.wav"]


def test_converting_keeps_levels_length_and_depth(home):
    tone(home.path / "a.wav", rate=48_000, subtype="PCM_24")
    for target in ("b.flac", "c.wav"):
        assert home.run("convert", "a.wav", target).returncode == 0
        original, copy = (soundfile.read(home.path / name)[0] for name in ("a.wav", target))
        assert np.array_equal(original, copy)


def test_converting_brings_a_rate(home):
    tone(home.path / "a.wav", rate=48_000)
    written = json.loads(home.run("convert", "a.wav", "b.wav", "-r", "44100", "--json").stdout)
    assert written["frames"] == 88_200
    assert soundfile.info(home.path / "b.wav").samplerate == 44_100


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("convert", "a.wav", "b.aac"), 2, ".opus"),
        (("convert", "gone.wav", "b.wav"), 2, "No such file"),
        (("convert", "a.wav", "a.wav"), 7, "--force"),
        (("convert", "a.wav", "b.mp3", "-b", "PCM_16"), 2, "bit depth"),
        (("convert", "a.wav", "b.opus", "-r", "44100"), 2, "48000"),
        (("convert", "a.wav", "a.wav/b.wav"), 7, "part of the path is a file"),
        (("normalize", "a.wav", "b.wav", "--lufs", "3"), 2, "-60 to 0 LUFS"),
        (("normalize", "a.wav", "b.wav", "--lufs", "nan"), 2, "-60 to 0 LUFS"),
        (("normalize", "text.wav", "b.wav"), 2, "not audio"),
        (("analyze", "a.wav", "text.wav", "--spectrogram", "x.png"), 2, "one FILE"),
        (("analyze", "a.wav", "--spectrogram", "a.wav/x.png"), 7, "part of the path is a file"),
    ],
)
def test_what_cannot_be_done_is_said_and_leaves_nothing(home, arguments, code, words):
    tone(home.path / "a.wav")
    (home.path / "text.wav").write_text("words")
    result = home.run(*arguments)
    assert result.returncode == code, result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(path.name for path in home.path.iterdir()) == ["a.wav", "text.wav"]
