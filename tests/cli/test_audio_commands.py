"""`dgx-music analyze`, `normalize` and `convert`, and other formats from `generate`."""

import json
import os
import signal
import subprocess
from pathlib import Path

import mutagen.flac
import mutagen.oggvorbis
import numpy as np
import pytest
import soundfile
from PIL import Image

from tests.audio import foreign_files
from tests.conftest import LIMIT_SECONDS, wait_until

pytestmark = pytest.mark.integration

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
    result = home.call("analyze", *arguments, "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("suffix", FORMATS)
def test_take_of_any_format_has_its_metadata(home, suffix):
    name = f"loop{suffix}"
    made = home.call("generate", "techno at 130 BPM", "-d", "3", "--seed", "7", "-o", name)
    assert (made.returncode, made.stdout) == (0, f"{name}\n"), made.stderr
    (report,) = analysed(home, name, "--bpm", "130")
    says = report["says"]
    assert (says["prompt"], says["seed"], says["bpm"]) == ("techno at 130 BPM", 7, 130.0)
    assert (says["engine"], says["licence"]) == ("composer", "CC0-1.0")
    assert says["generation_id"] == str(home.rows("id")[0][0])
    assert report["loudness"]["integrated_lufs"] == pytest.approx(-16.0, abs=0.3)
    assert report["loudness"]["true_peak_dbtp"] <= -1.0
    assert report["features"]["duration_seconds"] == pytest.approx(3.0, abs=0.001)


def test_metadata_is_enough_to_render_the_same_music_again(home):
    home.call("generate", "lo-fi at 82 BPM in D minor", "-d", "2", "-o", "first.wav")
    (first,) = analysed(home, "first.wav")
    says = first["says"]
    again = ("-d", "2", "--model", says["engine"], "--seed", str(says["seed"]), "-o", "second.wav")
    home.call("generate", says["prompt"], *again)
    one, two = (soundfile.read(home.path / name)[0] for name in ("first.wav", "second.wav"))
    assert np.array_equal(one, two)


def test_one_file_is_shown_in_lines_and_several_as_a_table(home):
    clicks(home.path / "a.wav", bpm=97.0)
    tone(home.path / "b.flac")
    shown = home.call("analyze", "a.wav")
    assert "97.00 BPM" in shown.stdout
    assert "WAV PCM_16, 44100 Hz, mono" in shown.stdout
    rows = [
        line.split("\t") for line in home.call("analyze", "a.wav", "b.flac").stdout.splitlines()
    ]
    assert [row[0] for row in rows] == ["a.wav", "b.flac"]
    assert rows[0][5] == "97.0"


def test_bad_file_does_not_hide_the_others(home):
    tone(home.path / "good.wav")
    (home.path / "bad.wav").write_bytes(b"RIFF and then nothing")
    result = home.call("analyze", "gone.wav", "good.wav", "bad.wav")
    assert result.returncode == 2
    assert result.stdout.startswith("good.wav\t")
    assert "No such file: gone.wav" in result.stderr
    assert "bad.wav is not audio" in result.stderr
    assert "Traceback" not in result.stderr


def test_spectrogram_is_drawn_on_request(home):
    tone(home.path / "a.wav")
    result = home.call("analyze", "a.wav", "--spectrogram", "a.png")
    assert (result.returncode, result.stderr) == (0, "Wrote the spectrogram a.png.\n")
    with Image.open(home.path / "a.png") as picture:
        assert picture.size == (1000, 320)


@pytest.mark.parametrize("suffix", FORMATS)
def test_normalized_file_has_the_requested_loudness(home, suffix):
    clicks(home.path / "in.wav")
    result = home.call("normalize", "in.wav", f"out{suffix}", "--lufs", "-20", "--true-peak", "-2")
    assert (result.returncode, result.stdout) == (0, f"out{suffix}\n"), result.stderr
    loudness = analysed(home, f"out{suffix}")[0]["loudness"]
    assert loudness["integrated_lufs"] == pytest.approx(-20.0, abs=0.3)
    assert loudness["true_peak_dbtp"] <= -2.0


def test_file_can_be_normalized_in_place(home):
    tone(home.path / "a.wav", subtype="PCM_24")
    assert home.call("normalize", "a.wav", "a.wav").returncode == 7
    assert home.call("normalize", "a.wav", "a.wav", "--force").returncode == 0
    (report,) = analysed(home, "a.wav")
    assert report["loudness"]["integrated_lufs"] == pytest.approx(-16.0, abs=0.1)
    assert report["bit_depth"] == 24
    assert [path.name for path in home.path.iterdir()] == ["a.wav"]


def test_metadata_of_others_pass_and_the_rest_is_listed(home):
    tone(home.path / "a.flac", rate=48_000)
    tags = mutagen.flac.FLAC(home.path / "a.flac")
    tags["title"], tags["artist"] = "Sunrise", "Ann"
    block = mutagen.flac.MetadataBlock(b"abcdsettings")
    block.code = 2
    tags.metadata_blocks.append(block)
    tags.save()
    lost = "the cue sheet and application blocks of FLAC"
    for command in ("normalize", "convert"):
        shown = home.call(command, "a.flac", "b.ogg", "--force")
        assert f"Metadata that OUT does not have:\n  {lost}\n" in shown.stderr
        written = json.loads(home.call(command, "a.flac", "b.ogg", "--force", "--json").stdout)
        assert written["left_out"] == [lost]
        assert mutagen.oggvorbis.OggVorbis(home.path / "b.ogg")["artist"] == ["Ann"]
    assert home.call("normalize", "a.flac", "a.flac", "--force").returncode == 0
    assert mutagen.flac.FLAC(home.path / "a.flac")["artist"] == ["Ann"]
    (report,) = analysed(home, "b.ogg")
    assert {"prompt", "beats_per_bar", "is_loop"}.isdisjoint(report["says"])
    assert "metadata: title  Sunrise" in home.call("analyze", "b.ogg").stdout


def test_title_of_a_file_cannot_add_lines_or_move_the_cursor(home):
    tone(home.path / "a.flac")
    tags = mutagen.flac.FLAC(home.path / "a.flac")
    tags["title"] = "Sunrise\x1b[2J\nloudness  -99.0 LUFS"
    tags.save()
    for width in (None, 80):
        lines = home.call("analyze", "a.flac", width=width).stdout.splitlines()
        assert [line[:8] for line in lines].count("loudness") == 1
        assert r"metadata: title  Sunrise\u001b[2J\u000aloudness  -99.0 LUFS" in lines


def test_low_sample_rate_is_analysed_but_not_converted(home):
    tone(home.path / "a.wav", rate=4_000)
    (report,) = analysed(home, "a.wav")
    assert report["features"]["sample_rate"] == 4_000
    assert "WAV PCM_16, 4000 Hz, mono" in home.call("analyze", "a.wav", width=80).stdout
    refused = home.call("convert", "a.wav", "b.wav")
    assert (refused.returncode, "8000 to 192000 Hz" in refused.stderr) == (2, True)


def test_a_file_that_says_nothing_is_shown_to_say_nothing(home):
    tone(home.path / "a.wav")
    assert analysed(home, "a.wav")[0]["says"] == {}


def test_conversion_keeps_samples_and_bit_depth(home):
    tone(home.path / "a.wav", rate=48_000, subtype="PCM_24")
    for target in ("b.flac", "c.wav"):
        assert home.call("convert", "a.wav", target).returncode == 0
        original, copy = (soundfile.read(home.path / name)[0] for name in ("a.wav", target))
        assert np.array_equal(original, copy)


def test_conversion_changes_the_sample_rate(home):
    tone(home.path / "a.wav", rate=48_000)
    written = json.loads(home.call("convert", "a.wav", "b.wav", "-r", "44100", "--json").stdout)
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
        (("convert", "a.wav", ""), 2, "Name a file"),
        (("convert", "a.wav", "."), 2, "Name a file"),
        (("analyze", "x" * 300 + ".wav"), 2, "too long"),
    ],
)
def test_impossible_command_is_refused_and_writes_nothing(home, arguments, code, words):
    tone(home.path / "a.wav")
    (home.path / "text.wav").write_text("words")
    result = home.call(*arguments)
    assert result.returncode == code, result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(path.name for path in home.path.iterdir()) == ["a.wav", "text.wav"]


def test_spectrogram_does_not_replace_the_audio_file(home):
    tone(home.path / "a.wav")
    before = (home.path / "a.wav").read_bytes()
    assert home.call("analyze", "a.wav", "--spectrogram", "a.wav").returncode == 7
    assert (home.path / "a.wav").read_bytes() == before


def test_flac_copy_has_the_samples_of_the_take(home):
    home.call("generate", "house at 124 BPM", "-d", "2", "-o", "a.flac")
    (take,) = [path for path in home.files() if path.suffix == ".wav"]
    one, two = soundfile.read(take)[0], soundfile.read(home.path / "a.flac")[0]
    assert np.array_equal(one, two)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_stops_a_conversion_and_leaves_nothing(home, number):
    minute = np.random.default_rng(0).uniform(-0.5, 0.5, (48_000 * 120, 2))
    soundfile.write(home.path / "long.wav", minute, 48_000)
    process = subprocess.Popen(
        home.command("convert", "long.wav", "long.mp3"),
        cwd=home.path,
        env=home.full_environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: list(home.path.glob(".dgx-*.part")) or process.poll() is not None)
    assert process.poll() is None
    process.send_signal(number)
    _, errors = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors
    assert [path.name for path in home.path.iterdir()] == ["long.wav"]


def test_closed_pipe_and_full_stdout_have_their_exit_codes(home):
    tone(home.path / "a.wav")
    gone = subprocess.run(
        [
            "bash",
            "-c",
            '"$0" "$@" | true; exit ${PIPESTATUS[0]}',
            *home.command("analyze", "a.wav"),
        ],
        cwd=home.path,
        env=home.full_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (gone.returncode, gone.stderr) == (141, "")
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            home.command("analyze", "a.wav"),
            cwd=home.path,
            env=home.full_environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert result.returncode == 7
    assert "No space left" in result.stderr


def test_truncated_file_is_measured_without_messages_of_a_library(home):
    tone(home.path / "whole.mp3", seconds=5.0)
    data = (home.path / "whole.mp3").read_bytes()
    (home.path / "cut.mp3").write_bytes(data[: len(data) // 2])
    result = home.run("analyze", "cut.mp3")
    assert (result.returncode, result.stderr) == (0, "")
    assert "s that cannot be read" in result.stdout


def test_a_copy_of_a_truncated_file_says_what_is_missing(home):
    tone(home.path / "whole.mp3", seconds=5.0)
    data = (home.path / "whole.mp3").read_bytes()
    (home.path / "cut.mp3").write_bytes(data[: len(data) // 2])
    for command in ("convert", "normalize"):
        result = home.call(command, "cut.mp3", f"{command}.flac")
        assert result.returncode == 0
        assert "cut.mp3 is damaged: 2." in result.stderr
    assert "damaged" not in home.call("convert", "whole.mp3", "whole.flac").stderr


def test_no_audio_is_missing_where_only_the_length_was_an_estimate(home):
    audio = np.concatenate([foreign_files.tone(1, level=0), foreign_files.noise(3)], axis=1)
    (home.path / "a.mp3").write_bytes(foreign_files.encode_mp3(audio, xing=False)[0])
    assert "duration   4.0" in home.call("analyze", "a.mp3").stdout
    assert "cannot be read" not in home.call("analyze", "a.mp3").stdout


def test_a_mix_of_more_channels_is_said_to_be_one(home):
    soundfile.write(home.path / "a.flac", foreign_files.tone(1, 6).T, RATE)
    said = "mixed down from 5.1(side) to stereo by ITU-R BS.775, without the low-frequency channel"
    assert f"read       {said}\n" in home.call("analyze", "a.flac").stdout
    (report,) = analysed(home, "a.flac")
    assert (report["remarks"], report["features"]["channels"]) == ([said], 2)
    for command in ("convert", "normalize"):
        result = home.call(command, "a.flac", f"{command}.wav")
        assert f"a.flac is {said}.\n" in result.stderr
    # The mix may be louder than full scale, and is not clipped where the format can hold it.
    assert soundfile.info(home.path / "convert.wav").subtype == "FLOAT"


def test_file_names_need_not_be_text(home):
    tone(home.path / "a.wav")
    (home.path / "a.wav").rename(home.path / os.fsdecode(b"a\xff.wav"))
    result = subprocess.run(
        [*map(os.fsencode, home.command("analyze")), b"a\xff.wav"],
        cwd=home.path,
        env=home.full_environment(),
        capture_output=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert b"a\xef\xbf\xbd.wav" in result.stdout


def test_samples_far_above_full_scale_are_refused(home):
    soundfile.write(home.path / "a.wav", np.full(4_000, 1e6, np.float32), RATE, subtype="FLOAT")
    for arguments in (("convert", "a.wav", "a.mp3"), ("analyze", "a.wav")):
        result = home.call(*arguments)
        assert result.returncode == 2
        assert "100 dB above full scale" in result.stderr


def test_terminal_shows_the_waveform_of_one_file(home):
    clicks(home.path / "a.wav")
    piped = home.call("analyze", "a.wav").stdout.splitlines()
    shown = home.call("analyze", "a.wav", width=60).stdout.splitlines()
    assert len(shown) > len(piped)
    assert shown[-len(piped) :] == piped
    assert max(len(line) for line in shown[: -len(piped)]) <= 60


def test_silence_has_neither_tempo_nor_key(home):
    tone(home.path / "silent.wav", level=0.0)
    lines = home.call("analyze", "silent.wav").stdout.splitlines()
    values = dict(line.split("  ", 1) for line in lines)
    assert values["tempo"].strip() == values["key"].strip() == "none found"
    cells = home.call("analyze", "silent.wav", "silent.wav").stdout.splitlines()[0].split("\t")
    assert cells[-2:] == ["-", "-"]


def test_normalize_follows_the_settings_and_reports_the_result(home):
    clicks(home.path / "a.wav")
    home.environment |= {"DGX_MUSIC_TARGET_LUFS": "-23", "DGX_MUSIC_TRUE_PEAK_DBTP": "-3"}
    result = home.call("normalize", "a.wav", "b.wav")
    assert (result.returncode, result.stdout) == (0, "b.wav\n")
    assert result.stderr.startswith("-23.0 LUFS · ")
    written = json.loads(home.call("normalize", "a.wav", "c.wav", "--json").stdout)
    assert written["file"] == "c.wav"


def test_normalize_needs_a_loudness_where_the_setting_is_off(home):
    tone(home.path / "a.wav")
    home.environment["DGX_MUSIC_TARGET_LUFS"] = "off"
    result = home.call("normalize", "a.wav", "b.wav")
    assert (result.returncode, result.stdout) == (2, "")
    assert "--lufs -16" in result.stderr
    assert home.call("normalize", "a.wav", "b.wav", "--lufs", "-16").returncode == 0
